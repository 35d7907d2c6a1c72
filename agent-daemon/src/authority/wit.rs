// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The key that a WIT-SVID confirms: made here, handed out once, kept nowhere.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::key::{SigningKey, generate_pkcs8};
use super::{Error, Jwk};

/// What stands before the private number of a P-256 key in the one form that *ring* writes: RFC 5915 in RFC 5208.
const PREFIX: [u8; 36] = [
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
    0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01, 0x04, 0x20,
];
const NUMBER_BYTES: usize = 32;

/// A new key: its public half for the token, its private half for the workload.
pub struct WitKey {
    /// With the algorithm of its proofs.
    pub public: Value,
    /// A JWK (RFC 7517).
    pub private: Zeroizing<Vec<u8>>,
}

impl WitKey {
    /// # Errors
    /// When there is no randomness, or the library refuses.
    pub fn generate() -> Result<Self, Error> {
        let document = generate_pkcs8(&SystemRandom::new())?;
        let jwk: Jwk = SigningKey::from_pkcs8(&document)?.public_jwk();
        let number = document.strip_prefix(&PREFIX).and_then(|rest| rest.first_chunk::<NUMBER_BYTES>());
        let number = number.ok_or(Error::Crypto { operation: "read a key that was just made" })?;
        let [x, y] = jwk.coordinates();
        let public = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "alg": "ES256"});
        // The whole capacity at once: a text that grows leaves copies of a key behind.
        let mut private = Zeroizing::new(Vec::with_capacity(512));
        let number = Zeroizing::new(URL_SAFE_NO_PAD.encode(number));
        for part in
            [r#"{"kty":"EC","crv":"P-256","alg":"ES256","x":""#, x, r#"","y":""#, y, r#"","d":""#, &number, r#""}"#]
        {
            private.extend_from_slice(part.as_bytes());
        }
        Ok(Self { public, private })
    }
}

impl std::fmt::Debug for WitKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WitKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_halves_fit_and_the_private_one_is_not_printed() {
        let key = WitKey::generate().unwrap();
        let private: Value = serde_json::from_slice(&key.private).unwrap();
        for member in ["kty", "crv", "x", "y", "alg"] {
            assert_eq!(private[member], key.public[member]);
        }
        // It refuses halves that do not fit.
        let text = std::str::from_utf8(&key.private).unwrap();
        svid_verifier::wit::Holder::new(String::new(), text).unwrap();
        let other = WitKey::generate().unwrap();
        let mixed = text.replace(private["x"].as_str().unwrap(), other.public["x"].as_str().unwrap());
        assert!(svid_verifier::wit::Holder::new(String::new(), &mixed).is_err());
        assert!(key.public.get("d").is_none());
        assert!(!format!("{key:?}").contains(private["d"].as_str().unwrap()));
    }
}
