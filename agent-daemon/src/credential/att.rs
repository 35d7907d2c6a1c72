// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The `att` claim: what was known of the holder when its token was signed, for whoever checks the token.
//!
//! Every member is documented in `docs/configuration.md`. It says who vouches for each fact; a verifier that asks for
//! `measured` must not take anything weaker.

use ring::digest;
use serde::Serialize;

use crate::process::ExecId;

/// Evidence, as it stands in a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Att {
    /// The exec instance, unique in this boot.
    pub exec_id: String,
    /// Which boot of which machine.
    pub boot_id: String,
    /// The executable, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<Measured>,
    /// The script that an interpreter runs, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<Measured>,
    /// The exec instances above it.
    pub lineage: LineageDigest,
    /// The policies that permitted it.
    pub policy_generation: String,
}

/// A file's content, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// 64 hexadecimal digits.
    pub sha256: String,
    /// `kernel`, `measured`, `orchestrator` or `claimed`.
    pub source: String,
}

/// The exec instances above one, by their ids alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LineageDigest {
    /// How many.
    pub depth: usize,
    /// SHA-256 over the ids, eight bytes each, highest byte first, from its parent to the top; hexadecimal.
    pub sha256: String,
    /// False when an ancestor is missing.
    pub complete: bool,
}

impl LineageDigest {
    /// Of these, from the parent to the top.
    pub fn new(ancestors: impl IntoIterator<Item = ExecId>, complete: bool) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut depth: usize = 0;
        for ancestor in ancestors {
            context.update(&ancestor.0.to_be_bytes());
            depth = depth.saturating_add(1);
        }
        let sha256 = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { depth, sha256, complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_hashed_as_documented_and_its_order_counts() {
        // printf '\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2' | sha256sum
        let expected = "8c7654ecfd7b0b623b803e2f4e02ad1cc84278efdfcd7c4c9208edd81f17e115";
        let digest = LineageDigest::new([ExecId(1), ExecId(2)], true);
        assert_eq!((digest.depth, digest.sha256.as_str(), digest.complete), (2, expected, true));
        assert_ne!(digest.sha256, LineageDigest::new([ExecId(2), ExecId(1)], true).sha256);
        // sha256sum of nothing.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(LineageDigest::new([], false).sha256, empty);
    }
}
