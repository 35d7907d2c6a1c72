// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the kernel maps hold: processes and connections.

use crate::{Address, Text, limits};

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
    /// It forked or opened a connection, or is `SEEDED` and may have: somebody may ask who it was when it is gone. Says nothing about it.
    pub const REFERRED: u32 = 1 << 13;
}

/// Values of [`ConnectionRecord::verdict`], and two bits a destination in a class's verdicts. Zero refuses, so that
/// whatever is not written refuses.
pub mod verdict {
    /// Refused with `EPERM`.
    pub const DENY: u8 = 0;
    /// Let through.
    pub const ALLOW: u8 = 1;
    /// Let through, and told of: it would be refused.
    pub const AUDIT: u8 = 2;
    /// To be led to the egress broker. Nothing does so yet; whoever reads it refuses.
    pub const REDIRECT: u8 = 3;
}

/// Values of [`ConnectionRecord::ground`]: by what its verdict came.
pub mod ground {
    /// No governed tree: nothing was asked.
    pub const UNGOVERNED: u8 = 0;
    /// A declared destination, and what policy says of it.
    pub const DESTINATION: u8 = 1;
    /// No declared destination.
    pub const UNDECLARED: u8 = 2;
    /// The exec instance is not classified, or has other ids by now.
    pub const PENDING: u8 = 3;
    /// A kind of socket that the hooks below see nothing of.
    pub const SOCKET: u8 = 4;
}

/// Elements of map `GOVERNING`.
pub mod governing {
    /// Whether there are governed trees.
    pub const ANY: u32 = 0;
    /// Whether somebody in one has no record.
    pub const LOST: u32 = 1;
    /// Which half of the compiled maps the daemon gives out: zero or one.
    pub const HALF: u32 = 2;
    /// The oldest stamp that a class of the first half may have and still hold; the second half's comes next.
    pub const OLDEST: u32 = 3;
    /// How many there are.
    pub const COUNT: u32 = 5;
}

/// The settings of a governed tree, for each half of the compiled maps. Zero lets nothing be reached, and all be executed:
/// whoever is in no tree that is known must still be able to end.
pub mod tree {
    /// Nothing is refused, what would be is told.
    pub const AUDIT: u32 = 1 << 0;
    /// Where the verdict stands on what an exec instance may reach until it is classified.
    pub const PENDING_SHIFT: u32 = 2;
    /// Where the verdict stands on what no declared destination has.
    pub const UNDECLARED_SHIFT: u32 = 4;
    /// Images that are not in map `IMAGES` for this tree are refused.
    pub const IMAGES: u32 = 1 << 6;
    /// With it: they are only told of.
    pub const IMAGES_AUDIT: u32 = 1 << 7;
    /// The tree of those of whom it is not known in which they were: nothing is let through.
    pub const LOST: u32 = crate::limits::TREES - 1;
}

/// What [`ExecRecord::class`] is made of: a place in map `CLASSES`, and above it the stamp of the daemon's word, which no
/// other word has. Zero: not classified. Whoever finds the same class before and after they read something knows that
/// nobody wrote between; and whatever the daemon said before some moment can be made void at once, also of those whom it
/// never met.
pub mod class {
    /// Which of the two halves of the compiled maps it is of.
    pub const SECOND: u64 = crate::limits::CLASSES as u64;
    /// Its place in map `CLASSES`, both halves.
    pub const PLACE: u64 = 2 * crate::limits::CLASSES as u64 - 1;
    /// Where the stamp stands.
    pub const STAMP_SHIFT: u32 = 16;
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
    /// `cgroup/sock_create`, of refused sockets: they have no address.
    pub const SOCK_CREATE: u8 = 5;
    /// An exec: stands in [`crate::ToldKey`] only.
    pub const EXEC: u32 = 6;
}

/// Values of [`crate::ImageEvent::means`]: how an image was refused.
pub mod means {
    /// It was not.
    pub const NONE: u8 = 0;
    /// Before it was there: exec failed.
    pub const HOOK: u8 = 1;
    /// By a signal, before its first instruction.
    pub const SIGNAL: u8 = 2;
    /// It should have been ended by a signal, which the kernel did not send.
    pub const FAILED: u8 = 3;
}

