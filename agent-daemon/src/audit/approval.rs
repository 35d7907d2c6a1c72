// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an audit line says about a person's word. Core: no IO, and no field that could hold a secret.

use serde::{Deserialize, Serialize};

use super::record::Caller;

/// The word that a decision waited for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApprovalFacts {
    /// Names the lines about it.
    pub approval_id: String,
    /// `once` or `session`.
    pub scope: String,
    /// The operator's user id.
    pub by_uid: u32,
}

/// See [`super::Record::Approval`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ApprovalRecord {
    /// Names the lines about it.
    pub approval_id: String,
    /// `requested`, `allowed`, `denied`, `expired`, or `abandoned` (whoever asked hung up or ended).
    pub state: String,
    /// The decision that found that it is needed.
    pub decision_id: String,
    /// Who asks.
    pub exec_id: u64,
    /// Its process.
    pub tgid: u32,
    /// As whom.
    pub spiffe_id: String,
    /// On whose behalf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// In which session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// `release`, `renew` or `exchange`.
    pub action: String,
    /// Who acts, the caller first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<String>,
    /// The lease of the token that is shown to be exchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_lease_id: Option<String>,
    /// For what.
    pub destination: String,
    /// By which binding.
    pub binding: String,
    /// The policies that want it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_ids: Vec<String>,
    /// Of an answer: `once` or `session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Of an answer: the operator's process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Caller>,
    /// Of an answer: the operator's words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}
