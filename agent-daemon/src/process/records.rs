// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt::Debug;

use super::{BootTime, Connection, Ended, ExecId, ExecInstance, SessionId, Tuple};

/// The kernel's records could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A map operation failed.
    #[error("cannot {operation} map {map}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// On which map.
        map: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A record kept changing while it was read.
    #[error("the record of process {tgid} did not come to rest")]
    Unstable {
        /// Whose.
        tgid: u32,
    },
    /// A record holds what our programs never write.
    #[error("a record in map {map} is malformed: {what}")]
    Malformed {
        /// Where.
        map: &'static str,
        /// How.
        what: &'static str,
    },
}

/// A bounded thing, how full it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// For people and metrics.
    pub name: &'static str,
    /// In use.
    pub used: u64,
    /// At most.
    pub limit: u64,
}

/// Something that failed, was lost or refused, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// For people and metrics.
    pub name: &'static str,
    /// How often.
    pub value: u64,
}

/// What changes under a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// The exec instance that runs in it.
    pub id: ExecId,
    /// When the process started.
    pub start: BootTime,
    /// The session it is in.
    pub session_id: Option<SessionId>,
}

/// Whether an exec instance came into a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It is in it now.
    Done,
    /// It is over.
    Gone,
    /// It is in another session than was said, and stays there.
    Elsewhere,
}

/// The kernel's records: the truth about processes and connections, read at decision time.
pub trait Records: Debug + Send + Sync + 'static {
    /// Now, on the clock of the records.
    fn now(&self) -> BootTime;

    /// The exec instance now running in a process; none when there is no record.
    ///
    /// # Errors
    /// When the record cannot be read whole. That is never the same as "no record".
    fn process(&self, tgid: u32) -> Result<Option<ExecInstance>, Error>;

    /// Only what changes under a process: the cheap question asked again before every reply.
    ///
    /// # Errors
    /// As [`Records::process`].
    fn current(&self, tgid: u32) -> Result<Option<Current>, Error>;

    /// An exec instance of a session that is over; none when it was in no session, has no descendants, or is forgotten.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn ended(&self, exec_id: ExecId) -> Result<Option<ExecInstance>, Error>;

    /// The exec instances that [`Records::ended`] knows.
    ///
    /// # Errors
    /// When the map cannot be walked.
    fn all_ended(&self) -> Result<Vec<ExecId>, Error>;

    /// Forgets what [`Records::ended`] knows of one. Idempotent.
    fn forget_ended(&self, exec_id: ExecId);

    /// Puts an exec instance, and whatever it forks or execs from then on, into a session.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn bind_session(
        &self,
        tgid: u32,
        exec_id: ExecId,
        from: Option<SessionId>,
        to: Option<SessionId>,
    ) -> Result<Bound, Error>;

    /// Visits every live exec instance, in no order. Those that begin or end meanwhile may be missed.
    ///
    /// # Errors
    /// When the map cannot be walked.
    fn processes(&self, visit: &mut dyn FnMut(ExecInstance)) -> Result<(), Error>;

    /// A connection by its socket's cookie.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn connection(&self, cookie: u64) -> Result<Option<Connection>, Error>;

    /// The cookie of an established TCP connection.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn cookie(&self, tuple: &Tuple) -> Result<Option<u64>, Error>;

    /// Visits every recorded connection, in no order.
    ///
    /// # Errors
    /// When the map cannot be walked.
    fn connections(&self, visit: &mut dyn FnMut(Connection)) -> Result<(), Error>;

    /// Asks that the end of an exec instance be told at once.
    ///
    /// # Errors
    /// When there is no room; the caller must not rely on being told.
    fn watch(&self, exec_id: ExecId) -> Result<(), Error>;

    /// Takes back [`Records::watch`]. Idempotent.
    fn unwatch(&self, exec_id: ExecId);

    /// Asks for an event of everything that happens, or only of what somebody will ask for: the end of whoever is
    /// watched, forked, opened a connection or replaced its image.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn listen(&self, everything: bool) -> Result<(), Error>;

    /// Losses and failures by site.
    fn counts(&self) -> Vec<Count>;

    /// How full the maps are.
    fn capacities(&self) -> Vec<Capacity>;
}

/// What the kernel told us. A hint: losing one never changes an answer.
#[derive(Debug, Clone)]
pub enum Event {
    /// An exec instance was replaced by another.
    Exec {
        /// The one that ended; none when it had no record.
        ended: Option<Box<Ended>>,
        /// Its process.
        tgid: u32,
        /// The one that began.
        exec_id: ExecId,
    },
    /// A process ended.
    Exit {
        /// Its last exec instance.
        ended: Box<Ended>,
    },
    /// A socket was connected or sent from.
    Connect(Box<Connection>),
    /// A recorded socket was closed.
    Close {
        /// Which.
        cookie: u64,
        /// Who opened it.
        exec_id: ExecId,
    },
    /// A governed tree may not execute an image.
    Image(Box<RefusedImage>),
}

/// An image that a governed tree may not execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedImage {
    /// Who called exec.
    pub exec_id: ExecId,
    /// Its process.
    pub tgid: u32,
    /// Its session.
    pub session_id: Option<SessionId>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// The place of the tree.
    pub tree: u32,
    /// The device of the file, major and minor.
    pub device: (u32, u32),
    /// Its inode number.
    pub inode: u64,
    /// The name that was given to exec.
    pub filename: Box<str>,
    /// How it was refused.
    pub means: Means,
}

/// How an image was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// It was not: it is only told of.
    None,
    /// Before it was there: exec failed.
    Hook,
    /// By a signal, before its first instruction.
    Signal,
    /// It should have been so, and the kernel sent no signal.
    Failed,
}
