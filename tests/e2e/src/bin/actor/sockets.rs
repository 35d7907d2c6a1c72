// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, Protocol, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketType,
};
use serde_json::{Value, json};

use crate::commands::{number, text};
use crate::{Actor, raw, uring};

/// Longest silence after which a peer is taken to have said everything.
const QUIET: Duration = Duration::from_millis(150);

pub(crate) fn address(command: &Value) -> Result<SocketAddr> {
    let to = text(command, "to")?;
    to.parse().with_context(|| format!("{to} is not an address"))
}

pub(crate) fn cookie(socket: BorrowedFd<'_>) -> Result<u64> {
    Ok(rustix::net::sockopt::socket_cookie(socket)?)
}

/// Without waiting for ever where nobody answers.
fn new_socket(to: SocketAddr, kind: SocketType, protocol: Option<Protocol>) -> Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, rustix::net::SocketFlags::CLOEXEC, protocol)?;
    let timeout = rustix::net::sockopt::Timeout::Send;
    rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(Duration::from_secs(10)))?;
    Ok(socket)
}

impl Actor {
    pub(crate) fn fd(&self, name: &str) -> Result<BorrowedFd<'_>> {
        Ok(self.fds.get(name).with_context(|| format!("there is no {name}"))?.as_fd())
    }

    /// Opens a connection in one of many ways.
    pub(crate) fn open(&mut self, command: &Value) -> Result<Value> {
        let to = address(command)?;
        let is_udp = command.get("udp").and_then(Value::as_bool).unwrap_or_default();
        let datagram = is_udp || text(command, "do")? == "send_to";
        let is_multipath = command.get("mptcp").and_then(Value::as_bool).unwrap_or_default();
        let protocol = is_multipath.then_some(rustix::net::ipproto::MPTCP);
        let known = command.get("socket").and_then(Value::as_str).and_then(|name| self.fds.remove(name));
        let socket = match known {
            Some(socket) => socket,
            None => new_socket(to, if datagram { SocketType::DGRAM } else { SocketType::STREAM }, protocol)?,
        };
        if let Some(from) = command.get("from").and_then(Value::as_str) {
            let from: SocketAddr = from.parse().with_context(|| format!("{from} is not an address"))?;
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &from)?;
        }
        let opened = match text(command, "do")? {
            "send_to" => rustix::net::sendto(&socket, b"hello", SendFlags::NOSIGNAL, &to).map(drop).map_err(Into::into),
            "fast_open" => raw::send_fast_open(socket.as_fd(), &sockaddr(to), b"hello"),
            "uring" => {
                let by = match text(command, "by")? {
                    "submitter" => uring::By::Submitter,
                    "worker" => uring::By::Worker,
                    "poller" => uring::By::Poller,
                    other => bail!("nobody is called {other}"),
                };
                uring::connect(socket.as_fd(), &sockaddr(to), by)
            }
            _ if command.get("thread_euid").is_some() => {
                let uid = number(command, "thread_euid")?;
                let mine = &socket;
                std::thread::scope(|scope| {
                    let thread = scope.spawn(move || {
                        raw::set_thread_euid(uid)?;
                        Ok(rustix::net::connect(mine, &to)?)
                    });
                    thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")))
                })
            }
            _ => rustix::net::connect(&socket, &to).map_err(Into::into),
        };
        let cookie = cookie(socket.as_fd())?;
        let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?.to_string();
        let errno = opened.as_ref().err().and_then(std::io::Error::raw_os_error);
        self.fds.insert(text(command, "as")?.to_owned(), socket);
        Ok(json!({"cookie": cookie, "local": local, "failed": errno}))
    }

    /// Any socket at all, by numbers.
    pub(crate) fn socket(&mut self, command: &Value) -> Result<Value> {
        let given = |name: &str| number(command, name);
        let socket = raw::socket(given("family")?, given("type")?, given("protocol")?);
        let errno = socket.as_ref().err().and_then(std::io::Error::raw_os_error);
        if let Ok(socket) = socket {
            self.fds.insert(text(command, "as")?.to_owned(), socket);
        }
        Ok(json!({"failed": errno}))
    }

    /// Sends on a socket that is there, with the address in each message: `sendmsg` once, `sendmmsg`, or through io_uring.
    pub(crate) fn send_message(&mut self, command: &Value) -> Result<Value> {
        let to = address(command)?;
        let socket = self.fd(text(command, "socket")?)?;
        let sent = match text(command, "by")? {
            "sendmsg" => raw::send_messages(socket, &sockaddr(to), b"hello", 1),
            "sendmmsg" => raw::send_messages(socket, &sockaddr(to), b"hello", 3),
            "uring" => uring::send(socket, &sockaddr(to), b"hello"),
            other => bail!("nothing is called {other}"),
        };
        Ok(json!({"failed": sent.err().and_then(|error| error.raw_os_error())}))
    }

    /// The kernel completes what connects here; nobody accepts it.
    pub(crate) fn listen(&mut self, command: &Value) -> Result<Value> {
        let listener = std::net::TcpListener::bind(address(command)?)?;
        raw::accept_fast_open(listener.as_fd())?;
        let at = listener.local_addr()?.to_string();
        self.fds.insert(text(command, "as")?.to_owned(), listener.into());
        Ok(json!({"at": at}))
    }
}

