// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an audit line says about delegated sessions. Core: no IO, and no field that could hold a handle or a token.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::Caller;

/// What a session is, as its opening is recorded.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionFacts {
    /// The session that it was delegated from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// `oidc`, `loginuid` or `uid`.
    pub verified_by: String,
    /// Of the user's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// As the opener named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// In the opener's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// What it reaches; absent: all that policy permits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Whether the kernel carries it along; otherwise it is named by a handle.
    #[serde(rename = "bound")]
    pub is_bound: bool,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// See [`super::Record::SessionEnded`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct SessionEndedRecord {
    /// Which session.
    pub session_id: String,
    /// On whose behalf it was.
    pub user: String,
    /// `expired`, `closed`, `revoked`, `parent_ended`, `abandoned`, `undone`.
    pub cause: String,
    /// The decision that opened it.
    pub decision_id: String,
    /// The exec instance that opened it.
    pub opener: u64,
    /// The operator's process, when it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Caller>,
}
