// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One fact about an exec instance, where it comes from, and which kinds of facts exist.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use super::{Error, SpiffeId, TrustDomain};

/// Longest selector: a kernel path and its kind.
pub const MAX_SELECTOR_BYTES: usize = 4096 + 64;

/// The fact that a process is older than the kernel programs; whoever gathers facts adds it as [`Provenance::Kernel`].
pub const SEEDED_SELECTOR: &str = "exec:seeded";

/// Where a fact comes from, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// Seen by our kernel programs.
    Kernel,
    /// Hashed by the daemon or the kernel.
    Measured,
    /// Said by systemd, a container runtime or the kubelet.
    Orchestrator,
    /// Said by the process itself.
    Claimed,
}

impl Provenance {
    /// The word used in policy, API and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Measured => "measured",
            Self::Orchestrator => "orchestrator",
            Self::Claimed => "claimed",
        }
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `type:value`, for example `unix:uid:1000` or `exec:memfd`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<str>);

impl Selector {
    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Everything before the value: `unix:uid` of `unix:uid:1000`, all of `exec:memfd`.
    pub fn kind(&self) -> &str {
        self.split().0
    }

    /// What follows the kind; empty where the kind says it all.
    pub fn value(&self) -> &str {
        self.split().1
    }

    // The value starts after the second colon and may hold further ones (a path, a SPIFFE ID).
    fn split(&self) -> (&str, &str) {
        match self.0.match_indices(':').nth(1) {
            Some((at, _)) => {
                (self.0.get(..at).unwrap_or_default(), self.0.get(at.saturating_add(1)..).unwrap_or_default())
            }
            None => (&self.0, ""),
        }
    }
}

impl FromStr for Selector {
    type Err = Error;

    /// Takes any well-formed selector: a kind that this daemon does not know is simply never matched.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(Error::SelectorTooLong { limit: MAX_SELECTOR_BYTES, actual: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(Error::SelectorControlCharacter);
        }
        match text.split_once(':') {
            Some((kind, value)) if !kind.is_empty() && !value.is_empty() => Ok(Self(text.into())),
            _ => Err(Error::SelectorShape),
        }
    }
}

impl Borrow<str> for Selector {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// A selector and how it is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fact {
    /// What is known.
    pub selector: Selector,
    /// How.
    pub provenance: Provenance,
}

/// What the value of a kind looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// There is none.
    None,
    /// A decimal number of 32 bits.
    Number,
    /// 64 lower-case hexadecimal digits.
    Sha256,
    /// Starts with a slash.
    Path,
    /// A user's or group's name.
    Name,
    /// A SPIFFE ID of our trust domain.
    SpiffeId,
    /// Any text.
    Text,
}

/// How much a kind says about who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// May stand alone in an entry.
    Identifying,
    /// Narrows an entry but never makes one: a path, or a property that any program can have.
    Narrowing,
}

/// One kind of selector that the daemon can produce.
#[derive(Debug, Clone, Copy)]
pub struct KnownSelector {
    /// As in [`Selector::kind`].
    pub kind: &'static str,
    pub(super) form: Form,
    pub(super) weight: Weight,
}

const fn known(kind: &'static str, form: Form, weight: Weight) -> KnownSelector {
    KnownSelector { kind, form, weight }
}

/// Every kind that an entry may ask for. A kind that nothing produces would be an entry that never matches, so it is refused.
pub const KNOWN_SELECTORS: &[KnownSelector] = &[
    known("unix:uid", Form::Number, Weight::Identifying),
    known("unix:gid", Form::Number, Weight::Identifying),
    known("unix:user", Form::Name, Weight::Identifying),
    known("unix:group", Form::Name, Weight::Identifying),
    known("unix:supplementary_gid", Form::Number, Weight::Identifying),
    known("unix:path", Form::Path, Weight::Narrowing),
    known("unix:sha256", Form::Sha256, Weight::Identifying),
    known("script:path", Form::Path, Weight::Narrowing),
    known("script:sha256", Form::Sha256, Weight::Identifying),
    known("cgroup:path", Form::Path, Weight::Identifying),
    known("exec:memfd", Form::None, Weight::Narrowing),
    known("exec:deleted", Form::None, Weight::Narrowing),
    known("exec:setuid", Form::None, Weight::Narrowing),
    known("exec:traced", Form::None, Weight::Narrowing),
    known("exec:no-new-privs", Form::None, Weight::Narrowing),
    known("exec:fork", Form::None, Weight::Narrowing),
    known(SEEDED_SELECTOR, Form::None, Weight::Narrowing),
    known("lineage:spiffe_id", Form::SpiffeId, Weight::Identifying),
    known("session:user", Form::Text, Weight::Narrowing),
    known("session:agent", Form::Text, Weight::Narrowing),
];

/// Looks a selector's kind up.
pub(super) fn find_known(selector: &Selector) -> Option<&'static KnownSelector> {
    KNOWN_SELECTORS.iter().find(|known| known.kind == selector.kind())
}

impl Form {
    /// What is wrong with a value of this form.
    pub(super) fn check(self, value: &str, trust_domain: &TrustDomain) -> Result<(), String> {
        let problem = match self {
            Self::None if value.is_empty() => return Ok(()),
            Self::None => "this selector takes no value".into(),
            Self::Number => match value.parse::<u32>() {
                // The kernel's number is compared as text, so there must be one way to write it.
                Ok(number) if number.to_string() == value => return Ok(()),
                _ => {
                    format!("{value:?} is not a number from 0 to {}, written without a sign or leading zeros", u32::MAX)
                }
            },
            Self::Sha256 => {
                let digits = value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                if digits && value.len() == 64 {
                    return Ok(());
                }
                "a SHA-256 is written as 64 lower-case hexadecimal digits".into()
            }
            Self::Path if value.starts_with('/') => return Ok(()),
            Self::Path => format!("{value:?} is not an absolute path"),
            Self::Name if !value.is_empty() && !value.contains([':', '/', ' ']) => return Ok(()),
            Self::Name => format!("{value:?} is not a user or group name"),
            Self::Text if !value.is_empty() => return Ok(()),
            Self::Text => "this selector takes a value".into(),
            Self::SpiffeId => match value.parse::<SpiffeId>() {
                Ok(id) if id.trust_domain() == trust_domain => return Ok(()),
                Ok(id) => format!("trust domain {} is not this node's ({trust_domain})", id.trust_domain()),
                Err(error) => error.to_string(),
            },
        };
        Err(problem)
    }
}
