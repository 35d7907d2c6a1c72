// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Delegated human contexts: for whom, by whom, for what and how long, and who may act in them.
//!
//! CORE. Which session a process is in stands in the kernel's records, where nothing that it does can change it. Here is
//! what the sessions are, as a bounded table. Does no IO, never decides who may open one, and never keeps a handle, only
//! its digest.

mod handle;
mod registry;
mod user;

use std::sync::Arc;

use jiff::Timestamp;

pub use self::handle::{Handle, HandleDigest, MAX_HANDLE_BYTES};
pub use self::registry::{Limits, Narrowed, Opening, Sessions};
pub use self::user::{MAX_GROUPS, User, Verified};

use crate::identity::SpiffeId;
use crate::policy::{self, PreparedSession, SessionContext, UserContext};
use crate::process::{Ancestor, ExecId, SessionId};

/// Words of what a session is for.
pub const MAX_PURPOSE_BYTES: usize = 256;
/// The name under which an agent acts.
pub const MAX_AGENT_BYTES: usize = 128;
/// Scopes of one session.
pub const MAX_SCOPES: usize = 32;
/// One scope.
pub const MAX_SCOPE_BYTES: usize = 128;

/// One delegated context. Made by [`Session::new`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Session {
    /// Its name. Not a secret.
    pub id: SessionId,
    /// The session that it was delegated from, whose end is its end.
    pub parent: Option<Arc<Session>>,
    /// On whose behalf.
    pub user: Arc<User>,
    /// The name under which the opener lets its agent act.
    pub agent: Option<Box<str>>,
    /// What it is for, in the opener's words.
    pub purpose: Option<Box<str>>,
    /// The destinations that it reaches, by name or label; none: all that policy permits.
    pub scopes: Option<Box<[Box<str>]>>,
    /// Who opened it. Only this exec instance and what descends from it may act in it.
    pub opener: ExecId,
    /// The identity as which it was opened.
    pub opener_id: SpiffeId,
    /// Whether the kernel carries it along the opener's lineage; otherwise each request names it by its handle.
    pub is_bound: bool,
    /// From when.
    pub opened_at: Timestamp,
    /// Until when; at this instant it is over.
    pub expires_at: Timestamp,
    /// The decision that allowed it.
    pub decision_id: Arc<str>,
    /// The digest of what names it in requests.
    pub handle: HandleDigest,
    /// Ready for policy.
    pub prepared: PreparedSession,
}

/// What a session is called, and how it was opened.
#[derive(Debug, Clone)]
pub struct Named {
    /// See [`Session::id`].
    pub id: SessionId,
    /// See [`Session::is_bound`].
    pub is_bound: bool,
    /// See [`Session::opened_at`].
    pub opened_at: Timestamp,
    /// See [`Session::decision_id`].
    pub decision_id: Arc<str>,
    /// See [`Session::handle`].
    pub handle: HandleDigest,
}

impl Session {
    /// Makes it ready for policy.
    ///
    /// # Errors
    /// Only by a bug.
    pub fn new(opening: Narrowed, named: Named) -> Result<Self, policy::Error> {
        let Narrowed { parent, user, agent, purpose, scopes, opener, opener_id, expires_at } = opening;
        let Named { id, is_bound, opened_at, decision_id, handle } = named;
        let depth = parent.as_ref().map_or(0, |parent| parent.depth().saturating_add(1));
        let prepared = PreparedSession::new(&SessionContext {
            id: id.to_string(),
            user: UserContext {
                id: user.id.to_string(),
                verified_by: user.verified.as_str().to_owned(),
                issuer: user.issuer.as_deref().map(str::to_owned),
                subject: user.subject.to_string(),
                name: user.name.as_deref().map(str::to_owned),
                groups: user.groups.iter().map(ToString::to_string).collect(),
            },
            agent: agent.as_deref().map(str::to_owned),
            purpose: purpose.as_deref().map(str::to_owned),
            scopes: scopes.as_ref().map(|scopes| scopes.iter().map(ToString::to_string).collect()),
            depth: u32::try_from(depth).unwrap_or(u32::MAX),
            opener: opener_id.to_string(),
            is_bound,
        })?;
        Ok(Self {
            id,
            parent,
            user,
            agent,
            purpose,
            scopes,
            opener,
            opener_id,
            is_bound,
            opened_at,
            expires_at,
            decision_id,
            handle,
            prepared,
        })
    }