/// What the program `session_bind` returns.
pub mod bound {
    /// The exec instance is in the session now.
    pub const DONE: u32 = 0;
    /// There is no such exec instance (any more).
    pub const GONE: u32 = 1;
    /// It is in another session than was said.
    pub const ELSEWHERE: u32 = 2;
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
    /// See [`class`]; inherited on fork, cleared on exec.
    pub class: u64,
    /// The class is of whoever has these effective ids: the user's above the group's.
    pub class_ids: u64,
    /// The session in which it was forked; until it is exec'd a fork that stays there is the same as its parent.
    pub forked_in: u64,
    /// cgroup v2 id (inode number of its directory).
    pub cgroup_id: u64,
    /// Inode number of the executed file.
    pub exe_inode: u64,
    /// Its change time, seconds since the epoch.
    pub exe_ctime_sec: i64,
    /// Effective capabilities at exec or fork.
    pub cap_effective: u64,
    /// Those that it may make effective.
    pub cap_permitted: u64,
    /// A ring: the nearest stands before `ancestors_next`, `ancestors_len` of them are valid. Moving all of them
    /// by one place at every fork would cost more than anything else in it.
    pub ancestors: [u64; limits::ANCESTORS],
    /// The thread group of each ancestor, at the same places.
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
    /// The governed tree it is in, a place in map `TREES`; inherited on fork and exec, zero: none.
    pub tree: u32,
    /// Zero.
    pub padding: u32,
    /// Valid entries of `ancestors`.
    pub ancestors_len: u16,
    /// Exec instances above this one, saturating.
    pub depth: u16,
    /// Valid bytes of `filename`.
    pub filename_len: u16,
    /// Where the next ancestor goes.
    pub ancestors_next: u16,
    /// Task name, NUL-padded.
    pub comm: Text<{ limits::COMM / 8 }>,
    /// The name given to `execve`: the script's under `#!`.
    pub filename: Text<{ limits::FILENAME / 8 }>,
    /// Equal to `exec_id`, or the record is being written: the programs clear it first and set it last.
    pub exec_id_check: u64,
}

impl ExecRecord {
    /// Puts an exec instance at the near end of the lineage; the farthest makes room for it.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "the place is reckoned by the length, which the verifier sees too")]
    pub fn push_ancestor(&mut self, exec_id: u64, tgid: u32) {
        let place = self.ancestors_next as usize % limits::ANCESTORS;
        self.ancestors[place] = exec_id;
        self.ancestor_tgids[place] = tgid;
        self.ancestors_next = ((place + 1) % limits::ANCESTORS) as u16;
        if (self.ancestors_len as usize) < limits::ANCESTORS {
            self.ancestors_len += 1;
        } else {
            self.flags |= flags::LINEAGE_TRUNCATED;
        }
        self.depth = self.depth.saturating_add(1);
    }

    /// Exec id and thread group of each ancestor, nearest first; none when the record says more than it can hold.
    #[cfg(feature = "user")]
    #[expect(clippy::indexing_slicing, reason = "as above")]
    pub fn lineage(&self) -> Option<impl Iterator<Item = (u64, u32)>> {
        let (next, length) = (usize::from(self.ancestors_next), usize::from(self.ancestors_len));
        let (ids, tgids) = (self.ancestors, self.ancestor_tgids);
        let place = move |back: usize| (next + limits::ANCESTORS - back) % limits::ANCESTORS;
        let is_sound = length <= limits::ANCESTORS && next < limits::ANCESTORS;
        is_sound.then(|| (1..=length).map(move |back| (ids[place(back)], tgids[place(back)])))
    }
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
    pub remote_address: Address,
    /// The same; zero until known.
    pub local_address: Address,
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
    /// See [`verdict`].
    pub verdict: u8,
    /// The last TCP state seen, `TCP_*` of the kernel; zero for others.
    pub state: u8,
    /// See [`ground`].
    pub ground: u8,
    /// The governed tree of the opener; zero: none.
    pub tree: u16,
}

/// Data of a key of the maps `ADDRESSES`: protocol and port, then an address. Words, because the key is aligned to four
/// bytes only.
pub type PlaceWords = [u32; 5];

/// The first word: port (in network byte order), protocol (a small number for all that the hooks see) and whether the
/// address is IPv4, all bits of which have to match. Without the last a wide range of IPv6 would hold all of IPv4.
#[inline(always)]
pub fn place_word(protocol: u16, port: u16, is_v4: bool) -> u32 {
    (is_v4 as u32) << 31 | ((protocol & 0x7fff) as u32) << 16 | port.to_be() as u32
}

