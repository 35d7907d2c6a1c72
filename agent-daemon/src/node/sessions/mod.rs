// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions open, are entered and closed.
//!
//! The order of opening: audit slot, user, decision, room, record, kernel, last look, answer. Whatever fails after the
//! session came to be ends it again.

mod end;
mod store;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::attest::{Attested, Failure, Peer};
use crate::audit::{DecisionRecord, Outcome, SessionFacts};
use crate::authority;
use crate::node::decide::{Verdicted, principal};
use crate::node::issuers::{Issuers, TokenError};
use crate::node::reason::{Denial, Reason};
use crate::node::release::decision_id;
use crate::node::within::{Wanted, within};
use crate::node::{Node, Refusal, StepRules, bump, draft};
use crate::policy::{self, Action, Request};
use crate::process::{Bound, ExecId, SessionId};
use crate::session::{self, Cause, Handle, HandleDigest, Named, Opening, Session, Sessions, User, Verified};
use crate::snapshot::Snapshot;
use crate::step::Steps;

pub use self::store::SessionStore;

/// How long sessions live.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Where the opener says nothing.
    pub usual: Duration,
    /// At most.
    pub longest: Duration,
}

/// On whose behalf a session is opened.
#[derive(Debug)]
pub enum OnBehalf {
    /// Of the user of the session that the opener is in, or else of the local user.
    Inherited,
    /// Of the user of this machine whose process it is.
    Local,
    /// Of the user whom a token names.
    Token {
        /// The token.
        token: Zeroizing<String>,
        /// What the runtime had the issuer put into it.
        nonce: Option<String>,
    },
}

/// A session that somebody wants to open.
#[derive(Debug)]
pub struct OpenAsk {
    /// On whose behalf.
    pub user: OnBehalf,
    /// See [`Session::agent`].
    pub agent: Option<Box<str>>,
    /// See [`Session::purpose`].
    pub purpose: Option<Box<str>>,
    /// See [`Session::scopes`].
    pub scopes: Option<Box<[Box<str>]>>,
    /// How long; none: as usual.
    pub lifetime: Option<Duration>,
    /// Whether the kernel is to carry it along the opener's lineage.
    pub is_bound: bool,
    /// The session that it is delegated from, where that is not the kernel's.
    pub parent: Option<HandleDigest>,
    /// Which of the opener's identities.
    pub spiffe_id: Option<String>,
}

/// A session that came to be.
#[derive(Debug)]
pub struct Opened {
    /// It.
    pub session: Arc<Session>,
    /// What names it; told to its opener and nobody else.
    pub handle: Handle,
}

/// The parts of a node that are about sessions.
#[derive(Debug)]
pub(super) struct Delegation {
    issuers: Issuers,
    store: SessionStore,
    lifetimes: Lifetimes,
    missed: Mutex<end::Missed>,
    pub(super) steps: Steps,
    pub(super) step_rules: StepRules,
}

impl Delegation {
    pub(super) fn new(
        issuer_roots: Option<PathBuf>,
        store: SessionStore,
        lifetimes: Lifetimes,
        step_rules: StepRules,
    ) -> Self {
        let (issuers, steps) = (Issuers::new(issuer_roots), Steps::new(step_rules.limits));
        Self { issuers, store, lifetimes, missed: Mutex::default(), steps, step_rules }
    }
}

