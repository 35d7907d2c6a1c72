// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an audit line says about what operators did. Core: no IO, and no field that could hold a secret.

use serde::Serialize;

use super::record::{Caller, Outcome};

/// See [`super::Record::Revoke`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct RevokeRecord {
    /// The operator's process.
    pub by: Caller,
    /// What was named, `lease_id:…`, `exec_id:…`, `tgid:…`, `spiffe_id:…` or `destination:…`.
    pub what: String,
    /// The operator's words.
    pub reason: String,
    /// How many leases ended; each has its own `lease_ended` line.
    pub revoked: u64,
}

/// What was done to a static secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretOperation {
    /// A new version was sealed.
    Put,
    /// It was removed.
    Remove,
}

/// See [`super::Record::Secret`]. The name, never the secret.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SecretRecord {
    /// What was done.
    pub operation: SecretOperation,
    /// The secret's name.
    pub name: String,
    /// The version now sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// The operator's process.
    pub by: Caller,
}

/// See [`super::Record::Explain`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ExplainRecord {
    /// The operator's process.
    pub by: Caller,
    /// The process that was asked about.
    pub exec_id: u64,
    /// The process that was asked about.
    pub tgid: u32,
    /// The destination that was asked about.
    pub destination: String,
    /// What would be decided.
    pub outcome: Outcome,
    /// The stable word that goes with it.
    pub reason: String,
}
