// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Closes small secrets for storage: AES-256-GCM, with the name and version bound in.
//!
//! Layout: magic, version (u32, big endian), nonce, ciphertext with tag. The nonce is random; at 96 bits that
//! is safe for far more sealings (2^32) than a node makes in its life.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Error, file};

const KEY_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"AGSEAL01";
const VERSION_BYTES: usize = 4;
const TAG_BYTES: usize = 16;

/// What sealing adds to the length of a secret.
pub(super) const OVERHEAD_BYTES: usize = MAGIC.len() + VERSION_BYTES + NONCE_LEN + TAG_BYTES;

/// The key-encryption key. Clones share it; nothing prints it.
#[derive(Clone)]
pub struct Sealer {
    key: Arc<LessSafeKey>,
    random: SystemRandom,
}

impl Sealer {
    /// Reads the key from a private file, or makes the file with a new key.
    pub fn open_or_create(path: &Path) -> Result<Self, Error> {
        if let Some(bytes) = file::read_private(path, KEY_BYTES).map_err(Error::io("read the sealing key", path))? {
            return Self::from_slice(path, &bytes);
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new()
            .fill(bytes.as_mut_slice())
            .map_err(|_| Error::Crypto { operation: "take random bytes for the sealing key" })?;
        file::create_new(path, bytes.as_slice()).map_err(Error::io("create the sealing key", path))?;
        // Read back, so that of two that start at once both use the one that won.
        let stored = file::read_private(path, KEY_BYTES).map_err(Error::io("read the sealing key", path))?;
        Self::from_slice(path, stored.as_ref().map_or(&[], |stored| stored.as_slice()))
    }

    /// A key that came from elsewhere.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, Error> {
        let key =
            UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| Error::Crypto { operation: "use the sealing key" })?;
        Ok(Self { key: Arc::new(LessSafeKey::new(key)), random: SystemRandom::new() })
    }

    /// Closes a secret under a name and version.
    pub fn seal(&self, name: &str, version: u32, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| Error::Crypto { operation: "take a random nonce" })?;
        let mut body = Zeroizing::new(Vec::with_capacity(plaintext.len().saturating_add(TAG_BYTES)));
        body.extend_from_slice(plaintext);
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated_data(name, version)),
                &mut *body,
            )
            .map_err(|_| Error::Crypto { operation: "seal" })?;
        Ok([MAGIC.as_slice(), &version.to_be_bytes(), &nonce, &body].concat())
    }

    /// Opens what [`Sealer::seal`] closed. Every failure is the same error.
    pub fn unseal(&self, name: &str, version: u32, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.try_unseal(name, version, sealed).ok_or_else(|| Error::Unseal { name: name.to_owned() })
    }

    fn try_unseal(&self, name: &str, version: u32, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if sealed_version(sealed)? != version {
            return None;
        }
        let (nonce, body) = sealed.get(MAGIC.len() + VERSION_BYTES..)?.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plaintext = Zeroizing::new(body.to_vec());
        let aad = Aad::from(associated_data(name, version));
        let length = self.key.open_in_place(nonce, aad, &mut plaintext).ok()?.len();
        plaintext.truncate(length);
        Some(plaintext)
    }

    fn from_slice(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let bytes =
            bytes.try_into().map_err(|_| Error::KeyFileLength { path: path.to_owned(), expected: KEY_BYTES })?;
        Self::from_bytes(bytes)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(\"...\")")
    }
}

/// The version that sealed bytes claim; only unsealing proves it.
pub(super) fn sealed_version(sealed: &[u8]) -> Option<u32> {
    let rest = sealed.strip_prefix(MAGIC.as_slice())?;
    Some(u32::from_be_bytes(*rest.first_chunk()?))
}

/// The version has a fixed length, so no two pairs of name and version give the same bytes.
fn associated_data(name: &str, version: u32) -> Vec<u8> {
    [MAGIC.as_slice(), &version.to_be_bytes(), name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::authority::file::private_tempdir;

    #[test]
    fn sealed_bytes_open_only_as_what_they_were_sealed_as() {
        let sealer = Sealer::from_bytes(&[7; 32]).unwrap();
        let sealed = sealer.seal("api-key", 3, b"hunter2").unwrap();
        assert_eq!(sealed.len(), 7 + OVERHEAD_BYTES);
        assert_eq!(sealer.unseal("api-key", 3, &sealed).unwrap().as_slice(), b"hunter2");
        let other = Sealer::from_bytes(&[8; 32]).unwrap();
        for (case, result) in [
            ("another name", sealer.unseal("api-kez", 3, &sealed)),
            ("another version", sealer.unseal("api-key", 4, &sealed)),
            ("another key", other.unseal("api-key", 3, &sealed)),
            ("nothing", sealer.unseal("api-key", 3, b"")),
            ("longer", sealer.unseal("api-key", 3, &[sealed.as_slice(), b"x"].concat())),
        ] {
            assert!(matches!(result, Err(Error::Unseal { .. })), "{case}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.unseal("api-key", 3, &changed).is_err(), "byte {at}");
            assert!(sealer.unseal("api-key", 3, &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn the_same_secret_is_never_sealed_to_the_same_bytes() {
        let sealer = Sealer::from_bytes(&[7; 32]).unwrap();
        assert_ne!(sealer.seal("a", 1, b"x").unwrap(), sealer.seal("a", 1, b"x").unwrap());
    }

    #[test]
    fn the_key_file_is_made_once_and_refused_when_cut_short() {
        let directory = private_tempdir();
        let path = directory.path().join("kek");
        let sealed = Sealer::open_or_create(&path).unwrap().seal("a", 1, b"x").unwrap();
        assert_eq!(Sealer::open_or_create(&path).unwrap().unseal("a", 1, &sealed).unwrap().as_slice(), b"x");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[1..]).unwrap();
        assert!(matches!(Sealer::open_or_create(&path), Err(Error::KeyFileLength { .. })));
    }

    #[test]
    fn debug_shows_nothing_of_the_key() {
        assert_eq!(format!("{:?}", Sealer::from_bytes(&[7; 32]).unwrap()), "Sealer(\"...\")");
    }
}
