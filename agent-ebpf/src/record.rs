// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the kernel maps hold: processes and connections.

use crate::limits;

/// Bits of [`ExecRecord::flags`].
pub mod flags {
    /// Some fact could not be read; nothing is released on such a record.
    pub const INCOMPLETE: u32 = 1 << 0;
    /// Older than the kernel programs: read from `/proc` by the daemon.
    pub const SEEDED: u32 = 1 << 1;
    /// Forked and not exec'd since: the image is the parent's.
    pub const FORK: u32 = 1 << 2;
    /// Started through `#!`: the file name is the script's.
    pub const SCRIPT: u32 = 1 << 3;
    /// The image comes from `memfd_create`.
    pub const MEMFD: u32 = 1 << 4;
    /// The image had no name left when it was executed.
    pub const DELETED: u32 = 1 << 5;
    /// The image is setuid or setgid, or the ids changed by the exec.
    pub const SETUID: u32 = 1 << 6;
    /// A tracer was attached at exec.
    pub const TRACED: u32 = 1 << 7;
    /// `no_new_privs` was set at exec.
    pub const NO_NEW_PRIVS: u32 = 1 << 8;
    /// More ancestors than [`crate::limits::ANCESTORS`].
    pub const LINEAGE_TRUNCATED: u32 = 1 << 9;
    /// The file name was longer than [`crate::limits::FILENAME`].
    pub const FILENAME_TRUNCATED: u32 = 1 << 10;
    /// A kernel thread.
    pub const KERNEL_THREAD: u32 = 1 << 11;
    /// The image lies on a file system that somebody mounted in a user namespace: whoever did may change what
    /// is in a file without a trace.
    pub const USER_MOUNTED: u32 = 1 << 12;
}

/// Values of [`ConnectionRecord::hook`].
pub mod hook {
    /// `cgroup/connect4`
    pub const CONNECT4: u8 = 1;
    /// `cgroup/connect6`
    pub const CONNECT6: u8 = 2;
    /// `cgroup/sendmsg4`
    pub const SENDMSG4: u8 = 3;
    /// `cgroup/sendmsg6`
    pub const SENDMSG6: u8 = 4;
}

/// One exec instance: the value of map `PROCESSES`, whose key is the tgid.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct ExecRecord {
    /// Unique per boot.
    pub exec_id: u64,
    /// The exec instance that made this one; zero at the top of a tree.
    pub parent_exec_id: u64,
    /// `task_struct.start_boottime` of the process.
    pub start_boottime_ns: u64,
    /// `CLOCK_BOOTTIME` when this exec instance began.
    pub ktime_ns: u64,
    /// Inherited on fork and exec; zero: none.
    pub session_id: u64,
    /// cgroup v2 id (inode number of its directory).
    pub cgroup_id: u64,
    /// Inode number of the executed file.
    pub exe_inode: u64,
    /// Its change time, seconds since the epoch.
    pub exe_ctime_sec: i64,
    /// Effective capabilities at exec or fork.
    pub cap_effective: u64,
    /// Parent first; `ancestors_len` of them are valid.
    pub ancestors: [u64; limits::ANCESTORS],
    /// The thread group of each ancestor.
    pub ancestor_tgids: [u32; limits::ANCESTORS],
    /// Thread group id in the initial PID namespace.
    pub tgid: u32,
    /// Thread group id of the process that forked this one; for display.
    pub parent_tgid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Device of the executed file in the kernel's own form: `major << 20 | minor`.
    pub exe_dev: u32,
    /// Generation of the inode, zero where the file system keeps none.
    pub exe_generation: u32,
    /// Nanoseconds of its change time.
    pub exe_ctime_nsec: u32,
    /// Inode number of the PID namespace.
    pub pid_ns: u32,
    /// Inode number of the mount namespace.
    pub mnt_ns: u32,
    /// Inode number of the network namespace.
    pub net_ns: u32,
    /// Inode number of the user namespace of its credentials.
    pub user_ns: u32,
    /// See [`flags`].
    pub flags: u32,
    /// Valid entries of `ancestors`.
    pub ancestors_len: u16,
    /// Exec instances above this one, saturating.
    pub depth: u16,
    /// Valid bytes of `filename`.
    pub filename_len: u16,
    /// Zero.
    pub padding: u16,
    /// Task name, NUL-padded.
    pub comm: [u8; limits::COMM],
    /// The name given to `execve`: the script's under `#!`.
    pub filename: [u8; limits::FILENAME],
    /// Equal to `exec_id`, or the record is being written: the programs clear it first and set it last.
    pub exec_id_check: u64,
}

/// One socket that was connected or sent from: the value of map `CONNECTIONS`, whose key is the socket cookie.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct ConnectionRecord {
    /// Socket cookie.
    pub cookie: u64,
    /// The exec instance that called connect or send.
    pub exec_id: u64,
    /// Its session; zero: none.
    pub session_id: u64,
    /// `CLOCK_BOOTTIME` of the call.
    pub ktime_ns: u64,
    /// Cookie of the socket's network namespace.
    pub netns_cookie: u64,
    /// Effective capabilities of the calling thread at that moment.
    pub cap_effective: u64,
    /// IPv6 address, or IPv4 in v4-mapped form.
    pub remote_address: [u8; 16],
    /// The same; zero until known.
    pub local_address: [u8; 16],
    /// Thread group.
    pub tgid: u32,
    /// Calling thread.
    pub tid: u32,
    /// Effective user id of the calling thread at that moment.
    pub euid: u32,
    /// Effective group id of the calling thread at that moment.
    pub egid: u32,
    /// Inode number of the socket's network namespace; zero until known.
    pub net_ns: u32,
    /// Host byte order.
    pub remote_port: u16,
    /// Host byte order; zero until known.
    pub local_port: u16,
    /// IPPROTO_*.
    pub protocol: u16,
    /// See [`hook`].
    pub hook: u8,
    /// 1 allowed, 0 refused.
    pub verdict: u8,
    /// The last TCP state seen, `TCP_*` of the kernel; zero for others.
    pub state: u8,
    /// Zero.
    pub padding: [u8; 3],
}

/// Key of map `TUPLES`, whose value is the socket cookie: the 4-tuple as the opener sees it.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(
        Debug,
        PartialEq,
        Eq,
        Hash,
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::Immutable,
        zerocopy::KnownLayout
    )
)]
pub struct TupleKey {
    /// IPv6, or IPv4 in v4-mapped form.
    pub local_address: [u8; 16],
    /// IPv6, or IPv4 in v4-mapped form.
    pub remote_address: [u8; 16],
    /// Inode number of the network namespace.
    pub net_ns: u32,
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// IPPROTO_*.
    pub protocol: u16,
    /// Zero.
    pub padding: [u8; 6],
}

const _: () = {
    assert!(size_of::<ExecRecord>() == 9 * 8 + 16 * 8 + 16 * 4 + 14 * 4 + 4 * 2 + 16 + 256 + 8);
    assert!(core::mem::offset_of!(ExecRecord, tgid) == 264);
    assert!(core::mem::offset_of!(ExecRecord, filename) == 344);
    assert!(size_of::<ConnectionRecord>() == 6 * 8 + 32 + 5 * 4 + 2 * 3 + 6);
    assert!(core::mem::offset_of!(ConnectionRecord, tgid) == 80);
    assert!(size_of::<TupleKey>() == 48);
    assert!(align_of::<ExecRecord>() == 8);
    assert!(align_of::<ConnectionRecord>() == 8);
};
