// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A token of ours is exchanged for one for somewhere else (RFC 8693): by the one it was made for, or by its holder.
//!
//! Who acts is not said by the caller: it is the attested caller itself, below everybody whom the token names. Each of
//! them has to be permitted what is asked for, as whatever the kernel knows of it now, so a token that is passed on
//! never gives more than it gave to anybody before.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::approve::{Next, in_time};
use super::decide::Verdicted;
use super::release::decision_id;
use super::{Ask, Node, Refusal, Released};
use crate::approval::Given;
use crate::attest::{Ancestry, Attested, Peer};
use crate::audit::Slot;
use crate::credential::access::Actors;
use crate::credential::{CredentialType, Delivery, Lease, LeaseId};
use crate::identity::SpiffeId;
use crate::policy::PreparedPrincipal;
use crate::process::{ExecId, ExecInstance};
use crate::session::Session;
use crate::snapshot::Snapshot;

/// Why every refused request of this kind is recorded under this name.
const ACTION: &str = "exchange";
/// Exchanges one after the other, and those who act in one token.
const MAX_EXCHANGES: usize = 8;
const MAX_ACTORS: usize = 32;

/// What is asked for.
#[derive(Debug)]
pub struct ExchangeAsk {
    /// The token that is shown.
    pub token: Zeroizing<String>,
    /// A declared destination, by its name or its audience.
    pub audience: Arc<str>,
    /// The scopes that are wanted; none: all that the token has.
    pub scopes: Option<Vec<Arc<str>>>,
    /// The caller's claim, kept in the record.
    pub traceparent: Option<String>,
    /// As [`Ask::time`].
    pub time: Option<Duration>,
}

/// Why there is no token in exchange.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The token that was shown is not good, or not for the caller.
    #[error("subject_token: {0}")]
    Token(&'static str),
    /// The scopes are not some of the token's.
    #[error("scope: more than the token has")]
    Scope,
    /// Refused like any other release.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A token that was shown, and everybody through whom it came.
#[derive(Debug)]
pub struct Subject {
    /// Of the token.
    pub(super) lease: Arc<Lease>,
    /// In which it was released.
    pub(super) session: Arc<Session>,
    /// Whom it names.
    pub(super) actors: Actors,
    /// To which what is asked for is bound.
    pub(super) scopes: Option<Vec<Arc<str>>>,
    /// Its holder, then that of the token for which it was exchanged, and so on; without the caller itself.
    pub(super) holders: Vec<Holder>,
}

/// One through whom a token came.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) exec_id: ExecId,
    pub(super) spiffe_id: SpiffeId,
    pub(super) principal: Arc<PreparedPrincipal>,
    /// Everybody above it; none where it is not of the session's lineage and was given its token, too.
    pub(super) ancestry: Option<Arc<Ancestry>>,
}

impl Node {
    /// Exchanges a token.
    ///
    /// # Errors
    /// See [`ExchangeError`]. Every refusal is in the audit log.
    pub async fn exchange(&self, peer: &Peer, asked: ExchangeAsk) -> Result<Released, ExchangeError> {
        let (mut approval, id) = (None, decision_id()?);
        loop {
            let decided =
                in_time(asked.time, async { Ok(self.decide_exchange(peer, &asked, approval.take(), &id).await) });
            let (attested, slot, verdicted, now) = decided.await??;
            match self.approved(peer, &attested, slot, verdicted).await? {
                Next::Conclude(slot, verdicted) => {
                    let concluded = self.conclude(peer, &attested, slot, *verdicted, None, now);
                    return Ok(in_time(asked.time, concluded).await?);
                }
                Next::Again(given) => approval = Some(given),
            }
        }
    }

    async fn decide_exchange(
        &self,
        peer: &Peer,
        asked: &ExchangeAsk,
        approval: Option<Arc<Given>>,
        id: &str,
    ) -> Result<(Arc<Attested>, Slot, Verdicted, Timestamp), ExchangeError> {
        let snapshot = self.snapshot();
        let attested = self.admit_again(peer, ACTION, &snapshot, approval.is_none()).await?;
        let shown = self.subject(&snapshot, &attested, asked).await;
        let (subject, spiffe_id) = shown.inspect_err(|error| self.record_not_exchanged(peer, asked, error))?;
        let (destination, binding, audiences) = target(&snapshot, &spiffe_id, &asked.audience);
        let ask = Ask {
            destination,
            audiences,
            binding,
            spiffe_id: Some(spiffe_id.to_string()),
            traceparent: asked.traceparent.clone(),
            approval,
            subject: Some(Arc::new(subject)),
            ..Ask::default()
        };
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let now = self.clock.now();
        let verdicted = self.decide(&snapshot, &attested, &ask, id.to_owned(), now).await?;
        Ok((attested, slot, verdicted, now))
    }

