// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the kernel refused in governed trees, or would have, in the audit log.

use std::sync::Arc;
use std::time::Instant;

use super::super::draft;
use super::super::reason::Reason;
use super::super::recent::Decided;
use super::super::release::decision_id;
use super::super::{Happening, Node, bump};
use crate::audit::{DecisionRecord, ExecFacts, Outcome, Record};
use crate::credential::Lease;
use crate::process::{Connection, ExecId, Ground, Hook, SessionId, Verdict};
use crate::snapshot::Snapshot;

const PERMIT: &str = "add a permit for the action connect";

/// Somebody of whom the kernel told.
#[derive(Debug)]
pub(super) struct Who {
    pub(super) exec_id: ExecId,
    pub(super) tgid: u32,
    pub(super) session_id: Option<SessionId>,
    /// Effective user and group.
    pub(super) ids: (u32, u32),
}

/// Why a connection was closed.
#[derive(Debug)]
pub(super) enum Why {
    /// It would be refused now.
    Refused,
    /// Its opener lost this lease.
    Lost(Arc<Lease>),
}

impl Node {
    /// Writes what the kernel did, or would have done, to a connection.
    pub(super) async fn record_connection(self: &Arc<Self>, connection: Connection) {
        let snapshot = self.snapshot();
        let Some((mut record, names, is_nobody)) = self.draft_connection(&snapshot, &connection).await else { return };
        let place = format!("{} {}", connection.protocol, connection.remote);
        let (reason, detail, remedy) = match connection.ground {
            Ground::Undeclared => (
                Reason::EgressUndeclared,
                format!("no declared destination is at {place}"),
                "declare the destination, and permit the action connect",
            ),
            Ground::Pending => (
                Reason::EgressPending,
                format!("it connected to {place} before it was known who it is"),
                "try again; the entry that governs the tree says by pending what may be reached until then",
            ),
            Ground::Socket => (
                Reason::EgressSocket,
                format!("a socket of protocol {}, of which the hooks see nothing", connection.protocol),
                "governed trees have TCP and UDP over IPv4 and IPv6",
            ),
            Ground::Destination | Ground::Ungoverned if is_nobody => (
                Reason::NoIdentity,
                format!(
                    "no registration entry fits {}, so it reaches nothing, here {place} ({names})",
                    record.exec.path
                ),
                "add an entry for this program (its path here is the executable itself, not a link or script to it)",
            ),
            Ground::Destination | Ground::Ungoverned => {
                (Reason::PolicyNoPermit, format!("policy does not permit {place} ({names})"), PERMIT)
            }
        };
        record.audit_mode = connection.verdict == Verdict::Audit;
        record.outcome = if record.audit_mode { Outcome::Allow } else { Outcome::Deny };
        record.reason = reason.as_str().to_owned();
        record.detail = detail;
        record.remediation = Some(remedy.to_owned());
        self.tell_refused(record);
    }

    /// Writes that a connection was closed.
    pub(super) async fn record_closed(self: &Arc<Self>, connection: Connection, why: Why) {
        let snapshot = self.snapshot();
        let Some((mut record, ..)) = self.draft_connection(&snapshot, &connection).await else { return };
        let is_over = connection.session_id.is_some_and(|id| self.sessions().session(id).is_none());
        let (why, remedy) = match &why {
            Why::Refused if is_over => ("its session is over".to_owned(), "open another session"),
            Why::Refused => ("policy does not permit it any more".to_owned(), PERMIT),
            Why::Lost(lease) => {
                record.destination = Some(lease.destination.to_string());
                record.lease_id = Some(lease.id.to_string());
                let why = format!("the lease {} was taken back ({})", lease.id, lease.state.as_str());
                (why, "the record of the lease's end says why; ask for another one")
            }
        };
        record.outcome = Outcome::Deny;
        record.reason = Reason::EgressWithdrawn.as_str().to_owned();
        record.detail = format!("the connection to {} {} was closed: {why}", connection.protocol, connection.remote);
        record.remediation = Some(remedy.to_owned());
        self.tell_refused(record);
    }

