// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions end: by an operator, their opener, in time, with the one that they were delegated from, and when nobody is
//! left in them. What was released in one ends with it.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use crate::audit::{Caller, Record, SessionEndedRecord};
use crate::credential::{self, Delivery};
use crate::node::{Node, bump};
use crate::process::{ExecId, SessionId};
use crate::session::{Cause, Ended};

/// What the last walk over all processes did not find.
#[derive(Debug, Default)]
pub(super) struct Missed {
    sessions: HashSet<SessionId>,
    ended: HashSet<ExecId>,
}

impl Node {
    /// Ends a session, all that were delegated from it, and what was released in them. Says how many sessions that were.
    pub fn end_session(&self, id: SessionId, cause: Cause, by: Option<Caller>) -> usize {
        let ended = self.sessions().end(id, cause, self.clock.now());
        let count = ended.len();
        self.record_sessions(ended, by.as_ref());
        count
    }

    /// Ends the sessions whose time is up.
    pub(in crate::node) fn expire_sessions(&self) {
        self.record_sessions(self.sessions().expire(self.clock.now()), None);
    }

    fn record_sessions(&self, ended: Vec<Ended>, by: Option<&Caller>) {
        for Ended { session, cause, at } in ended {
            // They are gone from the table: whoever is granted something in them now finds that out afterwards.
            let over =
                self.leases.end_where(credential::Cause::SessionEnded, at, |lease| lease.session == Some(session.id));
            let snapshot = self.snapshot();
            let is_streamed = |name: &str| {
                let bindings = snapshot.catalog.bindings();
                bindings.iter().any(|one| *one.name == *name && one.delivery == Delivery::WorkloadApi)
            };
            for one in over.iter().filter(|ended| is_streamed(&ended.lease.binding)) {
                self.streams.end(one.lease.exec_id);
            }
            self.forfeit(over, &snapshot, None);
            self.egress_changed();
            self.end_steps(session.id);
            self.approvals.forget(&session.id.to_string());
            bump(&self.counters.sessions_ended);
            let record = Record::SessionEnded(SessionEndedRecord {
                session_id: session.id.to_string(),
                user: session.user.id.to_string(),
                cause: cause.as_str().to_owned(),
                decision_id: session.decision_id.to_string(),
                opener: session.opener.0,
                by: by.cloned(),
            });
            if let Err(error) = self.log.append(&record) {
                bump(&self.counters.audit_refused);
                tracing::error!(%error, session = %session.id, "the end of a session could not be recorded");
            }
            self.forget_session(session.id);
        }
    }

    pub(super) fn forget_session(&self, id: SessionId) {
        if let Err(error) = self.delegation.store.forget(id) {
            tracing::warn!(%error, session = %id, "the file of a session that is over cannot be removed");
        }
    }

    /// Takes up the sessions of an earlier run of this boot.
    ///
    /// # Errors
    /// When the folder with them cannot be read.
    pub fn take_up_sessions(&self) -> std::io::Result<usize> {
        let loaded = self.delegation.store.load()?;
        let mut taken = 0;
        for session in loaded {
            let id = session.id;
            match self.sessions().insert(session) {
                Ok(_) => taken += 1,
                Err(error) => tracing::warn!(%error, session = %id, "a session of an earlier run is not taken up"),
            }
        }
        self.expire_sessions();
        Ok(taken)
    }

    /// Ends the sessions in which nobody is left, and forgets the ended exec instances from which nobody descends. Each is
    /// missed twice before it goes: a process that forks while all are looked at may not be seen. Looks at every process.
    pub(in crate::node) fn sweep_sessions(&self) {
        let active = self.sessions().active();
        let kept = self.records().all_ended().unwrap_or_default();
        if active.is_empty() && kept.is_empty() {
            return;
        }
        let mut openers: HashMap<ExecId, Vec<SessionId>> = HashMap::new();
        for session in active.iter().filter(|session| !session.is_bound) {
            openers.entry(session.opener).or_default().push(session.id);
        }
        let (mut alive, mut ancestors) = (HashSet::new(), HashSet::new());
        let walked = self.records().processes(&mut |instance| {
            let line = [instance.id].into_iter().chain(instance.ancestors.iter().map(|ancestor| ancestor.id));
            alive.extend(line.filter_map(|id| openers.get(&id)).flatten());
            if let Some(id) = instance.session_id {
                alive.insert(id);
                ancestors.extend(instance.ancestors.iter().map(|ancestor| ancestor.id));
            }
        });
        if let Err(error) = walked {
            tracing::warn!(%error, "the kernel's records cannot be walked");
            return;
        }
        // Whoever acts in a session acts in those that it was delegated from.
        let above: Vec<SessionId> = active
            .iter()
            .filter(|session| alive.contains(&session.id))
            .flat_map(|session| session.chain().map(|one| one.id).collect::<Vec<_>>())
            .collect();
        alive.extend(above);
        let mut missed = self.delegation.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: HashSet<SessionId> =
            active.iter().map(|session| session.id).filter(|id| !alive.contains(id)).collect();
        let abandoned: Vec<SessionId> = gone.intersection(&missed.sessions).copied().collect();
        let unneeded: HashSet<ExecId> = kept.into_iter().filter(|id| !ancestors.contains(id)).collect();
        let forgotten: Vec<ExecId> = unneeded.intersection(&missed.ended).copied().collect();
        *missed = Missed { sessions: gone, ended: unneeded };
        drop(missed);
        for id in forgotten {
            self.records().forget_ended(id);
        }
        for id in abandoned {
            self.end_session(id, Cause::Abandoned, None);
        }
    }
}
