// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The keys that sign tokens: one that signs, the next one that is published already, older ones that still verify.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use serde::Serialize;
use svid_verifier::Jws;
use zeroize::Zeroizing;

use super::generations::{Generation, Generations, MAX_GENERATIONS};
use super::key::generate_pkcs8;
use super::schedule::{self, Life};
use super::{Claims, Error, Jwk, Sealer, SigningKey, file, is_name, verifying};

/// A sealed P-256 PKCS#8 document is under 200 bytes.
const MAX_KEY_FILE_BYTES: usize = 1024;
const SUFFIX: &str = ".sealed";
/// Seconds since the epoch at which a key ends stand before it.
const END_BYTES: usize = 8;

/// What the keys sign. Keys of one kind never sign another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// JWT-SVIDs, and access tokens, which have another `typ`.
    Jwt,
    /// WIT-SVIDs.
    Wit,
}

impl TokenKind {
    const ALL: [Self; 2] = [Self::Jwt, Self::Wit];

    fn prefix(self) -> &'static str {
        match self {
            Self::Jwt => "jwt-",
            Self::Wit => "wit-",
        }
    }

    fn sealing_name(self) -> &'static str {
        match self {
            Self::Jwt => "jwt/signing",
            Self::Wit => "wit/signing",
        }
    }
}

/// Signs tokens with one of its keys and verifies those of all its keys.
#[derive(Debug)]
pub struct JwtAuthority {
    generations: Generations,
    lifetime: SignedDuration,
    keys: ArcSwap<Keys>,
    rotating: Mutex<()>,
}

/// The keys as they are now. Swapped whole.
#[derive(Debug, Default)]
struct Keys {
    signer: Option<Signer>,
    /// Oldest first.
    held: Vec<Held>,
    /// Newest first.
    public: Vec<Jwk>,
}

#[derive(Debug)]
struct Held {
    number: u32,
    key: SigningKey,
    life: Life,
}

/// The key that signs now.
#[derive(Debug, Clone)]
pub struct Signer {
    /// It.
    pub key: SigningKey,
    /// When it was made.
    pub created_at: Timestamp,
    /// Nothing it signs may be good for longer.
    pub ends_at: Timestamp,
}

/// A key by which tokens of this node are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedKey {
    /// It.
    pub jwk: Jwk,
    /// Nothing that it signed is good at this instant.
    pub ends_at: Timestamp,
}

#[derive(Serialize)]
struct Jwks<'a> {
    keys: &'a [Jwk],
}

