// SPDX-License-Identifier: Apache-2.0 OR MIT

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

use super::{Claims, Invalid, Jws};

/// First byte of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// One public key with its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    kid: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

impl VerifyingKey {
    /// Of a member of a key set; none when it cannot verify here.
    pub fn from_jwk(jwk: &Value) -> Option<Self> {
        let text = |member: &str| jwk.get(member).and_then(Value::as_str);
        Some(Self { kid: text("kid")?.to_owned(), kind: Kind::from_jwk(jwk)? })
    }

    /// Its id in the key set.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl Kind {
    pub(crate) fn from_jwk(jwk: &Value) -> Option<Self> {
        let bytes = |member: &str| URL_SAFE_NO_PAD.decode(jwk.get(member)?.as_str()?).ok();
        let text = |member: &str| jwk.get(member).and_then(Value::as_str);
        match (text("kty")?, text("crv")) {
            ("EC", Some("P-256")) => Some(Self::P256(point(&bytes("x")?, &bytes("y")?, 32)?)),
            ("EC", Some("P-384")) => Some(Self::P384(point(&bytes("x")?, &bytes("y")?, 48)?)),
            ("RSA", None) => Some(Self::Rsa { n: bytes("n")?, e: bytes("e")? }),
            _ => None,
        }
    }

    /// Whether it signed. The token says which algorithm it means, and the key which ones it has.
    pub(crate) fn verifies(&self, jws: &Jws<'_>) -> Result<(), Invalid> {
        let (message, signature) = (jws.signed, jws.signature.as_slice());
        let verified = match (self, jws.alg.as_str()) {
            (Self::P256(point), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Self::P384(point), "ES384") => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Self::Rsa { n, e }, alg) => {
                let parameters = match alg {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &RSA_PSS_2048_8192_SHA256,
                    "PS384" => &RSA_PSS_2048_8192_SHA384,
                    "PS512" => &RSA_PSS_2048_8192_SHA512,
                    _ => return Err(Invalid("algorithm is not one of its key")),
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            _ => return Err(Invalid("algorithm is not one of its key")),
        };
        verified.map_err(|_| Invalid("signature does not fit"))
    }
}

/// The claims of a token that one of these keys signed; what they say is the caller's to check.
///
/// # Errors
/// What is wrong with it.
pub fn verify(keys: &[VerifyingKey], token: &str, types: &[Option<&str>]) -> Result<Claims, Invalid> {
    let jws = Jws::parse(token, types)?;
    let kid = jws.kid.as_deref().ok_or(Invalid("header names no key"))?;
    let key = keys.iter().find(|key| key.kid == kid).ok_or(Invalid("key is unknown"))?;
    key.kind.verifies(&jws)?;
    jws.claims()
}

fn point(x: &[u8], y: &[u8], half: usize) -> Option<Vec<u8>> {
    (x.len() == half && y.len() == half).then(|| [&[UNCOMPRESSED], x, y].concat())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // Made by an independent program (Python's cryptography and PyJWT) over {"sub":"spiffe://partner.example/a"}.
    const VECTORS: &str = include_str!("../tests/vectors/tokens.json");

    const JWT: &[Option<&str>] = &[Some("JWT"), None];

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
            assert_eq!(verify(&keys, token, JWT).unwrap()["sub"], "spiffe://partner.example/a", "{alg}");
            let others: Vec<VerifyingKey> = keys.iter().filter(|other| *other != key).cloned().collect();
            assert!(verify(&others, token, JWT).is_err(), "{alg}");
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let flipped = signature.replacen(&signature[10..11], if &signature[10..11] == "A" { "B" } else { "A" }, 1);
            assert!(verify(&keys, &format!("{signed}.{flipped}"), JWT).is_err(), "{alg}");
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
                assert!(verify(std::slice::from_ref(&key), &forged, JWT).is_err(), "{alg} as {other}");
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
