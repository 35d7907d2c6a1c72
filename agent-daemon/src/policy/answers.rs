// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Answers, kept for whoever asks the same again.
//!
//! Evaluation is pure: the same question to the same policies has the same answer. What a question is made of is kept
//! whole and compared whole, so an answer can only be given to the very question it was found for. The time and the
//! audiences of a token, which may be others in every request, are a part of it where a policy that can match reads
//! them; the time then only to the second.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::load::Reads;
use super::prepared::{DestinationEntity, SessionEntities};
use super::{
    Action, ConnectionContext, CredentialContext, Decision, Generation, Policies, PreparedPrincipal, PreparedSession,
    Request,
};

/// Answers kept for one identity of one exec instance. When there are more, the oldest is forgotten.
pub const MAX_ANSWERS: usize = 64;
const MAX_PERMITTED: usize = 16;

/// The answers to one principal's questions.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<VecDeque<Answer>>);

#[derive(Debug)]
struct Answer {
    question: Question,
    generation: Generation,
    second: i64,
    /// What of the time and the audiences it holds for alone.
    reads: Reads,
    decision: Arc<Decision>,
}

/// Requests that were permitted in a wider sense than by one answer, for example to others, too, as somebody else found out:
/// for whoever asks the same again of the same policies. What was refused is not here.
#[derive(Debug, Default)]
pub struct Permitted(Mutex<VecDeque<Yes>>);

#[derive(Debug)]
struct Yes {
    principal: PreparedPrincipal,
    question: Question,
    generation: Generation,
    second: i64,
}

impl Permitted {
    /// Whether it was.
    pub fn holds(&self, policies: &Policies, request: &Request<'_>) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().any(|yes| {
            yes.principal.is(request.principal)
                && yes.question.is_of(request, policies.reads)
                && (!policies.reads.clock || yes.second == request.now.as_second())
                && yes.generation == *policies.generation()
        })
    }

    /// It was, and nothing but what is a part of a request was asked for.
    pub fn keep(&self, policies: &Policies, request: &Request<'_>) {
        let Some(question) = Question::of(request) else { return };
        let (principal, generation) = (request.principal.clone(), policies.generation().clone());
        let yes = Yes { principal, question, generation, second: request.now.as_second() };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_PERMITTED {
            kept.pop_front();
        }
        kept.push_back(yes);
    }
}

/// Everything of a request but its principal, whose answers these are, and the time.
#[derive(Debug)]
enum Question {
    Attest,
    Connect {
        destination: Arc<DestinationEntity>,
        session: Option<Arc<SessionEntities>>,
    },
    Release {
        // Kept, so that the address cannot come to be that of another destination.
        destination: Arc<DestinationEntity>,
        connection: Option<ConnectionContext>,
        credential: CredentialContext,
        renewal: bool,
        session: Option<Arc<SessionEntities>>,
    },
}

impl Answers {
    /// The answer that these policies gave to the same question.
    pub(super) fn find(&self, request: &Request<'_>, generation: &Generation) -> Option<Arc<Decision>> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |answer: &&Answer| {
            answer.question.is_of(request, answer.reads)
                && (!answer.reads.clock || answer.second == request.now.as_second())
                && answer.generation == *generation
        };
        answers.iter().find(same).map(|answer| Arc::clone(&answer.decision))
    }

    /// Keeps an answer, which may depend on what the policies read.
    pub(super) fn keep(&self, request: &Request<'_>, reads: Reads, decision: &Arc<Decision>) {
        let Some(question) = Question::of(request) else { return };
        let answer = Answer {
            question,
            generation: decision.generation.clone(),
            second: request.now.as_second(),
            reads,
            decision: Arc::clone(decision),
        };
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|kept| !kept.question.is_of(request, kept.reads));
        if answers.len() >= MAX_ANSWERS {
            answers.pop_front();
        }
        answers.push_back(answer);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Question {
    /// None of a question that nobody asks twice.
    fn of(request: &Request<'_>) -> Option<Self> {
        Some(match request.action {
            Action::ActFor { .. } => return None,
            Action::Connect { destination, session } => {
                Self::Connect { destination: destination.shared(), session: session.map(PreparedSession::shared) }
            }
            Action::Attest => Self::Attest,
            Action::Release { destination, connection, credential, renewal, session } => Self::Release {
                destination: destination.shared(),
                connection: connection.cloned(),
                credential: credential.clone(),
                renewal,
                session: session.map(PreparedSession::shared),
            },
        })
    }

    fn is_of(&self, request: &Request<'_>, reads: Reads) -> bool {
        match (self, request.action) {
            (Self::Attest, Action::Attest) => true,
            (
                Self::Release { destination, connection, credential, renewal, session },
                Action::Release {
                    destination: asked_destination,
                    connection: asked_connection,
                    credential: asked_credential,
                    renewal: asked_renewal,
                    session: asked_session,
                },
            ) => {
                asked_destination.is(destination)
                    && connection.as_ref() == asked_connection
                    && is_same(credential, asked_credential, reads)
                    && *renewal == asked_renewal
                    && is_in(session.as_ref(), asked_session)
            }
            (
                Self::Connect { destination, session },
                Action::Connect { destination: asked_destination, session: asked_session },
            ) => asked_destination.is(destination) && is_in(session.as_ref(), asked_session),
            (_, Action::ActFor { .. })
            | (Self::Attest, Action::Release { .. } | Action::Connect { .. })
            | (Self::Connect { .. }, Action::Release { .. } | Action::Attest)
            | (Self::Release { .. }, Action::Connect { .. } | Action::Attest) => false,
        }
    }
}

fn is_in(session: Option<&Arc<SessionEntities>>, asked: Option<&PreparedSession>) -> bool {
    match (session, asked) {
        (None, None) => true,
        (Some(session), Some(asked)) => asked.is(session),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn is_same(one: &CredentialContext, other: &CredentialContext, reads: Reads) -> bool {
    let CredentialContext { binding, credential_type, delivery, audiences, ttl_seconds } = one;
    *binding == other.binding
        && *credential_type == other.credential_type
        && *delivery == other.delivery
        && *ttl_seconds == other.ttl_seconds
        && (!reads.audiences || *audiences == other.audiences)
}
