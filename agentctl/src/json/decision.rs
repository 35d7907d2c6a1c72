// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Decisions, their explanation, and the leases that come of them.

use agent_proto::{admin, v1};
use jiff::Timestamp;
use serde::Serialize;

use super::process::NearMiss;
use super::{Big, Connection, Process, each, filled, moment};
use crate::id::ExecId;

#[derive(Serialize)]
pub(crate) struct Decision<'a> {
    decision_id: &'a str,
    time: Option<Timestamp>,
    action: &'a str,
    allowed: bool,
    audit_mode: bool,
    exec_id: Option<ExecId>,
    tgid: u32,
    comm: &'a str,
    path: &'a str,
    spiffe_id: Option<&'a str>,
    destination: &'a str,
    binding: Option<&'a str>,
    reason: &'a str,
    detail: &'a str,
    session_id: Option<&'a str>,
    user: Option<&'a str>,
    expected: Option<&'a str>,
    actual: Option<&'a str>,
    policy_ids: &'a [String],
    policy_generation: &'a str,
    lease_id: Option<&'a str>,
    near_misses: Vec<NearMiss<'a>>,
    policy_near_misses: Vec<PolicyNearMiss<'a>>,
}

#[derive(Serialize)]
pub(super) struct PolicyNearMiss<'a> {
    policy_id: &'a str,
    condition: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Explain<'a> {
    allowed: bool,
    decision: Decision<'a>,
    process: Option<Process<'a>>,
    connections: Vec<Connection<'a>>,
    hints: &'a [String],
}

#[derive(Serialize)]
pub(crate) struct Lease<'a> {
    #[serde(flatten)]
    lease: Option<Terms<'a>>,
    spiffe_id: &'a str,
    tgid: u32,
    uid: u32,
    state: &'a str,
    ended_at: Option<Timestamp>,
    cookie: Option<Big>,
    decision_id: &'a str,
    credential_type: &'a str,
    session_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Terms<'a> {
    lease_id: &'a str,
    exec_id: ExecId,
    destination: &'a str,
    binding: &'a str,
    issued_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

impl<'a> From<&'a admin::Decision> for Decision<'a> {
    fn from(decision: &'a admin::Decision) -> Self {
        Self {
            decision_id: &decision.decision_id,
            time: moment(decision.time.as_ref()),
            action: &decision.action,
            allowed: decision.allowed,
            audit_mode: decision.audit_mode,
            exec_id: Some(decision.exec_id).filter(|id| *id != 0).map(ExecId),
            tgid: decision.tgid,
            comm: &decision.comm,
            path: &decision.path,
            spiffe_id: filled(&decision.spiffe_id),
            destination: &decision.destination,
            binding: filled(&decision.binding),
            reason: &decision.reason,
            detail: &decision.detail,
            session_id: filled(&decision.session_id),
            user: filled(&decision.user),
            expected: filled(&decision.expected),
            actual: filled(&decision.actual),
            policy_ids: &decision.policy_ids,
            policy_generation: &decision.policy_generation,
            lease_id: filled(&decision.lease_id),
            near_misses: each(&decision.near_misses),
            policy_near_misses: each(&decision.policy_near_misses),
        }
    }
}

impl<'a> From<&'a admin::PolicyNearMiss> for PolicyNearMiss<'a> {
    fn from(miss: &'a admin::PolicyNearMiss) -> Self {
        Self { policy_id: &miss.policy_id, condition: &miss.condition }
    }
}

impl<'a> Explain<'a> {
    pub(crate) fn of(decision: &'a admin::Decision, response: &'a admin::ExplainResponse) -> Self {
        Self {
            allowed: decision.allowed,
            decision: decision.into(),
            process: response.process.as_ref().and_then(Process::of),
            connections: each(&response.connections),
            hints: &response.hints,
        }
    }
}

impl<'a> From<&'a v1::Lease> for Terms<'a> {
    fn from(lease: &'a v1::Lease) -> Self {
        Self {
            lease_id: &lease.lease_id,
            exec_id: ExecId(lease.exec_id),
            destination: &lease.destination,
            binding: &lease.binding,
            issued_at: moment(lease.issued_at.as_ref()),
            expires_at: moment(lease.expires_at.as_ref()),
        }
    }
}

impl<'a> From<&'a admin::LeaseView> for Lease<'a> {
    fn from(view: &'a admin::LeaseView) -> Self {
        Self {
            lease: view.lease.as_ref().map(Terms::from),
            spiffe_id: &view.spiffe_id,
            tgid: view.tgid,
            uid: view.uid,
            state: &view.state,
            ended_at: moment(view.ended_at.as_ref()),
            cookie: Some(view.cookie).filter(|cookie| *cookie != 0).map(Big),
            decision_id: &view.decision_id,
            credential_type: &view.credential_type,
            session_id: filled(&view.session_id),
        }
    }
}
