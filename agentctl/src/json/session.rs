// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Delegated sessions.

use agent_proto::admin;
use jiff::Timestamp;
use serde::Serialize;

use super::{filled, moment};
use crate::id::ExecId;

#[derive(Serialize)]
pub(crate) struct Session<'a> {
    session_id: &'a str,
    state: &'a str,
    parent: Option<&'a str>,
    user: &'a str,
    user_name: Option<&'a str>,
    verified_by: &'a str,
    issuer: Option<&'a str>,
    agent: Option<&'a str>,
    purpose: Option<&'a str>,
    scopes: Option<&'a [String]>,
    opener_exec_id: ExecId,
    opener_spiffe_id: &'a str,
    bound: bool,
    opened_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    decision_id: &'a str,
}

#[derive(Serialize)]
pub(crate) struct SessionsEnded {
    pub(crate) ended: u32,
}

impl<'a> From<&'a admin::Session> for Session<'a> {
    fn from(session: &'a admin::Session) -> Self {
        Self {
            session_id: &session.session_id,
            state: &session.state,
            parent: filled(&session.parent),
            user: &session.user,
            user_name: filled(&session.user_name),
            verified_by: &session.verified_by,
            issuer: filled(&session.issuer),
            agent: filled(&session.agent),
            purpose: filled(&session.purpose),
            scopes: session.scoped.then_some(&session.scopes),
            opener_exec_id: ExecId(session.opener_exec_id),
            opener_spiffe_id: &session.opener_spiffe_id,
            bound: session.bound,
            opened_at: moment(session.opened_at.as_ref()),
            expires_at: moment(session.expires_at.as_ref()),
            ended_at: moment(session.ended_at.as_ref()),
            decision_id: &session.decision_id,
        }
    }
}
