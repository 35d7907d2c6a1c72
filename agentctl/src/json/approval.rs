// SPDX-License-Identifier: Apache-2.0 OR MIT

use agent_proto::admin;
use jiff::Timestamp;
use serde::Serialize;

use super::{filled, moment};
use crate::id::ExecId;

#[derive(Serialize)]
pub(crate) struct Approval<'a> {
    approval_id: &'a str,
    decision_id: &'a str,
    action: &'a str,
    exec_id: ExecId,
    tgid: u32,
    path: &'a str,
    script: Option<&'a str>,
    spiffe_id: &'a str,
    user: Option<&'a str>,
    session_id: Option<&'a str>,
    actors: &'a [String],
    step: Option<&'a str>,
    destination: &'a str,
    binding: &'a str,
    policy_ids: &'a [String],
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl<'a> From<&'a admin::Approval> for Approval<'a> {
    fn from(approval: &'a admin::Approval) -> Self {
        Self {
            approval_id: &approval.approval_id,
            decision_id: &approval.decision_id,
            action: &approval.action,
            exec_id: ExecId(approval.exec_id),
            tgid: approval.tgid,
            path: &approval.path,
            script: filled(&approval.script),
            spiffe_id: &approval.spiffe_id,
            user: filled(&approval.user),
            session_id: filled(&approval.session_id),
            actors: &approval.actors,
            step: filled(&approval.step),
            destination: &approval.destination,
            binding: &approval.binding,
            policy_ids: &approval.policy_ids,
            since: moment(approval.since.as_ref()),
            until: moment(approval.until.as_ref()),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Approvals<'a> {
    pub(crate) approvals: Vec<Approval<'a>>,
}

#[derive(Serialize)]
pub(crate) struct Answered<'a> {
    /// `null`: it does not wait any more.
    pub(crate) approval: Option<Approval<'a>>,
    pub(crate) allowed: bool,
    pub(crate) scope: &'static str,
}
