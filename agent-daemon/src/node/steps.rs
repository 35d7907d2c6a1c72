// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The steps that agents say they take, and which of them a decision belongs to.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::decide::Verdicted;
use super::release::decision_id;
use super::{Node, Refusal, bump, draft};
use crate::attest::{Attested, Peer};
use crate::audit::{Log, Record, StepContent, StepEndedRecord, StepFacts, StepRecord};
use crate::hex::hex;
use crate::process::{Connection, ExecInstance, SessionId};
use crate::session::{HandleDigest, Session};
use crate::step::{self, Cause, Content, Ended, Keep, Kind, Moment, Step, Steps, TraceContext};

/// How many steps there may be, how long one may take, and what is kept of them.
#[derive(Debug, Clone)]
pub struct StepRules {
    /// Bounds.
    pub limits: step::Limits,
    /// One that nobody ended is over after this.
    pub lifetime: Duration,
    /// What is kept of their content.
    pub keep: Keep,
}

/// A step that somebody begins.
#[derive(Debug)]
pub struct StepAsk {
    /// See [`Step::context`].
    pub context: TraceContext,
    /// See [`Step::parent`].
    pub parent: Option<[u8; 8]>,
    /// See [`Step::kind`].
    pub kind: Kind,
    /// See [`Step::name`].
    pub name: Option<Box<str>>,
    /// See [`Step::reference`].
    pub reference: Option<Box<str>>,
    /// See [`Step::tid`].
    pub tid: Option<u32>,
    /// The session, where the request names it by its handle.
    pub session: Option<HandleDigest>,
    /// What it is about; see [`Keep`].
    pub content: Box<str>,
}

impl Node {
    /// The steps that are under way.
    pub fn steps(&self) -> &Steps {
        &self.delegation.steps
    }

    /// What is kept of the content of steps.
    pub fn keeps_of_steps(&self) -> &Keep {
        &self.delegation.step_rules.keep
    }

    /// Takes down that the caller begins a step.
    ///
    /// # Errors
    /// See [`Refusal`]. Each is in the audit log.
    pub async fn begin_step(&self, peer: &Peer, ask: StepAsk) -> Result<(), Refusal> {
        const ACTION: &str = "begin_step";
        let (attested, session) = self.stepping(peer, ACTION, ask.session).await?;
        let instance = &attested.evidence.instance;
        let tgid = instance.process.tgid;
        if ask.tid.is_some_and(|tid| !self.attestor.has_thread(tgid, tid)) {
            return Err(self.refuse_step(ACTION, step::Error::NoThread, peer));
        }
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let now = self.clock.now();
        let life = SignedDuration::try_from(self.delegation.step_rules.lifetime).unwrap_or(SignedDuration::MAX);
        let step = Step {
            context: ask.context,
            parent: ask.parent,
            kind: ask.kind,
            name: ask.name,
            reference: ask.reference,
            session: session.id,
            exec_id: instance.id,
            tid: ask.tid,
            began: self.records().now(),
            expires_at: now.saturating_add(life).unwrap_or(Timestamp::MAX),
        };
        let step = self.steps().begin(step).map_err(|error| self.refuse_step(ACTION, error, peer))?;
        let beginning = Beginning { steps: self.steps(), step: Some(Arc::clone(&step)) };
        let record = Record::Step(StepRecord {
            session_id: session.id.to_string(),
            user: session.user.id.to_string(),
            step: facts(&step),
            content: self.keeps_of_steps().of(&ask.content).map(|Content { text, redacted, is_cut }| StepContent {
                text,
                redacted,
                is_cut,
            }),
        });
        Log::commit(slot, &record).await.map_err(|error| self.audit_refused(error))?;
        if !beginning.done() {
            // Its session ended while it was written.
            self.record_steps(vec![Ended { step, cause: Cause::SessionEnded }]);
        } else if self.sessions().session(session.id).is_none() {
            // Whoever ended the session did not find it.
            self.end_steps(session.id);
        }
        self.answer_only_if_same(peer, ACTION)
    }

    /// Takes down that a step of the caller's is over.
    ///
    /// # Errors
    /// See [`Refusal`]. Each is in the audit log.
    pub async fn end_step(
        &self,
        peer: &Peer,
        context: TraceContext,
        has_failed: bool,
        handle: Option<HandleDigest>,
    ) -> Result<(), Refusal> {
        const ACTION: &str = "end_step";
        let (attested, session) = self.stepping(peer, ACTION, handle).await?;
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        // It may have come into a session within that of the step meanwhile.
        let sessions: Vec<SessionId> = session.chain().map(|session| session.id).collect();
        let found = self.steps().end(&sessions, attested.evidence.instance.id, context);
        let step = found.map_err(|error| self.refuse_step(ACTION, error, peer))?;
        let ending = Ending { node: self, step: Some(Arc::clone(&step)) };
        let cause = if has_failed { Cause::Failed } else { Cause::Done };
        Log::commit(slot, &ended_record(&step, cause)).await.map_err(|error| self.audit_refused(error))?;
        ending.done();
        self.answer_only_if_same(peer, ACTION)
    }