impl JwtAuthority {
    /// Opens the keys in a private directory and makes what is missing.
    pub fn open(
        directory: &Path,
        sealer: &Sealer,
        kind: TokenKind,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let generations = Generations::open(directory, sealer, kind.prefix(), kind.sealing_name())?;
        let lifetime = SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX);
        let authority =
            Self { generations, lifetime, keys: ArcSwap::from_pointee(Keys::default()), rotating: Mutex::default() };
        authority.rotate(now)?;
        Ok(authority)
    }

    /// Makes the next key when it is time, turns to it when it is time, and forgets what is over. Says whether what
    /// is published changed. Blocks.
    pub fn rotate(&self, now: Timestamp) -> Result<bool, Error> {
        let _alone = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = Vec::new();
        for generation in self.generations.read_all()? {
            held.push(self.held(&generation)?);
        }
        if held.len() >= MAX_GENERATIONS {
            self.forget(&mut held, now)?;
        }
        if schedule::plan(&lives(&held), now).is_due {
            let number = held.last().map_or(0, |newest| newest.number).saturating_add(1);
            let ends_at = now.saturating_add(self.lifetime).unwrap_or(Timestamp::MAX);
            self.generations.add(number, now, &stored(ends_at, &generate_pkcs8(&SystemRandom::new())?))?;
            held.clear();
            for generation in self.generations.read_all()? {
                held.push(self.held(&generation)?);
            }
        }
        // Only when the next one is safe on disk.
        self.forget(&mut held, now)?;
        let signing = schedule::plan(&lives(&held), now).signing.and_then(|place| held.get(place));
        let signer = signing.map(|held| Signer {
            key: held.key.clone(),
            created_at: held.life.begins_at,
            ends_at: held.life.ends_at,
        });
        let public: Vec<Jwk> = held.iter().rev().map(|held| held.key.public_jwk()).collect();
        let is_changed = self.keys.load().public != public;
        self.keys.store(Arc::new(Keys { signer, held, public }));
        Ok(is_changed)
    }

    /// Forgets what is over.
    fn forget(&self, held: &mut Vec<Held>, now: Timestamp) -> Result<(), Error> {
        for over in held.iter().filter(|held| held.life.is_over(now)) {
            self.generations.remove(over.number)?;
        }
        held.retain(|held| !held.life.is_over(now));
        Ok(())
    }

    /// How long until [`Self::rotate`] has something to do, at most `longest`.
    pub fn next_look(&self, now: Timestamp, longest: SignedDuration) -> SignedDuration {
        schedule::next_look(&lives(&self.keys.load().held), now, longest)
    }

    fn held(&self, generation: &Generation) -> Result<Held, Error> {
        let damaged = || Error::Unseal { name: format!("the key {}", generation.number) };
        let (seconds, pkcs8) = generation.content.split_first_chunk::<END_BYTES>().ok_or_else(damaged)?;
        let ends_at = Timestamp::from_second(i64::from_be_bytes(*seconds)).map_err(|_| damaged())?;
        let key = SigningKey::from_pkcs8(pkcs8)?;
        Ok(Held { number: generation.number, key, life: Life { begins_at: generation.created_at, ends_at } })
    }

    /// The key that signs now.
    ///
    /// # Errors
    /// When every key is over: the clock was set forward, or rotation fails.
    pub fn signer(&self, now: Timestamp) -> Result<Signer, Error> {
        let signer = self.keys.load().signer.clone();
        signer.filter(|signer| now < signer.ends_at).ok_or(Error::NoSigner { what: "tokens" })
    }

    /// What verifies, newest first.
    pub fn public_keys(&self) -> Vec<Jwk> {
        self.keys.load().public.clone()
    }

    /// What verifies, with when nothing that it signed is good any more.
    pub fn published(&self) -> Vec<PublishedKey> {
        let keys = self.keys.load();
        keys.held.iter().map(|held| PublishedKey { jwk: held.key.public_jwk(), ends_at: held.life.ends_at }).collect()
    }

    /// The RFC 7517 key set, as JSON.
    pub fn jwks(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(&Jwks { keys: &self.keys.load().public }).map_err(Error::Json)
    }

    /// Whether it says that one of these keys signed it.
    pub(super) fn knows_key_of(&self, token: &str) -> bool {
        let kid = verifying::parse(token).ok().and_then(|jws| jws.kid);
        kid.is_some_and(|kid| self.keys.load().public.iter().any(|key| key.kid() == kid))
    }

    /// The claims of a JWT-SVID that one of these keys signed.
    ///
    /// Checks size, form, type, algorithm, key and signature; what the claims say is the caller's to check.
    pub fn verify_jwt(&self, token: &str) -> Result<Claims, Error> {
        self.verify(&verifying::parse(token)?)
    }

    /// The same for an access token.
    ///
    /// # Errors
    /// As [`Self::verify_jwt`].
    pub fn verify_access_token(&self, token: &str) -> Result<Claims, Error> {
        self.verify(&verifying::parse_access_token(token)?)
    }

    fn verify(&self, jws: &Jws<'_>) -> Result<Claims, Error> {
        // The one algorithm is fixed here; the token has no say in it.
        if jws.alg != "ES256" {
            return Err(Error::Token { reason: "algorithm is not ES256" });
        }
        let kid = jws.kid.as_deref().ok_or(Error::Token { reason: "header names no key" })?;
        let keys = self.keys.load();
        let key = keys.public.iter().find(|key| key.kid() == kid).ok_or(Error::Token { reason: "key is unknown" })?;
        if !key.verifies(jws.signed, &jws.signature) {
            return Err(Error::Token { reason: "signature does not fit" });
        }
        Ok(jws.claims()?)
    }
}

/// A key with its end: whoever shortens the lifetimes must not take the keys of tokens that are out.
fn stored(ends_at: Timestamp, pkcs8: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut content = Zeroizing::new(Vec::with_capacity(pkcs8.len().saturating_add(END_BYTES)));
    content.extend_from_slice(&ends_at.as_second().to_be_bytes());
    content.extend_from_slice(pkcs8);
    content
}

fn lives(held: &[Held]) -> Vec<Life> {
    held.iter().map(|held| held.life).collect()
}

