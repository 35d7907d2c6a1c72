// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The keys that sign tokens: one that signs, older ones that still verify, sealed on disk.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::generate_pkcs8;
use super::{Error, Jwk, Sealer, SigningKey, file, is_name};
use crate::clock::Clock;

/// Longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Keys in one directory: rotation keeps a few, anything more is a mistake.
const MAX_KEYS: usize = 16;
/// A sealed P-256 PKCS#8 document is under 200 bytes.
const MAX_KEY_FILE_BYTES: usize = 1024;
const JWT_KEY_PREFIX: &str = "jwt-";
/// No valid name has a slash, so no named key can pass for one of these.
const JWT_SEALING_NAME: &str = "jwt/signing";
const SUFFIX: &str = ".sealed";
/// Seconds since the epoch at which the key was made stand before its PKCS#8 document.
const CREATED_BYTES: usize = 8;

/// The claims of a verified token.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// Signs tokens with its newest key and verifies those of all its keys.
#[derive(Debug)]
pub struct Authority {
    current: SigningKey,
    created_at: Timestamp,
    /// Newest first, the current one included.
    public: Vec<Jwk>,
}

#[derive(Serialize)]
struct Jwks<'a> {
    keys: &'a [Jwk],
}

/// Unknown members are harmless, except that `crit` demands they be understood.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    crit: Option<serde_json::Value>,
    b64: Option<serde_json::Value>,
}

impl Authority {
    /// Opens the keys in a private directory, or makes the first one.
    pub fn open_or_create(directory: &Path, sealer: &Sealer, clock: &dyn Clock) -> Result<Self, Error> {
        file::ensure_private_directory(directory).map_err(Error::io("use the key directory", directory))?;
        let mut generations = list_generations(directory)?;
        if generations.is_empty() {
            create_generation(directory, 1, sealer, clock)?;
            generations.push(1);
        }
        let mut keys = Vec::with_capacity(generations.len());
        for generation in generations {
            keys.push(open_generation(directory, generation, sealer)?);
        }
        let public = keys.iter().map(|(key, _)| key.public_jwk()).collect();
        let (current, created_at) =
            keys.into_iter().next().ok_or(Error::Crypto { operation: "find a signing key that was just made" })?;
        Ok(Self { current, created_at, public })
    }

    /// The key that signs now.
    pub fn signing_key(&self) -> &SigningKey {
        &self.current
    }

    /// When the key that signs now was made.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// The RFC 7517 key set, as JSON.
    pub fn jwks(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(&Jwks { keys: &self.public }).map_err(Error::Json)
    }

    /// The claims of a compact JWS that one of these keys signed.
    ///
    /// Checks size, form, algorithm, key and signature; what the claims say is the caller's to check.
    pub fn verify_jwt(&self, token: &str) -> Result<Claims, Error> {
        let invalid = |reason| Error::Token { reason };
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid("too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(invalid("not a compact JWS"))?;
        let (header, claims) = signed.split_once('.').ok_or(invalid("not a compact JWS"))?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| invalid("header is not base64url"))?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| invalid("header is not as expected"))?;
        // The one algorithm is fixed here; the token has no say in it.
        if header.alg != "ES256" {
            return Err(invalid("algorithm is not ES256"));
        }
        if header.crit.is_some() || header.b64.is_some() {
            return Err(invalid("header demands an extension"));
        }
        let key = self.public.iter().find(|key| key.kid() == header.kid).ok_or(invalid("key is unknown"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| invalid("signature is not base64url"))?;
        if !key.verifies(signed.as_bytes(), &signature) {
            return Err(invalid("signature does not fit"));
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| invalid("claims are not base64url"))?;
        serde_json::from_slice(&claims).map_err(|_| invalid("claims are not a JSON object"))
    }
}

