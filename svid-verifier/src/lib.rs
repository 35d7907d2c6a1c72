// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Verifies SVIDs that are tokens, by the keys of their trust domain. Does no IO and reads no clock.
//!
//! Signatures are those that
//! <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#2-jose-header> allows and *ring* has: all but
//! ES512. What a token's claims say is the caller's to check, except for WIT-SVIDs (feature `experimental`), which are
//! never good without a proof of possession: see [`wit::verify`].

mod jws;
mod key;
#[cfg(feature = "experimental")]
pub mod wit;

pub use jws::{Jws, MAX_TOKEN_BYTES};
pub use key::{VerifyingKey, verify};

/// The claims of a token.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// The token is not one that a key signed, or not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is not valid: {0}")]
pub struct Invalid(
    /// One of a closed set of phrases.
    pub &'static str,
);