    fn record_not_exchanged(&self, peer: &Peer, asked: &ExchangeAsk, error: &ExchangeError) {
        let presented = self.presented_access(&asked.token);
        let shown = presented.as_ref().map_or("a token of nobody", |presented| presented.lease_id().as_str());
        let detail = format!("{error} (jti {shown}, for {:?})", asked.audience);
        match error {
            ExchangeError::Token(_) => self.refuse_request(ACTION, "invalid_subject_token", &detail, peer),
            ExchangeError::Scope => self.refuse_request(ACTION, "invalid_scope", &detail, peer),
            ExchangeError::Refused(Refusal::Caller(failure)) => self.refuse_peer(ACTION, failure, peer),
            ExchangeError::Refused(refusal) => self.refuse_request(ACTION, "refused", &refusal.to_string(), peer),
        }
    }

    /// What is shown, and as whom the caller may use it.
    async fn subject(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        ask: &ExchangeAsk,
    ) -> Result<(Subject, SpiffeId), ExchangeError> {
        let invalid = ExchangeError::Token;
        let instance = &attested.evidence.instance;
        let presented = self.presented_access(&ask.token).ok_or(invalid("it is no access token of this node"))?;
        let over = || invalid("it is over");
        let lease = self.leases.lease(presented.lease_id()).ok_or_else(over)?;
        let actors = presented.claim("act").and_then(Actors::from_claim);
        let actors = actors.filter(|actors| actors.caller() == lease.spiffe_id.as_str());
        let actors = actors.ok_or(invalid("it does not say who acts"))?;
        let scopes = presented.claim("scope").and_then(|scope| scope.as_str()).map(words);
        let is_for = |id: &&SpiffeId| presented.audiences().iter().any(|audience| audience == id.as_str());
        let mut own = attested.entries.iter().map(|entry| &entry.spiffe_id);
        let spiffe_id = if lease.exec_id == instance.id {
            lease.spiffe_id.clone()
        } else {
            own.find(is_for).cloned().ok_or(invalid("it is for somebody else"))?
        };
        if !self.introspect_presented(presented).is_active() {
            return Err(over());
        }
        let session = lease.session.and_then(|id| self.sessions().session(id)).ok_or_else(over)?;
        // Whoever is in a session acts for its user and below its ancestors, whatever it was given by others.
        if !may_act_in(&session, instance) {
            return Err(invalid("the process is in another session"));
        }
        if self.exchanged_for(&lease.id).count() > MAX_EXCHANGES || actors.count() >= MAX_ACTORS {
            return Err(invalid("it was exchanged too often"));
        }
        let holders = self.holders(snapshot, &lease.id, &session, (instance.id, &spiffe_id)).await?;
        let scopes = narrowed(scopes, ask.scopes.as_deref()).ok_or(ExchangeError::Scope)?;
        Ok((Subject { lease, session, actors, scopes, holders }, spiffe_id))
    }

    /// That of which a lease was exchanged, as it is now; what it was bound to is not kept.
    pub(super) async fn subject_of(
        &self,
        snapshot: &Arc<Snapshot>,
        lease: &Lease,
        subject: &LeaseId,
    ) -> Result<Subject, ExchangeError> {
        let over = || ExchangeError::Token("it is over");
        let of = self.leases.lease(subject).ok_or_else(over)?;
        let session = of.session.and_then(|id| self.sessions().session(id)).ok_or_else(over)?;
        let holders = self.holders(snapshot, subject, &session, (lease.exec_id, &lease.spiffe_id)).await?;
        let actors = Actors::new(of.spiffe_id.as_str().into(), Vec::new());
        Ok(Subject { lease: of, session, actors, scopes: None, holders })
    }

