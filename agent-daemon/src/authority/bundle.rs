// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a trust domain is verified by: its X.509 authorities and its JWT keys.
//!
//! As a document it is a key set:
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md>.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::verifying::verify_with;
use super::{Claims, Error, Jwk, VerifyingKey, der_sequence};
use crate::diagnostic::words;
use crate::identity::TrustDomain;

/// Of a bundle of somebody else.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// Of the keys in it.
const JWT_USE: &str = "jwt-svid";
const WIT_USE: &str = "wit-svid";
/// Authorities in it.
const MAX_KEYS: usize = 1024;

/// The authorities of one trust domain, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose.
    pub trust_domain: TrustDomain,
    /// Grows with every change, where its publisher counts.
    pub sequence: Option<u64>,
    /// How often to look for a change.
    pub refresh_hint: Option<Duration>,
    /// The X.509 authorities, DER one after the other.
    pub x509: Bytes,
    /// The same, one by one.
    pub roots: Vec<Vec<u8>>,
    /// The JWT keys, as a key set (RFC 7517).
    pub jwks: Bytes,
    /// The keys that sign WIT-SVIDs, as a key set (RFC 7517).
    pub wit: Bytes,
    /// Everything, as its specification writes it.
    pub document: Bytes,
    /// How many JWT keys it names.
    pub jwt_authorities: u32,
    /// Those of them that can be used here.
    pub verifying: Vec<VerifyingKey>,
}

impl TrustBundle {
    /// Of authorities of our own, with the JWT keys of those above them.
    ///
    /// # Errors
    /// When a certificate is not one.
    pub fn new(
        trust_domain: TrustDomain,
        roots: &[Vec<u8>],
        keys: &[Jwk],
        wit: &[Jwk],
        upstream: Option<&Self>,
        sequence: u64,
        refresh_hint: Duration,
    ) -> Result<Self, Error> {
        let of_use = |keys: &[Jwk], usage| keys.iter().map(|key| token_key(key, usage)).collect::<Result<Vec<_>, _>>();
        let (mut jwt, wit) = (of_use(keys, JWT_USE)?, of_use(wit, WIT_USE)?);
        if let Some(upstream) = upstream {
            let kid_of = |key: &Value| key.get("kid").cloned();
            let more = upstream.jwt_keys().into_iter();
            let more: Vec<Value> = more.filter(|key| jwt.iter().all(|own| kid_of(own) != kid_of(key))).collect();
            jwt.extend(more);
        }
        let x509: Vec<Value> = roots.iter().map(|root| x509_key(root)).collect::<Result<_, _>>()?;
        let verifying = jwt.iter().filter_map(VerifyingKey::from_jwk).collect();
        let document = json!({
            "keys": x509.into_iter().chain(jwt.iter().chain(&wit).cloned()).collect::<Vec<_>>(),
            "spiffe_sequence": sequence,
            "spiffe_refresh_hint": refresh_hint.as_secs(),
        });
        Ok(Self {
            trust_domain,
            sequence: Some(sequence),
            refresh_hint: Some(refresh_hint),
            x509: roots.concat().into(),
            roots: roots.to_vec(),
            jwt_authorities: count(&jwt),
            jwks: key_set(jwt)?,
            wit: key_set(wit)?,
            document: encode(&document)?,
            verifying,
        })
    }

