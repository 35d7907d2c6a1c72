// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In which session an exec instance acts, and that it never has more there than those above it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use super::exchange::Subject;
use super::reason::{Denial, Reason};
use super::{Node, Refusal};
use crate::attest::{Above, Ancestry, Attested, Authority, Beyond};
use crate::credential::access::Actors;
use crate::identity::SpiffeId;
use crate::policy::{self, Action, PreparedPrincipal, Request};
use crate::process::{ExecId, ExecInstance};
use crate::session::{HandleDigest, NotActing, Session};
use crate::snapshot::Snapshot;

impl Node {
    /// The session that a request is made in; see [`crate::session::Sessions::acting`].
    pub(super) fn acting_in(
        &self,
        asker: &ExecInstance,
        handle: Option<HandleDigest>,
    ) -> Result<Option<Arc<Session>>, Denial> {
        self.sessions().acting(asker, handle, self.clock.now()).map_err(|error| {
            let reason = match error {
                NotActing::Ended(_) | NotActing::UnknownHandle => Reason::SessionEnded,
                NotActing::NotBelow { .. } | NotActing::Outside { .. } => Reason::SessionNotYours,
            };
            Denial::new(reason, error.to_string())
        })
    }

    /// Everybody above the asker, as far as they count in its session.
    pub(super) async fn ancestry(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        session: &Arc<Session>,
    ) -> Result<Arc<Ancestry>, Refusal> {
        match attested.evidence.instance.id == session.outermost().opener {
            true => Ok(Arc::clone(&attested.alone)),
            false => Ok(self.attestor.ancestry_of(snapshot, attested, session).await?),
        }
    }

    /// Who acts in a session when the asker does so as `caller`: it, and everybody above it who has an identity, up to the
    /// opener of the outermost session. Somebody of whom it is not certain who it is is called as the trust domain: it is
    /// not left out because it ended.
    pub(super) fn actors(&self, asker: ExecId, caller: &SpiffeId, ancestry: &Ancestry, session: &Session) -> Actors {
        let (top, mut above) = (session.outermost().opener, Vec::<Arc<str>>::new());
        // Whoever opened sessions acts as whatever it opened them as, the inner one first.
        let opened = |by: ExecId| session.chain().filter(move |one| one.opener == by).map(|one| one.opener_id.as_str());
        for name in opened(asker) {
            if above.last().map_or(caller.as_str(), |last| last) != name {
                above.push(name.into());
            }
        }
        for one in &ancestry.above {
            let before = above.len();
            for name in opened(one.id) {
                if above.iter().skip(before).next_back().is_none_or(|last| **last != *name) {
                    above.push(name.into());
                }
            }
            match (&one.name, &one.authority) {
                _ if above.len() > before => {}
                (Some(name), _) => above.push(name.as_str().into()),
                (None, Authority::Unregistered) => {}
                (None, _) => above.push(format!("spiffe://{}", self.identity.trust_domain).into()),
            }
            if one.id == top {
                break;
            }
        }
        Actors::new(caller.as_str().into(), above)
    }
}

/// The policies by which somebody may have it only if a person approves. Everything is asked as if one had, so that nobody
/// is asked for what is refused all the same.
#[derive(Debug, Default)]
pub(super) struct Wanted(BTreeSet<Arc<str>>);

impl Wanted {
    /// Whether an answer of policy permits it, at least if a person approves.
    pub(super) fn permits(&mut self, decision: &policy::Decision) -> bool {
        if decision.reason == policy::Reason::NeedsApproval {
            self.0.extend(decision.policy_ids.iter().map(Arc::clone));
            return true;
        }
        decision.is_allow()
    }

