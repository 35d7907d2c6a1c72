// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an audit line says about the steps of an agent. Core: no IO.

use serde::{Deserialize, Serialize};

/// A step, as its agent described it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StepFacts {
    /// The trace (W3C trace context).
    pub trace_id: String,
    /// The span, which names the step in its session.
    pub span_id: String,
    /// The step in which it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    /// `instruction`, `reasoning`, `tool_call` or `approval`.
    pub kind: String,
    /// For example of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A hash or an id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// In a decision: the session that it belongs to, which is the decision's or one that this was delegated from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The exec instance that takes it.
    pub exec_id: u64,
    /// Its thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// In a decision: by what it is thought to belong to this step: `trace` (the caller said so), `thread`, `exec` or
    /// `time` (only because it was started meanwhile).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_by: Option<String>,
}

/// See [`super::Record::Step`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StepRecord {
    /// In which session.
    pub session_id: String,
    /// On whose behalf.
    pub user: String,
    /// What it is.
    pub step: StepFacts,
    /// What of its content is kept, where the operator wants that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<StepContent>,
}

/// What is kept of what a step is about.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StepContent {
    /// As the agent said it, without what looks like a secret.
    pub text: String,
    /// How many places were taken out.
    pub redacted: usize,
    /// Whether there was more.
    pub is_cut: bool,
}

/// See [`super::Record::StepEnded`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StepEndedRecord {
    /// In which session.
    pub session_id: String,
    /// What it was.
    pub step: StepFacts,
    /// `done`, `failed`, `expired`, `session_ended`.
    pub cause: String,
}
