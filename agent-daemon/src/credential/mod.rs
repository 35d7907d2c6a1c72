// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What may be released, for which destination, to whom; and what has been.
//!
//! Owns the catalog (destinations, sources, bindings), the check of an observed address against a destination,
//! the lease registry, the rate limit and the claims of minted tokens.
//! It never signs, never reads a secret and never decides: that is `authority` and `policy`.
//! Its only IO is the look-up of host names, behind [`resolve::Resolve`].

pub mod access;
pub mod address;
pub mod att;
pub mod binding;
pub mod catalog;
pub mod destination;
mod fields;
pub mod introspect;
pub mod jwt;
pub mod lease;
pub mod network;
pub mod rate;
pub mod resolve;
pub mod source;
pub mod wit;

use std::{io, sync::Arc, time::Duration};

pub use address::{Matched, Mismatch, Observed, Verdict};
pub(crate) use binding::one;
pub use binding::{Binding, Delivery, ObservedConnect};
pub use catalog::Catalog;
pub use destination::{Destination, Mode};
pub use lease::{Basis, Cause, Lease, LeaseId, Leases};
pub use network::Network;
pub use resolve::CachingResolver;
pub use source::{CredentialType, Source, SourceKind};

use crate::process::ExecId;

/// Why nothing is released.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The node holds as many leases as it may.
    #[error("the node holds its limit of {limit} leases")]
    TooManyLeases {
        /// [`lease::Limits::total`].
        limit: usize,
    },
    /// This exec instance holds as many leases as it may.
    #[error("exec instance {exec_id} holds its limit of {limit} leases")]
    TooManyLeasesOfExec {
        /// Whose.
        exec_id: ExecId,
        /// [`lease::Limits::per_exec`].
        limit: usize,
    },
    /// The binding allows no further release on this connection.
    #[error("connection {cookie} already carries its limit of {limit} live releases of binding {binding}")]
    ConnectionUsed {
        /// The socket.
        cookie: u64,
        /// The binding's name.
        binding: Arc<str>,
        /// [`Binding::releases_per_connection`].
        limit: u32,
    },
    /// The exec instance ended while a credential was on its way to it.
    #[error("exec instance {exec_id} ended while its credential was being issued")]
    ExecEnded {
        /// Which.
        exec_id: ExecId,
    },
    /// The lease is not there, or is over.
    #[error("lease {lease} is not active")]
    LeaseNotActive {
        /// Which.
        lease: LeaseId,
    },
    /// A lease of this id exists or existed.
    #[error("bug: lease {lease} exists already")]
    DuplicateLease {
        /// Which.
        lease: LeaseId,
    },
    /// The lease is not the one that room was reserved for.
    #[error("bug: lease {lease} differs from its reservation in {what}")]
    ReservationMismatch {
        /// Which.
        lease: LeaseId,
        /// The field.
        what: &'static str,
    },
    /// Text that cannot be a lease id.
    #[error("a lease id is 22 characters of base64url")]
    MalformedLeaseId,
    /// The name could not be looked up.
    #[error("look-up of {host} failed")]
    Resolve {
        /// The name.
        host: Arc<str>,
        /// Shared by all who waited for the same answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The look-up took too long.
    #[error("look-up of {host} took longer than {timeout:?}")]
    ResolveTimeout {
        /// The name.
        host: Arc<str>,
        /// [`resolve::Limits::timeout`].
        timeout: Duration,
    },
    /// The name exists but has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: Arc<str>,
    },
    /// More addresses than are kept for one name; a part of them would match only sometimes.
    #[error("{host} has more than {limit} addresses")]
    TooManyAddresses {
        /// The name.
        host: Arc<str>,
        /// [`resolve::Limits::addresses_per_name`].
        limit: usize,
    },
    /// Every place for a name is taken by a look-up under way.
    #[error("{limit} look-ups are under way")]
    ResolverBusy {
        /// [`resolve::Limits::names`].
        limit: usize,
    },
}
