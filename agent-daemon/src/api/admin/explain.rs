// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What would be decided now, and what to do about it.

use agent_proto::admin::explain_request::Subject;
use agent_proto::admin::{ExplainRequest, ExplainResponse};
use jiff::Timestamp;
use tonic::Status;

use super::processes::{self, Wanted};
use super::view;
use crate::api::convert;
use crate::audit::{DecisionRecord, Outcome};
use crate::node::{Ask, ConnectionRef, Explained, Node, Reason};
use crate::process::ExecId;

/// Longer names name nothing that is declared.
const MAX_NAME_BYTES: usize = 256;

/// Who is asked about, and what they would ask.
pub(super) fn question(asked: ExplainRequest) -> Result<(Wanted, Ask), Status> {
    let wanted = match asked.subject {
        Some(Subject::Tgid(tgid)) => Wanted::Tgid(tgid),
        Some(Subject::ExecId(id)) => Wanted::Exec(ExecId(id)),
        None => return Err(Status::invalid_argument("subject: name a pid or an exec instance")),
    };
    if !(1..=MAX_NAME_BYTES).contains(&asked.destination.len()) {
        return Err(Status::invalid_argument("destination: name a declared destination"));
    }
    if asked.binding.len() > MAX_NAME_BYTES {
        return Err(Status::invalid_argument("binding: too long"));
    }
    let ask = Ask {
        destination: asked.destination,
        connection: asked.cookie.map(ConnectionRef::Cookie),
        binding: (!asked.binding.is_empty()).then_some(asked.binding),
        ..Ask::default()
    };
    Ok((wanted, ask))
}

/// Why there is nothing to explain.
pub(super) fn absent(wanted: Wanted) -> Status {
    Status::not_found(match wanted {
        Wanted::Tgid(tgid) => format!("unresolvable: the kernel has no record of process {tgid}"),
        Wanted::Exec(id) => format!("unresolvable: no live exec instance is {id}"),
    })
}

/// The answer.
pub(super) fn answer(node: &Node, explained: Explained, now: Timestamp) -> ExplainResponse {
    let mut process = processes::of_attested(node, &explained.attested);
    let mut hints = hints(&explained.record, &explained.attested.evidence.missing);
    hints.extend(undeclared(node, &explained.record));
    process.near_misses = explained.record.near_misses.iter().map(view::recorded_near_miss).collect();
    ExplainResponse {
        decision: Some(view::decision(now, &explained.record)),
        process: Some(process),
        connections: explained.connections.iter().map(convert::connection).collect(),
        hints,
    }
}

/// The decision stops at the first thing that is wrong; a destination that is not there is worth a word too.
fn undeclared(node: &Node, record: &DecisionRecord) -> Option<String> {
    let name = record.destination.as_deref()?;
    let is_said = record.reason == Reason::NoDestination.as_str();
    let is_declared = node.snapshot().catalog.destination(name).is_some();
    (!is_said && !is_declared).then(|| format!("no destination {name:?} is declared either"))
}

fn hints(record: &DecisionRecord, missing: &[String]) -> Vec<String> {
    let mut hints: Vec<String> = record.remediation.iter().cloned().collect();
    if record.outcome == Outcome::Deny {
        for miss in record.near_misses.iter().take(1) {
            for difference in &miss.differences {
                let actual = difference.actual.as_deref().unwrap_or("nothing of that type");
                hints.push(format!(
                    "entry {} would give {} if the process had {}; it has {actual}",
                    miss.entry_id, miss.spiffe_id, difference.expected
                ));
            }
        }
        for miss in record.policy_near_misses.iter().take(1) {
            hints.push(format!("policy {} would permit if this held: {}", miss.policy_id, miss.condition));
        }
        hints.extend(missing.iter().map(|missing| format!("about its facts: {missing}")));
    } else if record.audit_mode {
        hints.push("policy denies; only the destination's audit mode lets it through".to_owned());
    }
    hints
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::audit::{Difference, NearMiss, PolicyNearMiss};

    #[test]
    fn a_question_without_a_subject_or_destination_is_refused() {
        let whole = ExplainRequest {
            subject: Some(Subject::Tgid(4)),
            destination: "reports".into(),
            cookie: Some(9),
            binding: String::new(),
        };
        let (wanted, ask) = question(whole.clone()).unwrap();
        assert_eq!(wanted, Wanted::Tgid(4));
        assert_eq!((ask.connection, ask.binding), (Some(ConnectionRef::Cookie(9)), None));
        for broken in [
            ExplainRequest { subject: None, ..whole.clone() },
            ExplainRequest { destination: String::new(), ..whole.clone() },
            ExplainRequest { destination: "x".repeat(257), ..whole.clone() },
            ExplainRequest { binding: "x".repeat(257), ..whole },
        ] {
            assert_eq!(question(broken.clone()).unwrap_err().code(), Code::InvalidArgument, "{broken:?}");
        }
    }

    #[test]
    fn hints_name_the_fact_or_condition_that_differs() {
        let differences = vec![Difference { expected: "unix:uid:7".into(), actual: None, note: None }];
        let near = NearMiss { entry_id: "e".into(), spiffe_id: "spiffe://example.org/a".into(), differences };
        let record = DecisionRecord {
            remediation: Some("do it".into()),
            near_misses: vec![near],
            policy_near_misses: vec![PolicyNearMiss { policy_id: "p".into(), condition: "x".into() }],
            ..DecisionRecord::default()
        };
        let said = hints(&record, &["the cgroup cannot be read".to_owned()]);
        assert_eq!(said.len(), 4);
        assert_eq!(said[0], "do it");
        assert!(said[1].contains("unix:uid:7") && said[1].contains("nothing of that type"));
        assert!(said[2].contains("policy p"));
        assert!(said[3].contains("cgroup"));
    }

    #[test]
    fn what_is_allowed_needs_no_hint_unless_only_audit_mode_allows_it() {
        let record = DecisionRecord { outcome: Outcome::Allow, ..DecisionRecord::default() };
        assert!(hints(&record, &["x".to_owned()]).is_empty());
        assert_eq!(hints(&DecisionRecord { audit_mode: true, ..record }, &[]).len(), 1);
    }
}
