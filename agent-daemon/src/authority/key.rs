// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One ES256 key: signs, and names itself by its RFC 7638 thumbprint.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Error;

const COORDINATE_BYTES: usize = 32;
/// What stands before the point: a key for any algorithm, on P-256.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// First byte of an uncompressed point (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// A private ES256 key. Clones share it; `Debug` shows only the key id.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<EcdsaKeyPair>,
    random: SystemRandom,
    jwk: Arc<Jwk>,
}

/// The public half of a [`SigningKey`], as RFC 7517 writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwk {
    kty: String,
    crv: String,
    x: String,
    y: String,
    kid: String,
    alg: String,
    #[serde(rename = "use")]
    usage: String,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'a str,
}

impl SigningKey {
    /// A new key.
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, Error> {
        Self::from_pkcs8(&generate_pkcs8(random)?)
    }

    /// The key in a PKCS#8 document.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, Error> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document, &random)
            .map_err(|_| Error::Crypto { operation: "read a signing key" })?;
        let jwk = Jwk::from_point(pair.public_key().as_ref())?;
        Ok(Self { pair: Arc::new(pair), random, jwk: Arc::new(jwk) })
    }

    /// RFC 7638 thumbprint of the public key.
    pub fn kid(&self) -> &str {
        &self.jwk.kid
    }

    /// The public half.
    pub fn public_jwk(&self) -> Jwk {
        Jwk::clone(&self.jwk)
    }

    /// r and s of ECDSA over SHA-256 of the message, 32 bytes each.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 64], Error> {
        let signature =
            self.pair.sign(&self.random, message).map_err(|_| Error::Crypto { operation: "sign with an ES256 key" })?;
        signature.as_ref().try_into().map_err(|_| Error::Crypto { operation: "read a fixed-length signature" })
    }

    /// A compact JWS over the claims, with `alg`, `kid` and `typ` in its header.
    pub fn sign_jwt(&self, typ: &str, claims: &impl Serialize) -> Result<String, Error> {
        let header = serde_json::to_vec(&Header { alg: "ES256", kid: self.kid(), typ }).map_err(Error::Json)?;
        let claims = serde_json::to_vec(claims).map_err(Error::Json)?;
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.jwk.kid).finish_non_exhaustive()
    }
}

impl Jwk {
    /// The key id.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Reads a public key and checks that its id is its thumbprint.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        let invalid = || Error::Crypto { operation: "read a public key" };
        let jwk: Self = serde_json::from_slice(bytes).map_err(|_| invalid())?;
        let point = jwk.point().ok_or_else(invalid)?;
        if Self::from_point(&point)? == jwk { Ok(jwk) } else { Err(invalid()) }
    }

    /// Whether this key signed the message. A key that is no point of the curve verifies nothing.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.point().is_some_and(|point| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
        })
    }

    /// Both of the point, base64url.
    pub(super) fn coordinates(&self) -> [&str; 2] {
        [&self.x, &self.y]
    }

    /// SubjectPublicKeyInfo (RFC 5480), DER.
    pub fn spki(&self) -> Option<Vec<u8>> {
        let coordinates = self.point()?;
        Some([&SPKI_PREFIX[..], &coordinates].concat())
    }

    fn from_point(point: &[u8]) -> Result<Self, Error> {
        let invalid = || Error::Crypto { operation: "read a public key" };
        let (first, coordinates) = point.split_first().ok_or_else(invalid)?;
        let (x, y) = coordinates.split_at_checked(COORDINATE_BYTES).ok_or_else(invalid)?;
        if *first != UNCOMPRESSED || y.len() != COORDINATE_BYTES {
            return Err(invalid());
        }
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638 section 3: the required members only, in lexical order, without white space.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, canonical.as_bytes()));
        Ok(Self {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x,
            y,
            kid,
            alg: "ES256".to_owned(),
            usage: "sig".to_owned(),
        })
    }

    fn point(&self) -> Option<Vec<u8>> {
        let mut point = vec![UNCOMPRESSED];
        for coordinate in [&self.x, &self.y] {
            let bytes = URL_SAFE_NO_PAD.decode(coordinate).ok()?;
            if bytes.len() != COORDINATE_BYTES {
                return None;
            }
            point.extend_from_slice(&bytes);
        }
        Some(point)
    }
}

/// A new key in the form in which it is sealed.
pub(super) fn generate_pkcs8(random: &dyn SecureRandom) -> Result<Zeroizing<Vec<u8>>, Error> {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random)
        .map_err(|_| Error::Crypto { operation: "generate a signing key" })?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_id_is_the_rfc_7638_thumbprint() {
        // The P-256 key of RFC 7515 appendix A.3; the thumbprint was computed with an independent program.
        let x = URL_SAFE_NO_PAD.decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU").unwrap();
        let y = URL_SAFE_NO_PAD.decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0").unwrap();
        let jwk = Jwk::from_point(&[&[4], x.as_slice(), y.as_slice()].concat()).unwrap();
        assert_eq!(jwk.kid(), "oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
    }

    #[test]
    fn the_rfc_7515_example_verifies_and_a_changed_one_does_not() {
        let jwk = Jwk {
            x: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU".to_owned(),
            y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0".to_owned(),
            ..SigningKey::generate(&SystemRandom::new()).unwrap().public_jwk()
        };
        let message = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = URL_SAFE_NO_PAD
            .decode("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")
            .unwrap();
        assert!(jwk.verifies(message.as_bytes(), &signature));
        assert!(!jwk.verifies(&message.as_bytes()[1..], &signature));
        assert!(!jwk.verifies(message.as_bytes(), &signature[1..]));
    }

    #[test]
    fn a_public_key_with_another_keys_id_is_refused() {
        let one = SigningKey::generate(&SystemRandom::new()).unwrap().public_jwk();
        let other = SigningKey::generate(&SystemRandom::new()).unwrap().public_jwk();
        assert_eq!(Jwk::from_json(&serde_json::to_vec(&one).unwrap()).unwrap(), one);
        let forged = Jwk { kid: other.kid, ..one };
        assert!(Jwk::from_json(&serde_json::to_vec(&forged).unwrap()).is_err());
    }

    #[test]
    fn a_key_in_der_is_the_same_key() {
        use x509_parser::prelude::FromDer as _;
        let jwk = SigningKey::generate(&SystemRandom::new()).unwrap().public_jwk();
        let der = jwk.spki().unwrap();
        let (rest, key) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&der).unwrap();
        assert!(rest.is_empty());
        assert_eq!(Jwk::from_point(&key.subject_public_key.data).unwrap(), jwk);
    }

    #[test]
    fn debug_shows_the_key_id_and_nothing_else() {
        let key = SigningKey::generate(&SystemRandom::new()).unwrap();
        assert_eq!(format!("{key:?}"), format!("SigningKey {{ kid: {:?}, .. }}", key.kid()));
    }
}