/// As the kernel wants it (`ip(7)`, `ipv6(7)`).
fn sockaddr(to: SocketAddr) -> Vec<u8> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u16;
    let mut bytes = [family.to_ne_bytes(), to.port().to_be_bytes()].concat();
    match to {
        SocketAddr::V4(to) => bytes.extend(to.ip().octets().iter().chain(&[0; 8])),
        SocketAddr::V6(to) => bytes.extend([0; 4].iter().chain(&to.ip().octets()).chain(&[0; 4])),
    }
    bytes
}

/// Sends a descriptor to whoever waits at a path.
pub(crate) fn pass(fd: BorrowedFd<'_>, to: &str) -> Result<Value> {
    let stream = UnixStream::connect(to)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    anyhow::ensure!(control.push(SendAncillaryMessage::ScmRights(&fds)), "no room for a descriptor");
    rustix::net::sendmsg(&stream, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(json!({}))
}

pub(crate) fn listen_unix(at: &str) -> Result<OwnedFd> {
    let listener = UnixListener::bind(at).with_context(|| format!("cannot bind {at}"))?;
    std::fs::set_permissions(at, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    Ok(listener.into())
}

/// Takes the descriptor that somebody passed.
pub(crate) fn take(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    let stream = rustix::net::accept(listener)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message {
            return fds.next().context("an empty message of rights");
        }
    }
    bail!("no descriptor came")
}

/// Writes bytes, given in hexadecimal.
pub(crate) fn write(fd: BorrowedFd<'_>, hex: &str) -> Result<Value> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + *digit as u8)).collect();
    Ok(json!({"written": rustix::net::send(fd, &bytes, SendFlags::NOSIGNAL)?}))
}

/// Everything that is there to be read, until silence or the end.
pub(crate) fn read_all(fd: BorrowedFd<'_>) -> Result<Value> {
    let mut bytes = Vec::new();
    let start = Instant::now();
    let mut ended = false;
    while start.elapsed() < Duration::from_secs(10) {
        let quiet = Timespec { tv_sec: 0, tv_nsec: i64::from(QUIET.subsec_nanos()) };
        if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&quiet))? == 0 {
            break;
        }
        let mut buffer = [0; 65536];
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => {
                ended = true;
                break;
            }
            Ok(length) => bytes.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({"text": String::from_utf8_lossy(&bytes), "length": bytes.len(), "ended": ended}))
}

/// Waits until the other end has said something, or hung up, and takes nothing of it: the daemon sends its settings
/// when it has accepted and pinned its caller. One that says nothing in time is the test's affair.
pub(crate) fn greeted(stream: impl std::os::fd::AsFd) -> Result<()> {
    let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
    poll(&mut [PollFd::new(&stream, PollFlags::IN)], Some(&patience))?;
    Ok(())
}
