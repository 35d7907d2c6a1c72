// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use agent_ebpf::flags;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use nix::sys::socket::{GetSockOpt as _, getsockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::starts::Starts;
use super::{Failure, Proc, pidfd, unix};
use crate::process::{BootTime, ExecId, ProcessKey, Records, SessionId};

const NANOSECONDS: u64 = 1_000_000_000;
/// The ids stand near the top of `/proc/PID/status`; a process in thousands of groups is not read to the end.
const STATUS_BYTES: usize = 2048;

/// The process that connected one of our sockets, pinned at accept to the exec instance it was then.
///
/// What counts is who opened the connection and who writes on it: the kernel names the writer of every
/// message, and a writer that is not this process breaks the pin for good.
#[derive(Debug)]
pub struct Peer {
    /// Which of our sockets it connected, as records name it.
    pub socket: &'static str,
    /// Its process.
    pub process: ProcessKey,
    /// Its exec instance at accept.
    pub exec_id: ExecId,
    /// When that began, on the kernel's clock.
    pub began: BootTime,
    /// Effective user id at connect.
    pub uid: u32,
    /// Effective group id at connect.
    pub gid: u32,
    pidfd: OwnedFd,
    /// Says its ids where the pidfd does not.
    status: Option<File>,
    broken: OnceLock<&'static str>,
}

impl Peer {
    /// Pins the process behind an accepted connection.
    ///
    /// # Errors
    /// In exactly the ways of [`Failure`]; each is a refusal.
    pub(super) fn pin(
        socket: impl AsFd,
        name: &'static str,
        records: &dyn Records,
        proc: &Proc,
        starts: &Starts,
    ) -> Result<Self, Failure> {
        let credentials = getsockopt(&socket, PeerCredentials)
            .map_err(|error| Failure::Io { operation: "read the peer's credentials", source: error.into() })?;
        // Zero: the peer is in a PID namespace that the daemon cannot see into.
        let pid = rustix::process::Pid::from_raw(credentials.pid())
            .ok_or(Failure::Unresolvable("the peer has no process number here"))?;
        let tgid = u32::try_from(credentials.pid())
            .map_err(|_| Failure::Unresolvable("the peer's process number is negative"))?;
        let pidfd = peer_pidfd(socket.as_fd(), pid)?;
        let instance =
            records.process(tgid)?.ok_or(Failure::Unresolvable("the kernel has no record of the caller's process"))?;
        // A record of an earlier process with this number would have another start.
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let start = starts.of(&pidfd, tgid, proc).map_err(|error| Failure::unread("read the caller's start", error))?;
        if instance.process.start_boottime.0 / (NANOSECONDS / ticks) != start.ticks {
            return Err(Failure::OriginatorMismatch("the record is of another process with the same number"));
        }
        let unread = |error| Failure::unread("read the caller's ids", error);
        let status = match proc.is_live() && pidfd::effective_ids(&pidfd).map_err(unread)?.is_some() {
            true => None,
            false => Some(proc.process(tgid).and_then(|process| process.open("status")).map_err(unread)?),
        };
        let peer = Self {
            socket: name,
            process: instance.process,
            exec_id: instance.id,
            began: instance.began,
            uid: credentials.uid(),
            gid: credentials.gid(),
            pidfd,
            status,
            broken: OnceLock::new(),
        };
        // Its number belongs to it for as long as it has not been reaped: alive now, it was so all the time.
        peer.is_running()?;
        starts.keep(start);
        if instance.flags.has(flags::INCOMPLETE) {
            return Err(Failure::Incomplete);
        }
        Ok(peer)
    }

    /// User, group and process of a connection, as far as the kernel says; for records of refused callers.
    pub(crate) fn kernel_word(socket: impl AsFd) -> Option<(u32, u32, Option<u32>)> {
        let credentials = getsockopt(&socket.as_fd(), PeerCredentials).ok()?;
        let tgid = u32::try_from(credentials.pid()).ok().filter(|tgid| *tgid != 0);
        Some((credentials.uid(), credentials.gid(), tgid))
    }

    /// Asked before every answer: still the same process, the same image, and nobody else on its socket. Says in which
    /// session it is.
    ///
    /// # Errors
    /// In exactly the ways of [`Failure`].
    pub fn recheck(&self, records: &dyn Records) -> Result<Option<SessionId>, Failure> {
        if let Some(why) = self.broken.get() {
            return Err(Failure::OriginatorMismatch(why));
        }
        self.is_running()?;
        match records.current(self.process.tgid)? {
            None => Err(Failure::OriginatorGone("the caller's process ended")),
            Some(current) if current.start != self.process.start_boottime => {
                Err(Failure::OriginatorMismatch("the caller's process number belongs to another process now"))
            }
            Some(current) if current.id != self.exec_id => {
                Err(Failure::OriginatorGone("the caller's program image was replaced since it connected"))
            }
            Some(current) => Ok(current.session_id),
        }
    }

    /// Its effective user and group at this moment.
    ///
    /// # Errors
    /// When the process is gone.
    pub(crate) fn ids(&self) -> Result<(u32, u32), Failure> {
        let unread = |error| Failure::unread("read the caller's ids", error);
        let unreadable = || Failure::Unresolvable("the caller's ids cannot be read");
        let Some(status) = &self.status else {
            return pidfd::effective_ids(&self.pidfd).map_err(unread)?.ok_or_else(unreadable);
        };
        let mut buffer = [0; STATUS_BYTES];
        let length = status.read_at(&mut buffer, 0).map_err(unread)?;
        let ids = unix::parse(&String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()));
        let ids = ids.ok_or_else(unreadable)?;
        Ok((ids.uid, ids.gid))
    }

    /// Marks the connection as used by somebody else. It stays so.
    pub(crate) fn break_pin(&self, why: &'static str) {
        // The first reason is the one that counts.
        let _first = self.broken.set(why);
    }

    fn is_running(&self) -> Result<(), Failure> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Failure::OriginatorGone("the caller's process ended")),
            Err(error) => Err(Failure::Io { operation: "ask whether the caller lives", source: error.into() }),
        }
    }
}

/// Whether this kernel can name the peer by a descriptor instead of a number.
pub fn is_peer_pidfd_supported() -> bool {
    let Ok((socket, _other)) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    ) else {
        return false;
    };
    getsockopt(&socket, PeerPidfd).is_ok()
}

fn peer_pidfd(socket: std::os::fd::BorrowedFd<'_>, pid: rustix::process::Pid) -> Result<OwnedFd, Failure> {
    match PeerPidfd.get(&socket) {
        Ok(pidfd) => Ok(pidfd),
        // Kernels before 6.5. The number may have been reused between connect and now; the start time in the
        // record is then the only guard, which `doctor` says.
        Err(nix::errno::Errno::ENOPROTOOPT) => rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| match error {
                rustix::io::Errno::SRCH => {
                    Failure::OriginatorGone("the caller's process ended before it was looked up")
                }
                error => Failure::Io { operation: "open the caller's process", source: error.into() },
            }),
        Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL | nix::errno::Errno::ENODATA) => {
            Err(Failure::OriginatorGone("the caller's process ended before it was looked up"))
        }
        Err(error) => Err(Failure::Io { operation: "open the caller's process", source: error.into() }),
    }
}
