// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Connections of governed programs that were let through and would not be any more.
//!
//! Closing takes the socket's lock, for which whoever holds it may let us wait for ever: a thread that sends from memory that
//! never comes. So nothing else waits for it, and no more than a few threads do.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use super::super::bump;
use super::record::Why;
use super::{Node, State};
use crate::credential::Lease;
use crate::credential::address;
use crate::egress::Class;
use crate::identity::TreeSettings;
use crate::process::{Connection, Error, ExecId, ExecInstance, Hook, SessionId, Verdict};
use crate::snapshot::Snapshot;

/// After a withdrawal all is looked at once more: a connection may have been let through just before.
const ONCE_MORE: Duration = Duration::from_secs(1);
/// Connections that are looked at before others get at the tables.
const CHUNK: usize = 256;
/// Closed at once.
const AT_ONCE: usize = 4;
/// Whoever takes longer to be closed is not waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many may be waited for by nobody; beyond it nothing is closed.
const STUCK: usize = 8;
/// What was not closed is tried again, so often altogether.
const TRIES: u8 = 3;

/// By process.
type Openers = HashMap<u32, ExecInstance>;
/// By exec instance: it, and those below it.
type Holders = HashMap<ExecId, Arc<[u32]>>;
/// A lease that was taken from its holder, and what says where its destination is.
pub(super) type Lost = (Arc<Lease>, Arc<Snapshot>);

impl Node {
    /// Closes what is taken back, until cancelled.
    pub(super) async fn close(self: &Arc<Self>) {
        loop {
            self.egress.withdrawn.notified().await;
            self.close_lost().await;
            self.close_withdrawn().await;
            // Cut short by what is taken back meanwhile.
            if tokio::time::timeout(ONCE_MORE, self.egress.withdrawn.notified()).await.is_ok() {
                self.egress.withdrawn.notify_one();
                continue;
            }
            self.close_lost().await;
            self.close_withdrawn().await;
        }
    }

    /// Has the connections closed that the holders of ended leases have to what these were for.
    pub(in crate::node) fn close_connections_of(&self, leases: Vec<Arc<Lease>>, snapshot: &Arc<Snapshot>) {
        if !leases.is_empty() {
            let mut lost = self.egress.lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.extend(leases.into_iter().map(|lease| (lease, Arc::clone(snapshot))));
            self.egress.withdrawn.notify_one();
        }
    }

