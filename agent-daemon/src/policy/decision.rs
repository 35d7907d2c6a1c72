// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What policy answers.

use std::{fmt, sync::Arc};

use ring::digest;

use crate::diagnostic::SourceFile;

/// Names a set of policies by its content: `sha256:` and 16 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Generation(Arc<str>);

impl Generation {
    /// Of names and texts, in order. Lengths are hashed too, so that no two sets of files can be read as one another.
    pub(super) fn of(files: &[SourceFile]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in files.iter().flat_map(|file| [&file.name, &file.text]) {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part.as_bytes());
        }
        let digest = context.finish();
        let hex: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self(format!("sha256:{hex}").into())
    }

    /// As written in decisions.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Yes or no; also what a policy does when it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Go on.
    Allow,
    /// Refuse.
    Deny,
}

impl Effect {
    /// The word used in files, API and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// At least one policy permits and none forbids.
    Permit,
    /// Every policy that permits wants a person to approve, and none forbids.
    NeedsApproval,
    /// A policy forbids.
    Forbid,
    /// No policy permits.
    NoPermit,
    /// Something could not be evaluated.
    Error,
}

impl Reason {
    /// The word used in files, API and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::NeedsApproval => "needs_approval",
            Self::Forbid => "forbid",
            Self::NoPermit => "no_permit",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One answer, with everything that the audit record says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub effect: Effect,
    /// Why.
    pub reason: Reason,
    /// The policies that made it so, sorted: those that permit, those that forbid, or those that failed.
    pub policy_ids: Vec<Arc<str>>,
    /// What could not be evaluated; not empty exactly when the reason is [`Reason::Error`].
    pub errors: Vec<String>,
    /// Which policies were asked.
    pub generation: Generation,
}

impl Decision {
    /// Whether to go on.
    pub fn is_allow(&self) -> bool {
        self.effect == Effect::Allow
    }
}