    /// Who and where to, the names of the destinations there, and whether it is somebody without an identity. None when too
    /// much is written already.
    async fn draft_connection(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        connection: &Connection,
    ) -> Option<(DecisionRecord, String, bool)> {
        let who = Who {
            exec_id: connection.exec_id,
            tgid: connection.tgid,
            session_id: connection.session_id,
            ids: (connection.uid, connection.gid),
        };
        let (mut record, is_nobody) = self.draft_of(snapshot, "connect", &who).await?;
        let names = self.destinations_at(snapshot, connection);
        record.destination = (!names.is_empty()).then(|| names.join(", "));
        let matched_by = if names.is_empty() { "none" } else { "compiled" };
        if connection.hook != Hook::SockCreate {
            record.connection = Some(draft::connection(connection, matched_by.to_owned()));
        }
        Some((record, names.join(", "), is_nobody))
    }

    /// Who it is of whom the kernel told, and whether that is somebody without an identity. None when too much is written
    /// already.
    pub(super) async fn draft_of(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        action: &str,
        who: &Who,
    ) -> Option<(DecisionRecord, bool)> {
        let (uid, _) = who.ids;
        let id = if self.egress_denials.take(uid, Instant::now()) { decision_id().ok() } else { None };
        let Some(id) = id else {
            bump(&self.counters.egress_unrecorded);
            return None;
        };
        let mut is_nobody = false;
        let mut record = match self.attested_now(who.tgid, who.exec_id).await {
            Some(attested) => {
                let mut record = draft::draft(id, action, &attested, snapshot);
                is_nobody = attested.entries.is_empty();
                if let Some(entry) = attested.entries.first() {
                    record.spiffe_id = Some(entry.spiffe_id.to_string());
                    record.entry_id = Some(entry.id.as_str().to_owned());
                }
                record
            }
            None => DecisionRecord {
                decision_id: id,
                action: action.to_owned(),
                policy_generation: snapshot.policies.generation().as_str().to_owned(),
                exec: self.facts_of_ended(who),
                ..DecisionRecord::default()
            },
        };
        record.session_id = who.session_id.map(|id| id.to_string());
        record.user = who.session_id.and_then(|id| self.user_of(id));
        Some((record, is_nobody))
    }

    fn user_of(&self, id: SessionId) -> Option<String> {
        let ended = || self.sessions().ended().into_iter().map(|ended| ended.session).find(|session| session.id == id);
        self.sessions().session(id).or_else(ended).map(|session| session.user.id.to_string())
    }

    pub(super) fn tell_refused(&self, record: DecisionRecord) {
        bump(if record.audit_mode { &self.counters.allowed } else { &self.counters.denied });
        if let Err(error) = self.log.append(&Record::Decision(Box::new(record.clone()))) {
            bump(&self.counters.audit_refused);
            tracing::error!(%error, "a refusal could not be recorded");
        }
        let decided = Arc::new(Decided { time: self.clock.now(), record });
        self.recent.push(Arc::clone(&decided));
        self.tell(Happening::Decision(decided));
    }

    /// The destinations that count at the address, by the tables as they are now.
    fn destinations_at(&self, snapshot: &Snapshot, connection: &Connection) -> Vec<String> {
        let state = self.egress.lock();
        let (remote, protocol) = (connection.remote, connection.protocol);
        let group = match &state.compiled {
            Some((compiled, of)) if of.number == snapshot.number => {
                compiled.plan().at(protocol, remote.port(), remote.ip())
            }
            Some(_) | None => None,
        };
        let all = snapshot.catalog.destinations();
        let named = group.into_iter().flat_map(|group| group.destinations()).filter_map(|number| all.get(*number));
        named.map(|destination| destination.name.to_string()).collect()
    }

    fn facts_of_ended(&self, who: &Who) -> ExecFacts {
        let ended = self.attestor.history().ended(who.exec_id);
        let (uid, gid) = who.ids;
        ExecFacts {
            exec_id: who.exec_id.0,
            tgid: who.tgid,
            comm: ended.as_ref().map(|ended| ended.comm.to_string()).unwrap_or_default(),
            path: ended.as_ref().map(|ended| ended.filename.to_string()).unwrap_or_default(),
            uid,
            gid,
            session_id: who.session_id.map(|id| id.to_string()),
            ..ExecFacts::default()
        }
    }
}
