// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who signs: the node's JWT keys, its CA, the trust bundle that names both, and what keeps secrets closed at rest.
//!
//! Owns the key files and the sealed secrets. Never decides what is signed, and never shows a private key:
//! no type here prints more than a key id.

mod bundle;
pub(crate) mod file;
mod foreign;
mod generations;
pub(crate) mod given;
mod issuing;
mod jwt;
mod key;
mod schedule;
mod seal;
mod secret;
mod verifying;
mod wit;
mod x509;

pub use svid_verifier::{Claims, MAX_TOKEN_BYTES, VerifyingKey};

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::identity::TrustDomain;

pub use self::bundle::{MAX_DOCUMENT_BYTES, TrustBundle};
pub use self::foreign::{ForeignBundles, ForeignChange};
pub use self::issuing::{Authority, Config, Minted};
pub use self::jwt::{JwtAuthority, PublishedKey, Signer, TokenKind, open_or_create_key};
pub use self::key::{Jwk, SigningKey};
pub use self::seal::Sealer;
pub use self::secret::{MAX_SECRET_BYTES, MAX_SECRETS, SecretEntry, SecretStore};
pub use self::verifying::unverified_claims;
pub use self::wit::WitKey;
pub use self::x509::{CaFiles, CaRequest, CaSource, NewCa, Origin, Signed, Subject, X509Authority, X509Svid};
pub(crate) use self::x509::{der_sequence, spiffe_id, verify};

/// What can go wrong with keys, tokens and sealed files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The key-encryption key's file does not hold a key.
    #[error("{} must hold exactly {expected} bytes", path.display())]
    KeyFileLength {
        /// Which file.
        path: PathBuf,
        /// How long it has to be.
        expected: usize,
    },
    /// A sealed file was changed, belongs to another name or version, or was sealed under another key.
    #[error("cannot unseal {name}: it was changed, renamed, or sealed under another key")]
    Unseal {
        /// What it should have been.
        name: String,
    },
    /// The cryptographic library refused.
    #[error("cannot {operation}")]
    Crypto {
        /// What was tried.
        operation: &'static str,
    },
    /// The claims could not be written as JSON.
    #[error("cannot write the token as JSON")]
    Json(#[source] serde_json::Error),
    /// The library that writes certificates refused.
    #[error("cannot write a certificate")]
    Certificate(#[source] rcgen::Error),
    /// A CA that was made elsewhere is of no use here.
    #[error("the CA of {origin} is refused: {reason}")]
    Refused {
        /// Who made it.
        origin: Origin,
        /// What is wrong with it.
        reason: String,
    },
    /// An upstream authority did not do what it was asked for.
    #[error("the upstream {origin}: {reason}")]
    Upstream {
        /// Which.
        origin: Origin,
        /// What it said, or what became of the way to it.
        reason: String,
    },
    /// A trust bundle of somebody else is of no use.
    #[error("the trust bundle of {trust_domain} is refused: {reason}")]
    Bundle {
        /// Whose.
        trust_domain: TrustDomain,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no room for the bundle of another trust domain.
    #[error("the trust bundles of {limit} other trust domains are known already, which is the most")]
    TooManyBundles {
        /// The most allowed.
        limit: usize,
    },
    /// A token that names a user, and there is none.
    #[error("the token is on behalf of a user, and nobody is acted for")]
    Nobody,
    /// There is nothing to sign with at this time.
    #[error("no key that signs {what} is good at this time")]
    NoSigner {
        /// Tokens or certificates.
        what: &'static str,
    },
    /// An SVID would be good for longer than its issuer.
    #[error("an SVID may not outlive its issuer, which ends at {ends_at}")]
    Outlives {
        /// The issuer's end.
        ends_at: Timestamp,
    },
    /// A name that cannot be a file name here.
    #[error("a name is 1 to 64 of a-z, 0-9, '.', '_', '-' and does not start with a period")]
    Name,
    /// A secret of no or too many bytes.
    #[error("a secret is 1 to {limit} bytes, this one is {actual}")]
    SecretSize {
        /// The largest allowed.
        limit: usize,
        /// What was given.
        actual: usize,
    },
    /// The store is full.
    #[error("the store already holds {limit} secrets")]
    TooManySecrets {
        /// The most allowed.
        limit: usize,
    },
    /// A directory of signing keys holds more than are kept.
    #[error("more than {limit} signing keys in {}", path.display())]
    TooManyKeys {
        /// Which directory.
        path: PathBuf,
        /// The most allowed.
        limit: usize,
    },
    /// The version counter of a secret is used up.
    #[error("the version of secret {name} cannot grow further")]
    VersionExhausted {
        /// Which secret.
        name: String,
    },
    /// The token is not one this authority signed. Callers learn no more than that.
    #[error("the token is not valid: {reason}")]
    Token {
        /// For the log; one of a closed set of phrases.
        reason: &'static str,
    },
    /// A panic elsewhere left the store locked.
    #[error("bug: the secret store's lock is poisoned")]
    Poisoned,
}

impl Error {
    /// For `map_err`: names the operation and the path.
    fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}

/// Names of secrets and keys become file names: nothing in them may mean something to a path.
fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// SHA-256 in hexadecimal.
fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fills a buffer with random bytes for an id or a key.
///
/// # Errors
/// When the system has no randomness to give.
pub fn fill_random(buffer: &mut [u8]) -> Result<(), Error> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    SystemRandom::new().fill(buffer).map_err(|_| Error::Crypto { operation: "draw random bytes" })
}