impl Node {
    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        self.attestor.sessions()
    }

    /// Fetches the keys of issuers as they are wanted, until cancelled.
    pub async fn fetch_issuers(&self, cancel: CancellationToken) {
        self.delegation.issuers.run(cancel).await;
    }

    /// Opens a session for the caller.
    ///
    /// # Errors
    /// See [`Refusal`]. Every refusal of a decided request is in the audit log.
    pub async fn open_session(self: &Arc<Self>, peer: &Peer, ask: OpenAsk) -> Result<Opened, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, "open_session", &snapshot).await?;
        let mut ask = ask;
        // Before there is a slot: an issuer that is slow must hold up nobody else.
        let asked = std::mem::replace(&mut ask.user, OnBehalf::Inherited);
        let user = self.on_behalf(&snapshot, &attested, asked).await?;
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let now = self.clock.now();
        let id = decision_id()?;
        let mut record = draft::draft(id.clone(), "act_for", &attested, &snapshot);
        let handle = Handle::generate(authority::fill_random).map_err(Refusal::Authority)?;
        let is_bound = ask.is_bound;
        let decided = self.decide_session(&snapshot, &attested, (ask, user), &handle, &id, now, &mut record).await?;
        let session = match decided {
            Ok(session) => session,
            Err(denial) => return Err(self.denied(slot, Verdicted::denied(record, denial)).await),
        };
        let (from, to) = (attested.evidence.instance.session_id, Some(session.id));
        let session = match self.sessions().insert(session) {
            Ok(session) => session,
            Err(error) => {
                record.reason = "session_limit".to_owned();
                record.detail = error.to_string();
                self.commit_denied(slot, record).await?;
                return Err(Refusal::Sessions(error));
            }
        };
        let mut opening = Opens { node: self, session: Some(Arc::clone(&session)), bound: None };
        let (node, kept) = (Arc::clone(self), Arc::clone(&session));
        let kept = tokio::task::spawn_blocking(move || node.delegation.store.keep(&kept)).await;
        if let Err(error) = kept.map_err(std::io::Error::other).and_then(|kept| kept) {
            tracing::error!(%error, "a session cannot be kept");
            record.reason = "session_not_kept".to_owned();
            record.detail = format!("the session could not be written: {error}");
            self.commit_denied(slot, record).await?;
            return Err(Refusal::Sessions(session::Error::NotKept));
        }
        // Whoever ended it meanwhile found no file to remove.
        if self.sessions().session(session.id).is_none() {
            self.forget_session(session.id);
            record.reason = Reason::SessionEnded.as_str().to_owned();
            record.detail = "the session ended while it was opened".to_owned();
            self.commit_denied(slot, record).await?;
            return Err(Refusal::Sessions(session::Error::Unknown));
        }
        record.outcome = Outcome::Allow;
        self.commit(slot, record, now).await.map_err(|error| self.audit_refused(error))?;
        bump(&self.counters.sessions_opened);
        if is_bound {
            self.bind(peer, from, to)?;
            opening.bound = Some((peer.process.tgid, peer.exec_id, from));
            // What it may reach in the session, before it knows that it is in it.
            self.classify(peer.process.tgid, peer.exec_id).await;
        }
        // The kernel's word, after the session is there.
        let seen = self.answer_in_session(peer, "open_session")?;
        if seen != if is_bound { to } else { from } {
            let failure = Failure::OriginatorMismatch("the process came into another session meanwhile");
            self.refuse_peer("open_session", &failure, peer);
            return Err(Refusal::Caller(failure));
        }
        if self.sessions().session(session.id).is_none() {
            return Err(Refusal::Sessions(session::Error::Unknown));
        }
        opening.done();
        Ok(Opened { session, handle })
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one decision, each used once")]
    async fn decide_session(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        (ask, user): (OpenAsk, Result<Option<Arc<User>>, Denial>),
        handle: &Handle,
        decision_id: &str,
        now: Timestamp,
        record: &mut DecisionRecord,
    ) -> Result<Result<Session, Denial>, Refusal> {
        let (principal, entry) = match principal(attested, ask.spiffe_id.as_deref()) {
            Ok(found) => found,
            Err(denial) => {
                record.near_misses = draft::near_misses(attested.near_misses(&snapshot.entries));
                return Ok(Err(denial));
            }
        };
        record.spiffe_id = Some(entry.spiffe_id.to_string());
        record.entry_id = Some(entry.id.as_str().to_owned());
        let instance = &attested.evidence.instance;
        let parent = match self.acting_in(instance, ask.parent) {
            Ok(parent) => parent,
            Err(denial) => return Ok(Err(denial)),
        };
        let user = match user {
            Ok(None) if parent.is_none() => match self.local_user(attested) {
                Ok(user) => Some(user),
                Err(failure) => return Err(failure.into()),
            },
            Ok(user) => user,
            Err(denial) => return Ok(Err(denial)),
        };
        let wanted = ask.lifetime.unwrap_or(self.delegation.lifetimes.usual).min(self.delegation.lifetimes.longest);
        let lifetime = SignedDuration::try_from(wanted).unwrap_or(SignedDuration::MAX);
        let opening = Opening {
            parent,
            user,
            agent: ask.agent,
            purpose: ask.purpose,
            scopes: ask.scopes,
            opener: instance.id,
            opener_id: entry.spiffe_id.clone(),
            expires_at: now.saturating_add(lifetime).unwrap_or(Timestamp::MAX),
        };
        let above = opening.parent.clone();
        let narrowed = match opening.narrowed(self.sessions().limits()) {
            Ok(narrowed) => narrowed,
            Err(error) => return Ok(Err(Denial::new(Reason::SessionRefused, error.to_string()))),
        };
        let named = Named {
            id: session_id()?,
            is_bound: ask.is_bound,
            opened_at: now,
            decision_id: decision_id.into(),
            handle: handle.digest(),
        };
        let session =
            Session::new(narrowed, named).map_err(|_| Refusal::Bug("bug: a session cannot be put to policy"))?;
        record.user = Some(session.user.id.to_string());
        record.session_id = Some(session.id.to_string());
        record.session = Some(facts(&session));
        let left = session.expires_at.duration_since(now);
        let lifetime_seconds = u32::try_from(left.as_secs()).unwrap_or_default();
        let action = Action::ActFor { session: &session.prepared, lifetime_seconds };
        let request = Request { principal, action, now };
        let decision = snapshot.policies.evaluate(&request);
        record.policy_ids = decision.policy_ids.iter().map(ToString::to_string).collect();
        let user = &session.user.id;
        let denial = match decision.reason {
            policy::Reason::Permit => {
                record.reason = Reason::Allowed.as_str().to_owned();
                record.detail = format!("policy permits to act for {user}");
                let Some(above) = above else { return Ok(Ok(session)) };
                let ancestry = self.ancestry(snapshot, attested, &above).await?;
                let asker = attested.evidence.instance.id;
                // No policy for this action can want a person's word.
                let mut wanted = Wanted::default();
                return Ok(within(snapshot, (asker, &ancestry), &above, &request, &mut wanted).map(|()| session));
            }
            policy::Reason::Forbid => Denial::new(Reason::PolicyForbid, format!("policy forbids to act for {user}")),
            policy::Reason::NoPermit => {
                let near = snapshot.policies.near_misses(&request);
                let denial = Denial::new(Reason::PolicyNoPermit, format!("no policy permits to act for {user}"));
                let denial = match near.first() {
                    Some(miss) => denial.differing(miss.condition.clone(), "false"),
                    None => denial,
                };
                record.policy_near_misses = draft::policy_near_misses(near);
                denial.remedy("add a permit for the action actFor, or meet its condition")
            }
            policy::Reason::NeedsApproval | policy::Reason::Error => {
                let detail = format!("a policy could not be evaluated: {}", decision.errors.join("; "));
                Denial::new(Reason::PolicyError, detail)
            }
        };
        Ok(Err(denial))
    }

    /// The user whom the opener names; none where that is for the session above to say.
    async fn on_behalf(
        &self,
        snapshot: &Snapshot,
        attested: &Attested,
        asked: OnBehalf,
    ) -> Result<Result<Option<Arc<User>>, Denial>, Refusal> {
        match asked {
            OnBehalf::Inherited => Ok(Ok(None)),
            OnBehalf::Local => Ok(Ok(Some(self.local_user(attested)?))),
            OnBehalf::Token { token, nonce } => {
                let now = self.clock.now();
                let user = self.delegation.issuers.user(snapshot, &token, nonce.as_deref(), now).await;
                Ok(user.map(|user| Some(Arc::new(user))).map_err(|error| {
                    let denial = Denial::new(Reason::InvalidToken, error.to_string());
                    if matches!(error, TokenError::IssuerDown { .. }) { denial.passing() } else { denial }
                }))
            }
        }
    }

    /// The user of this machine to whom a process belongs, by the kernel's word.
    fn local_user(&self, attested: &Attested) -> Result<Arc<User>, Failure> {
        let users = self.attestor.users(attested.evidence.instance.process.tgid);
        let (real, login) = users.map_err(|source| Failure::Io { operation: "read the caller's users", source })?;
        let (uid, verified) = match login {
            // Where nobody logged in any process may say that somebody did, so it is believed of itself and of root alone,
            // who could be anybody.
            Some(login) if login == real || real == 0 => (login, Verified::LoginUid),
            Some(_) | None => (real, Verified::Uid),
        };
        Ok(Arc::new(User {
            id: format!("uid:{uid}").into(),
            verified,
            issuer: None,
            subject: uid.to_string().into(),
            name: self.attestor.user_name(uid).map(Into::into),
            groups: Box::default(),
        }))
    }

    /// Puts the caller into a session that it descends from the opener of and has the handle of.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn enter_session(self: &Arc<Self>, peer: &Peer, handle: HandleDigest) -> Result<Arc<Session>, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, "enter_session", &snapshot).await?;
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let mut record = draft::draft(decision_id()?, "enter_session", &attested, &snapshot);
        let session = match self.acting_in(&attested.evidence.instance, Some(handle)) {
            Ok(Some(session)) => session,
            Ok(None) => return Err(Refusal::Bug("bug: a handle names no session and no denial")),
            Err(denial) => return Err(self.denied(slot, Verdicted::denied(record, denial)).await),
        };
        record.spiffe_id = attested.spiffe_id().map(ToString::to_string);
        record.user = Some(session.user.id.to_string());
        record.session_id = Some(session.id.to_string());
        record.outcome = Outcome::Allow;
        record.reason = Reason::Allowed.as_str().to_owned();
        record.detail = format!("it descends from the opener {} and has the handle", session.opener);
        self.commit(slot, record, self.clock.now()).await.map_err(|error| self.audit_refused(error))?;
        // Its opener may have come to be governed after this process was forked.
        for one in session.chain() {
            let opener =
                snapshot.entries.iter().find(|entry| entry.spiffe_id == one.opener_id && entry.governs.is_some());
            if let Some((entry, settings)) = opener.and_then(|entry| Some((entry, entry.governs?))) {
                self.put_under(entry, settings, peer.process.tgid, peer.exec_id).map_err(Failure::from)?;
            }
        }
        self.bind(peer, attested.evidence.instance.session_id, Some(session.id))?;
        self.classify(peer.process.tgid, peer.exec_id).await;
        self.answer_in_session(peer, "enter_session")?;
        Ok(session)
    }

    /// Ends a session that the caller opened. Idempotent; one of somebody else's is left alone and looks the same.
    ///
    /// # Errors
    /// When the caller cannot be tied to a live exec instance.
    pub async fn close_session(self: &Arc<Self>, peer: &Peer, handle: HandleDigest) -> Result<(), Refusal> {
        let snapshot = self.snapshot();
        self.admit(peer, "close_session", &snapshot).await?;
        if let Some(session) = self.sessions().of_handle(handle).filter(|session| session.opener == peer.exec_id) {
            self.end_session(session.id, Cause::Closed, None);
        }
        Ok(())
    }

    fn bind(&self, peer: &Peer, from: Option<SessionId>, to: Option<SessionId>) -> Result<(), Refusal> {
        let failure = match self.records().bind_session(peer.process.tgid, peer.exec_id, from, to) {
            Ok(Bound::Done) => return Ok(()),
            Ok(Bound::Gone) => Failure::OriginatorGone("the caller's program image was replaced since it connected"),
            Ok(Bound::Elsewhere) => Failure::OriginatorMismatch("the process came into another session meanwhile"),
            Err(error) => error.into(),
        };
        self.refuse_peer("bind_session", &failure, peer);
        Err(Refusal::Caller(failure))
    }

    fn answer_in_session(&self, peer: &Peer, action: &'static str) -> Result<Option<SessionId>, Refusal> {
        peer.recheck(self.records()).map_err(|failure| {
            self.refuse_peer(action, &failure, peer);
            Refusal::Caller(failure)
        })
    }
}