    /// It, then those that it was delegated from.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |session| session.parent.as_deref())
    }

    /// The one at the end of the chain, in whose opener's lineage everything happens.
    pub fn outermost(&self) -> &Self {
        self.chain().last().unwrap_or(self)
    }

    /// How many it was delegated through.
    pub fn depth(&self) -> usize {
        self.chain().count().saturating_sub(1)
    }

    /// Whether it is that session, or was delegated from it.
    pub fn is_within(&self, id: SessionId) -> bool {
        self.chain().any(|session| session.id == id)
    }

    /// Whether an exec instance with these ancestors is its opener or descends from it.
    pub fn holds(&self, exec_id: ExecId, ancestors: &[Ancestor]) -> bool {
        self.opener == exec_id || ancestors.iter().any(|ancestor| ancestor.id == self.opener)
    }

    /// Whether it reaches a destination of this name and these labels. Those that it was delegated from do then, too.
    pub fn reaches(&self, destination: &str, labels: &[Arc<str>]) -> bool {
        self.scopes_for(destination, labels).is_none_or(|mut scopes| scopes.next().is_some())
    }

    /// The scopes by which it reaches a destination; none where it has no scopes and so reaches all that policy permits.
    pub fn scopes_for(&self, destination: &str, labels: &[Arc<str>]) -> Option<impl Iterator<Item = &str>> {
        let reach = move |scope: &&str| **scope == *destination || labels.iter().any(|label| **label == **scope);
        self.scopes.as_ref().map(|scopes| scopes.iter().map(AsRef::as_ref).filter(reach))
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its time was up.
    Expired,
    /// Its opener said so.
    Closed,
    /// An operator said so.
    Revoked,
    /// The one that it was delegated from ended.
    Parent,
    /// Nobody is left who could act in it.
    Abandoned,
    /// It could not be recorded, or its opener was gone before it had it.
    Undone,
}

impl Cause {
    /// The word in the admin API and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Closed => "closed",
            Self::Revoked => "revoked",
            Self::Parent => "parent_ended",
            Self::Abandoned => "abandoned",
            Self::Undone => "undone",
        }
    }
}

/// Why an exec instance acts in no session and may not ask either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotActing {
    /// The session that the kernel has it in is over. It is never as good as none.
    #[error("the session {0} of this process is over")]
    Ended(SessionId),
    /// The handle names none, or one that is over.
    #[error("the handle names no session, or one that is over")]
    UnknownHandle,
    /// Its lineage knows nothing of the session's opener.
    #[error("{exec_id} does not descend from the opener {opener} of the session {session}")]
    NotBelow {
        /// Who asks.
        exec_id: ExecId,
        /// Of the session.
        opener: ExecId,
        /// Which.
        session: SessionId,
    },
    /// The handle is that of a session outside the one that the kernel has it in.
    #[error("the process is in the session {bound}, which {named} was not delegated from")]
    Outside {
        /// That of the kernel.
        bound: SessionId,
        /// That of the handle.
        named: SessionId,
    },
}

/// A session that ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which.
    pub session: Arc<Session>,
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: Timestamp,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// No room.
    #[error("{limit} sessions are open, which is all there can be")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// No room for this opener.
    #[error("the process has opened {limit} sessions, which is all it may have at once")]
    TooManyOfOpener {
        /// The bound.
        limit: usize,
    },
    /// No room for this user.
    #[error("{limit} sessions are open on behalf of the user, which is all there can be")]
    TooManyOfUser {
        /// The bound.
        limit: usize,
    },
    /// It cannot be kept over a restart.
    #[error("the session cannot be written down")]
    NotKept,
    /// It is on nobody's behalf.
    #[error("a session is on behalf of a user: show a token, or ask for the local user")]
    NoUser,
    /// Delegated too often.
    #[error("the session was delegated {limit} times already")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// It is over, or never was.
    #[error("there is no such session")]
    Unknown,
    /// It would reach more than the one that it is delegated from.
    #[error("a delegated session only narrows: {0}")]
    Wider(&'static str),
}
