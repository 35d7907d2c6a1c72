// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Every bound of the kernel half, in one place. All of them are exported by `agentctl status`.

/// Inode number of the initial user namespace (`PROC_USER_INIT_INO`), part of the kernel's ABI.
pub const INITIAL_USER_NAMESPACE: u32 = 0xefff_fffd;
/// Inode number of the initial PID namespace (`PROC_PID_INIT_INO`), part of the kernel's ABI.
pub const INITIAL_PID_NAMESPACE: u32 = 0xefff_fffc;
/// Live processes that can be bound at once. A process beyond this has no record and gets nothing.
pub const PROCESSES: u32 = 131_072;
/// Open sockets that can be bound at once.
pub const CONNECTIONS: u32 = 65_536;
/// Bytes of the ring buffer; a power of two and a multiple of the page size. Where nobody watches, few events are told.
pub const EVENTS_BYTES: u32 = 1024 * 1024;
/// Places to mark the exec instances whose end must reach the daemon at once because they hold a lease. Two whose ids
/// are the same but for a multiple of this share one, and the end of either wakes the daemon.
pub const WATCHED: u32 = 65_536;
/// Exec instances of sessions that ended and have descendants, kept so that these can be asked for as whom they act. One
/// beyond this is forgotten, and its descendants get nothing in their session.
pub const ENDED: u32 = 16_384;
/// Ancestors kept in a record, nearest first. Longer lineages are flagged as truncated.
pub const ANCESTORS: usize = 16;
/// Bytes of the file name given to `execve`, without a terminator.
pub const FILENAME: usize = 256;
/// Bytes of a task's name.
pub const COMM: usize = 16;
/// The ring buffer wakes its reader when this part of it is full, even if nothing urgent happened.
pub const EVENTS_WAKE_SHARE: u64 = 4;
