// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashSet;

use crate::identity::{Fact, Provenance, Selector, SpiffeId};
use crate::process::{ExecId, ExecInstance};

/// Everything known about one exec instance, with where each fact comes from.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The kernel's record.
    pub instance: ExecInstance,
    /// Effective user id when the evidence was collected.
    pub uid: u32,
    /// Effective group id then.
    pub gid: u32,
    /// Real user id then: what the kernel puts on messages from this process.
    pub real_uid: u32,
    /// Real group id then.
    pub real_gid: u32,
    /// The executed file.
    pub exe: Option<Program>,
    /// The script an interpreter runs.
    pub script: Option<Program>,
    /// Path of its cgroup v2 group.
    pub cgroup: Option<String>,
    /// All of it as selectors, without the lineage.
    pub facts: Vec<Fact>,
    /// Sources that failed, in words.
    pub missing: Vec<String>,
}

/// A file that is being run.
#[derive(Debug, Clone)]
pub struct Program {
    /// As the kernel resolved it.
    pub path: String,
    /// How far the path can be believed: only a name resolved in the daemon's own mount namespace is the
    /// kernel's word, and a script's only while nobody else could have put the file there.
    pub path_provenance: Provenance,
    /// 64 lower-case hexadecimal digits, when it was measured.
    pub sha256: Option<String>,
    /// Of the measurement where there is one, else of the path.
    pub provenance: Provenance,
    /// Why it was not measured, or is only claimed.
    pub note: Option<String>,
}

/// The exec instances above one, nearest first.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    /// As far as the record holds them.
    pub entries: Vec<LineageEntry>,
    /// Whether every ancestor's facts are known.
    pub is_complete: bool,
}

impl Lineage {
    /// The identities in it, nearest first.
    pub fn identities(&self) -> impl Iterator<Item = &SpiffeId> {
        self.entries.iter().filter_map(|entry| entry.spiffe_id.as_ref())
    }

    /// The identities as selectors, each once.
    pub(super) fn facts(&self) -> impl Iterator<Item = Fact> {
        let mut seen = HashSet::new();
        self.identities()
            .filter(move |id| seen.insert(*id))
            .filter_map(|id| fact("lineage:spiffe_id", id.as_str(), Provenance::Kernel))
    }
}

/// One ancestor.
#[derive(Debug, Clone)]
pub struct LineageEntry {
    /// Its id.
    pub id: ExecId,
    /// Its process.
    pub tgid: u32,
    /// Whether it is still that exec instance.
    pub is_alive: bool,
    /// Its executable, or the name it was executed by.
    pub path: Option<String>,
    /// Task name.
    pub comm: Option<String>,
    /// Its default identity.
    pub spiffe_id: Option<SpiffeId>,
}

/// A selector with its provenance; none when the value cannot be one (control characters, too long).
pub(super) fn fact(kind: &str, value: impl std::fmt::Display, provenance: Provenance) -> Option<Fact> {
    let selector: Selector = format!("{kind}:{value}").parse().ok()?;
    Some(Fact { selector, provenance })
}
