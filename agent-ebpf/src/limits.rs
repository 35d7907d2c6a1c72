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
/// Trees with settings of their own: entries of which each governs what is started below it.
pub const TREES: u32 = 1024;
/// Classes of exec instances: those of one class may reach the same. Twice, for the set in use and the next one.
pub const CLASSES: u32 = 1024;
/// Groups of destinations: those of one group are reached at the same address.
pub const GROUPS: u32 = 2048;
/// Addresses and ranges of declared destinations, each with every port. Those beyond it are reached by nobody governed.
pub const ADDRESSES: u32 = 131_072;
/// Files that governed trees may execute, each with every tree whose it is. Those beyond it are not.
pub const IMAGES: u32 = 32_768;
/// Refusals of which it is remembered that they were told a moment ago. One that is forgotten is told again.
pub const TOLD: u32 = 4096;
/// Nanoseconds for which the same refusal is not told again.
pub const TOLD_AGAIN_NS: u64 = 1_000_000_000;
