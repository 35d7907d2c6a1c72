// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The system calls that have no safe wrapper. Nothing here is a product: the actor does what attackers do.
#![expect(unsafe_code, reason = "fork, clone3, setresuid and a thread's own exit have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use libc::{c_int, c_long};

fn checked(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Not in `libc`: the child begins in another cgroup.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks; zero in the child.
pub(crate) fn fork() -> io::Result<u32> {
    // SAFETY: the actor is single-threaded whenever it forks.
    let pid = checked(c_long::from(unsafe { libc::fork() }))?;
    Ok(u32::try_from(pid).unwrap_or_default())
}

/// Forks a child with exactly this process number, or into the cgroup of this directory; zero in the child.
pub(crate) fn fork_into(wanted: Option<u32>, cgroup: Option<BorrowedFd<'_>>) -> io::Result<u32> {
    let pids = wanted.map(|pid| [pid]);
    let mut arguments = [0_u64; 11];
    // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    // set_tid_size, cgroup
    arguments[4] = libc::SIGCHLD as u64;
    if let Some(pids) = &pids {
        arguments[8] = pids.as_ptr() as u64;
        arguments[9] = 1;
    }
    if let Some(cgroup) = cgroup {
        arguments[0] = CLONE_INTO_CGROUP;
        arguments[10] = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: the arguments are as long as said and outlive the call; without CLONE_VM this is a fork.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)) })?;
    Ok(u32::try_from(pid).unwrap_or_default())
}

/// Ended children are gone at once, so their numbers are free.
pub(crate) fn ignore_children() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Ended children are there until they are waited for.
pub(crate) fn keep_children() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Sets all three user ids of the process, after its groups.
pub(crate) fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: plain system calls; glibc applies them to every thread.
    unsafe {
        if libc::geteuid() == 0 {
            checked(c_long::from(libc::setgroups(0, std::ptr::null())))?;
            checked(c_long::from(libc::setresgid(uid, uid, uid)))?;
        }
        checked(c_long::from(libc::setresuid(uid, uid, uid)))?;
    }
    Ok(())
}

/// Sets the effective user id of this thread alone, behind glibc's back.
pub(crate) fn set_thread_euid(uid: u32) -> io::Result<()> {
    // SAFETY: a plain system call; -1 leaves an id as it is.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) }).map(drop)
}

/// Ends this thread and no other.
pub(crate) fn exit_thread() -> ! {
    loop {
        // SAFETY: the calling thread ends here; what it owned is leaked, as another thread goes on.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Takes a descriptor over that this image was started with.
pub(crate) fn adopt(fd: c_int) -> OwnedFd {
    // SAFETY: the image before this one left it open for this one and said so in the environment.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Sends data in the first packet of a connection (TCP Fast Open).
pub(crate) fn send_fast_open(fd: BorrowedFd<'_>, address: &[u8], data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(address.len()).map_err(io::Error::other)?;
    // SAFETY: both buffers are as long as said.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL,
            address.as_ptr().cast(),
            length,
        )
    };
    checked(sent as c_long).map(drop)
}

/// A socket by the numbers of its family, type and protocol.
pub(crate) fn socket(family: u32, kind: u32, protocol: u32) -> io::Result<OwnedFd> {
    let number = |number: u32| c_int::try_from(number).map_err(io::Error::other);
    // SAFETY: a plain system call.
    let fd = unsafe { libc::socket(number(family)?, number(kind)? | libc::SOCK_CLOEXEC, number(protocol)?) };
    checked(c_long::from(fd))?;
    // SAFETY: the kernel just gave it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is sent, for [`message`].
pub(crate) fn part(data: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }
}

/// A message to the `sockaddr` in `address`; it points to both.
pub(crate) fn message(address: &[u8], part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: all zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = u32::try_from(address.len()).unwrap_or_default();
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message
}

/// Sends one message, or several in one call, to the `sockaddr` in `address`.
pub(crate) fn send_messages(fd: BorrowedFd<'_>, address: &[u8], data: &[u8], count: usize) -> io::Result<()> {
    let mut part = part(data);
    let message = message(address, &mut part);
    if count == 1 {
        // SAFETY: the message and what it points to outlive the call.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        return checked(sent as c_long).map(drop);
    }
    let mut messages = vec![libc::mmsghdr { msg_hdr: message, msg_len: 0 }; count];
    let length = u32::try_from(count).map_err(io::Error::other)?;
    // SAFETY: as above, and as many as said.
    let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), length, libc::MSG_NOSIGNAL) };
    checked(c_long::from(sent)).map(drop)
}

/// Lets a listener take data in the first packet.
pub(crate) fn accept_fast_open(fd: BorrowedFd<'_>) -> io::Result<()> {
    let backlog: c_int = 16;
    // SAFETY: the option's value is an int.
    let set =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_TCP, libc::TCP_FASTOPEN, (&raw const backlog).cast(), 4) };
    checked(c_long::from(set)).map(drop)
}

/// Moves the process into new user and mount namespaces.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: a plain system call; the actor has one thread.
    checked(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })).map(drop)
}

/// Moves this thread into a new network namespace, with its loopback interface up.
pub(crate) fn own_network() -> io::Result<()> {
    // SAFETY: a plain system call; nothing here relies on the namespace.
    checked(c_long::from(unsafe { libc::unshare(libc::CLONE_NEWNET) }))?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is a complete ifreq and outlives the call; the socket is closed at the end.
    unsafe {
        let socket = checked(c_long::from(libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)))?;
        let socket = OwnedFd::from_raw_fd(socket as c_int);
        checked(c_long::from(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request))).map(drop)
    }
}
