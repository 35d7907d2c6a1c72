// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registration entries and the immutable, indexed set of them.

use std::{collections::HashMap, fmt, path::PathBuf, str::FromStr, sync::Arc};

use super::{Error, Selector, SpiffeId, TrustDomain};
use crate::process::Verdict;

/// Names an entry in decisions and messages.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub(super) Arc<str>);

impl EntryId {
    /// As written in the file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What an identity stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// Acts for somebody, by its own reasoning.
    Agent,
    /// A part of an agent.
    Component,
    /// Something that an agent calls.
    Tool,
    /// Anything else.
    Workload,
}

impl IdentityKind {
    /// The word used in files, policy, API and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Component => "component",
            Self::Tool => "tool",
            Self::Workload => "workload",
        }
    }
}

impl fmt::Display for IdentityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for IdentityKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Agent, Self::Component, Self::Tool, Self::Workload]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(Error::UnknownKind)
    }
}

/// What holds in the tree of processes below somebody who is governed, whatever policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeSettings {
    /// Nothing is refused; what would be is recorded.
    pub is_audit: bool,
    /// What an exec instance may reach until it is known who it is.
    pub pending: Verdict,
    /// What may be reached where no destination is declared.
    pub undeclared: Verdict,
    /// What may be executed.
    pub images: ImageRule,
}

/// What may be executed in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageRule {
    /// Whatever is there.
    #[default]
    Any,
    /// The entry's programs, and nothing else.
    Listed,
    /// Whatever is there; what is none of the entry's programs is recorded.
    Audited,
}

/// What may be executed in the tree of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// This file, and with a hash only as long as it has that content.
    File {
        /// Absolute.
        path: PathBuf,
        /// SHA-256 in lower-case hexadecimal digits.
        sha256: Option<Box<str>>,
    },
    /// Every file in this directory, but not in those below it.
    Directory(PathBuf),
}

impl TreeSettings {
    /// Nothing is let through but what policy permits. What is executed is not looked at.
    pub const STRICTEST: Self =
        Self { is_audit: false, pending: Verdict::Deny, undeclared: Verdict::Deny, images: ImageRule::Any };
}

/// Alternatives of which one must hold. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnyOf(pub(super) Vec<Selector>);

impl AnyOf {
    /// The alternatives, in the order of the file.
    pub fn alternatives(&self) -> &[Selector] {
        &self.0
    }
}

impl fmt::Display for AnyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, selector) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(" or ")?;
            }
            f.write_str(selector.as_str())?;
        }
        Ok(())
    }
}

/// Selectors that lead to a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Unique in the set.
    pub id: EntryId,
    /// Who matches.
    pub spiffe_id: SpiffeId,
    /// What that identity is.
    pub kind: IdentityKind,
    /// All must hold.
    pub selectors: Vec<AnyOf>,
    /// Groups that policies speak of.
    pub groups: Vec<Arc<str>>,
    /// Whether facts that the process says of itself count. Never are they enough alone.
    pub accept_claimed: bool,
    /// Whether a process older than the kernel programs can have this identity.
    pub seeded: bool,
    /// Told beside the identity where a process has several.
    pub hint: Option<Arc<str>>,
    /// In the certificates of the identity.
    pub dns_names: Vec<Arc<str>>,
    /// Foreign trust domains whose bundles it gets.
    pub federates_with: Vec<TrustDomain>,
    /// Whether it and what it starts is governed, and how.
    pub governs: Option<TreeSettings>,
    /// What may be executed in its tree, where that has a list.
    pub programs: Vec<Allowed>,
}

/// An immutable set of entries, indexed by each entry's rarest selector.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    // Sorted: the most selectors first, then by id.
    pub(super) sorted: Vec<Arc<Entry>>,
    // From a selector to places in `sorted`. Every entry stands under all alternatives of exactly one of its selectors.
    pub(super) index: HashMap<Selector, Vec<usize>>,
}

impl Entries {
    /// Sorts and indexes. The ids are unique already.
    pub(super) fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| b.selectors.len().cmp(&a.selectors.len()).then_with(|| a.id.cmp(&b.id)));
        let mut frequency: HashMap<Selector, usize> = HashMap::new();
        for selector in entries.iter().flat_map(|entry| &entry.selectors).flat_map(|any| &any.0) {
            let count = frequency.entry(selector.clone()).or_default();
            *count = count.saturating_add(1);
        }
        let cost = |any: &AnyOf| any.0.iter().filter_map(|selector| frequency.get(selector)).sum::<usize>();
        let mut index: HashMap<Selector, Vec<usize>> = HashMap::new();
        for (place, entry) in entries.iter().enumerate() {
            for selector in entry.selectors.iter().min_by_key(|any| cost(any)).into_iter().flat_map(|any| &any.0) {
                index.entry(selector.clone()).or_default().push(place);
            }
        }
        Self { sorted: entries.into_iter().map(Arc::new).collect(), index }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether nobody can have an identity.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// All of them, most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.sorted.iter()
    }

    /// One by its id. A scan: for display.
    pub fn entry(&self, id: &str) -> Option<&Arc<Entry>> {
        self.sorted.iter().find(|entry| entry.id.as_str() == id)
    }
}
