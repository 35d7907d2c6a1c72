// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who a process is: SPIFFE IDs, facts with their provenance, and the registration entries that lead from one to the other.
//!
//! Owns the vocabulary of selectors and the rules by which facts satisfy an entry.
//! Never reads a file, a socket or `/proc`: facts and texts are given.
//! Names follow <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>.

pub(crate) mod document;
mod entry;
mod federation;
mod issuer;
mod matching;
mod parse;
mod selector;
mod spiffe;

pub use entry::{Allowed, AnyOf, Entries, Entry, EntryId, IdentityKind, ImageRule, TreeSettings};
pub use federation::{Federation, MAX_FEDERATIONS, Profile};
pub use issuer::{Issuer, MAX_ISSUERS};
pub use matching::{Difference, NearMiss};
pub use parse::{MAX_ALTERNATIVES, MAX_DNS_NAMES, MAX_ENTRIES, MAX_FEDERATES_WITH, MAX_GROUPS, MAX_SELECTORS};
pub use selector::{Fact, KNOWN_SELECTORS, MAX_SELECTOR_BYTES, Provenance, SEEDED_SELECTOR, Selector};
pub use spiffe::{MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, SpiffeId, TrustDomain};

/// Paths of SPIFFE IDs that begin so are the daemon's own.
pub const RESERVED_PATH: &str = "/agent-daemon/";
/// Longest id of an entry, a policy or a group.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a text is not an identity or a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The scheme is missing or another one.
    #[error("a SPIFFE ID starts with spiffe:// in lower case")]
    Scheme,
    /// Nothing between the scheme and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// A character outside `a-z 0-9 . - _`.
    #[error("character {0:?} is not allowed in a trust domain: a-z, 0-9, dot, dash and underscore are")]
    TrustDomainCharacter(char),
    /// Longer than the specification allows.
    #[error("the trust domain has {actual} bytes, at most {limit} are allowed")]
    TrustDomainTooLong {
        /// What the specification allows.
        limit: usize,
        /// What was given.
        actual: usize,
    },
    /// `//`, or a slash at the end.
    #[error("the path has an empty segment or ends with a slash")]
    EmptySegment,
    /// `.` or `..`.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A character outside `a-z A-Z 0-9 . - _`.
    #[error("character {0:?} is not allowed in a path: letters, digits, dot, dash and underscore are")]
    PathCharacter(char),
    /// Longer than the specification allows.
    #[error("the SPIFFE ID has {actual} bytes, at most {limit} are allowed")]
    TooLong {
        /// What the specification allows.
        limit: usize,
        /// What was given.
        actual: usize,
    },
    /// Not `type:value`.
    #[error("a selector is written type:value")]
    SelectorShape,
    /// Longer than [`MAX_SELECTOR_BYTES`].
    #[error("the selector has {actual} bytes, at most {limit} are allowed")]
    SelectorTooLong {
        /// [`MAX_SELECTOR_BYTES`].
        limit: usize,
        /// What was given.
        actual: usize,
    },
    /// A control character could forge a line in a log.
    #[error("a selector has no control characters")]
    SelectorControlCharacter,
    /// Not one of `agent`, `component`, `tool`, `workload`.
    #[error("unknown kind of identity")]
    UnknownKind,
}

/// Whether a text can name an entry, a policy or a group.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/#:".contains(&byte))
}

/// Whether a text is a DNS name as it stands in certificates and resolvers: lower case, no wildcard, no dot at the end.
pub(crate) fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
    };
    // A name whose last label is a number is read as an old form of IPv4 address by some resolvers.
    let last_is_number =
        text.rsplit('.').next().is_some_and(|label| label.starts_with(|first: char| first.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(is_label) && !last_is_number
}

#[cfg(test)]
mod tests;
