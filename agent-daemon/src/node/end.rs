// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Leases end: with their exec instance, with a change of its ids, at expiry, by an operator.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Happening, Node, bump};
use crate::attest::is_gone;
use crate::audit::{self, Caller, GrantedLease, LeaseEndedRecord, Record, RevokeRecord};
use crate::credential::introspect::Liveness;
use crate::credential::lease::{Ended, State};
use crate::credential::{Basis, Cause, CredentialType, Lease, LeaseId};
use crate::policy::ConnectionContext;
use crate::process::ExecId;
use crate::snapshot::Snapshot;

/// The kernel tells of ends at once; the sweep catches what it could not tell (a full buffer, changed ids).
const SWEEP: Duration = Duration::from_secs(1);
/// All processes are looked at no more often than this for sessions in which nobody is left.
const WALK: Duration = Duration::from_secs(5);
/// An expiry is recorded no sooner than this after the last one, so that many at once make one batch.
const SHORTEST: Duration = Duration::from_millis(5);

/// What the holder of a lease is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    /// It cannot be seen at this moment.
    Unknown,
    /// That exec instance is over.
    Ended(Cause),
    /// It is the same.
    Lives {
        /// Its effective user now.
        uid: u32,
    },
}

/// Which leases an operator names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doomed {
    /// One.
    Lease(LeaseId),
    /// All of an exec instance.
    Exec(ExecId),
    /// All of a process.
    Tgid(u32),
    /// All of an identity.
    Identity(String),
    /// All for a destination.
    Destination(String),
}

impl Doomed {
    fn takes(&self, lease: &Lease) -> bool {
        match self {
            Self::Lease(id) => lease.id == *id,
            Self::Exec(exec_id) => lease.exec_id == *exec_id,
            Self::Tgid(tgid) => lease.tgid == *tgid,
            Self::Identity(id) => lease.spiffe_id.as_str() == id,
            Self::Destination(name) => *lease.destination == **name,
        }
    }
}

impl std::fmt::Display for Doomed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lease(id) => write!(f, "lease_id:{}", id.as_str()),
            Self::Exec(exec_id) => write!(f, "exec_id:{}", exec_id.0),
            Self::Tgid(tgid) => write!(f, "tgid:{tgid}"),
            Self::Identity(id) => write!(f, "spiffe_id:{id}"),
            Self::Destination(name) => write!(f, "destination:{name}"),
        }
    }
}

impl Node {
    /// Ends leases because an operator says so.
    ///
    /// # Errors
    /// When the record cannot be written; the leases are ended all the same, because revoking must not fail.
    pub fn revoke(&self, doomed: &Doomed, reason: String, by: Caller) -> Result<Vec<Arc<Lease>>, audit::Error> {
        let ended = self.leases.end_where(Cause::Revoked, self.clock.now(), |lease| doomed.takes(lease));
        let leases: Vec<Arc<Lease>> = ended.iter().map(|ended| Arc::clone(&ended.lease)).collect();
        let revoked = u64::try_from(leases.len()).unwrap_or(u64::MAX);
        let recorded = self.log.append(&Record::Revoke(RevokeRecord { by, what: doomed.to_string(), reason, revoked }));
        self.forfeit(ended, &self.snapshot(), None);
        recorded.map(|_| leases)
    }

    /// Ends what an exec instance held, because it is over.
    pub(super) fn end_exec(&self, exec_id: ExecId, cause: Cause) {
        let ended = self.leases.end_exec(exec_id, cause, self.clock.now());
        self.record_ended(ended);
        self.streams.end(exec_id);
        self.rates.forget(exec_id);
    }

