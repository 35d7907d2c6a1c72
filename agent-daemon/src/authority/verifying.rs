// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys of others that verify tokens, with the algorithms that
//! <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#2-jose-header> allows and the cryptographic
//! library has: all but ES512.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Claims, Error, MAX_TOKEN_BYTES};

/// First byte of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// One public key with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    kid: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// Unknown members are harmless, except that `crit` demands they be understood.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
}

/// A compact JWS, taken apart.
pub(super) struct Jws<'a> {
    pub(super) alg: String,
    pub(super) kid: String,
    pub(super) signed: &'a [u8],
    pub(super) signature: Vec<u8>,
    claims: &'a str,
}

impl<'a> Jws<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, Error> {
        let invalid = |reason| Error::Token { reason };
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid("too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(invalid("not a compact JWS"))?;
        let (header, claims) = signed.split_once('.').ok_or(invalid("not a compact JWS"))?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| invalid("header is not base64url"))?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| invalid("header is not as expected"))?;
        if header.crit.is_some() || header.b64.is_some() {
            return Err(invalid("header demands an extension"));
        }
        if header.typ.is_some_and(|typ| typ != "JWT" && typ != "JOSE") {
            return Err(invalid("it is another type of token"));
        }
        let kid = header.kid.ok_or(invalid("header names no key"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| invalid("signature is not base64url"))?;
        Ok(Self { alg: header.alg, kid, signed: signed.as_bytes(), signature, claims })
    }

    /// What it says, whoever says it.
    pub(super) fn claims(&self) -> Result<Claims, Error> {
        let claims = URL_SAFE_NO_PAD.decode(self.claims);
        let claims = claims.map_err(|_| Error::Token { reason: "claims are not base64url" })?;
        serde_json::from_slice(&claims).map_err(|_| Error::Token { reason: "claims are not a JSON object" })
    }
}

impl VerifyingKey {
    /// Of a member of a key set; none when it cannot verify here.
    pub(super) fn from_jwk(jwk: &Value) -> Option<Self> {
        let bytes = |member: &str| URL_SAFE_NO_PAD.decode(jwk.get(member)?.as_str()?).ok();
        let text = |member: &str| jwk.get(member).and_then(Value::as_str);
        let kind = match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => Kind::P256(point(&bytes("x")?, &bytes("y")?, 32)?),
            ("EC", Some("P-384")) => Kind::P384(point(&bytes("x")?, &bytes("y")?, 48)?),
            ("RSA", None) => Kind::Rsa { n: bytes("n")?, e: bytes("e")? },
            _ => return None,
        };
        Some(Self { kid: text("kid")?.to_owned(), kind })
    }

    /// Whether it signed. The token says which algorithm it means, and the key which ones it has.
    fn verifies(&self, jws: &Jws<'_>) -> Result<(), &'static str> {
        let (message, signature) = (jws.signed, jws.signature.as_slice());
        let verified = match (&self.kind, jws.alg.as_str()) {
            (Kind::P256(point), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Kind::P384(point), "ES384") => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Kind::Rsa { n, e }, alg) => {
                let parameters = match alg {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &RSA_PSS_2048_8192_SHA256,
                    "PS384" => &RSA_PSS_2048_8192_SHA384,
                    "PS512" => &RSA_PSS_2048_8192_SHA512,
                    _ => return Err("algorithm is not one of its key"),
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            _ => return Err("algorithm is not one of its key"),
        };
        verified.map_err(|_| "signature does not fit")
    }
}

/// The claims of a token that one of these keys signed; what they say is the caller's to check.
///
/// # Errors
/// [`Error::Token`], with what is wrong.
pub(super) fn verify_with(keys: &[VerifyingKey], token: &str) -> Result<Claims, Error> {
    let jws = Jws::parse(token)?;
    let key = keys.iter().find(|key| key.kid == jws.kid).ok_or(Error::Token { reason: "key is unknown" })?;
    key.verifies(&jws).map_err(|reason| Error::Token { reason })?;
    jws.claims()
}

/// What a token says, unverified: only to find out who could verify it.
///
/// # Errors
/// When it is not a token.
pub fn unverified_claims(token: &str) -> Result<Claims, Error> {
    Jws::parse(token)?.claims()
}

fn point(x: &[u8], y: &[u8], half: usize) -> Option<Vec<u8>> {
    (x.len() == half && y.len() == half).then(|| [&[UNCOMPRESSED], x, y].concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Made by an independent program (Python's cryptography and PyJWT) over {"sub":"spiffe://partner.example/a"}.
    const VECTORS: &str = include_str!("../../tests/vectors/tokens.json");

    fn vectors() -> Vec<(VerifyingKey, String, String)> {
        let vectors: Value = serde_json::from_str(VECTORS).unwrap();
        let vectors = vectors.as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        vectors
            .map(|one| (VerifyingKey::from_jwk(&one["jwk"]).unwrap(), text(&one["alg"]), text(&one["token"])))
            .collect()
    }

    #[test]
    fn tokens_of_every_allowed_algorithm_verify_with_their_key_alone() {
        let vectors = vectors();
        let keys: Vec<VerifyingKey> = vectors.iter().map(|(key, ..)| key.clone()).collect();
        assert_eq!(vectors.len(), 8);
        for (key, alg, token) in &vectors {
            assert_eq!(verify_with(&keys, token).unwrap()["sub"], "spiffe://partner.example/a", "{alg}");
            let others: Vec<VerifyingKey> = keys.iter().filter(|other| *other != key).cloned().collect();
            assert!(verify_with(&others, token).is_err(), "{alg}");
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let flipped = signature.replacen(&signature[10..11], if &signature[10..11] == "A" { "B" } else { "A" }, 1);
            assert!(verify_with(&keys, &format!("{signed}.{flipped}")).is_err(), "{alg}");
        }
    }

    #[test]
    fn a_key_verifies_no_algorithm_but_its_own() {
        for (key, alg, token) in vectors() {
            let (header, rest) = token.split_once('.').unwrap();
            let mut header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
            for other in ["none", "HS256", "ES256", "ES384", "RS256", "PS256", "EdDSA", "es256", ""] {
                if other == alg {
                    continue;
                }
                header["alg"] = json!(other);
                let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()));
                assert!(verify_with(std::slice::from_ref(&key), &forged).is_err(), "{alg} as {other}");
            }
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_none() {
        let good = json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": "A".repeat(43), "y": "A".repeat(43)});
        assert!(VerifyingKey::from_jwk(&good).is_some(), "a point off the curve verifies nothing");
        for (member, value) in [
            ("kid", Value::Null),
            ("kty", json!("oct")),
            ("crv", json!("P-521")),
            ("x", json!("AA")),
            ("y", json!("!")),
        ] {
            let mut bad = good.clone();
            bad[member] = value;
            assert!(VerifyingKey::from_jwk(&bad).is_none(), "{member}");
        }
    }
}