/// Opens one named key that is not part of the JWKS (the audit key), or makes it.
pub fn open_or_create_key(directory: &Path, name: &str, sealer: &Sealer) -> Result<SigningKey, Error> {
    if !is_name(name) || name.starts_with(JWT_KEY_PREFIX) {
        return Err(Error::Name);
    }
    file::ensure_private_directory(directory).map_err(Error::io("use the key directory", directory))?;
    let path = directory.join(format!("{name}{SUFFIX}"));
    if let Some(document) = read_sealed(&path, name, 1, sealer)? {
        return SigningKey::from_pkcs8(&document);
    }
    let sealed = sealer.seal(name, 1, &generate_pkcs8(&SystemRandom::new())?)?;
    file::create_new(&path, &sealed).map_err(Error::io("create the key", &path))?;
    let document = read_sealed(&path, name, 1, sealer)?.ok_or_else(|| Error::Unseal { name: name.to_owned() })?;
    SigningKey::from_pkcs8(&document)
}

fn generation_path(directory: &Path, generation: u32) -> PathBuf {
    directory.join(format!("{JWT_KEY_PREFIX}{generation}{SUFFIX}"))
}

/// Newest first.
fn list_generations(directory: &Path) -> Result<Vec<u32>, Error> {
    let io = || Error::io("list the key directory", directory);
    let mut generations = Vec::new();
    for entry in fs::read_dir(directory).map_err(io())? {
        let name = entry.map_err(io())?.file_name();
        let generation = name
            .to_str()
            .and_then(|name| name.strip_prefix(JWT_KEY_PREFIX)?.strip_suffix(SUFFIX)?.parse::<u32>().ok())
            .filter(|generation| generation_path(directory, *generation).file_name() == Some(&name));
        generations.extend(generation);
        if generations.len() > MAX_KEYS {
            return Err(Error::TooManyKeys { path: directory.to_owned(), limit: MAX_KEYS });
        }
    }
    generations.sort_unstable_by(|a, b| b.cmp(a));
    Ok(generations)
}

fn create_generation(directory: &Path, generation: u32, sealer: &Sealer, clock: &dyn Clock) -> Result<(), Error> {
    let path = generation_path(directory, generation);
    let mut plaintext = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE_BYTES));
    plaintext.extend_from_slice(&clock.now().as_second().to_be_bytes());
    plaintext.extend_from_slice(&generate_pkcs8(&SystemRandom::new())?);
    let sealed = sealer.seal(JWT_SEALING_NAME, generation, &plaintext)?;
    file::create_new(&path, &sealed).map_err(Error::io("create the key", &path))?;
    Ok(())
}

fn open_generation(directory: &Path, generation: u32, sealer: &Sealer) -> Result<(SigningKey, Timestamp), Error> {
    let path = generation_path(directory, generation);
    let unseal = || Error::Unseal { name: format!("{JWT_KEY_PREFIX}{generation}") };
    let plaintext = read_sealed(&path, JWT_SEALING_NAME, generation, sealer)?.ok_or_else(unseal)?;
    let (seconds, document) = plaintext.split_first_chunk::<CREATED_BYTES>().ok_or_else(unseal)?;
    let created_at = Timestamp::from_second(i64::from_be_bytes(*seconds)).map_err(|_| unseal())?;
    Ok((SigningKey::from_pkcs8(document)?, created_at))
}