    /// Of authorities of somebody else, as the document says. What it does not understand in it is left out, as its
    /// specification asks; what it understands has to be right.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Bundle { trust_domain: trust_domain.clone(), reason };
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(wrong(format!("it has more than {MAX_DOCUMENT_BYTES} bytes")));
        }
        let read: Document = serde_json::from_slice(document)
            .map_err(|error| wrong(format!("it is no bundle: {}", words(&error.to_string()))))?;
        if read.keys.len() > MAX_KEYS {
            return Err(wrong(format!("{} keys are too many, at most {MAX_KEYS}", read.keys.len())));
        }
        let (mut x509, mut verifying): (Vec<Vec<u8>>, Vec<VerifyingKey>) = Default::default();
        let (mut jwt, mut wit): (Vec<Value>, Vec<Value>) = Default::default();
        for key in read.keys {
            match key.get("use").and_then(Value::as_str) {
                Some("x509-svid") => {
                    let root = certificate_of(&key).map_err(|why| wrong(format!("an X.509 authority: {why}")))?;
                    x509.push(root);
                }
                Some(usage @ (JWT_USE | WIT_USE)) => {
                    let kid = key.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty());
                    // Experimental keys take nothing else with them.
                    if usage == WIT_USE && kid.is_none() {
                        continue;
                    }
                    let kid = kid.ok_or_else(|| wrong("a JWT key has no kid".to_owned()))?;
                    if jwt.iter().chain(&wit).any(|known| known.get("kid").and_then(Value::as_str) == Some(kid)) {
                        return Err(wrong(format!("two keys have the kid {:?}", words(kid))));
                    }
                    if usage == JWT_USE {
                        verifying.extend(VerifyingKey::from_jwk(&key));
                        jwt.push(key);
                    } else {
                        wit.push(key);
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            trust_domain,
            sequence: read.spiffe_sequence,
            refresh_hint: read.spiffe_refresh_hint.map(Duration::from_secs),
            x509: x509.concat().into(),
            roots: x509,
            jwt_authorities: count(&jwt),
            jwks: key_set(jwt)?,
            wit: key_set(wit)?,
            document: Bytes::copy_from_slice(document),
            verifying,
        })
    }

    /// Of roots in PEM: X.509 authorities alone.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Bundle { trust_domain: trust_domain.clone(), reason: reason.to_owned() };
        let blocks = pem::parse_many(text).map_err(|_| wrong("it is not PEM"))?;
        if blocks.is_empty() || blocks.iter().any(|block| block.tag() != "CERTIFICATE") {
            return Err(wrong("it holds something else than certificates, or nothing"));
        }
        let keys = blocks.iter().map(|block| x509_key(block.contents())).collect::<Result<Vec<_>, _>>();
        let keys = keys.map_err(|_| wrong("one of the certificates cannot be read"))?;
        Self::parse(trust_domain, &encode(&json!({ "keys": keys }))?)
    }

    /// Of authorities of an upstream: certificates (DER), and key ids with their keys (SubjectPublicKeyInfo, DER).
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_authorities(
        trust_domain: TrustDomain,
        roots: &[Vec<u8>],
        keys: &[(String, Vec<u8>)],
        sequence: u64,
        refresh_hint: Option<Duration>,
    ) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Bundle { trust_domain: trust_domain.clone(), reason: reason.to_owned() };
        let x509 = roots.iter().map(|root| x509_key(root)).collect::<Result<Vec<_>, _>>();
        let mut all = x509.map_err(|_| wrong("one of the certificates cannot be read"))?;
        // The newest stand last. Too many of others must not keep this node from learning what is not trusted any more.
        let room = MAX_KEYS.saturating_sub(all.len());
        for (kid, key) in keys.iter().skip(keys.len().saturating_sub(room)) {
            let key = SubjectPublicKeyInfo::from_der(key).ok().and_then(|(_, key)| key_members(&key));
            // What it is is none of our business: whoever can use it has it from where it was made.
            let Some(mut members) = key else { continue };
            members.insert("kid".to_owned(), kid.as_str().into());
            members.insert("use".to_owned(), JWT_USE.into());
            all.push(Value::Object(members));
        }
        let hint = refresh_hint.map(|hint| hint.as_secs());
        let document = json!({"keys": all, "spiffe_sequence": sequence, "spiffe_refresh_hint": hint});
        Self::parse(trust_domain, &encode(&document)?)
    }

    /// With their use, as in the document.
    fn jwt_keys(&self) -> Vec<Value> {
        let Ok(Document { keys, .. }) = serde_json::from_slice(&self.document) else { return Vec::new() };
        keys.into_iter().filter(|key| key.get("use").and_then(Value::as_str) == Some(JWT_USE)).collect()
    }

    /// Whether one of the JWT keys has this id.
    pub fn has_jwt_key(&self, kid: &str) -> bool {
        self.jwt_keys().iter().any(|key| key.get("kid").and_then(Value::as_str) == Some(kid))
    }

    /// Of the document.
    pub fn sha256(&self) -> String {
        super::sha256(&self.document)
    }

    /// Whether the same is trusted, however it is written and in whatever order.
    pub fn trusts_the_same(&self, other: &Self) -> bool {
        let sorted = |bundle: &Self| {
            let mut roots: Vec<Vec<u8>> = bundle.roots.clone();
            roots.sort_unstable();
            let keys = [&bundle.jwks, &bundle.wit].map(|set| {
                let set: Map<String, Value> = serde_json::from_slice(set).unwrap_or_default();
                let mut keys = set.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
                keys.sort_by_key(|key| key.get("kid").and_then(Value::as_str).map(str::to_owned));
                keys
            });
            (roots, keys)
        };
        sorted(self) == sorted(other)
    }

    /// The claims of a token that one of the JWT keys signed; what they say is the caller's to check.
    ///
    /// # Errors
    /// [`Error::Token`], with what is wrong.
    pub fn verify_jwt(&self, token: &str) -> Result<Claims, Error> {
        verify_with(&self.verifying, token)
    }
}

/// A bundle as it is written. A key set may have members that nobody here knows.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

fn certificate_of(key: &Value) -> Result<Vec<u8>, &'static str> {
    let chain = key.get("x5c").and_then(Value::as_array).ok_or("it has no certificate")?;
    let [one] = chain.as_slice() else { return Err("it has not exactly one certificate") };
    let der = one.as_str().and_then(|text| STANDARD.decode(text).ok()).ok_or("its certificate is not base64")?;
    let alone = der_sequence(&der).filter(|found| found.len() == 1).ok_or("its certificate cannot be read")?;
    alone.into_iter().next().ok_or("it has no certificate")
}

