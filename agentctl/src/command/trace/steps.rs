// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which steps of an agent a decision was made in, as the log has it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::Found;
use super::tree::{MAX_DEPTH, field};

/// What the agent said that it did.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) span_id: String,
    pub(crate) trace_id: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) reference: String,
    /// What the node keeps of what it is about, without what looked like a secret.
    pub(crate) content: String,
    /// Of the innermost: by what the decision is thought to belong to it. The others are around it, as the agent said.
    pub(crate) joined_by: String,
    pub(crate) ended_at: String,
    pub(crate) cause: String,
}

impl Step {
    /// In one line.
    pub(crate) fn words(&self) -> String {
        let mut words = self.kind.clone();
        for (before, word) in [(" ", &self.name), (" (", &self.reference)] {
            if !word.is_empty() {
                words.push_str(before);
                words.push_str(word);
            }
        }
        if !self.reference.is_empty() {
            words.push(')');
        }
        words
    }
}

/// All that the log says of steps, by session and span, in its order: a name may be used again.
pub(super) struct Steps<'a> {
    begun: BTreeMap<(String, String), Vec<&'a Value>>,
    ended: BTreeMap<(String, String), Vec<&'a Value>>,
}

impl<'a> Steps<'a> {
    pub(super) fn new(found: &'a Found) -> Self {
        let spans = |records: &'a [Value]| {
            let mut all: BTreeMap<_, Vec<&'a Value>> = BTreeMap::new();
            for one in records {
                all.entry((field(one, "session_id"), field(one, "step.span_id"))).or_default().push(one);
            }
            all
        };
        Self { begun: spans(&found.steps), ended: spans(&found.step_ends) }
    }

    /// The step that a decision belongs to with those around it, the innermost last: as they were when it was made.
    pub(super) fn around(&self, record: &Value) -> Vec<Step> {
        let seq = |record: &Value| record.get("seq").and_then(Value::as_u64).unwrap_or_default();
        let (session, at) = (field(record, "step.session_id"), seq(record));
        let mut steps = Vec::new();
        let mut next = record.get("step");
        // Steps in steps are of one session. A forged log must not make a circle.
        while let Some(step) = next.filter(|_| steps.len() < MAX_DEPTH) {
            let name = (session.clone(), field(step, "span_id"));
            let begun = self.begun.get(&name).and_then(|all| all.iter().rev().find(|one| seq(one) <= at));
            let content = begun.map(|begun| content(begun)).unwrap_or_default();
            let begun = begun.map(|begun| seq(begun)).unwrap_or_default();
            let end = self.ended.get(&name).and_then(|all| all.iter().find(|one| seq(one) >= begun));
            let of_end = |name: &str| end.map(|end| field(end, name)).unwrap_or_default();
            steps.push(Step {
                trace_id: field(step, "trace_id"),
                kind: field(step, "kind"),
                name: field(step, "name"),
                reference: field(step, "reference"),
                content,
                joined_by: field(step, "joined_by"),
                ended_at: of_end("time"),
                cause: of_end("cause"),
                span_id: name.1,
            });
            let parent = self.begun.get(&(session.clone(), field(step, "parent_span_id")));
            let around = parent.and_then(|all| all.iter().rev().find(|one| seq(one) <= at));
            next = around.and_then(|around| around.get("step"));
        }
        steps.reverse();
        steps
    }
}

fn content(begun: &Value) -> String {
    let cut = if begun.pointer("/content/is_cut").and_then(Value::as_bool) == Some(true) { "…" } else { "" };
    field(begun, "content.text") + cut
}
