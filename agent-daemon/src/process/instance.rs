// SPDX-License-Identifier: Apache-2.0 OR MIT

use agent_ebpf::flags;

use super::{BootTime, ExecId, ProcessKey, SessionId};

/// What the kernel recorded about one exec instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecInstance {
    /// Its id.
    pub id: ExecId,
    /// Its process.
    pub process: ProcessKey,
    /// The exec instance that made this one; none at the top of a tree.
    pub parent: Option<ExecId>,
    /// The process that forked this one; for display.
    pub parent_tgid: u32,
    /// When it began.
    pub began: BootTime,
    /// The session it inherited.
    pub session_id: Option<SessionId>,
    /// cgroup v2 id.
    pub cgroup_id: u64,
    /// The executed file.
    pub exe: FileId,
    /// Nearest first; at most [`agent_ebpf::limits::ANCESTORS`].
    pub ancestors: Box<[Ancestor]>,
    /// How many exec instances are above it.
    pub depth: u16,
    /// Real user id at exec or fork.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Effective capabilities.
    pub capabilities: u64,
    /// Capabilities that it may make effective.
    pub permitted: u64,
    /// Inode numbers of its namespaces.
    pub namespaces: Namespaces,
    /// The governed tree it is in, if any.
    pub governed: Option<Governed>,
    /// What is special about it.
    pub flags: Flags,
    /// Task name.
    pub comm: Box<str>,
    /// The bytes given to `execve`: the script's name under `#!`. Relative names are as they were given.
    pub filename: Box<[u8]>,
}

impl ExecInstance {
    /// The file name for people; bytes that are not UTF-8 are replaced.
    pub fn filename_lossy(&self) -> String {
        String::from_utf8_lossy(&self.filename).into_owned()
    }
}

/// An exec instance above another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancestor {
    /// Its id.
    pub id: ExecId,
    /// Its process.
    pub tgid: u32,
}

/// The exact file that was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device major number.
    pub major: u32,
    /// Device minor number.
    pub minor: u32,
    /// Inode number.
    pub inode: u64,
    /// Inode generation; zero where the file system keeps none.
    pub generation: u32,
    /// Change time, seconds.
    pub ctime_sec: i64,
    /// Change time, nanoseconds.
    pub ctime_nsec: u32,
}

/// Inode numbers of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// PID namespace.
    pub pid: u32,
    /// Mount namespace.
    pub mnt: u32,
    /// Network namespace.
    pub net: u32,
    /// User namespace of the credentials.
    pub user: u32,
}

/// What the kernel programs go by when somebody in a governed tree connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Governed {
    /// Which tree: its place in the kernel's table of settings.
    pub tree: u32,
    /// None: not classified.
    pub class: Option<Classified>,
}

/// The last word on what an exec instance may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classified {
    /// Its class: its place in the kernel's table.
    pub place: u32,
    /// When.
    pub stamp: Stamp,
    /// The effective user and group that it holds for.
    pub ids: (u32, u32),
}

/// Names one word on one exec instance, and tells which of two was the later. Those who were forked since have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// After all.
    pub const NEVER: Self = Self(u64::MAX);
    const BITS: u32 = u64::BITS - agent_ebpf::class::STAMP_SHIFT;

    /// One that nobody had: microseconds since boot, so that a daemon that starts anew gives out later ones; none is given
    /// out twice, as a word takes longer than that to say.
    pub fn after(self, now: BootTime) -> Self {
        Self(self.0.saturating_add(1).max(now.0 / 1_000) & ((1 << Self::BITS) - 1))
    }
}

/// What is special about an exec instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u32);

impl Flags {
    const NAMES: [(u32, &'static str); 13] = [
        (flags::INCOMPLETE, "incomplete"),
        (flags::SEEDED, "seeded"),
        (flags::FORK, "fork"),
        (flags::SCRIPT, "script"),
        (flags::MEMFD, "memfd"),
        (flags::DELETED, "deleted"),
        (flags::SETUID, "setuid"),
        (flags::TRACED, "traced"),
        (flags::NO_NEW_PRIVS, "no-new-privs"),
        (flags::LINEAGE_TRUNCATED, "lineage-truncated"),
        (flags::FILENAME_TRUNCATED, "filename-truncated"),
        (flags::KERNEL_THREAD, "kernel-thread"),
        (flags::USER_MOUNTED, "user-mounted"),
    ];

    /// Whether any of the bits is set.
    pub fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// The words under which policies and people know the bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| name)
    }
}