fn count(keys: &[Value]) -> u32 {
    u32::try_from(keys.len()).unwrap_or(u32::MAX)
}

/// Outside of a bundle a key has no such use, and a reader that knows only the registered ones would refuse it.
fn plain(mut key: Value) -> Value {
    if let Some(members) = key.as_object_mut() {
        members.remove("use");
    }
    key
}

fn encode(value: &Value) -> Result<Bytes, Error> {
    serde_json::to_vec(value).map(Into::into).map_err(Error::Json)
}

/// Without uses: see [`plain`].
fn key_set(keys: Vec<Value>) -> Result<Bytes, Error> {
    encode(&json!({ "keys": keys.into_iter().map(plain).collect::<Vec<_>>() }))
}

/// Its use is told as this kind of key set has it.
fn token_key(key: &Jwk, usage: &str) -> Result<Value, Error> {
    let mut value = serde_json::to_value(key).map_err(Error::Json)?;
    if let Some(members) = value.as_object_mut() {
        members.insert("use".to_owned(), usage.into());
        // Not a member of these key sets: the key itself says what it signs with.
        members.remove("alg");
    }
    Ok(value)
}

fn x509_key(certificate: &[u8]) -> Result<Value, Error> {
    let unreadable = || Error::Crypto { operation: "read a certificate of the trust bundle" };
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| unreadable())?;
    let mut members = key_members(parsed.public_key()).ok_or_else(unreadable)?;
    members.insert("use".to_owned(), "x509-svid".into());
    members.insert("x5c".to_owned(), json!([STANDARD.encode(certificate)]));
    Ok(Value::Object(members))
}

/// A public key as RFC 7517 writes it, without a name or a use.
fn key_members(key: &SubjectPublicKeyInfo<'_>) -> Option<Map<String, Value>> {
    let encoded = |bytes: &[u8]| Value::String(URL_SAFE_NO_PAD.encode(bytes));
    let mut members = Map::new();
    match key.parsed().ok()? {
        PublicKey::EC(point) => {
            let coordinates = point.data().strip_prefix(&[4])?;
            let (curve, half) = match coordinates.len() {
                64 => ("P-256", 32),
                96 => ("P-384", 48),
                132 => ("P-521", 66),
                _ => return None,
            };
            let (x, y) = coordinates.split_at_checked(half)?;
            members.insert("kty".to_owned(), "EC".into());
            members.insert("crv".to_owned(), curve.into());
            members.insert("x".to_owned(), encoded(x));
            members.insert("y".to_owned(), encoded(y));
        }
        PublicKey::RSA(key) => {
            // ASN.1 puts a zero before a number that would look negative; a key set has none.
            let unsigned = |number: &[u8]| encoded(number.strip_prefix(&[0]).unwrap_or(number));
            members.insert("kty".to_owned(), "RSA".into());
            members.insert("n".to_owned(), unsigned(key.modulus));
            members.insert("e".to_owned(), unsigned(key.exponent));
        }
        _ => return None,
    }
    Some(members)
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;
    use crate::authority::SigningKey;
    use crate::authority::file::private_tempdir;
    use crate::authority::{CaSource, Sealer, X509Authority};

    #[test]
    fn the_document_names_every_authority_with_its_use() {
        let directory = private_tempdir();
        let (domain, sealer): (TrustDomain, _) =
            ("example.org".parse().unwrap(), Sealer::from_bytes(&[7; 32]).unwrap());
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        let ca = X509Authority::open(
            directory.path(),
            &sealer,
            domain.clone(),
            CaSource::Embedded,
            Duration::from_secs(600),
            now,
        )
        .unwrap();
        let key = SigningKey::generate(&SystemRandom::new()).unwrap().public_jwk();
        let roots = ca.roots();
        let bundle =
            TrustBundle::new(domain, &roots, std::slice::from_ref(&key), &[], None, 7, Duration::from_secs(300))
                .unwrap();
        let document: Value = serde_json::from_slice(&bundle.document).unwrap();
        assert_eq!((&document["spiffe_sequence"], &document["spiffe_refresh_hint"]), (&json!(7), &json!(300)));
        let keys = document["keys"].as_array().unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!((&keys[0]["use"], &keys[0]["kty"]), (&json!("x509-svid"), &json!("EC")));
        assert_eq!(keys[0]["x5c"], json!([STANDARD.encode(&roots[0])]));
        assert!(keys[0].get("kid").is_none());
        assert_eq!((&keys[1]["use"], &keys[1]["kid"]), (&json!("jwt-svid"), &json!(key.kid())));
        assert_eq!(bundle.x509, roots[0]);
        let jwks: Value = serde_json::from_slice(&bundle.jwks).unwrap();
        assert_eq!(jwks["keys"], json!([plain(keys[1].clone())]));
    }
}
