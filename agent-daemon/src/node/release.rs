// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Release, renew and give back.
//!
//! The order is the guarantee: audit slot, decision, room for the lease, credential, lease, record, recheck,
//! answer. Whatever fails after the lease was granted ends it again.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use jiff::Timestamp;

use super::approve::{Next, in_time};
use super::ask::{Ask, ConnectionRef, Refusal, Released};
use super::decide::{Grounds, Verdicted};
use super::end::Holder;
use super::mint::Made;
use super::reason::Reason;
use super::recent::Decided;
use super::{Happening, Node, bump};
use crate::attest::{Attested, Failure, Peer};
use crate::audit::{self, DecisionRecord, Log, Outcome, Record, Slot};
use crate::authority;
use crate::credential::lease::{self, State};
use crate::credential::{self, Binding, Cause, Delivery, Lease, LeaseId};
use crate::diagnostic::with_sources;
use crate::hex::hex;
use crate::process::ExecId;

const DECISION_ID_BYTES: usize = 12;
const ATTEMPTS_AT_ROOM: usize = 64;

/// A renewal that was decided.
struct Renewal {
    attested: Arc<Attested>,
    slot: Slot,
    verdicted: Verdicted,
    held: Option<Arc<Lease>>,
    now: Timestamp,
}

impl Node {
    /// Releases a credential to the caller, or says why not.
    ///
    /// # Errors
    /// See [`Refusal`]. Every refusal of a decided request is in the audit log.
    pub async fn release(&self, peer: &Peer, mut ask: Ask) -> Result<Released, Refusal> {
        let (id, time) = (decision_id()?, ask.time);
        loop {
            let decided = in_time(time, async {
                let snapshot = self.snapshot();
                let attested = self.admit_again(peer, "release", &snapshot, ask.approval.is_none()).await?;
                let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
                let now = self.clock.now();
                let verdicted = self.decide(&snapshot, &attested, &ask, id.clone(), now).await?;
                Ok((attested, slot, verdicted, now))
            });
            let (attested, slot, verdicted, now) = decided.await?;
            match self.approved(peer, &attested, slot, verdicted).await? {
                Next::Conclude(slot, verdicted) => {
                    return in_time(time, self.conclude(peer, &attested, slot, *verdicted, None, now)).await;
                }
                Next::Again(given) => ask.approval = Some(given),
            }
        }
    }

    /// Decides anew and replaces a lease that the caller holds.
    ///
    /// # Errors
    /// See [`Refusal`]. A lease that is over, unknown or another's is a denial like any other.
    pub async fn renew(&self, peer: &Peer, old: LeaseId, mut ask: Ask) -> Result<Released, Refusal> {
        ask.renews = Some(old.clone());
        let (id, time) = (decision_id()?, ask.time);
        loop {
            let decided = in_time(time, self.decide_renewal(peer, &old, &mut ask, id.clone()));
            let Renewal { attested, slot, verdicted, held, now } = decided.await?;
            match self.approved(peer, &attested, slot, verdicted).await? {
                Next::Conclude(slot, verdicted) => {
                    return in_time(time, self.conclude(peer, &attested, slot, *verdicted, held, now)).await;
                }
                Next::Again(given) => ask.approval = Some(given),
            }
        }
    }

