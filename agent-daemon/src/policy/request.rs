// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a decision is about, in plain types.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;

use super::{PreparedDestination, PreparedPrincipal, PreparedSession};
use crate::identity::{Fact, IdentityKind, Provenance, SpiffeId};

/// Most facts, and most ancestors, that a decision looks at.
pub const MAX_FACTS: usize = 1024;

/// The identity that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name.
    pub spiffe_id: SpiffeId,
    /// What it is.
    pub kind: IdentityKind,
    /// The groups of its registration entry.
    pub groups: Vec<Arc<str>>,
    /// The id of its registration entry.
    pub entry: Arc<str>,
}

/// A program or a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramContext {
    /// As the kernel resolved it.
    pub path: String,
    /// 64 hexadecimal digits, when it was measured.
    pub sha256: Option<String>,
    /// That of the weakest part: a measured file whose name comes from argv is claimed.
    pub provenance: Provenance,
}

/// What is known of the exec instance that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceContext {
    /// Unique per boot.
    pub exec_id: u64,
    /// As the record holds it.
    pub uid: u32,
    /// As the record holds it.
    pub gid: u32,
    /// Older than the kernel programs.
    pub seeded: bool,
    /// For example `memfd`.
    pub flags: Vec<Arc<str>>,
    /// Everything known; policy sees claimed facts apart from the others.
    pub facts: Vec<Fact>,
    /// Identities of ancestors, as far as they are known.
    pub lineage: Vec<SpiffeId>,
    /// Whether no ancestor is missing.
    pub lineage_complete: bool,
    /// How many ancestors.
    pub depth: u32,
    /// The executable.
    pub exe: Option<ProgramContext>,
    /// What an interpreter runs.
    pub script: Option<ProgramContext>,
    /// Path of the control group.
    pub cgroup: Option<String>,
    /// Inode of the PID namespace.
    pub pid_ns: u32,
    /// Inode of the mount namespace.
    pub mnt_ns: u32,
    /// Inode of the network namespace.
    pub net_ns: u32,
    /// Inode of the user namespace.
    pub user_ns: u32,
}

/// A connection that the daemon proved to be the asker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionContext {
    /// Of the other end.
    pub address: IpAddr,
    /// Of the other end.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: Arc<str>,
    /// The hook that saw it.
    pub hook: Arc<str>,
    /// Of the thread that opened it.
    pub uid: u32,
    /// Of the thread that opened it.
    pub gid: u32,
    /// `cidr` or `resolved`.
    pub matched_by: Arc<str>,
}

/// What would be released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialContext {
    /// Name of the credential binding.
    pub binding: Arc<str>,
    /// `jwt-svid`, `x509-svid` or `static`.
    pub credential_type: Arc<str>,
    /// `release` or `workload-api`.
    pub delivery: Arc<str>,
    /// For whom it is; none for an X509-SVID.
    pub audiences: Vec<Arc<str>>,
    /// How long it would live.
    pub ttl_seconds: u32,
}

/// A human on whose behalf agents act.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserContext {
    /// Unique on this node.
    pub id: String,
    /// `oidc`, `loginuid` or `uid`.
    pub verified_by: String,
    /// Its address.
    pub issuer: Option<String>,
    /// As the issuer names it, or the user's number.
    pub subject: String,
    /// For people.
    pub name: Option<String>,
    /// Groups that policies speak of.
    pub groups: Vec<String>,
}

/// A delegated context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionContext {
    /// Unique.
    pub id: String,
    /// On whose behalf.
    pub user: UserContext,
    /// As the opener named it.
    pub agent: Option<String>,
    /// In the opener's words.
    pub purpose: Option<String>,
    /// What it reaches; none: all that policy permits.
    pub scopes: Option<Vec<String>>,
    /// How often it was delegated.
    pub depth: u32,
    /// SPIFFE ID of the opener.
    pub opener: String,
    /// Carried along by the kernel.
    pub is_bound: bool,
}

/// A declared service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destination {
    /// Unique.
    pub name: String,
    /// Of the tokens minted for it.
    pub audience: String,
    /// Its names.
    pub hosts: Vec<String>,
    /// Its ports.
    pub ports: Vec<u16>,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Free words for policies.
    pub labels: Vec<String>,
    /// Groups that policies speak of.
    pub groups: Vec<String>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// A credential for a destination.
    Release {
        /// For which.
        destination: &'a PreparedDestination,
        /// The proved connection, if one was named.
        connection: Option<&'a ConnectionContext>,
        /// What would be released.
        credential: &'a CredentialContext,
        /// Whether it takes the place of one that the asker holds.
        renewal: bool,
        /// In which the asker acts, if in any.
        session: Option<&'a PreparedSession>,
    },
    /// To reach a destination from a governed tree.
    Connect {
        /// Which.
        destination: &'a PreparedDestination,
        /// The session that the kernel has the asker in, if any.
        session: Option<&'a PreparedSession>,
    },
    /// A session on behalf of its user.
    ActFor {
        /// As it would be.
        session: &'a PreparedSession,
        /// How long it would live.
        lifetime_seconds: u32,
    },
    /// Who is on the other end of a connection.
    Attest,
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks.
    pub principal: &'a PreparedPrincipal,
    /// For what.
    pub action: Action<'a>,
    /// When. Policy sees whole seconds.
    pub now: Timestamp,
}
