// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Map, Value, json};

use super::proof::{self, hash};
use crate::Invalid;

/// A WIT-SVID with its key: makes the proofs. ES256, which is what the daemon makes and what everybody has to verify.
pub struct Holder {
    token: String,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Holder {
    /// Of a token and its private key (a JWK).
    ///
    /// # Errors
    /// When the key is not one of P-256, or its halves do not fit.
    pub fn new(token: String, key: &str) -> Result<Self, Invalid> {
        let wrong = Invalid("the key is not a private one of P-256");
        let jwk: Value = serde_json::from_str(key).map_err(|_| wrong)?;
        let text = |member: &str| jwk.get(member).and_then(Value::as_str);
        if (text("kty"), text("crv")) != (Some("EC"), Some("P-256")) {
            return Err(wrong);
        }
        let bytes = |member: &str| text(member).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(wrong);
        let public = [&[4][..], &bytes("x")?, &bytes("y")?].concat();
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &bytes("d")?,
            &public,
            &random,
        );
        Ok(Self { token, key: key.map_err(|_| wrong)?, random })
    }

    /// The token, which goes with every proof.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A proof for one request, which ends at `expires_at` (seconds since the epoch): the URI that is called, without
    /// query and fragment; the transaction token that goes with it; every other token, by the name of its header field
    /// in lower case.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn prove(
        &self,
        audience: &str,
        expires_at: u64,
        transaction: Option<&str>,
        others: &[(&str, &str)],
    ) -> Result<String, Invalid> {
        let mut id = [0; 16];
        self.random.fill(&mut id).map_err(|_| Invalid("there is no randomness"))?;
        let mut claims = Map::new();
        claims.insert("aud".to_owned(), audience.into());
        claims.insert("exp".to_owned(), expires_at.into());
        claims.insert("jti".to_owned(), URL_SAFE_NO_PAD.encode(id).into());
        claims.insert("wth".to_owned(), hash(&self.token).into());
        if let Some(transaction) = transaction {
            claims.insert("tth".to_owned(), hash(transaction).into());
        }
        if !others.is_empty() {
            let others = others.iter().map(|(name, value)| ((*name).to_owned(), hash(value.trim_matches(' ')).into()));
            claims.insert("oth".to_owned(), Value::Object(others.collect()));
        }
        self.sign(&json!({"alg": "ES256", "typ": proof::TYPE}), &Value::Object(claims))
    }

    pub(super) fn sign(&self, header: &Value, claims: &Value) -> Result<String, Invalid> {
        let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.key.sign(&self.random, signed.as_bytes());
        let signature = signature.map_err(|_| Invalid("the proof cannot be signed"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Holder")
    }
}
