// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What policy permits only if a person approves waits for that person, for so long and no longer.
//!
//! Everything is decided anew once the word is there: policy, the caller and its session may have changed meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;

use super::decide::Verdicted;
use super::reason::Reason;
use super::release::{decision_id, deny};
use super::{Node, Refusal, bump};
use crate::approval::{Approvals, Given, Key, Taken, Waiting};
use crate::attest::{Attested, Peer};
use crate::audit::{self, ApprovalFacts, ApprovalRecord, Caller, Record, Slot};

/// A person's answer.
#[derive(Debug)]
pub struct Answer {
    /// Yes or no.
    pub is_allowed: bool,
    /// Whether the same is answered so for the rest of the session.
    pub is_for_session: bool,
    /// Why, in words.
    pub reason: String,
    /// Who answers.
    pub by: Caller,
}

/// Why an answer did not count.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is over: answered, or its time was up, or whoever asked is gone.
    #[error("no such request waits for an approval (any more)")]
    NotWaiting,
    /// There is no session for which it could be said.
    #[error("the request is in no session; answer it once")]
    NoSession,
    /// It could not be recorded, so it does not count.
    #[error("the answer could not be recorded and does not count: the request is refused")]
    Audit(#[from] audit::Error),
}

/// No longer than it may take. What is dropped half way undoes itself.
pub(super) async fn in_time<T>(
    time: Option<Duration>,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    match time {
        Some(time) => tokio::time::timeout(time, work).await.unwrap_or(Err(Refusal::TooSlow)),
        None => work.await,
    }
}

/// What to do with a decision.
pub(super) enum Next {
    /// Go on with it.
    Conclude(Slot, Box<Verdicted>),
    /// Decide again, with this word.
    Again(Arc<Given>),
}

impl Node {
    /// Those that wait, and what was said for sessions.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// Waits for a person where policy wants one.
    pub(super) async fn approved(
        &self,
        peer: &Peer,
        attested: &Attested,
        slot: Slot,
        mut verdicted: Verdicted,
    ) -> Result<Next, Refusal> {
        let is_wanted = verdicted.record.reason == Reason::ApprovalRequired.as_str() && verdicted.grounds.is_none();
        let key = is_wanted.then(|| Key::of(&verdicted.record)).flatten();
        let Some(key) = key else { return Ok(Next::Conclude(slot, Box::new(verdicted))) };
        if let Some(given) = self.approvals.remembered(&key) {
            if given.is_allowed {
                return Ok(Next::Again(Arc::new(given)));
            }
            verdicted.record.approval = Some(given.facts);
            deny(&mut verdicted, Reason::ApprovalDenied, "a person refused it for this session".to_owned());
            return Ok(Next::Conclude(slot, Box::new(verdicted)));
        }
        if !self.denials.take(attested.evidence.uid, Instant::now()) {
            bump(&self.counters.denials_unrecorded);
            return Err(Refusal::RateLimited { retry_after: self.denials.refill() });
        }
        let since = self.clock.now();
        let patience = SignedDuration::try_from(self.approval_wait).unwrap_or(SignedDuration::MAX);
        let waiting = Waiting {
            id: decision_id()?.into(),
            exec_id: peer.exec_id,
            key,
            record: Arc::new(verdicted.record.clone()),
            since,
            until: since.saturating_add(patience).unwrap_or(since),
        };
        let request = record_of(&waiting, "requested");
        let id = Arc::clone(&waiting.id);
        let told = match self.approvals.ask(waiting) {
            Ok(told) => told,
            Err(full) => {
                deny(&mut verdicted, Reason::ApprovalLimit, full.to_string());
                verdicted.is_passing = true;
                return Ok(Next::Conclude(slot, Box::new(verdicted)));
            }
        };
        let mut waits = Waits { node: self, id: Some(id) };
        tracing::info!(
            approval = &*request.approval_id,
            destination = request.destination,
            "a request waits for an approval"
        );
        if let Err(error) = self.log.append(&Record::Approval(Box::new(request))) {
            return Err(self.audit_refused(error));
        }
        // What waits for a person must not take the log's places from others.
        drop(slot);
        let outcome = tokio::time::timeout(self.approval_wait, told).await;
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        match outcome {
            Ok(Ok(given)) => {
                waits.id = None;
                if given.is_allowed {
                    return Ok(Next::Again(Arc::new(given)));
                }
                verdicted.record.approval = Some(given.facts);
                deny(&mut verdicted, Reason::ApprovalDenied, "a person refused it".to_owned());
            }
            Ok(Err(_)) => {
                waits.id = None;
                deny(&mut verdicted, Reason::ApprovalDenied, "the answer could not be recorded".to_owned());
            }
            Err(_) => {
                waits.over("expired");
                let detail = format!("nobody answered in {} s", self.approval_wait.as_secs());
                deny(&mut verdicted, Reason::ApprovalExpired, detail);
            }
        }
        Ok(Next::Conclude(slot, Box::new(verdicted)))
    }