    /// Everybody through whom a token came to somebody else.
    async fn holders(
        &self,
        snapshot: &Arc<Snapshot>,
        subject: &LeaseId,
        session: &Arc<Session>,
        (exec_id, spiffe_id): (ExecId, &SpiffeId),
    ) -> Result<Vec<Holder>, ExchangeError> {
        let leases: Vec<_> = self.exchanged_for(subject).collect();
        let mut holders = Vec::new();
        for held in leases.iter().filter(|held| held.exec_id != exec_id || held.spiffe_id != *spiffe_id) {
            holders.push(self.through(snapshot, held, session).await?);
        }
        Ok(holders)
    }

    /// Who holds a lease, as it is now.
    async fn through(
        &self,
        snapshot: &Arc<Snapshot>,
        held: &Lease,
        session: &Arc<Session>,
    ) -> Result<Holder, ExchangeError> {
        let gone = || ExchangeError::Token("somebody through whom it came is over");
        let instance = self.records().process(held.tgid).map_err(|error| Refusal::Caller(error.into()))?;
        let instance = instance.filter(|instance| instance.id == held.exec_id).ok_or_else(gone)?;
        let ids = self.attestor.effective_ids(held.tgid).map_err(|_| gone())?;
        let attested = self.attestor.attest(snapshot, instance, Some(ids)).await.map_err(|_| gone())?;
        let mut own = attested.entries.iter().zip(&attested.principals);
        let own = own.find(|(entry, _)| entry.spiffe_id == held.spiffe_id);
        let changed = ExchangeError::Token("somebody through whom it came is called otherwise now");
        let principal = own.map(|(_, principal)| Arc::clone(principal)).ok_or(changed)?;
        let instance = &attested.evidence.instance;
        if !may_act_in(session, instance) {
            return Err(ExchangeError::Token("somebody through whom it came is in another session now"));
        }
        let ancestry = match session.holds(instance.id, &instance.ancestors) {
            true => Some(self.ancestry(snapshot, &attested, session).await?),
            false => None,
        };
        Ok(Holder { exec_id: held.exec_id, spiffe_id: held.spiffe_id.clone(), principal, ancestry })
    }
}

/// Whether a process can act in a session by a token of it: from outside of all sessions, or as one of its own lineage, whose
/// ancestors are asked then.
fn may_act_in(session: &Session, instance: &ExecInstance) -> bool {
    let is_below = session.holds(instance.id, &instance.ancestors);
    instance.session_id.is_none_or(|own| session.is_within(own) && is_below)
}

/// The destination that is meant, the binding that gives a token for it, and the audience where that is not its name.
fn target(snapshot: &Snapshot, id: &SpiffeId, named: &Arc<str>) -> (String, Option<String>, Vec<Arc<str>>) {
    let catalog = &snapshot.catalog;
    if catalog.destination(named).is_some() {
        return (named.to_string(), None, Vec::new());
    }
    let audiences = vec![Arc::clone(named)];
    match catalog.token_binding(id, named, Delivery::default(), CredentialType::AccessToken) {
        Some(binding) => (binding.destination.name.to_string(), Some(binding.name.to_string()), audiences),
        None => {
            let destination = catalog.destination_of(named).map(|destination| destination.name.to_string());
            (destination.unwrap_or_default(), None, audiences)
        }
    }
}

fn words(text: &str) -> Vec<Arc<str>> {
    text.split(' ').filter(|word| !word.is_empty()).map(Arc::from).collect()
}

/// What is wanted of what there is, [`None`] where it is more.
#[expect(clippy::option_option, reason = "not to be bound by scopes is one of the answers")]
fn narrowed(has: Option<Vec<Arc<str>>>, wanted: Option<&[Arc<str>]>) -> Option<Option<Vec<Arc<str>>>> {
    let Some(wanted) = wanted else { return Some(has) };
    if let Some(has) = has {
        let has: HashSet<_> = has.into_iter().collect();
        if !wanted.iter().all(|scope| has.contains(scope)) {
            return None;
        }
    }
    Some(Some(wanted.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_only_narrow() {
        let list = |text: &str| words(text);
        for (has, wanted, expected) in [
            (None, None, Some(None)),
            (None, Some("a"), Some(Some("a"))),
            (Some("a b"), None, Some(Some("a b"))),
            (Some("a b"), Some("b"), Some(Some("b"))),
            (Some("a b"), Some("b c"), None),
            (Some(""), Some("a"), None),
        ] {
            let narrowed = narrowed(has.map(list), wanted.map(list).as_deref());
            assert_eq!(narrowed, expected.map(|expected| expected.map(list)), "{has:?} {wanted:?}");
        }
    }
}