    /// The caller, and the session in which it takes steps.
    async fn stepping(
        &self,
        peer: &Peer,
        action: &'static str,
        handle: Option<HandleDigest>,
    ) -> Result<(Arc<Attested>, Arc<Session>), Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, action, &snapshot).await?;
        match self.acting_in(&attested.evidence.instance, handle) {
            Ok(Some(session)) => Ok((attested, session)),
            Ok(None) => Err(self.refuse_step(action, step::Error::NoSession, peer)),
            Err(denial) => {
                let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
                let record = draft::draft(decision_id()?, action, &attested, &snapshot);
                Err(self.denied(slot, Verdicted::denied(record, denial)).await)
            }
        }
    }

    fn refuse_step(&self, action: &'static str, error: step::Error, peer: &Peer) -> Refusal {
        self.refuse_request(action, error.as_str(), &error.to_string(), peer);
        Refusal::Steps(error)
    }

    /// The step that a decision belongs to, as the record says it.
    pub(super) fn step_of(
        &self,
        session: &Session,
        instance: &ExecInstance,
        connection: Option<&Connection>,
        traceparent: Option<&str>,
    ) -> Option<StepFacts> {
        let sessions: Vec<SessionId> = session.chain().map(|session| session.id).collect();
        if self.steps().is_empty_for(&sessions) {
            return None;
        }
        let moment = Moment {
            sessions: &sessions,
            by: instance,
            at: connection.map_or_else(|| self.records().now(), |connection| connection.at),
            tid: connection.map(|connection| connection.tid),
            context: traceparent.and_then(|text| text.parse().ok()),
        };
        let joined = self.steps().joined(&moment)?;
        Some(StepFacts {
            session_id: Some(joined.step.session.to_string()),
            joined_by: Some(joined.by.as_str().to_owned()),
            ..facts(&joined.step)
        })
    }

    pub(super) fn end_steps(&self, session: SessionId) {
        self.record_steps(self.steps().end_session(session));
    }

    /// Ends the steps that nobody ended, and forgets those of sessions that are over.
    pub fn expire_steps(&self) {
        self.record_steps(self.steps().expire(self.clock.now(), self.records().now()));
        for session in self.steps().sessions() {
            if self.sessions().session(session).is_none() {
                self.end_steps(session);
            }
        }
    }

    fn record_steps(&self, ended: Vec<Ended>) {
        for Ended { step, cause } in ended {
            if let Err(error) = self.log.append(&ended_record(&step, cause)) {
                bump(&self.counters.audit_refused);
                tracing::error!(%error, session = %step.session, "the end of a step could not be recorded");
            }
        }
    }
}

/// A step whose record is being written. It never was unless it is done.
struct Beginning<'a> {
    steps: &'a Steps,
    step: Option<Arc<Step>>,
}

impl Beginning<'_> {
    /// Whether it is one now: its session may have ended meanwhile.
    fn done(mut self) -> bool {
        self.step.take().is_some_and(|step| self.steps.begun(&step))
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            self.steps.never_begun(&step);
        }
    }
}

/// A step the record of whose end is being written. It goes on unless it is done.
struct Ending<'a> {
    node: &'a Node,
    step: Option<Arc<Step>>,
}

impl Ending<'_> {
    fn done(mut self) {
        if let Some(step) = self.step.take() {
            self.node.steps().ended(&step, self.node.records().now());
        }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            self.node.steps().not_ended(&step);
        }
    }
}

fn ended_record(step: &Step, cause: Cause) -> Record {
    Record::StepEnded(StepEndedRecord {
        session_id: step.session.to_string(),
        step: facts(step),
        cause: cause.as_str().to_owned(),
    })
}

fn facts(step: &Step) -> StepFacts {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    StepFacts {
        trace_id: step.context.trace_id(),
        span_id: hex(&step.context.span_id()),
        parent_span_id: step.parent.map(|id| hex(&id)),
        kind: step.kind.as_str().to_owned(),
        name: text(&step.name),
        reference: text(&step.reference),
        exec_id: step.exec_id.0,
        tid: step.tid,
        session_id: None,
        joined_by: None,
    }
}
