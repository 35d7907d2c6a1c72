// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The audit log: every decision as one line, each line bound to the one before it.
//!
//! `record` and `chain` are the core and do no IO; the rest keeps the lines in segment files. Nothing is issued
//! without a [`Slot`], and nothing leaves before its record is written. No record has a field for a secret.
//!
//! A directory holds `audit-00000001.jsonl` and so on, `head.json` (how far the log had come when it was last
//! synced), `retained.json` (what retention removed, signed), `audit-key.jwk` (who signs) and `lock`.
//! Removing the unsigned end of the log together with `head.json` is not seen from inside the directory; that
//! needs a copy of a checkpoint elsewhere.

mod approval;
mod chain;
mod directory;
mod lease;
mod log;
mod operator;
mod query;
mod record;
mod recovery;
mod segment;
mod session;
mod sidecar;
mod step;
mod sync;
#[cfg(test)]
mod tests;
mod trust;
mod verify;
mod writer;

use std::io;
use std::path::PathBuf;

pub use self::approval::{ApprovalFacts, ApprovalRecord};
pub use self::chain::seq_of;
pub use self::lease::{GrantedLease, MAX_RECOVERED_LEASES, recover_leases};
pub use self::log::{Config, Durability, Log, Receipt, Slot, Status};
pub use self::operator::{ExplainRecord, RevokeRecord, SecretOperation, SecretRecord};
pub use self::query::{MAX_LAST, Member, Query, QuerySummary};
pub use self::record::{
    Caller, CallerRefusedRecord, CheckpointRecord, Connection, DecisionRecord, Difference, ExecFacts, KINDS,
    LeaseEndedRecord, LineageEntry, NearMiss, Outcome, PolicyNearMiss, Record, RecoveredRecord, RecoveryCause,
    ReloadRecord, SegmentRecord, StartRecord, StopRecord, text,
};
pub use self::session::{SessionEndedRecord, SessionFacts};
pub use self::step::{StepContent, StepEndedRecord, StepFacts, StepRecord};
pub use self::trust::{AuthorityRecord, BundleRecord};
pub use self::verify::{Problem, Progress, VerifyReport, verify};

/// What can go wrong with the audit log. Every one of them refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A setting that cannot work.
    #[error("audit setting {setting} {expected}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// Another daemon writes here.
    #[error("the audit directory {} is in use by another daemon", path.display())]
    Locked {
        /// Which directory.
        path: PathBuf,
    },
    /// Lines are gone that had been written.
    #[error(
        "the audit log in {} ends at record {found}, but had reached {expected}: lines were removed; \
         keep the directory as evidence (move it aside) and start with an empty one",
        path.display()
    )]
    Truncated {
        /// Which directory.
        path: PathBuf,
        /// The last record found.
        found: u64,
        /// The last record that had been synced.
        expected: u64,
    },
    /// A line does not follow from the one before it, or a side file does not fit.
    #[error(
        "the audit log is damaged at {} line {line}: {what}; \
         keep the directory as evidence (move it aside) and start with an empty one",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1; zero for the file as a whole.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The log was written under another audit key.
    #[error(
        "the audit log in {} is signed by key {found}, this daemon's audit key is {expected}: \
         restore the key, or move the directory aside and start with an empty one",
        path.display()
    )]
    ForeignKey {
        /// Which directory.
        path: PathBuf,
        /// The key the directory names.
        found: String,
        /// Ours.
        expected: String,
    },
    /// As many records are being decided as the log takes at once.
    #[error("{limit} audit records are in flight already")]
    Full {
        /// The most at once.
        limit: usize,
    },
    /// The record could not be written; the log is as it was before.
    #[error("the audit log cannot be written")]
    Unwritable(#[source] io::Error),
    /// A sync failed. What the disk holds is unknown, so nothing more is written until a restart has read it.
    #[error("the audit log could not be synced to disk; restart to recover what the disk holds")]
    SyncFailed,
    /// The log was shut down.
    #[error("the audit log is closed")]
    Closed,
    /// The record is too large even after its texts were shortened.
    #[error("an audit record of {actual} bytes is larger than {limit}")]
    TooLarge {
        /// The most allowed.
        limit: usize,
        /// What it would have been.
        actual: usize,
    },
    /// The record could not be written as JSON.
    #[error("cannot write an audit record as JSON")]
    Json(#[source] serde_json::Error),
    /// The audit key did not sign.
    #[error("cannot sign an audit checkpoint")]
    Sign(#[source] crate::authority::Error),
    /// More leases are alive in the log than can be taken up again.
    #[error("more than {limit} leases to recover from the audit log")]
    TooManyLeases {
        /// The most allowed.
        limit: usize,
    },
    /// A panic elsewhere left the log locked.
    #[error("bug: the audit log's lock is poisoned")]
    Poisoned,
}

impl Error {
    /// For `map_err`: names the operation and the path.
    fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