/// A session whose opener has not been told. It ends unless it is done.
struct Opens<'a> {
    node: &'a Node,
    session: Option<Arc<Session>>,
    /// The process that is in it now, and where it was before.
    bound: Option<(u32, ExecId, Option<SessionId>)>,
}

impl Opens<'_> {
    fn done(mut self) {
        self.session = None;
    }
}

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            if let Some((tgid, exec_id, before)) = self.bound {
                // What it forked meanwhile stays in a session that is over, and gets nothing.
                let back = self.node.records().bind_session(tgid, exec_id, Some(session.id), before);
                tracing::info!(session = %session.id, ?back, "a session was not opened after all");
            }
            self.node.end_session(session.id, Cause::Undone, None);
        }
    }
}

fn facts(session: &Session) -> SessionFacts {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    SessionFacts {
        parent: session.parent.as_ref().map(|parent| parent.id.to_string()),
        verified_by: session.user.verified.as_str().to_owned(),
        issuer: text(&session.user.issuer),
        user_name: text(&session.user.name),
        agent: text(&session.agent),
        purpose: text(&session.purpose),
        scopes: session.scopes.as_ref().map(|scopes| scopes.iter().map(ToString::to_string).collect()),
        is_bound: session.is_bound,
        expires_at: Some(session.expires_at),
    }
}

fn session_id() -> Result<SessionId, Refusal> {
    let mut bytes = [0; 8];
    authority::fill_random(&mut bytes).map_err(Refusal::Authority)?;
    // Zero, one time in some quintillion, is no session.
    SessionId::new(u64::from_ne_bytes(bytes)).or(SessionId::new(1)).ok_or(Refusal::Bug("bug: one is zero"))
}
