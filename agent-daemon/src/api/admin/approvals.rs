// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that wait for a person: listing and answering.

use agent_proto::admin::{AnswerApprovalRequest, AnswerApprovalResponse, Approval, ApprovalsResponse};
use tonic::Status;

use super::{Operator, failure};
use crate::api::convert;
use crate::approval::Waiting;
use crate::node::{Answer, AnswerError, Node};

const REASON_BYTES: usize = 512;

pub(super) fn list(node: &Node) -> ApprovalsResponse {
    let mut waiting = node.approvals().waiting();
    waiting.sort_by_key(|waiting| waiting.since);
    ApprovalsResponse { approvals: waiting.iter().map(|waiting| view(waiting)).collect() }
}

/// Answers one because an operator says so.
pub(super) fn answer(
    node: &Node,
    asked: AnswerApprovalRequest,
    operator: Operator,
) -> Result<AnswerApprovalResponse, Status> {
    if asked.reason.len() > REASON_BYTES || asked.reason.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("reason: at most {REASON_BYTES} bytes on one line")));
    }
    let answer = Answer {
        is_allowed: asked.allow,
        is_for_session: asked.for_session,
        reason: asked.reason,
        by: operator.into(),
    };
    match node.answer_approval(&asked.approval_id, &answer) {
        Ok(waiting) => Ok(AnswerApprovalResponse { approval: Some(view(&waiting)) }),
        Err(AnswerError::NotWaiting) => Ok(AnswerApprovalResponse { approval: None }),
        Err(error @ AnswerError::NoSession) => Err(Status::failed_precondition(error.to_string())),
        Err(AnswerError::Audit(error)) => {
            let status = failure::audit(&error);
            let text = format!("the answer does not count and the request is refused: {}", status.message());
            Err(Status::new(status.code(), text))
        }
    }
}

fn view(waiting: &Waiting) -> Approval {
    let record = &*waiting.record;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let step = record.step.as_ref().map(|step| match step.name.as_deref() {
        Some(name) => format!("{} {name}", step.kind),
        None => step.kind.clone(),
    });
    Approval {
        approval_id: waiting.id.to_string(),
        decision_id: record.decision_id.clone(),
        exec_id: record.exec.exec_id,
        tgid: record.exec.tgid,
        path: record.exec.path.clone(),
        script: text(&record.exec.script),
        spiffe_id: text(&record.spiffe_id),
        user: text(&record.user),
        session_id: text(&record.session_id),
        actors: record.actors.clone(),
        destination: text(&record.destination),
        binding: text(&record.binding),
        action: record.action.clone(),
        step: step.unwrap_or_default(),
        policy_ids: record.approval_policy_ids.clone(),
        since: Some(convert::timestamp(waiting.since)),
        until: Some(convert::timestamp(waiting.until)),
    }
}
