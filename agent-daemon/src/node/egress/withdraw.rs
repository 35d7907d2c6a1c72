// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Connections of governed programs that were let through and would not be any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::bump;
use super::{Node, State};
use crate::egress::Class;
use crate::identity::TreeSettings;
use crate::process::{Connection, ExecId, Governed, Hook, SessionId, Verdict};

impl Node {
    /// Closes them, and says so in the audit log.
    ///
    /// Of whoever opened one and runs another image by now, that one is asked about. What belongs to somebody who ended, and
    /// is held by whom it was passed on to, stays open until its session is over.
    pub(super) async fn close_withdrawn(self: &Arc<Self>) {
        let node = Arc::clone(self);
        let closed = match tokio::task::spawn_blocking(move || node.close_withdrawn_blocking()).await {
            Ok(closed) => closed,
            Err(error) => return tracing::error!(%error, "connections that were taken back could not be closed"),
        };
        for connection in closed {
            self.record_withdrawn(connection).await;
        }
    }

    fn close_withdrawn_blocking(&self) -> Vec<Connection> {
        let mut connections = Vec::new();
        let found = self.records().connections(&mut |connection| {
            if connection.tree.is_some() && leads_somewhere(&connection) {
                connections.push(connection);
            }
        });
        let mut governed = HashMap::new();
        let found = found.and_then(|()| {
            self.records().processes(&mut |instance| {
                if let Some(of) = instance.governed {
                    governed.insert(instance.process.tgid, (instance.id, of));
                }
            })
        });
        if let Err(error) = found {
            tracing::warn!(%error, "connections that were taken back cannot be looked for");
            return Vec::new();
        }
        let over = self.over(&connections);
        {
            let mut state = self.egress.lock();
            let is_there: HashSet<_> = connections.iter().map(|one| (one.cookie, one.at)).collect();
            state.closed.retain(|one| is_there.contains(one));
            connections.retain(|one| {
                let is_over = one.session_id.is_some_and(|id| over.contains(&id));
                !state.closed.contains(&(one.cookie, one.at)) && state.refuses(one, is_over, governed.get(&one.tgid))
            });
        }
        connections.retain(|connection| self.close(connection, &governed));
        connections
    }

    /// The sessions that are over, of those that something was opened in.
    fn over(&self, connections: &[Connection]) -> HashSet<SessionId> {
        let sessions: HashSet<SessionId> = connections.iter().filter_map(|one| one.session_id).collect();
        sessions.into_iter().filter(|id| self.sessions().session(*id).is_none()).collect()
    }

    /// True when it was there to be closed.
    fn close(&self, connection: &Connection, governed: &HashMap<u32, (ExecId, Governed)>) -> bool {
        // Its opener, and then whoever may have it from there.
        let others = governed.keys().filter(|tgid| **tgid != connection.tgid);
        let holders: Vec<u32> = [connection.tgid].iter().chain(others).copied().collect();
        let is_closed = match self.egress.disconnect.disconnect(connection, &holders) {
            Ok(is_closed) => is_closed,
            Err(error) => {
                tracing::error!(%error, remote = %connection.remote, "a connection that was taken back cannot be closed");
                false
            }
        };
        // One that is gone by itself is nobody's loss.
        let is_gone = || matches!(self.records().connection(connection.cookie), Ok(None));
        if is_closed {
            bump(&self.counters.egress_closed);
            self.egress.lock().closed.insert((connection.cookie, connection.at));
        } else if !is_gone() {
            bump(&self.counters.egress_unclosed);
        }
        is_closed
    }
}

/// Whether something may still pass: a datagram socket that was not connected asks for each datagram.
fn leads_somewhere(connection: &Connection) -> bool {
    match connection.hook {
        Hook::Connect4 | Hook::Connect6 => connection.is_open || connection.local.is_none(),
        Hook::Sendmsg4 | Hook::Sendmsg6 | Hook::SockCreate => false,
    }
}

impl State {
    /// Whether a connection would be refused now. Of whom nothing is known yet, nothing is said.
    fn refuses(&self, connection: &Connection, is_over: bool, opener: Option<&(ExecId, Governed)>) -> bool {
        let place = opener.map(|(_, governed)| governed.tree).or(connection.tree);
        let tree = self.trees.values().find(|tree| Some(tree.place) == place);
        let settings = tree.map_or(TreeSettings::STRICTEST, |tree| *self.in_use.of(&tree.settings));
        if settings.is_audit || is_over {
            return !settings.is_audit;
        }
        let word = opener.and_then(|(_, governed)| governed.class).filter(|word| word.stamp >= self.since);
        let (Some((compiled, _)), Some(word)) = (&self.compiled, word) else { return false };
        let class = Class::of_record(word.place);
        let remote = connection.remote;
        class.half == compiled.half()
            && compiled.verdict(class, connection.protocol, remote.port(), remote.ip()).unwrap_or(settings.undeclared)
                == Verdict::Deny
    }
}