    /// Ends leases as they expire and those whose holder is not what it was, until cancelled.
    pub async fn sweep(&self, cancel: CancellationToken) {
        let mut looked = Instant::now();
        let (mut walked, mut took) = (Instant::now(), Duration::ZERO);
        loop {
            let wait = match self.leases.next_expiry() {
                Some(expiry) => {
                    let left = expiry.duration_since(self.clock.now());
                    Duration::try_from(left).unwrap_or_default().clamp(SHORTEST, SWEEP)
                }
                None => SWEEP,
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            self.record_ended(self.leases.expire(self.clock.now()));
            // By its own measure: where something always expires soon, no wait is ever a whole period.
            if looked.elapsed() >= SWEEP {
                self.sweep_holders();
                self.attestor.sweep();
                self.expire_sessions();
                self.expire_steps();
                looked = Instant::now();
            }
            // So that it is never more than a hundredth of the time, however many processes there are.
            if walked.elapsed() >= WALK.max(took.saturating_mul(100)) {
                walked = Instant::now();
                self.sweep_sessions();
                took = walked.elapsed();
            }
        }
    }

    /// Looks at every holder of a lease or a stream once. Cheap: one map look-up and one small file a holder.
    pub fn sweep_holders(&self) {
        for (exec_id, tgid, uid) in self.streams.holders() {
            match self.holder(exec_id, tgid) {
                Holder::Ended(cause) => self.end_exec(exec_id, cause),
                Holder::Lives { uid: now } if now != uid => self.streams.end(exec_id),
                Holder::Lives { .. } | Holder::Unknown => {}
            }
        }
        for exec_id in self.leases.holders() {
            let leases = self.leases.of_exec(exec_id);
            let Some(tgid) = leases.first().map(|lease| lease.tgid) else { continue };
            let holder = self.holder(exec_id, tgid);
            for lease in leases {
                self.end_if_over(&lease, holder);
            }
        }
    }

    /// Whether the holder of a lease is still what it was when it got it. Ends the lease if not.
    pub(super) fn look_at(&self, lease: &Lease) -> Liveness {
        self.end_if_over(lease, self.holder(lease.exec_id, lease.tgid))
    }

    fn end_if_over(&self, lease: &Lease, holder: Holder) -> Liveness {
        match holder {
            // Not to know is no reason to end it, nor to call it alive.
            Holder::Unknown => Liveness::Unknown,
            Holder::Ended(cause) => {
                self.end_exec(lease.exec_id, cause);
                Liveness::Gone
            }
            // Only this one: what the process was granted as the user that it is now stays good.
            Holder::Lives { uid } if uid != lease.uid => {
                let ended = self.leases.end(&lease.id, Cause::UidChanged, self.clock.now());
                self.record_ended(ended);
                Liveness::Gone
            }
            Holder::Lives { .. } => Liveness::Live,
        }
    }

    pub(super) fn holder(&self, exec_id: ExecId, tgid: u32) -> Holder {
        match self.records().current(tgid) {
            Err(_) => Holder::Unknown,
            Ok(None) => Holder::Ended(Cause::Exited),
            Ok(Some(current)) if current.id != exec_id => Holder::Ended(Cause::Exec),
            Ok(Some(_)) => match self.attestor.effective_ids(tgid) {
                Ok((uid, _)) => Holder::Lives { uid },
                // It ended between the two looks.
                Err(error) if is_gone(&error) => Holder::Ended(Cause::Exited),
                // A daemon that has no descriptors left must not end everybody's leases.
                Err(_) => Holder::Unknown,
            },
        }
    }

    /// Records ended leases, ends what was exchanged for them, and stops watching holders that have none left.
    pub(super) fn record_ended(&self, ended: impl IntoIterator<Item = Ended>) {
        let _leases = self.record_ends(ended, None);
    }

    /// The same of leases that were taken from their holders, who lose their connections to what the leases were for, as a
    /// snapshot says where that is.
    pub(super) fn forfeit(
        &self,
        ended: impl IntoIterator<Item = Ended>,
        snapshot: &Arc<Snapshot>,
        detail: Option<&str>,
    ) {
        let leases = self.record_ends(ended, detail);
        self.close_connections_of(leases, snapshot);
    }

    /// Says which leases ended with those that did.
    fn record_ends(&self, ended: impl IntoIterator<Item = Ended>, detail: Option<&str>) -> Vec<Arc<Lease>> {
        let mut waiting: VecDeque<Ended> = ended.into_iter().collect();
        let mut leases = Vec::with_capacity(waiting.len());
        while let Some(ended) = waiting.pop_front() {
            let lease = &ended.lease;
            leases.push(Arc::clone(lease));
            waiting.extend(self.leases.end_exchanged(&lease.id, self.clock.now()));
            let cause = match &lease.state {
                State::Ended { cause, .. } => cause.as_str(),
                State::Active => "ended",
            };
            let record = LeaseEndedRecord {
                lease_id: lease.id.to_string(),
                exec_id: lease.exec_id.0,
                tgid: Some(lease.tgid),
                spiffe_id: lease.spiffe_id.to_string(),
                destination: lease.destination.to_string(),
                cause: cause.to_owned(),
                detail: detail.filter(|_| cause == Cause::Withdrawn.as_str()).map(str::to_owned),
                decision_id: lease.decision_id.to_string(),
                expires_at: Some(lease.expires_at),
                session_id: lease.session.map(|session| session.to_string()),
            };
            if let Err(error) = self.log.append(&Record::LeaseEnded(record)) {
                bump(&self.counters.audit_refused);
                tracing::error!(%error, lease = lease.id.as_str(), cause, "the end of a lease could not be recorded");
            }
            self.after_end(ended);
        }
        leases
    }

    /// Has the kernel tell at once of the end of an exec instance that holds a lease or a stream.
    pub(super) fn watch_holder(&self, exec_id: ExecId) {
        if let Err(error) = self.records().watch(exec_id) {
            // The sweep ends its leases too, only later.
            tracing::warn!(%error, %exec_id, "the kernel cannot watch a lease's holder");
        }
        // Its last lease may have ended before it was watched, and then nobody would take that back.
        if !self.is_holder(exec_id) {
            self.records().unwatch(exec_id);
        }
    }

    fn is_holder(&self, exec_id: ExecId) -> bool {
        self.leases.is_holder(exec_id) || self.streams.is_holder(exec_id)
    }

    /// After an exec instance lost what may have been its last lease or stream.
    pub(super) fn unwatch_holder(&self, exec_id: ExecId) {
        if self.is_holder(exec_id) {
            return;
        }
        self.records().unwatch(exec_id);
        // Another thread may have granted one in between and found the holder watched.
        if self.is_holder(exec_id) {
            self.watch_holder(exec_id);
        }
    }

    fn after_end(&self, ended: Ended) {
        bump(&self.counters.leases_ended);
        if ended.last {
            self.unwatch_holder(ended.lease.exec_id);
        }
        self.tell(Happening::Lease(ended.lease));
    }

    /// Takes up the leases that an earlier run of this boot granted and the log says are not over. Those whose
    /// holder is gone end now.
    pub fn take_up(&self, granted: impl IntoIterator<Item = GrantedLease>) -> usize {
        let now = self.clock.now();
        let mut taken = 0;
        for granted in granted {
            if granted.boot_id != self.identity.boot_id {
                continue;
            }
            let Some(lease) = lease_of(granted).filter(|lease| lease.is_live(now)) else { continue };
            let (exec_id, id) = (lease.exec_id, lease.id.clone());
            match self.leases.restore(lease) {
                Ok(restored) => {
                    taken += 1;
                    if restored.first {
                        self.watch_holder(exec_id);
                    }
                    let session = restored.lease.session;
                    if session.is_some_and(|session| self.sessions().session(session).is_none()) {
                        self.record_ended(self.leases.end(&id, Cause::SessionEnded, now));
                    }
                    // Granted before this one, and so taken up before it, if it lives.
                    let subject = restored.lease.subject.as_ref();
                    if subject.is_some_and(|subject| !self.is_active(subject)) {
                        self.record_ended(self.leases.end(&id, Cause::SubjectEnded, now));
                    }
                }
                Err(error) => tracing::warn!(%error, lease = id.as_str(), "a lease of an earlier run is not taken up"),
            }
        }
        self.sweep_holders();
        taken
    }
}

fn lease_of(granted: GrantedLease) -> Option<Lease> {
    let decision = granted.decision;
    let connection = match &decision.connection {
        Some(recorded) => Some(connection_context(recorded)?),
        None => None,
    };
    Some(Lease {
        id: LeaseId::parse(decision.lease_id.as_deref()?).ok()?,
        exec_id: ExecId(decision.exec.exec_id),
        tgid: decision.exec.tgid,
        uid: decision.exec.uid,
        spiffe_id: decision.spiffe_id.as_deref()?.parse().ok()?,
        destination: decision.destination.as_deref()?.into(),
        binding: decision.binding.as_deref()?.into(),
        credential_type: CredentialType::from_word(decision.credential_type.as_deref()?)?,
        cookie: decision.connection.map(|connection| connection.cookie),
        session: match decision.session_id {
            Some(id) => Some(id.parse().ok()?),
            None => None,
        },
        subject: match decision.subject_lease_id {
            Some(id) => Some(LeaseId::parse(&id).ok()?),
            None => None,
        },
        issued_at: granted.time,
        expires_at: decision.expires_at?,
        decision_id: decision.decision_id.into(),
        basis: Arc::new(Basis {
            audiences: decision.audience.iter().flat_map(|all| all.split(", ")).map(Arc::from).collect(),
            connection,
            approved: match decision.approval {
                Some(_) => decision.approval_policy_ids.into_iter().map(Arc::from).collect(),
                None => Vec::new(),
            },
        }),
        state: State::Active,
    })
}

/// As policy was asked about it.
fn connection_context(recorded: &audit::Connection) -> Option<ConnectionContext> {
    Some(ConnectionContext {
        address: recorded.remote_address.parse().ok()?,
        port: recorded.remote_port,
        protocol: recorded.protocol.as_str().into(),
        hook: recorded.hook.as_str().into(),
        uid: recorded.uid,
        gid: recorded.gid?,
        matched_by: recorded.matched_by.split(' ').next()?.into(),
    })
}

/// How far back the log is read for leases that may still be alive: the longest lifetime a binding can give.
pub fn oldest_live(now: Timestamp) -> Timestamp {
    now.saturating_sub(jiff::SignedDuration::from_hours(1)).unwrap_or(Timestamp::MIN)
}
