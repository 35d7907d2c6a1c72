// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions: listing and ending.

use agent_proto::admin::{EndSessionRequest, EndSessionResponse, SessionsRequest, SessionsResponse};
use tonic::Status;

use super::outlet::{Broken, Outlet};
use super::{Operator, processes, view};
use crate::node::Node;
use crate::process::SessionId;
use crate::session::{Cause, Session};

/// Streams what was asked for. Blocks on a slow reader only.
pub(super) fn list(node: &Node, asked: &SessionsRequest, outlet: &Outlet<SessionsResponse>) -> Result<(), Broken> {
    let now = node.clock.now();
    let fits = |session: &Session| {
        let is_named = asked.session_id.is_empty() || session.id.to_string() == asked.session_id;
        is_named && (asked.user.is_empty() || *session.user.id == *asked.user)
    };
    let active = node.sessions().active();
    let active = active.iter().filter(|session| fits(session)).map(|session| view::session(session, None, now));
    let ended = if asked.ended { node.sessions().ended() } else { Vec::new() };
    let ended = ended.iter().filter(|ended| fits(&ended.session));
    let ended = ended.map(|ended| view::session(&ended.session, Some((ended.cause, ended.at)), now));
    let all: Vec<_> = active.chain(ended).collect();
    for page in all.chunks(processes::PAGE) {
        outlet.push_blocking(SessionsResponse { sessions: page.to_vec() })?;
    }
    Ok(())
}

/// Ends one because an operator says so.
pub(super) fn end(node: &Node, asked: &EndSessionRequest, operator: Operator) -> Result<EndSessionResponse, Status> {
    let id: SessionId =
        asked.session_id.parse().map_err(|error| Status::invalid_argument(format!("session_id: {error}")))?;
    let ended = node.end_session(id, Cause::Revoked, Some(operator.into()));
    Ok(EndSessionResponse { ended: view::count(ended) })
}