/// One governed tree: an element of map `TREES`.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct TreeRecord {
    /// Whose it is, for a daemon that starts anew; zero: nobody's.
    pub tag: u64,
    /// See [`tree`]: with classes of the first half, and of the second.
    pub settings: [u32; 2],
}

/// What one class may reach: two bits a group of destinations, see [`verdict`].
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct ClassRecord {
    /// 32 groups a word.
    pub verdicts: [u64; limits::GROUPS as usize / 32],
}

/// Key of map `IMAGES`: a file that may be executed in a tree.
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
pub struct ImageKey {
    /// Inode number.
    pub inode: u64,
    /// Device in the kernel's own form.
    pub dev: u32,
    /// A place in map `TREES`.
    pub tree: u32,
}

/// As what the file may be executed: whoever writes to it, or gives its number to another, changes this.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    feature = "user",
    derive(Debug, PartialEq, Eq, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
)]
pub struct ImageRecord {
    /// Change time, seconds since the epoch.
    pub ctime_sec: i64,
    /// Its nanoseconds.
    pub ctime_nsec: u32,
    /// Zero.
    pub padding: u32,
}

/// Key of map `TOLD`: what was refused to whom. Told once a second.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ToldKey {
    /// Who.
    pub exec_id: u64,
    /// Where to.
    pub address: Address,
    /// Protocol and port, as [`place_word`].
    pub place: u32,
    /// See [`hook`].
    pub hook: u32,
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
    pub local_address: Address,
    /// IPv6, or IPv4 in v4-mapped form.
    pub remote_address: Address,
    /// Inode number of the network namespace.
    pub net_ns: u32,
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub remote_port: u16,
    /// IPPROTO_*.
    pub protocol: u32,
    /// Zero.
    pub padding: u32,
}

const _: () = {
    assert!(size_of::<ExecRecord>() == 13 * 8 + 16 * 8 + 16 * 4 + 16 * 4 + 4 * 2 + 16 + 256 + 8);
    assert!(core::mem::offset_of!(ExecRecord, tgid) == 296);
    assert!(core::mem::offset_of!(ExecRecord, filename) == 384);
    // So that a place in the ring is a mask.
    assert!(limits::ANCESTORS.is_power_of_two());
    assert!(size_of::<ConnectionRecord>() == 6 * 8 + 32 + 5 * 4 + 2 * 3 + 2 + 4);
    assert!(core::mem::offset_of!(ConnectionRecord, tgid) == 80);
    assert!(size_of::<TupleKey>() == 48);
    assert!(size_of::<ToldKey>() == 32);
    assert!(size_of::<ImageKey>() == 16 && size_of::<ImageRecord>() == 16);
    // So that a tree fits a connection's record.
    assert!(limits::TREES <= u16::MAX as u32);
    // So that a class's place is a mask, and stands below the stamp.
    assert!(limits::CLASSES.is_power_of_two() && class::PLACE >> class::STAMP_SHIFT == 0);
    assert!(align_of::<ExecRecord>() == 8);
    assert!(align_of::<ConnectionRecord>() == 8);
};

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_nearest_first_and_forgets_the_farthest() {
        let mut record = <ExecRecord as zerocopy::FromZeros>::new_zeroed();
        for number in 1..=20u64 {
            record.push_ancestor(number, number as u32 + 100);
            let kept = number.min(limits::ANCESTORS as u64);
            let expected: [Option<(u64, u32)>; 20] =
                core::array::from_fn(|back| (number - (back as u64).min(number), 0))
                    .map(|(id, _)| (id > number - kept).then_some((id, id as u32 + 100)));
            let mut found = record.lineage().unwrap();
            for expected in expected.into_iter().flatten() {
                assert_eq!(found.next(), Some(expected), "after {number}");
            }
            assert_eq!(found.next(), None, "after {number}");
            assert_eq!(record.flags & flags::LINEAGE_TRUNCATED != 0, number > limits::ANCESTORS as u64);
            assert_eq!(u64::from(record.depth), number);
        }
    }

    #[test]
    fn a_lineage_beyond_its_bounds_is_none() {
        let mut record = <ExecRecord as zerocopy::FromZeros>::new_zeroed();
        for (length, next) in [(17, 0), (u16::MAX, 0), (1, 16), (0, u16::MAX)] {
            (record.ancestors_len, record.ancestors_next) = (length, next);
            assert!(record.lineage().is_none(), "{length} {next}");
        }
    }
}
