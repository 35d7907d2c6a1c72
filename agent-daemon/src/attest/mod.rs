// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From a caller (socket → pidfd → exec instance) or a connection (cookie, 4-tuple) to evidence and identity.
//!
//! One file per source of facts. Facts are read through `/proc` directories held open, and count only if the
//! kernel's record says afterwards that the same exec instance was there all the time. A source that fails
//! contributes nothing; it never guesses.

mod ancestry;
mod attestor;
mod binary;
mod cgroup;
mod evidence;
mod measure;
mod mounts;
mod now;
mod peer;
mod pidfd;
mod proc;
mod programs;
mod script;
mod starts;
mod unix;

pub use ancestry::{Above, Ancestry, Authority, Beyond};
pub use attestor::{Attested, Attestor};
pub use evidence::{Evidence, Lineage, LineageEntry, Program};
pub use measure::{Config as MeasureConfig, Measurer};
pub use peer::{Peer, is_peer_pidfd_supported};
pub use proc::Proc;
pub use programs::FoundProgram;

/// Why a caller or a connection could not be tied to a live exec instance. The first three words are the
/// field's (`ebpf-for-windows`) and stand in our errors as they are.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no record to tie it to.
    #[error("unresolvable: {0}")]
    Unresolvable(&'static str),
    /// The exec instance ended.
    #[error("originator gone: {0}")]
    OriginatorGone(&'static str),
    /// The same number, or the same socket, is now something else.
    #[error("originator mismatch: {0}")]
    OriginatorMismatch(&'static str),
    /// The kernel's record lacks a fact, and nothing is decided on such a record.
    #[error("the kernel's record is incomplete")]
    Incomplete,
    /// The kernel's records could not be read.
    #[error("the kernel's records cannot be read")]
    Records(#[from] crate::process::Error),
    /// A system call that must work failed.
    #[error("cannot {operation}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Whether an error of `/proc` or of a pidfd says that the process is gone, and not that something else is wrong.
pub(crate) fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

impl Failure {
    /// A fact of the caller's process could not be read.
    fn unread(operation: &'static str, source: std::io::Error) -> Self {
        if is_gone(&source) {
            Self::OriginatorGone("the caller's process ended while it was looked up")
        } else {
            Self::Io { operation, source }
        }
    }

    /// A stable word for audit records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unresolvable(_) => "unresolvable",
            Self::OriginatorGone(_) => "originator_gone",
            Self::OriginatorMismatch(_) => "originator_mismatch",
            Self::Incomplete => "incomplete",
            Self::Records(_) | Self::Io { .. } => "unavailable",
        }
    }
}
