// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

/// Longer texts are no handle.
pub const MAX_HANDLE_BYTES: usize = 64;
const RANDOM_BYTES: usize = 32;

/// Names a session in requests of those who may act in it. A secret: nobody guesses it, and it is told once.
pub struct Handle(Zeroizing<String>);

impl Handle {
    /// Out of 256 bits that `fill` takes from a cryptographic source.
    ///
    /// # Errors
    /// Those of `fill`; then there is no handle.
    pub fn generate<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        fill(&mut *random)?;
        Ok(Self(Zeroizing::new(URL_SAFE_NO_PAD.encode(*random))))
    }

    /// The text itself, for whom it was made.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn digest(&self) -> HandleDigest {
        HandleDigest::of(&self.0)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// What is kept of a handle: of no use to whoever reads it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleDigest([u8; RANDOM_BYTES]);

impl HandleDigest {
    /// Of what somebody shows.
    pub fn of(shown: &str) -> Self {
        let mut bytes = [0; RANDOM_BYTES];
        bytes.iter_mut().zip(digest(&SHA256, shown.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }

    /// As text, for a file.
    pub(crate) fn to_text(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What [`Self::to_text`] made.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Debug for HandleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandleDigest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_known_by_its_digest_and_shown_to_nobody() {
        let handle = Handle::generate(|bytes| {
            bytes.fill(7);
            Ok::<(), ()>(())
        })
        .unwrap();
        assert!(handle.reveal().len() == 43 && handle.reveal().len() <= MAX_HANDLE_BYTES);
        assert_eq!(HandleDigest::of(handle.reveal()), handle.digest());
        assert_eq!(HandleDigest::from_text(&handle.digest().to_text()), Some(handle.digest()));
        assert_ne!(HandleDigest::of(""), handle.digest());
        assert!(HandleDigest::from_text("AAAA").is_none() && HandleDigest::from_text("?").is_none());
        let shown = format!("{handle:?} {:?}", handle.digest());
        assert_eq!(shown, "Handle HandleDigest");
        assert!(Handle::generate(|_| Err(())).is_err());
    }
}
