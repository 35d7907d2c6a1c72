// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Connections of governed trees that were refused, or would be, in the audit log.

use std::sync::Arc;
use std::time::Instant;

use super::super::draft;
use super::super::reason::Reason;
use super::super::recent::Decided;
use super::super::release::decision_id;
use super::super::{Happening, Node, bump};
use crate::audit::{DecisionRecord, ExecFacts, Outcome, Record};
use crate::process::{Connection, Ground, Hook, Verdict};

impl Node {
    /// Writes what the kernel did, or would have done, to a connection.
    pub(super) async fn record_connection(self: &Arc<Self>, connection: Connection) {
        if !self.egress_denials.take(connection.uid, Instant::now()) {
            return bump(&self.counters.egress_unrecorded);
        }
        let Ok(id) = decision_id() else { return bump(&self.counters.egress_unrecorded) };
        let snapshot = self.snapshot();
        let mut record = match self.attested_now(connection.tgid, connection.exec_id).await {
            Some(attested) => {
                let mut record = draft::draft(id, "connect", &attested, &snapshot);
                if let Some(entry) = attested.entries.first() {
                    record.spiffe_id = Some(entry.spiffe_id.to_string());
                    record.entry_id = Some(entry.id.as_str().to_owned());
                }
                record
            }
            None => DecisionRecord {
                decision_id: id,
                action: "connect".to_owned(),
                policy_generation: snapshot.policies.generation().as_str().to_owned(),
                exec: self.facts_of_ended(&connection),
                ..DecisionRecord::default()
            },
        };
        record.session_id = connection.session_id.map(|id| id.to_string());
        let session = connection.session_id.and_then(|id| self.sessions().session(id));
        record.user = session.map(|session| session.user.id.to_string());
        let names = self.destinations_at(&snapshot, &connection);
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
            Ground::Destination | Ground::Ungoverned => (
                Reason::PolicyNoPermit,
                format!("policy does not permit {place} ({})", names.join(", ")),
                "add a permit for the action connect",
            ),
        };
        let is_audited = connection.verdict == Verdict::Audit;
        record.outcome = if is_audited { Outcome::Allow } else { Outcome::Deny };
        record.audit_mode = is_audited;
        record.reason = reason.as_str().to_owned();
        record.detail = detail;
        record.remediation = Some(remedy.to_owned());
        record.destination = (!names.is_empty()).then(|| names.join(", "));
        let matched_by = if names.is_empty() { "none" } else { "compiled" };
        if connection.hook != Hook::SockCreate {
            record.connection = Some(draft::connection(&connection, matched_by.to_owned()));
        }
        bump(if is_audited { &self.counters.allowed } else { &self.counters.denied });
        if let Err(error) = self.log.append(&Record::Decision(Box::new(record.clone()))) {
            bump(&self.counters.audit_refused);
            tracing::error!(%error, "a refused connection could not be recorded");
        }
        let decided = Arc::new(Decided { time: self.clock.now(), record });
        self.recent.push(Arc::clone(&decided));
        self.tell(Happening::Decision(decided));
    }

    /// The destinations that count at the address, by the tables as they are now.
    fn destinations_at(&self, snapshot: &crate::snapshot::Snapshot, connection: &Connection) -> Vec<String> {
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

    fn facts_of_ended(&self, connection: &Connection) -> ExecFacts {
        let ended = self.attestor.history().ended(connection.exec_id);
        ExecFacts {
            exec_id: connection.exec_id.0,
            tgid: connection.tgid,
            comm: ended.as_ref().map(|ended| ended.comm.to_string()).unwrap_or_default(),
            path: ended.as_ref().map(|ended| ended.filename.to_string()).unwrap_or_default(),
            uid: connection.uid,
            gid: connection.gid,
            session_id: connection.session_id.map(|id| id.to_string()),
            ..ExecFacts::default()
        }
    }
}