    /// A person answers a request that waits. It counts when it is in the log. A word for a session answers all that wait
    /// for the same.
    ///
    /// # Errors
    /// See [`AnswerError`].
    pub fn answer_approval(&self, id: &str, answer: &Answer) -> Result<Arc<Waiting>, AnswerError> {
        let all = self.approvals.waiting();
        let asked = all.iter().find(|waiting| *waiting.id == *id).ok_or(AnswerError::NotWaiting)?;
        if !answer.is_for_session {
            return self.answer_one(id, answer);
        }
        let session = asked.record.session_id.clone().ok_or(AnswerError::NoSession)?;
        let answered = self.answer_one(id, answer)?;
        for other in all.iter().filter(|other| other.id != asked.id && other.key == asked.key) {
            match self.answer_one(&other.id, answer) {
                Ok(_) | Err(AnswerError::NotWaiting) => {}
                Err(error) => return Err(error),
            }
        }
        // Whoever ends a session forgets what was said for it, before or after this.
        if !session.parse().is_ok_and(|id| self.sessions().session(id).is_some()) {
            self.approvals.forget(&session);
        }
        Ok(answered)
    }

    fn answer_one(&self, id: &str, answer: &Answer) -> Result<Arc<Waiting>, AnswerError> {
        let taken: Taken = self.approvals.take(id).ok_or(AnswerError::NotWaiting)?;
        let waiting = Arc::clone(&taken.waiting);
        let scope = if answer.is_for_session { "session" } else { "once" };
        let facts =
            ApprovalFacts { approval_id: waiting.id.to_string(), scope: scope.to_owned(), by_uid: answer.by.uid };
        let record = ApprovalRecord {
            scope: Some(scope.to_owned()),
            by: Some(answer.by.clone()),
            reason: answer.reason.clone(),
            ..record_of(&waiting, if answer.is_allowed { "allowed" } else { "denied" })
        };
        self.log.append(&Record::Approval(Box::new(record)))?;
        let given = Given { key: waiting.key.clone(), is_allowed: answer.is_allowed, facts };
        if answer.is_for_session {
            self.approvals.remember(given.clone());
        }
        if !taken.tell(given) {
            // Whoever asked left meanwhile. A word for the session stands all the same.
            self.record_over(&waiting, "abandoned");
            if !answer.is_for_session {
                return Err(AnswerError::NotWaiting);
            }
        }
        Ok(waiting)
    }

    fn record_over(&self, waiting: &Waiting, state: &str) {
        if let Err(error) = self.log.append(&Record::Approval(Box::new(record_of(waiting, state)))) {
            bump(&self.counters.audit_refused);
            tracing::error!(%error, approval = &*waiting.id, state, "the end of a wait could not be recorded");
        }
    }

    /// How long a request waits for a person.
    pub fn approval_wait(&self) -> Duration {
        self.approval_wait
    }
}

/// A request that waits. When the caller hangs up, the call is dropped here.
struct Waits<'a> {
    node: &'a Node,
    id: Option<Arc<str>>,
}

impl Waits<'_> {
    fn over(&mut self, state: &str) {
        // An operator may have taken it a moment ago; then that is on record.
        let taken = self.id.take().and_then(|id| self.node.approvals.take(&id));
        if let Some(Taken { waiting, .. }) = taken {
            self.node.record_over(&waiting, state);
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.over("abandoned");
    }
}

fn record_of(waiting: &Waiting, state: &str) -> ApprovalRecord {
    let decided = &*waiting.record;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    ApprovalRecord {
        approval_id: waiting.id.to_string(),
        state: state.to_owned(),
        decision_id: decided.decision_id.clone(),
        exec_id: decided.exec.exec_id,
        tgid: decided.exec.tgid,
        spiffe_id: text(&decided.spiffe_id),
        user: decided.user.clone(),
        session_id: decided.session_id.clone(),
        action: decided.action.clone(),
        actors: decided.actors.clone(),
        subject_lease_id: decided.subject_lease_id.clone(),
        destination: text(&decided.destination),
        binding: text(&decided.binding),
        policy_ids: decided.approval_policy_ids.clone(),
        ..ApprovalRecord::default()
    }
}
