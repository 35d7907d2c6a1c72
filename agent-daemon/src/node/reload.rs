// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt::Debug;
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;

use super::{Node, bump};
use crate::audit::{Caller, Outcome, Record, ReloadRecord};
use crate::diagnostic::Diagnostic;
use crate::snapshot::{Snapshot, Sources};

/// Reads the files that make a snapshot. Blocks.
pub trait Load: Debug + Send + Sync + 'static {
    /// All of them, as they are now.
    ///
    /// # Errors
    /// Which could not be read, and why.
    fn load(&self) -> Result<Sources, Vec<Diagnostic>>;
}

/// What became of a reload.
#[derive(Debug, Clone)]
pub struct ReloadOutcome {
    /// The snapshot now in force: the new one, or the old one when there are diagnostics.
    pub snapshot: Arc<Snapshot>,
    /// Whether it is a new one.
    pub is_changed: bool,
    /// Why nothing was changed.
    pub diagnostics: Vec<Diagnostic>,
}

/// The state of reloading.
#[derive(Debug)]
pub(super) struct Reloads {
    number: u64,
    last: Timestamp,
    last_error: Option<String>,
}

impl Reloads {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { number: 1, last: now, last_error: None }
    }
}

impl Node {
    /// When the last reload was, and why it failed if it did.
    pub fn last_reload(&self) -> (Timestamp, Option<String>) {
        let reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        (reloads.last, reloads.last_error.clone())
    }

    /// The files as they are on disk now; nothing is changed. Blocks.
    ///
    /// # Errors
    /// Which could not be read, and why.
    pub fn read_sources(&self) -> Result<Sources, Vec<Diagnostic>> {
        self.load.load()
    }

    /// Reads everything anew and swaps it in, whole or not at all. One at a time. Blocks.
    ///
    /// # Errors
    /// When the reload could not be recorded: nothing is changed then.
    pub fn reload(&self, trigger: &str, by: Option<Caller>) -> Result<ReloadOutcome, crate::audit::Error> {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.snapshot();
        let parsed = self.load.load().and_then(|sources| {
            Snapshot::parse(reloads.number.saturating_add(1), &sources, &self.identity.trust_domain)
        });
        let (snapshot, diagnostics) = match parsed {
            Ok(snapshot) => (Arc::new(snapshot), Vec::new()),
            Err(diagnostics) => (Arc::clone(&old), diagnostics),
        };
        let error = diagnostics.first().map(|first| match diagnostics.len() {
            1 => one_line(first),
            more => format!("{} (and {} more)", one_line(first), more.saturating_sub(1)),
        });
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let record = ReloadRecord {
            outcome: if error.is_none() { Outcome::Allow } else { Outcome::Deny },
            trigger: trigger.to_owned(),
            by,
            policy_generation: snapshot.policies.generation().as_str().to_owned(),
            previous_policy_generation: old.policies.generation().as_str().to_owned(),
            policies: count(snapshot.policies.len()),
            entries: count(snapshot.entries.len()),
            destinations: count(snapshot.catalog.destinations().len()),
            bindings: count(snapshot.catalog.bindings().len()),
            error: error.clone(),
        };
        self.log.append(&Record::Reload(record))?;
        reloads.last = self.clock.now();
        reloads.last_error.clone_from(&error);
        match error {
            None => {
                reloads.number = snapshot.number;
                self.snapshot.store(Arc::clone(&snapshot));
                self.snapshots.send_replace(snapshot.number);
                tracing::info!(generation = snapshot.policies.generation().as_str(), trigger, "reloaded");
            }
            Some(error) => {
                bump(&self.counters.reload_failures);
                tracing::error!(%error, trigger, "the reload was refused; what was loaded before stays in force");
            }
        }
        Ok(ReloadOutcome { is_changed: diagnostics.is_empty(), snapshot, diagnostics })
    }
}

/// For a log line, a record and a status; the report to whoever asked for the reload has the advice on its own line.
fn one_line(diagnostic: &Diagnostic) -> String {
    diagnostic.to_string().replace("\n  help: ", "; ")
}