    /// Their ids.
    pub(super) fn into_ids(self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// Whether everybody from the asker up to the opener of its outermost session may have what it asks for. The asker in every
/// session that its own was delegated from, too, and each ancestor in those that it was in: what a session is called must
/// not give more than the one above it.
pub(super) fn within(
    snapshot: &Snapshot,
    (asker, ancestry): (ExecId, &Ancestry),
    session: &Session,
    request: &Request<'_>,
    wanted: &mut Wanted,
) -> Result<(), Denial> {
    if ancestry.permitted.holds(&snapshot.policies, request) {
        return Ok(());
    }
    let chain: Vec<&Session> = session.chain().collect();
    let top = session.outermost().opener;
    if asker != top {
        ancestry.complete(top).map_err(|beyond| denial(beyond, Reason::AncestorNotPermitted))?;
    }
    let mut here = Wanted::default();
    in_outer(snapshot, &chain, request, &mut here)?;
    let (failed, here) = (Cell::new(false), RefCell::new(here));
    let homes = homes(ancestry, &chain);
    let in_home = |id: ExecId, principal: &Arc<PreparedPrincipal>, permits: &dyn Fn(&policy::Decision) -> bool| {
        let home = homes.iter().find(|(of, _)| *of == id).map_or(0, |(_, home)| *home);
        chain.iter().skip(home).all(|session| {
            let decision = snapshot.policies.evaluate(&in_session(request, principal, session));
            failed.set(failed.get() || decision.reason == policy::Reason::Error);
            permits(&decision)
        })
    };
    // First without a person: an ancestor may have several identities, and one of them may need none.
    let plain = |id: ExecId, principal: &Arc<PreparedPrincipal>| in_home(id, principal, &policy::Decision::is_allow);
    if ancestry.permits(asker, top, plain).is_err() {
        let approved = |id: ExecId, principal: &Arc<PreparedPrincipal>| {
            in_home(id, principal, &|decision: &policy::Decision| here.borrow_mut().permits(decision))
        };
        ancestry.permits(asker, top, approved).map_err(|beyond| denial(beyond, refused(failed.get())))?;
    }
    // What takes a person's word is not permitted for the next time.
    let Wanted(here) = here.into_inner();
    if here.is_empty() {
        ancestry.permitted.keep(&snapshot.policies, request);
    }
    wanted.0.extend(here);
    Ok(())
}

/// Somebody has to say yes first.
pub(super) fn wants_approval(ids: &[String]) -> Denial {
    Denial::new(Reason::ApprovalRequired, format!("a person has to approve it, say the policies {}", ids.join(", ")))
        .remedy("an operator answers with agentctl approvals; a request over the Workload API never waits")
}

/// Whether the asker may have it in the sessions that its own was delegated from.
fn in_outer(snapshot: &Snapshot, chain: &[&Session], request: &Request<'_>, wanted: &mut Wanted) -> Result<(), Denial> {
    for outer in chain.iter().skip(1) {
        let decision = snapshot.policies.evaluate(&in_session(request, request.principal, outer));
        if !wanted.permits(&decision) {
            let detail = format!("it may not have it in the session {} that its own was delegated from", outer.id);
            return Err(Denial::new(refused(decision.reason == policy::Reason::Error), detail));
        }
    }
    Ok(())
}

/// Whether everybody through whom a token came to the asker may have what it asks for with it, each with those above it.
/// The asker need not be in the session: it has the token.
pub(super) fn through(
    snapshot: &Snapshot,
    (asker, ancestry): (ExecId, Option<&Ancestry>),
    subject: &Subject,
    request: &Request<'_>,
    wanted: &mut Wanted,
) -> Result<(), Denial> {
    let session = &*subject.session;
    let chain: Vec<&Session> = session.chain().collect();
    match ancestry {
        Some(ancestry) => within(snapshot, (asker, ancestry), session, request, wanted)?,
        None => in_outer(snapshot, &chain, request, wanted)?,
    }
    for holder in &subject.holders {
        let asked = in_session(request, &holder.principal, session);
        let decision = snapshot.policies.evaluate(&asked);
        if !wanted.permits(&decision) {
            let detail = format!("{} may not have it, through whom the token came", holder.spiffe_id);
            return Err(Denial::new(refused(decision.reason == policy::Reason::Error), detail)
                .remedy("permit it to the holder of the token, too: whoever it is passed on to never has more"));
        }
        match &holder.ancestry {
            Some(ancestry) => within(snapshot, (holder.exec_id, ancestry), session, &asked, wanted)?,
            None => in_outer(snapshot, &chain, &asked, wanted)?,
        }
    }
    Ok(())
}

/// What could not be evaluated is no plain word of policy.
fn refused(failed: bool) -> Reason {
    if failed { Reason::PolicyError } else { Reason::AncestorNotPermitted }
}

/// `refused` is what a refusal by policy is called.
fn denial(beyond: Beyond, refused: Reason) -> Denial {
    let (reason, remedy) = match beyond {
        Beyond::Refused(_) | Beyond::PossiblyRefused(_) => {
            (refused, "permit it to the ancestor, too: a tool never has more than what started it")
        }
        Beyond::Unknown(_) => (
            Reason::AncestorUnknown,
            "let what starts tools live on, or have the tool enter the session (EnterSession)",
        ),
        Beyond::TooDeep(_) => (Reason::SessionTooDeep, "start tools from fewer programs in a row"),
    };
    Denial::new(reason, beyond.to_string()).remedy(remedy)
}

/// Where in the chain of sessions each ancestor was: the opener of a session was in the one above, and that of the outermost
/// counts as if it had been in that.
fn homes(ancestry: &Ancestry, chain: &[&Session]) -> Vec<(ExecId, usize)> {
    let mut home: usize = 0;
    let last = chain.len().saturating_sub(1);
    let place = |above: &Above| {
        while chain.get(home).is_some_and(|session| session.opener == above.id) && home < last {
            home = home.saturating_add(1);
        }
        (above.id, home)
    };
    ancestry.above.iter().map(place).collect()
}

/// The same question of somebody else in another session.
fn in_session<'a>(request: &Request<'a>, principal: &'a PreparedPrincipal, within: &'a Session) -> Request<'a> {
    let action = match request.action {
        Action::Release { destination, connection, credential, renewal, .. } => {
            Action::Release { destination, connection, credential, renewal, session: Some(&within.prepared) }
        }
        Action::Connect { destination, .. } => Action::Connect { destination, session: Some(&within.prepared) },
        // About the session that would be opened, and the node.
        action @ (Action::ActFor { .. } | Action::Attest) => action,
    };
    Request { principal, action, now: request.now }
}
