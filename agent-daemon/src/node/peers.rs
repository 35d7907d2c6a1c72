// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::{Node, Refusal, bump};
use crate::attest::{Attested, Failure, Peer};
use crate::audit::{Caller, CallerRefusedRecord, Record};
use crate::diagnostic::with_sources;
use crate::process::SessionId;
use crate::snapshot::Snapshot;

impl Node {
    /// Pins the process behind an accepted connection; a refusal is recorded.
    ///
    /// # Errors
    /// In the ways of [`Failure`].
    pub fn pin(&self, socket: impl AsFd, name: &'static str) -> Result<Peer, Failure> {
        let socket = socket.as_fd();
        match self.attestor.pin(socket, name) {
            Ok(peer) => Ok(peer),
            Err(failure) => {
                let caller = Peer::kernel_word(socket).map_or_else(Caller::default, |(uid, gid, tgid)| Caller {
                    uid,
                    gid,
                    tgid,
                    ..Caller::default()
                });
                self.refuse(name, None, &failure, caller);
                Err(failure)
            }
        }
    }

    /// Records that a pinned caller was refused before anything was decided.
    pub fn refuse_peer(&self, action: &str, failure: &Failure, peer: &Peer) {
        self.refuse(peer.socket, Some(action), failure, caller_of(peer));
    }

    /// Records that a pinned caller asked for what nobody gets: what is wrong is in the request, and nothing is decided.
    pub fn refuse_request(&self, action: &str, reason: &'static str, detail: &str, peer: &Peer) {
        // An image that is gone did not ask for it.
        if let Err(failure) = peer.recheck(self.records()) {
            return self.refuse_peer(action, &failure, peer);
        }
        bump(&self.counters.bad_requests);
        if !self.bad_requests.take(peer.uid, Instant::now()) {
            return bump(&self.counters.bad_requests_unrecorded);
        }
        self.append_refused(CallerRefusedRecord {
            socket: peer.socket.to_owned(),
            action: Some(action.to_owned()),
            reason: reason.to_owned(),
            detail: detail.to_owned(),
            caller: caller_of(peer),
        });
    }

    /// Records that a caller was turned away at the door.
    pub fn refuse_connection(&self, name: &'static str, reason: &'static str, detail: String, caller: Caller) {
        self.write_refused(CallerRefusedRecord {
            socket: name.to_owned(),
            action: None,
            reason: reason.to_owned(),
            detail,
            caller,
        });
    }

    fn refuse(&self, name: &'static str, action: Option<&str>, failure: &Failure, caller: Caller) {
        self.write_refused(CallerRefusedRecord {
            socket: name.to_owned(),
            action: action.map(str::to_owned),
            reason: failure.reason().to_owned(),
            detail: with_sources(failure),
            caller,
        });
    }

    fn write_refused(&self, record: CallerRefusedRecord) {
        bump(&self.counters.refused_callers);
        if !self.refused.take(record.caller.uid, Instant::now()) {
            bump(&self.counters.refused_unrecorded);
            return;
        }
        self.append_refused(record);
    }

    fn append_refused(&self, record: CallerRefusedRecord) {
        tracing::info!(reason = %record.reason, detail = %record.detail, uid = record.caller.uid, "caller refused");
        if let Err(error) = self.log.append(&Record::CallerRefused(record)) {
            bump(&self.counters.audit_refused);
            tracing::error!(%error, "a refused caller could not be recorded");
        }
    }

    /// The rate limit, then the caller's evidence and identity, rechecked.
    pub(super) async fn admit(
        &self,
        peer: &Peer,
        action: &'static str,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Arc<Attested>, Refusal> {
        self.admit_again(peer, action, snapshot, true).await
    }

    /// The same; a request that waited for a person is counted once.
    pub(super) async fn admit_again(
        &self,
        peer: &Peer,
        action: &'static str,
        snapshot: &Arc<Snapshot>,
        is_first: bool,
    ) -> Result<Arc<Attested>, Refusal> {
        if is_first && let Err(limited) = self.rates.allow(peer.exec_id, Instant::now()) {
            bump(&self.counters.rate_limited);
            return Err(Refusal::RateLimited { retry_after: limited.retry_after });
        }
        let attested = match peer.recheck(self.records()) {
            Ok(session) => self.attest_peer(peer, snapshot, session).await,
            Err(failure) => Err(failure),
        };
        // Before it gets anything: from then on it is governed, if its identity is.
        let governed = attested.and_then(|attested| {
            self.govern_caller(&attested)?;
            Ok(attested)
        });
        governed.map_err(|failure| {
            self.refuse_peer(action, &failure, peer);
            Refusal::Caller(failure)
        })
    }

    async fn attest_peer(
        &self,
        peer: &Peer,
        snapshot: &Arc<Snapshot>,
        session: Option<SessionId>,
    ) -> Result<Arc<Attested>, Failure> {
        let ids = peer.ids()?;
        if let Some(known) = self.attestor.known(peer.exec_id, snapshot.number, session, ids) {
            return Ok(known);
        }
        let gone = Failure::OriginatorGone("the caller's process ended");
        let instance = self.records().process(peer.process.tgid)?.ok_or(gone)?;
        if instance.id != peer.exec_id {
            return Err(Failure::OriginatorGone("the caller's program image was replaced since it connected"));
        }
        self.attestor.attest(snapshot, instance, Some(ids)).await
    }
}

pub(super) fn caller_of(peer: &Peer) -> Caller {
    Caller {
        uid: peer.uid,
        gid: peer.gid,
        tgid: Some(peer.process.tgid),
        exec_id: Some(peer.exec_id.0),
        ..Caller::default()
    }
}