    async fn decide_renewal(&self, peer: &Peer, old: &LeaseId, ask: &mut Ask, id: String) -> Result<Renewal, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit_again(peer, "renew", &snapshot, ask.approval.is_none()).await?;
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let now = self.clock.now();
        let held = self.leases.lease(old).filter(|lease| lease.exec_id == peer.exec_id && lease.is_live(now));
        // In the session that it was released in, and in no other.
        let session = self.acting_in(&attested.evidence.instance, ask.session).ok().flatten();
        let session = session.map(|session| session.id);
        let held = held.filter(|lease| lease.session == session);
        if let Some(held) = &held {
            ask.destination = held.destination.to_string();
            ask.binding = Some(held.binding.to_string());
            ask.spiffe_id = Some(held.spiffe_id.to_string());
            ask.connection = ask.connection.or(held.cookie.map(ConnectionRef::Cookie));
        }
        let mut verdicted = self.decide(&snapshot, &attested, ask, id, now).await?;
        match &held {
            None => {
                let reason = Reason::LeaseNotYours;
                deny(&mut verdicted, reason, "the lease is not an active one of this exec instance".to_owned());
            }
            Some(held) if held.subject.is_some() => {
                let detail = "the token was exchanged for another one: exchange that again".to_owned();
                deny(&mut verdicted, Reason::LeaseNotYours, detail);
            }
            Some(_) => {}
        }
        Ok(Renewal { attested, slot, verdicted, held, now })
    }

    /// Ends a lease of the caller's. Idempotent; a lease of somebody else's is left alone and looks the same.
    ///
    /// # Errors
    /// When the caller cannot be tied to a live exec instance.
    pub async fn give_back(&self, peer: &Peer, id: &LeaseId) -> Result<(), Refusal> {
        let snapshot = self.snapshot();
        self.admit(peer, "give_back", &snapshot).await?;
        if self.leases.lease(id).is_some_and(|lease| lease.exec_id == peer.exec_id) {
            let ended = self.leases.end(id, Cause::GivenBack, self.clock.now());
            self.record_ended(ended);
        }
        Ok(())
    }

    pub(super) async fn conclude(
        &self,
        peer: &Peer,
        attested: &Attested,
        slot: Slot,
        mut verdicted: Verdicted,
        replaces: Option<Arc<Lease>>,
        now: Timestamp,
    ) -> Result<Released, Refusal> {
        let Some(grounds) = verdicted.grounds.take() else {
            return Err(self.denied(slot, verdicted).await);
        };
        let action = verdicted.record.action.clone();
        let connection = grounds.connection.as_ref().map(|(connection, _)| {
            // A renewal on the same connection takes the place of what it replaces.
            let own = u32::from(replaces.as_ref().is_some_and(|old| old.cookie == Some(connection.cookie)));
            lease::Connection {
                cookie: connection.cookie,
                binding: Arc::clone(&grounds.binding.name),
                limit: grounds.binding.releases_per_connection.saturating_add(own),
            }
        });
        let (reservation, replaces) = match self.room(peer.exec_id, connection, &grounds.binding, replaces) {
            Ok(room) => room,
            Err(error) => return Err(self.not_granted(slot, verdicted, error).await),
        };
        let Made { secret, chain, lease } = match self.make(peer, attested, &grounds, &verdicted.record, now) {
            Ok(Some(made)) => made,
            Ok(None) => {
                deny(
                    &mut verdicted,
                    Reason::SecretMissing,
                    "the secret of the binding's source is not there: put it with agentctl secret set".to_owned(),
                );
                verdicted.is_passing = true;
                return Err(self.denied(slot, verdicted).await);
            }
            Err(error) => {
                if matches!(error, authority::Error::NoSigner { .. }) {
                    self.signer_missed.notify_one();
                }
                verdicted.record.detail = error.to_string();
                verdicted.record.reason = "authority_error".to_owned();
                self.commit_denied(slot, verdicted.record).await?;
                return Err(Refusal::Authority(error));
            }
        };
        let session = grounds.on_behalf.as_ref().map(|on_behalf| on_behalf.session.id);
        let subject = grounds.on_behalf.as_ref().and_then(|on_behalf| on_behalf.subject.clone());
        // Before it can be seen: what is on its way to its holder makes no room for others.
        let in_flight = InFlight::new(self, lease.id.clone());
        let pending = match self.grant(reservation, lease, replaces.as_deref(), now) {
            Ok(lease) => Pending { node: self, lease: Some(lease), _in_flight: in_flight },
            Err(error) => return Err(self.not_granted(slot, verdicted, error).await),
        };
        let mut record = verdicted.record;
        record.outcome = Outcome::Allow;
        record.lease_id = pending.lease.as_ref().map(|lease| lease.id.to_string());
        record.expires_at = pending.lease.as_ref().map(|lease| lease.expires_at);
        if let Err(error) = self.commit(slot, record, now).await {
            pending.take_back(Cause::Revoked);
            return Err(self.audit_refused(error));
        }
        bump(&self.counters.allowed);
        // Whoever ends a session takes it away first and then looks for leases: one of the two sees the other.
        if session.is_some_and(|session| self.sessions().session(session).is_none()) {
            pending.take_back(Cause::SessionEnded);
            let failure = Failure::OriginatorGone("the session ended while it was answered");
            self.refuse_peer(&action, &failure, peer);
            return Err(Refusal::Caller(failure));
        }
        // The same of the token that was shown.
        if subject.is_some_and(|subject| !self.is_active(&subject.id)) {
            pending.take_back(Cause::SubjectEnded);
            let failure = Failure::OriginatorGone("the token that was shown ended while it was answered");
            self.refuse_peer(&action, &failure, peer);
            return Err(Refusal::Caller(failure));
        }
        // And of what operators wrote: whoever reads it anew looks at all leases afterwards. What ends here is not delivered.
        if let Some(lease) = pending.lease.as_ref().filter(|_| grounds.snapshot != self.snapshot().number) {
            self.look_whether_it_stands(lease).await;
        }
        let lease = self.recheck(peer, attested, &grounds, pending, &action)?;
        self.tell(Happening::Lease(Arc::clone(&lease)));
        let scopes = grounds.on_behalf.and_then(|on_behalf| on_behalf.scopes);
        Ok(Released { secret, chain, lease, audiences: grounds.audiences, scopes })
    }

    /// Room for the lease, and what it is still to replace. Whoever speaks SPIFFE may fetch as often as it likes, and has
    /// no words to give back: there the lease that is replaced makes room, or else the one that would end first.
    fn room(
        &self,
        exec_id: ExecId,
        connection: Option<lease::Connection>,
        binding: &Binding,
        replaces: Option<Arc<Lease>>,
    ) -> Result<(lease::Reservation, Option<Arc<Lease>>), credential::Error> {
        let mut reserved = self.leases.reserve(exec_id, connection);
        let mut replaces = replaces;
        // Whoever else of this process asks meanwhile may take the room that was made, and then it got something.
        for _ in 0..ATTEMPTS_AT_ROOM {
            let is_full = matches!(
                reserved,
                Err(credential::Error::TooManyLeasesOfExec { .. } | credential::Error::TooManyLeases { .. })
            );
            if !is_full || binding.delivery != Delivery::WorkloadApi {
                break;
            }
            let doomed = match replaces.take() {
                Some(old) => Some((old.id.clone(), Cause::Renewed)),
                None => self.first_to_make_room(exec_id, binding).map(|first| (first, Cause::Superseded)),
            };
            let Some((doomed, cause)) = doomed else { break };
            self.record_ended(self.leases.end(&doomed, cause, self.clock.now()));
            reserved = self.leases.reserve(exec_id, None);
        }
        Ok((reserved?, replaces))
    }

    /// One of the same binding, or else of another of those that the Workload API gives: what the process holds by
    /// release is its own to give back.
    fn first_to_make_room(&self, exec_id: ExecId, binding: &Binding) -> Option<LeaseId> {
        let snapshot = self.snapshot();
        let bindings = snapshot.catalog.bindings();
        let is_of_workload_api =
            |name: &str| bindings.iter().any(|one| *one.name == *name && one.delivery == Delivery::WorkloadApi);
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let is_held = |id: &LeaseId| !in_flight.contains(id);
        let same = self.leases.first_to_end(exec_id, |name| *name == *binding.name, is_held);
        same.or_else(|| self.leases.first_to_end(exec_id, is_of_workload_api, is_held))
    }

    /// The last look before the answer leaves: same process, same image, same connection, and not revoked.
    fn recheck(
        &self,
        peer: &Peer,
        attested: &Attested,
        grounds: &Grounds,
        pending: Pending<'_>,
        action: &str,
    ) -> Result<Arc<Lease>, Refusal> {
        let failure = match (peer.recheck(self.records()), &grounds.connection) {
            (Err(failure), _) => Some(failure),
            (Ok(session), _) if session != attested.evidence.instance.session_id => {
                Some(Failure::OriginatorMismatch("the process came into another session meanwhile"))
            }
            (Ok(_), None) => None,
            (Ok(_), Some((proved, _))) => match self.records().connection(proved.cookie) {
                Ok(Some(now)) if now.exec_id == proved.exec_id && now.remote == proved.remote && now.is_open => None,
                Ok(_) => Some(Failure::OriginatorMismatch("the connection was closed or goes elsewhere now")),
                Err(error) => Some(error.into()),
            },
        };
        let Some(failure) = failure else { return pending.deliver() };
        let cause = match self.holder(peer.exec_id, peer.process.tgid) {
            Holder::Ended(cause) => cause,
            Holder::Lives { .. } | Holder::Unknown => Cause::Revoked,
        };
        pending.take_back(cause);
        self.refuse_peer(action, &failure, peer);
        Err(Refusal::Caller(failure))
    }

    fn grant(
        &self,
        reservation: lease::Reservation,
        lease: Lease,
        replaces: Option<&Lease>,
        now: Timestamp,
    ) -> Result<Arc<Lease>, credential::Error> {
        let exec_id = lease.exec_id;
        let granted = match replaces {
            None => self.leases.grant(reservation, lease)?,
            Some(old) => {
                let (granted, ended) = self.leases.renew(reservation, lease, &old.id, now)?;
                self.record_ended(Some(ended));
                granted
            }
        };
        if granted.first {
            self.watch_holder(exec_id);
        }
        Ok(granted.lease)
    }

    /// Allowed, but there is no room for the lease, or its holder is over. Recorded like a denial.
    async fn not_granted(&self, slot: Slot, mut verdicted: Verdicted, error: credential::Error) -> Refusal {
        let detail = error.to_string();
        let (reason, refusal) = match error {
            credential::Error::ConnectionUsed { .. } => {
                deny(&mut verdicted, Reason::ConnectionUsed, detail);
                return self.denied(slot, verdicted).await;
            }
            // Another renewal of the same lease came first.
            credential::Error::LeaseNotActive { .. } => {
                deny(&mut verdicted, Reason::LeaseNotYours, detail);
                return self.denied(slot, verdicted).await;
            }
            credential::Error::ExecEnded { .. } => {
                let failure = Failure::OriginatorGone("the exec instance ended while it was answered");
                (failure.reason(), Refusal::Caller(failure))
            }
            error => ("lease_limit", Refusal::Leases(error)),
        };
        verdicted.record.reason = reason.to_owned();
        verdicted.record.detail = detail;
        match self.commit_denied(slot, verdicted.record).await {
            Ok(()) => refusal,
            Err(unrecorded) => unrecorded,
        }
    }

    pub(super) async fn denied(&self, slot: Slot, verdicted: Verdicted) -> Refusal {
        let decision_id: Arc<str> = verdicted.record.decision_id.as_str().into();
        match self.commit_denied(slot, verdicted.record).await {
            Err(refusal) => refusal,
            Ok(()) if verdicted.is_passing => Refusal::Unavailable { decision_id },
            Ok(()) => Refusal::Denied { decision_id },
        }
    }

    pub(super) async fn commit_denied(&self, slot: Slot, mut record: DecisionRecord) -> Result<(), Refusal> {
        record.outcome = Outcome::Deny;
        if !self.denials.take(record.exec.uid, Instant::now()) {
            bump(&self.counters.denials_unrecorded);
            return Err(Refusal::RateLimited { retry_after: self.denials.refill() });
        }
        bump(&self.counters.denied);
        self.commit(slot, record, self.clock.now()).await.map_err(|error| self.audit_refused(error))
    }

    pub(super) async fn commit(&self, slot: Slot, record: DecisionRecord, time: Timestamp) -> Result<(), audit::Error> {
        let record = Record::Decision(Box::new(record));
        Log::commit(slot, &record).await?;
        if let Record::Decision(record) = record {
            let decided = Arc::new(Decided { time, record: *record });
            self.recent.push(Arc::clone(&decided));
            self.tell(Happening::Decision(decided));
        }
        Ok(())
    }

    pub(super) fn audit_refused(&self, error: audit::Error) -> Refusal {
        bump(&self.counters.audit_refused);
        tracing::error!(error = %with_sources(&error), "refused: the audit log takes no record");
        Refusal::Audit(error)
    }
}

