// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{fstat, fstatfs};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::Proc;

/// <https://github.com/torvalds/linux/blob/v6.9/include/uapi/linux/magic.h>
const PIDFS_MAGIC: u64 = 0x5049_4446;
/// Processes kept.
const CACHE: usize = 4096;

/// When processes started. It never changes, and to read it the kernel writes a whole file of the process: so it is read
/// once a process, where the kernel gives processes numbers that are never used again.
#[derive(Debug)]
pub(super) struct Starts {
    /// Whether the inode of a pidfd is such a number: since 6.9, on machines of 64 bits.
    is_unique: bool,
    /// Inode to clock ticks after boot.
    known: Mutex<HashMap<u64, u64>>,
}

/// A start that was read or known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    inode: Option<u64>,
    /// Clock ticks after boot.
    pub(super) ticks: u64,
}

impl Starts {
    pub(super) fn new(proc: &Proc) -> Self {
        let is_pidfs = || {
            let own = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
            Some(u64::try_from(fstatfs(&own).ok()?.f_type).ok()? == PIDFS_MAGIC)
        };
        let is_unique = usize::BITS == 64 && proc.is_live() && is_pidfs().unwrap_or(false);
        Self { is_unique, known: Mutex::default() }
    }

    /// Of a process and its number. Right only if the process still runs afterwards; only then it may be kept.
    pub(super) fn of(&self, pidfd: impl AsFd, tgid: u32, proc: &Proc) -> io::Result<Start> {
        let inode = if self.is_unique { Some(fstat(pidfd)?.st_ino) } else { None };
        let known = inode.and_then(|inode| self.lock().get(&inode).copied());
        let ticks = known.map_or_else(|| proc.start_ticks(tgid), Ok)?;
        Ok(Start { inode, ticks })
    }

    /// It was that process: it still runs.
    pub(super) fn keep(&self, start: Start) {
        let Some(inode) = start.inode else { return };
        let mut known = self.lock();
        if known.len() >= CACHE
            && !known.contains_key(&inode)
            && let Some(victim) = known.keys().next().copied()
        {
            known.remove(&victim);
        }
        known.insert(inode, start.ticks);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::Pid;

    use super::*;

    #[test]
    fn a_start_is_read_once_and_is_not_another_process_s() {
        let proc = Proc::default();
        let starts = Starts::new(&proc);
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let tgid = std::process::id();
        let start = starts.of(&own, tgid, &proc).unwrap();
        assert_eq!(start.ticks, proc.start_ticks(tgid).unwrap());
        starts.keep(start);
        let nowhere = Proc::at("/nowhere");
        assert_eq!(starts.of(&own, tgid, &nowhere).is_ok(), starts.is_unique, "known, if it may be");
        let mut child = Command::new("/proc/self/exe").arg("--list").stdout(Stdio::null()).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert!(starts.of(&pidfd, child.id(), &nowhere).is_err(), "another process is not known by it");
        child.wait().unwrap();
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let starts = Starts { is_unique: true, known: Mutex::default() };
        for inode in 0..5000 {
            starts.keep(Start { inode: Some(inode), ticks: inode });
        }
        assert_eq!(starts.lock().len(), CACHE);
        assert_eq!(starts.lock().get(&4999), Some(&4999));
    }
}