/// Opens one named key that is not part of the JWKS (the audit key), or makes it.
pub fn open_or_create_key(directory: &Path, name: &str, sealer: &Sealer) -> Result<SigningKey, Error> {
    if !is_name(name) || TokenKind::ALL.iter().any(|kind| name.starts_with(kind.prefix())) {
        return Err(Error::Name);
    }
    file::ensure_private_directory(directory).map_err(Error::io("use the key directory", directory))?;
    let path = directory.join(format!("{name}{SUFFIX}"));
    let read = || -> Result<Option<SigningKey>, Error> {
        let sealed = file::read_private(&path, MAX_KEY_FILE_BYTES).map_err(Error::io("read the key", &path))?;
        sealed.map(|sealed| SigningKey::from_pkcs8(&sealer.unseal(name, 1, &sealed)?)).transpose()
    };
    if let Some(key) = read()? {
        return Ok(key);
    }
    let sealed = sealer.seal(name, 1, &generate_pkcs8(&SystemRandom::new())?)?;
    file::create_new(&path, &sealed).map_err(Error::io("create the key", &path))?;
    read()?.ok_or_else(|| Error::Unseal { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;
    use crate::authority::file::private_tempdir;

    const LIFETIME: Duration = Duration::from_secs(600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn authority(directory: &Path) -> JwtAuthority {
        JwtAuthority::open(directory, &Sealer::from_bytes(&[7; 32]).unwrap(), TokenKind::Jwt, LIFETIME, at(0)).unwrap()
    }

    fn sign(authority: &JwtAuthority, now: i64, claims: &serde_json::Value) -> String {
        authority.signer(at(now)).unwrap().key.sign_jwt("JWT", claims).unwrap()
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
    fn a_key_verifies_before_it_signs_and_until_all_that_it_signed_is_over() {
        let directory = private_tempdir();
        let authority = authority(directory.path());
        let first = sign(&authority, 0, &json!({"sub": "a"}));
        let first_kid = authority.signer(at(0)).unwrap().key.kid().to_owned();
        assert!(!authority.rotate(at(299)).unwrap(), "it is not time yet");
        assert!(authority.rotate(at(300)).unwrap(), "the next key is published");
        assert_eq!(authority.public_keys().len(), 2);
        assert_eq!(authority.signer(at(300)).unwrap().key.kid(), first_kid, "and does not sign yet");
        assert!(!authority.rotate(at(500)).unwrap());
        let second = sign(&authority, 500, &json!({"sub": "b"}));
        assert_ne!(authority.signer(at(500)).unwrap().key.kid(), first_kid);
        for token in [&first, &second] {
            assert!(authority.verify_jwt(token).is_ok());
        }
        assert!(authority.rotate(at(600)).unwrap(), "the first is forgotten, the third is published");
        assert_eq!((authority.verify_jwt(&first).is_ok(), authority.verify_jwt(&second).is_ok()), (false, true));
    }

    #[test]
    fn a_key_lives_as_long_as_it_was_made_for_whatever_the_configuration_says_later() {
        let directory = private_tempdir();
        let open = |lifetime: u64, now| {
            let sealer = Sealer::from_bytes(&[7; 32]).unwrap();
            JwtAuthority::open(directory.path(), &sealer, TokenKind::Jwt, Duration::from_secs(lifetime), at(now))
                .unwrap()
        };
        let token = sign(&open(600, 0), 0, &json!({"sub": "a"}));
        let shorter = open(60, 100);
        assert!(shorter.verify_jwt(&token).is_ok(), "what it signed lives on");
        assert_eq!(shorter.signer(at(100)).unwrap().ends_at, at(600));
        let longer = open(6000, 599);
        assert!(longer.verify_jwt(&token).is_ok());
        longer.rotate(at(600)).unwrap();
        assert!(longer.verify_jwt(&token).is_err(), "nor does it live longer than it said");
        assert_eq!(longer.public_keys().len(), 1);
        let bare = generate_pkcs8(&SystemRandom::new()).unwrap();
        longer.generations.add(9, at(600), &bare).unwrap();
        assert!(matches!(longer.rotate(at(600)), Err(Error::Unseal { .. })), "a key without its end");
    }

    #[test]
    fn nothing_is_signed_with_a_key_that_is_over() {
        let directory = private_tempdir();
        let authority = authority(directory.path());
        assert_eq!(authority.signer(at(599)).unwrap().ends_at, at(600));
        assert!(matches!(authority.signer(at(600)), Err(Error::NoSigner { .. })));
        authority.rotate(at(600)).unwrap();
        assert_eq!(authority.signer(at(600)).unwrap().ends_at, at(1200));
    }

    #[test]
    fn a_clock_set_back_finds_its_keys_again() {
        let directory = private_tempdir();
        let authority = authority(directory.path());
        let token = sign(&authority, 0, &json!({"sub": "a"}));
        authority.rotate(at(400)).unwrap();
        authority.rotate(at(10)).unwrap();
        assert!(authority.verify_jwt(&token).is_ok());
        assert_eq!(authority.signer(at(10)).unwrap().ends_at, at(600));
    }

    #[test]
    fn a_key_file_under_another_name_or_sealing_key_is_refused() {
        let directory = private_tempdir();
        let sealer = Sealer::from_bytes(&[7; 32]).unwrap();
        let key = open_or_create_key(directory.path(), "audit", &sealer).unwrap();
        assert_eq!(open_or_create_key(directory.path(), "audit", &sealer).unwrap().kid(), key.kid());
        std::fs::rename(directory.path().join("audit.sealed"), directory.path().join("other.sealed")).unwrap();
        assert!(open_or_create_key(directory.path(), "other", &sealer).is_err());
        let _authority = authority(directory.path());
        let wrong = Sealer::from_bytes(&[8; 32]).unwrap();
        assert!(JwtAuthority::open(directory.path(), &wrong, TokenKind::Jwt, LIFETIME, at(0)).is_err());
        assert!(matches!(open_or_create_key(directory.path(), "../x", &sealer), Err(Error::Name)));
    }

    #[test]
    fn forged_and_malformed_tokens_are_refused() {
        let directory = private_tempdir();
        let authority = authority(directory.path());
        let key = &authority.signer(at(0)).unwrap().key;
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
            ("too long", key.sign_jwt("JWT", &json!({"pad": "x".repeat(crate::authority::MAX_TOKEN_BYTES)})).unwrap()),
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