    /// Closes what was used with leases that were taken from their holders, governed or not.
    async fn close_lost(self: &Arc<Self>) {
        let lost = std::mem::take(&mut *self.egress.lost.lock().unwrap_or_else(PoisonError::into_inner));
        if lost.is_empty() {
            return;
        }
        let mut of_exec: HashMap<ExecId, Vec<Lost>> = HashMap::new();
        for (lease, snapshot) in lost {
            of_exec.entry(lease.exec_id).or_default().push((lease, snapshot));
        }
        let node = Arc::clone(self);
        let execs: HashSet<ExecId> = of_exec.keys().copied().collect();
        let found = tokio::task::spawn_blocking(move || node.connections_of(&execs)).await;
        let (connections, holders) = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                // With the next look, which comes in a second.
                let again = of_exec.into_values().flatten();
                self.egress.lost.lock().unwrap_or_else(PoisonError::into_inner).extend(again);
                return tracing::error!(%error, "connections of ended leases cannot be looked for");
            }
            Err(error) => return tracing::error!(%error, "connections of ended leases cannot be looked for"),
        };
        let (of_exec, holders) = (&of_exec, &holders);
        let close = |connection: Connection| async move {
            let lost = of_exec.get(&connection.exec_id).map(Vec::as_slice).unwrap_or_default();
            let Some(lease) = self.was_for(&connection, lost).await else { return };
            let holders = holders.get(&connection.exec_id).map(Arc::clone).unwrap_or_default();
            // Once: whoever holds its lock now would have a second look wait, too.
            match self.disconnect(&connection, holders).await {
                Some(true) => {
                    bump(&self.counters.egress_closed);
                    self.record_closed(connection, Why::Lost(lease)).await;
                }
                _ if matches!(self.records().connection(connection.cookie), Ok(None)) => {}
                _ => self.not_closed(&connection),
            }
        };
        stream::iter(connections).map(close).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
    }

    /// What some exec instances opened, and who may hold it: they and those below them.
    fn connections_of(&self, execs: &HashSet<ExecId>) -> Result<(Vec<Connection>, Holders), Error> {
        let (mut connections, mut below) = (Vec::new(), HashMap::<ExecId, Vec<u32>>::new());
        self.records().connections(&mut |connection| {
            if execs.contains(&connection.exec_id) && !connection.is_closed {
                connections.push(connection);
            }
        })?;
        if !connections.is_empty() {
            self.records().processes(&mut |instance| {
                let line = [instance.id].into_iter().chain(instance.ancestors.iter().map(|ancestor| ancestor.id));
                for id in line.filter(|id| execs.contains(id)) {
                    below.entry(id).or_default().push(instance.process.tgid);
                }
            })?;
        }
        Ok((connections, below.into_iter().map(|(id, holders)| (id, holders.into())).collect()))
    }

    /// The lost lease that a connection was for. Where the holder has another one for the same, only the connection that the
    /// lost one was released on is.
    async fn was_for(&self, connection: &Connection, lost: &[Lost]) -> Option<Arc<Lease>> {
        if !self.leases.on_connection(connection.cookie).is_empty() {
            return None;
        }
        for (lease, snapshot) in lost {
            if lease.cookie == Some(connection.cookie) {
                return Some(Arc::clone(lease));
            }
            let held = self.leases.of_exec(lease.exec_id);
            let Some(destination) = snapshot.catalog.destination(&lease.destination) else { continue };
            if held.iter().any(|held| held.destination == lease.destination) {
                continue;
            }
            match address::evaluate(connection.into(), destination, &self.resolver).await {
                Ok(address::Verdict::Matched(_)) => return Some(Arc::clone(lease)),
                Ok(address::Verdict::Mismatch(_)) => {}
                Err(error) => {
                    tracing::warn!(%error, "it cannot be said whether a connection is to what was taken back");
                    self.not_closed(connection);
                }
            }
        }
        None
    }

    fn not_closed(&self, connection: &Connection) {
        bump(&self.counters.egress_unclosed);
        tracing::error!(remote = %connection.remote, exec_id = %connection.exec_id,
            "a connection that was taken back could not be closed");
    }

    /// Closes what would be refused now, and says so in the audit log.
    async fn close_withdrawn(self: &Arc<Self>) {
        let node = Arc::clone(self);
        let (withdrawn, holders) = match tokio::task::spawn_blocking(move || node.withdrawn()).await {
            Ok(found) => found,
            Err(error) => return tracing::error!(%error, "connections that were taken back cannot be looked for"),
        };
        let holders: Arc<[u32]> = holders.into();
        let close = |connection| self.close_one(connection, Arc::clone(&holders));
        stream::iter(withdrawn).map(close).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
    }

    /// What would be refused now, and who may hold it.
    fn withdrawn(&self) -> (Vec<Connection>, Vec<u32>) {
        let mut connections = Vec::new();
        let walked = self.records().connections(&mut |connection| {
            if connection.tree.is_some() && !connection.is_closed {
                connections.push(connection);
            }
        });
        let of: HashSet<u32> = connections.iter().map(|one| one.tgid).collect();
        let (mut openers, mut holders) = (Openers::new(), Vec::new());
        let walked = walked.and_then(|()| {
            self.records().processes(&mut |instance| {
                if instance.governed.is_some() {
                    holders.push(instance.process.tgid);
                    if of.contains(&instance.process.tgid) {
                        openers.insert(instance.process.tgid, instance);
                    }
                }
            })
        });
        if let Err(error) = walked {
            tracing::warn!(%error, "connections that were taken back cannot be looked for");
            return (Vec::new(), Vec::new());
        }
        let is_there: HashSet<_> = connections.iter().map(|one| (one.cookie, one.at)).collect();
        self.egress.lock().closing.retain(|one, _| is_there.contains(one));
        let over = self.over(&connections);
        let mut withdrawn = Vec::new();
        for chunk in connections.chunks(CHUNK) {
            let state = self.egress.lock();
            let is_withdrawn = |one: &&Connection| {
                let is_over = one.session_id.is_some_and(|id| over.contains(&id));
                let tries = state.closing.get(&(one.cookie, one.at)).copied().unwrap_or_default();
                // A datagram socket that sends asks each time, but may be connected to somewhere else from before.
                let leads = is_over || matches!(one.hook, Hook::Connect4 | Hook::Connect6);
                tries < TRIES && leads && state.refuses(one, is_over, openers.get(&one.tgid))
            };
            withdrawn.extend(chunk.iter().filter(is_withdrawn).cloned());
        }
        (withdrawn, holders)
    }

    /// The sessions that are over, of those that something was opened in.
    fn over(&self, connections: &[Connection]) -> HashSet<SessionId> {
        let sessions: HashSet<SessionId> = connections.iter().filter_map(|one| one.session_id).collect();
        sessions.into_iter().filter(|id| self.sessions().session(*id).is_none()).collect()
    }

    async fn close_one(self: &Arc<Self>, connection: Connection, others: Arc<[u32]>) {
        let key = (connection.cookie, connection.at);
        let tries = {
            let mut state = self.egress.lock();
            let tries = state.closing.entry(key).or_default();
            *tries = tries.saturating_add(1);
            *tries
        };
        match self.disconnect(&connection, others).await {
            Some(true) => {
                self.egress.lock().closing.insert(key, TRIES);
                bump(&self.counters.egress_closed);
                self.record_closed(connection, Why::Refused).await;
            }
            // One that is gone by itself is nobody's loss.
            _ if matches!(self.records().connection(connection.cookie), Ok(None)) => {}
            _ if tries == TRIES => self.not_closed(&connection),
            _ => self.egress.withdrawn.notify_one(),
        }
    }

    /// None when it takes too long, or too many do so already.
    async fn disconnect(&self, connection: &Connection, others: Arc<[u32]>) -> Option<bool> {
        // ORDER: a bound on threads, which need not be sharp.
        if self.egress.stuck.load(Ordering::Relaxed) >= STUCK {
            return None;
        }
        let (closer, stuck, connection) =
            (Arc::clone(&self.egress.disconnect), Arc::clone(&self.egress.stuck), connection.clone());
        stuck.fetch_add(1, Ordering::Relaxed);
        let closing = tokio::task::spawn_blocking(move || {
            // Its opener, and then whoever may have it from there.
            let others = others.iter().filter(|tgid| **tgid != connection.tgid);
            let holders: Vec<u32> = [connection.tgid].iter().chain(others).copied().collect();
            let closed = closer.disconnect(&connection, &holders);
            stuck.fetch_sub(1, Ordering::Relaxed);
            closed
        });
        match tokio::time::timeout(PATIENCE, closing).await {
            Ok(Ok(Ok(is_closed))) => Some(is_closed),
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "a connection that was taken back is not closed");
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

impl State {
    /// Whether a connection would be refused now.
    fn refuses(&self, connection: &Connection, is_over: bool, opener: Option<&ExecInstance>) -> bool {
        // The number of a process that ended may be another one's.
        let is_heir = |one: &&ExecInstance| {
            one.id == connection.exec_id || one.ancestors.iter().any(|ancestor| ancestor.id == connection.exec_id)
        };
        let governed = opener.filter(is_heir).and_then(|one| one.governed);
        let place = governed.map(|governed| governed.tree).or(connection.tree);
        let tree = self.trees.values().find(|tree| Some(tree.place) == place);
        let settings = tree.map_or(TreeSettings::STRICTEST, |tree| *self.in_use.of(&tree.settings));
        if settings.is_audit || is_over {
            return !settings.is_audit;
        }
        // Before that it is not known what anybody may reach.
        let Some((compiled, of)) = self.compiled.as_ref().filter(|_| self.is_settled) else { return false };
        let (protocol, remote) = (connection.protocol, connection.remote);
        let is_named = |destination: usize| {
            let found = of.catalog.destinations().get(destination);
            found.is_some_and(|one| {
                one.protocol == protocol && one.ports.contains(&remote.port()) && !one.hosts.is_empty()
            })
        };
        let refuses = |class: Class| match compiled.verdict(class, protocol, remote.port(), remote.ip()) {
            Some(verdict) => verdict == Verdict::Deny,
            // A name may have been there when it was opened, and is at other addresses now.
            None => settings.undeclared == Verdict::Deny && !compiled.reaches_by_name(class, is_named),
        };
        // Whose class is not known, or holds for other ids than opened it, keeps what anybody may reach.
        let word = governed.and_then(|governed| governed.class);
        let word = word.filter(|word| word.stamp >= self.since && word.ids == (connection.uid, connection.gid));
        match word.map(|word| Class::of_record(word.place)).filter(|class| class.half == compiled.half()) {
            Some(class) => refuses(class),
            None => refuses(Class::nothing(compiled.half())) && compiled.classes().all(refuses),
        }
    }
}
