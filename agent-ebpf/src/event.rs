// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the ring buffer `EVENTS` carries. Events are hints: losing one never changes an answer.

use crate::record::ConnectionRecord;
use crate::{Text, limits};

/// Values of [`EventHeader::kind`].
pub mod kind {
    /// An exec instance was replaced by another: [`super::ExecEvent`].
    pub const EXEC: u32 = 1;
    /// A process ended: [`super::ExitEvent`].
    pub const EXIT: u32 = 2;
    /// A socket was connected or sent from: [`super::ConnectEvent`].
    pub const CONNECT: u32 = 3;
    /// A recorded socket was closed: [`super::CloseEvent`].
    pub const CLOSE: u32 = 4;
    /// A governed tree may not execute an image: [`super::ImageEvent`].
    pub const IMAGE: u32 = 5;
}

/// The start of every event.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::IntoBytes)
)]
pub struct EventHeader {
    /// `CLOCK_BOOTTIME`.
    pub ktime_ns: u64,
    /// See [`kind`].
    pub kind: u32,
    /// Thread group.
    pub tgid: u32,
}

/// What is told of an exec instance that ended: enough to end its leases and to name it in the lineages of others.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::IntoBytes)
)]
pub struct EndedExec {
    /// Its id.
    pub exec_id: u64,
    /// `CLOCK_BOOTTIME` when it began.
    pub ktime_ns: u64,
    /// Task name, NUL-padded.
    pub comm: Text<{ limits::COMM / 8 }>,
    /// Valid bytes of `filename`.
    pub filename_len: u32,
    /// Zero.
    pub padding: u32,
    /// The name given to `execve`.
    pub filename: Text<{ limits::FILENAME / 8 }>,
}

/// An exec instance was replaced.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::IntoBytes)
)]
pub struct ExecEvent {
    /// Kind, time, thread group.
    pub header: EventHeader,
    /// The new exec instance.
    pub exec_id: u64,
    /// The one that ended; `exec_id` zero when there was no record.
    pub ended: EndedExec,
}

/// A process ended.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::IntoBytes)
)]
pub struct ExitEvent {
    /// Kind, time, thread group.
    pub header: EventHeader,
    /// Its last exec instance.
    pub ended: EndedExec,
}

/// A socket was connected or sent from.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::IntoBytes)
)]
pub struct ConnectEvent {
    /// Kind, time, thread group.
    pub header: EventHeader,
    /// As it stands in the map.
    pub connection: ConnectionRecord,
}

/// A recorded socket was closed.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::IntoBytes)
)]
pub struct CloseEvent {
    /// Kind, time, thread group of the opener.
    pub header: EventHeader,
    /// Socket cookie.
    pub cookie: u64,
    /// The exec instance that opened it.
    pub exec_id: u64,
}

/// An image that a governed tree may not execute.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, zerocopy::FromBytes, zerocopy::Immutable, zerocopy::KnownLayout, zerocopy::IntoBytes)
)]
pub struct ImageEvent {
    /// Kind, time, thread group.
    pub header: EventHeader,
    /// Who called exec.
    pub exec_id: u64,
    /// Its session; zero: none.
    pub session_id: u64,
    /// Inode number of the file.
    pub inode: u64,
    /// Its device in the kernel's own form.
    pub dev: u32,
    /// Effective user id of who called exec.
    pub euid: u32,
    /// Its effective group id.
    pub egid: u32,
    /// The governed tree.
    pub tree: u32,
    /// Valid bytes of `filename`.
    pub filename_len: u16,
    /// See [`crate::verdict`].
    pub verdict: u8,
    /// See [`crate::means`].
    pub means: u8,
    /// Zero.
    pub padding: u32,
    /// The name given to `execve`.
    pub filename: Text<{ limits::FILENAME / 8 }>,
}

const _: () = {
    assert!(size_of::<ImageEvent>() == 16 + 3 * 8 + 4 * 4 + 8 + 256);
    assert!(size_of::<EventHeader>() == 16);
    assert!(size_of::<ExecEvent>() == 24 + size_of::<EndedExec>());
    assert!(size_of::<EndedExec>() == 40 + limits::FILENAME);
    assert!(size_of::<ExitEvent>() == 16 + size_of::<EndedExec>());
    assert!(size_of::<ConnectEvent>() == 16 + size_of::<ConnectionRecord>());
    assert!(size_of::<CloseEvent>() == 32);
};