/// A lease that was granted and whose answer has not left. It ends unless it is delivered: also when the caller
/// hangs up, which drops the call wherever it waits.
struct Pending<'a> {
    node: &'a Node,
    lease: Option<Arc<Lease>>,
    _in_flight: InFlight<'a>,
}

/// The lease of an answer that has not left.
struct InFlight<'a> {
    node: &'a Node,
    id: LeaseId,
}

impl<'a> InFlight<'a> {
    fn new(node: &'a Node, id: LeaseId) -> Self {
        node.in_flight.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        Self { node, id }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.node.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Pending<'_> {
    fn deliver(mut self) -> Result<Arc<Lease>, Refusal> {
        let lease = self.lease.take().ok_or(Refusal::Bug("bug: a lease is delivered twice"))?;
        match self.node.leases.lease(&lease.id) {
            Some(now) if now.state == State::Active => Ok(lease),
            // Ended between grant and answer, and recorded by whoever ended it.
            _ => Err(Refusal::Leases(credential::Error::LeaseNotActive { lease: lease.id.clone() })),
        }
    }

    fn take_back(mut self, cause: Cause) {
        self.end(cause);
    }

    fn end(&mut self, cause: Cause) {
        if let Some(lease) = self.lease.take() {
            self.node.record_ended(self.node.leases.end(&lease.id, cause, self.node.clock.now()));
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.end(Cause::GivenBack);
    }
}

pub(super) fn deny(verdicted: &mut Verdicted, reason: Reason, detail: String) {
    verdicted.grounds = None;
    verdicted.record.reason = reason.as_str().to_owned();
    verdicted.record.detail = detail;
}

pub(super) fn decision_id() -> Result<String, Refusal> {
    let mut bytes = [0; DECISION_ID_BYTES];
    authority::fill_random(&mut bytes).map_err(Refusal::Authority)?;
    Ok(hex(&bytes))
}