fn read_sealed(path: &Path, name: &str, version: u32, sealer: &Sealer) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let sealed = file::read_private(path, MAX_KEY_FILE_BYTES).map_err(Error::io("read the key", path))?;
    sealed.map(|sealed| sealer.unseal(name, version, &sealed)).transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authority::file::private_tempdir;
    use crate::clock::SystemClock;

    fn authority(directory: &Path) -> Authority {
        Authority::open_or_create(directory, &Sealer::from_bytes(&[7; 32]).unwrap(), &SystemClock).unwrap()
    }

    fn encode(value: &serde_json::Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    #[test]
    fn the_key_is_the_same_after_a_restart() {
        let directory = private_tempdir();
        let first = authority(directory.path());
        assert_eq!(first.jwks().unwrap(), authority(directory.path()).jwks().unwrap());
        let jwks: serde_json::Value = serde_json::from_slice(&first.jwks().unwrap()).unwrap();
        let key = &jwks["keys"][0];
        assert_eq!(
            (&key["kty"], &key["crv"], &key["alg"], &key["use"]),
            (&json!("EC"), &json!("P-256"), &json!("ES256"), &json!("sig"))
        );
        assert!(key.get("d").is_none());
    }

    #[test]
    fn the_newest_key_signs_and_older_ones_still_verify() {
        let directory = private_tempdir();
        let old = authority(directory.path());
        let token = old.signing_key().sign_jwt("JWT", &json!({"sub": "a"})).unwrap();
        create_generation(directory.path(), 2, &Sealer::from_bytes(&[7; 32]).unwrap(), &SystemClock).unwrap();
        let new = authority(directory.path());
        assert_ne!(new.signing_key().kid(), old.signing_key().kid());
        assert_eq!(new.verify_jwt(&token).unwrap()["sub"], "a");
        let token = new.signing_key().sign_jwt("JWT", &json!({"sub": "b"})).unwrap();
        assert!(old.verify_jwt(&token).is_err());
    }

    #[test]
    fn a_key_file_under_another_name_or_sealing_key_is_refused() {
        let directory = private_tempdir();
        let sealer = Sealer::from_bytes(&[7; 32]).unwrap();
        let key = open_or_create_key(directory.path(), "audit", &sealer).unwrap();
        assert_eq!(open_or_create_key(directory.path(), "audit", &sealer).unwrap().kid(), key.kid());
        fs::rename(directory.path().join("audit.sealed"), directory.path().join("other.sealed")).unwrap();
        assert!(open_or_create_key(directory.path(), "other", &sealer).is_err());
        let _authority = authority(directory.path());
        let wrong = Sealer::from_bytes(&[8; 32]).unwrap();
        assert!(Authority::open_or_create(directory.path(), &wrong, &SystemClock).is_err());
        assert!(matches!(open_or_create_key(directory.path(), "../x", &sealer), Err(Error::Name)));
    }

    #[test]
    fn forged_and_malformed_tokens_are_refused() {
        let directory = private_tempdir();
        let authority = authority(directory.path());
        let key = authority.signing_key();
        let good = key.sign_jwt("JWT", &json!({"sub": "a"})).unwrap();
        assert_eq!(authority.verify_jwt(&good).unwrap()["sub"], "a");

        let sign = |header: &serde_json::Value, claims: &str| {
            let signed = format!("{}.{}", encode(header), URL_SAFE_NO_PAD.encode(claims));
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
        };
        let kid = key.kid();
        let stranger = SigningKey::generate(&SystemRandom::new()).unwrap();
        let parts: Vec<&str> = good.split('.').collect();
        let cases = [
            ("empty", String::new()),
            ("two parts", format!("{}.{}", parts[0], parts[1])),
            ("four parts", format!("{good}.x")),
            ("no signature", format!("{}.{}.", parts[0], parts[1])),
            ("claims replaced", format!("{}.{}.{}", parts[0], encode(&json!({"sub": "b"})), parts[2])),
            ("padding added", format!("{good}==")),
            ("algorithm none", sign(&json!({"alg": "none", "kid": kid}), "{}")),
            ("algorithm HS256", sign(&json!({"alg": "HS256", "kid": kid}), "{}")),
            ("no algorithm", sign(&json!({"kid": kid}), "{}")),
            ("no key id", sign(&json!({"alg": "ES256"}), "{}")),
            ("critical extension", sign(&json!({"alg": "ES256", "kid": kid, "crit": ["b64"], "b64": false}), "{}")),
            ("claims are a list", sign(&json!({"alg": "ES256", "kid": kid}), "[]")),
            ("another key", stranger.sign_jwt("JWT", &json!({})).unwrap()),
            ("too long", key.sign_jwt("JWT", &json!({"pad": "x".repeat(MAX_TOKEN_BYTES)})).unwrap()),
            ("header twice alg", {
                let header = format!(r#"{{"alg":"none","alg":"ES256","kid":"{kid}"}}"#);
                let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), encode(&json!({})));
                format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
            }),
        ];
        for (case, token) in cases {
            assert!(matches!(authority.verify_jwt(&token), Err(Error::Token { .. })), "{case}");
        }
        assert!(authority.verify_jwt(&sign(&json!({"alg": "ES256", "kid": kid}), "{}")).is_ok());
    }
}
