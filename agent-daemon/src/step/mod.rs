// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an agent says that it is doing: the steps of its reasoning, and which of the kernel's events belong to which.
//!
//! CORE. A step is the agent's word, and nothing is decided by it; what is joined to it says by what it was joined. Does no
//! IO and holds no content: what the operator wants kept of that goes into the log and nowhere else.

mod content;
mod context;
mod registry;
mod secrets;

use jiff::Timestamp;

pub use self::content::{Content, Keep, MAX_CONTENT_BYTES, MAX_PATTERN_BYTES, Pattern};
pub(crate) use self::context::parse_span_id;
pub use self::context::{NoTraceContext, TraceContext};
pub use self::registry::{Ended, Joined, JoinedBy, Limits, Moment, Steps};

use crate::process::{BootTime, ExecId, SessionId};

/// A step's name, for example that of a tool.
pub const MAX_NAME_BYTES: usize = 128;
/// A hash or an id of what the step is about.
pub const MAX_REFERENCE_BYTES: usize = 128;

/// What kind of step it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What the agent was told to do.
    Instruction,
    /// It thinks.
    Reasoning,
    /// It uses a tool.
    ToolCall,
    /// It asks somebody whether it may.
    Approval,
}

impl Kind {
    /// The word in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Instruction => "instruction",
            Self::Reasoning => "reasoning",
            Self::ToolCall => "tool_call",
            Self::Approval => "approval",
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What names it.
    pub context: TraceContext,
    /// The step in which it is one.
    pub parent: Option<[u8; 8]>,
    /// What kind.
    pub kind: Kind,
    /// What it is called.
    pub name: Option<Box<str>>,
    /// What it is about.
    pub reference: Option<Box<str>>,
    /// In which session.
    pub session: SessionId,
    /// Who takes it.
    pub exec_id: ExecId,
    /// By which of its threads.
    pub tid: Option<u32>,
    /// From when, on the kernel's clock.
    pub began: BootTime,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// Why a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its agent said so.
    Done,
    /// Its agent said so, and that it failed.
    Failed,
    /// Its time was up.
    Expired,
    /// Its session ended.
    SessionEnded,
}

impl Cause {
    /// The word in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::SessionEnded => "session_ended",
        }
    }
}

/// Why a step is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The session has a step of this name, or had it a moment ago.
    #[error("the session has this step already")]
    Known,
    /// Its parent is no step that is under way in its session.
    #[error("the step in which it is one is not under way in this session")]
    NoParent,
    /// Steps in steps in steps.
    #[error("steps nest {limit} deep at most")]
    TooDeep {
        /// The bound.
        limit: usize,
    },
    /// No room in the session.
    #[error("the session has {limit} steps under way, which is all it may have at once")]
    TooManyOfSession {
        /// The bound.
        limit: usize,
    },
    /// No room.
    #[error("{limit} steps are under way, which is all there can be")]
    TooMany {
        /// The bound.
        limit: usize,
    },
    /// None of this name is under way by this exec instance.
    #[error("the caller has no such step under way")]
    NotUnderWay,
    /// The caller acts for nobody.
    #[error("a step belongs to a session, and the caller is in none")]
    NoSession,
    /// Not one of the caller's threads.
    #[error("the thread is not one of the caller's")]
    NoThread,
}

impl Error {
    /// The word in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Known => "step_known",
            Self::NoParent => "step_without_parent",
            Self::TooDeep { .. } => "step_too_deep",
            Self::TooManyOfSession { .. } | Self::TooMany { .. } => "step_limit",
            Self::NotUnderWay => "step_not_under_way",
            Self::NoSession => "no_session",
            Self::NoThread => "no_such_thread",
        }
    }
}
