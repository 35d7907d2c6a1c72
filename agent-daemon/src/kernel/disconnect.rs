// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Closes connections of others. `SOCK_DESTROY` (`net/core/sock_diag.c`, 4.5, `CONFIG_INET_DIAG_DESTROY`) closes a TCP
//! connection of our network namespace by its addresses and its cookie, whoever holds it. It needs `CAP_NET_ADMIN`, knows
//! other namespaces not at all, and connections that are only being opened by no address. Those are closed through the hand
//! of whoever holds them: `pidfd_getfd` (5.6) gives us their descriptor, and a connect to no address (`AF_UNSPEC`) ends what
//! it leads to.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::egress::Disconnect;
use crate::process::{Connection, Protocol};

const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`
const FLAGS: u16 = 1 | 4;
/// The states that a TCP socket may be in, all of them.
const ANY_STATE: u32 = u32::MAX;

/// `struct nlmsghdr` and `struct inet_diag_req_v2` with its `struct inet_diag_sockid`.
#[repr(C)]
#[derive(Clone, Copy, IntoBytes, Immutable)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct nlmsghdr` and the first word of `struct nlmsgerr`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable)]
struct Answer {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    error: i32,
}

/// The real one.
#[derive(Debug)]
pub struct Disconnector {
    /// Inode number of our network namespace.
    net_ns: Option<u32>,
}

impl Disconnector {
    /// For the network namespace that we are in.
    pub fn new() -> Self {
        let inode = fs::metadata("/proc/self/ns/net").ok().and_then(|found| u32::try_from(found.ino()).ok());
        Self { net_ns: inode }
    }
}

impl Default for Disconnector {
    fn default() -> Self {
        Self::new()
    }
}

impl Disconnect for Disconnector {
    fn disconnect(&self, connection: &Connection, holders: &[u32]) -> io::Result<bool> {
        let is_ours = self.net_ns.is_some() && connection.net_ns == self.net_ns;
        if let Some(local) = connection.local
            && is_ours
            && connection.protocol == Protocol::TCP
        {
            match destroy(connection, local) {
                Ok(()) => return Ok(true),
                // Bound to an interface, which no record says; or not held, or no kernel that does it.
                Err(error) => tracing::debug!(%error, cookie = connection.cookie, "closed through its holder instead"),
            }
        }
        let mut failed = None;
        for holder in holders {
            match take(*holder, connection.cookie) {
                Ok(Some(socket)) => {
                    // Some kernels refuse it while somebody waits in a read, or where TLS was put on top.
                    rustix::net::connect_unspec(&socket)
                        .or_else(|_| rustix::net::shutdown(&socket, rustix::net::Shutdown::Both))?;
                    return Ok(true);
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(false), Err)
    }
}

fn destroy(connection: &Connection, local: SocketAddr) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    let mut answer = [0; 512];
    rustix::net::send(&socket, request(connection, local).as_bytes(), SendFlags::empty())?;
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let malformed = || io::Error::other("the kernel's answer to SOCK_DESTROY cannot be read");
    let (answer, _) = Answer::read_from_prefix(answer.get(..length).unwrap_or_default()).map_err(|_| malformed())?;
    match (answer.kind, answer.error) {
        (NLMSG_ERROR, 0) => Ok(()),
        (NLMSG_ERROR, error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(malformed()),
    }
}

fn request(connection: &Connection, local: SocketAddr) -> Request {
    let (family, source, destination) = match (local.ip().to_canonical(), connection.remote.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (AddressFamily::INET, first(source), first(destination)),
        (source, destination) => (AddressFamily::INET6, whole(source), whole(destination)),
    };
    let [low, high]: [u32; 2] = zerocopy::transmute!(connection.cookie.to_le());
    Request {
        length: LENGTH,
        kind: SOCK_DESTROY,
        flags: FLAGS,
        sequence: 1,
        port: 0,
        family: u8::try_from(family.as_raw()).unwrap_or_default(),
        protocol: u8::try_from(connection.protocol.0).unwrap_or_default(),
        extensions: 0,
        padding: 0,
        states: ANY_STATE,
        source_port: local.port().to_be_bytes(),
        destination_port: connection.remote.port().to_be_bytes(),
        source,
        destination,
        interface: 0,
        cookie: [u32::from_le(low), u32::from_le(high)],
    }
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "a constant, and small")]
const LENGTH: u32 = size_of::<Request>() as u32;
const _: () = assert!(size_of::<Request>() == 16 + 8 + 48);

fn first(address: std::net::Ipv4Addr) -> [u8; 16] {
    let [a, b, c, d] = address.octets();
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn whole(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A copy of the descriptor by which a process holds the socket with this cookie. None: it holds it by none.
fn take(tgid: u32, cookie: u64) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(tgid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let folder = format!("/proc/{tgid}/fd");
    let gone = |error: &io::Error| matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH));
    let entries = match fs::read_dir(Path::new(&folder)) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        opened => opened?,
    };
    for entry in entries {
        let Ok(entry) = entry else { break };
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let (Some(number), true) = (number, is_socket) else { continue };
        let copy = match pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(copy) => copy,
            // Closed meanwhile, or its holder is gone.
            Err(Errno::BADF | Errno::SRCH) => continue,
            Err(error) => return Err(error.into()),
        };
        if rustix::net::sockopt::socket_cookie(copy.as_fd()).is_ok_and(|found| found == cookie) {
            return Ok(Some(copy));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::process::{BootTime, ExecId, Ground, Hook, Verdict};

    fn connection(cookie: u64, local: Option<SocketAddr>, remote: SocketAddr, protocol: Protocol) -> Connection {
        Connection {
            cookie,
            exec_id: ExecId(1),
            tgid: std::process::id(),
            tid: 1,
            session_id: None,
            tree: Some(1),
            at: BootTime(1),
            uid: 0,
            gid: 0,
            remote,
            local,
            net_ns: local.and(Disconnector::new().net_ns),
            protocol,
            hook: Hook::Connect4,
            is_open: true,
            is_closed: false,
            verdict: Verdict::Allow,
            ground: Ground::Destination,
        }
    }

    fn cookie(socket: impl std::os::fd::AsFd) -> u64 {
        rustix::net::sockopt::socket_cookie(socket).unwrap()
    }

    #[test]
    fn a_connection_is_closed_by_its_addresses_and_no_other_one() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let open = || {
                let mine = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                (mine, listener.accept().unwrap().0)
            };
            let ((mut one, mut peer), (mut other, mut others_peer)) = (open(), open());
            let (local, remote) = (one.local_addr().unwrap(), one.peer_addr().unwrap());
            // The right addresses with the cookie of another socket are nobody's.
            assert!(destroy(&connection(cookie(&other), Some(local), remote, Protocol::TCP), local).is_err());
            one.write_all(b"a").unwrap();
            let to = connection(cookie(&one), Some(local), remote, Protocol::TCP);
            assert!(destroy(&to, local).is_ok());
            assert!(one.write_all(b"b").is_err());
            // What was sent before may still be read; then it is over.
            assert!(peer.read_to_end(&mut Vec::new()).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
            other.write_all(b"c").unwrap();
            others_peer.read_exact(&mut [0]).unwrap();
        }
    }

    #[test]
    fn a_connection_without_addresses_is_closed_through_who_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut mine = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut peer = listener.accept().unwrap().0;
        let to = connection(cookie(&mine), None, listener.local_addr().unwrap(), Protocol::TCP);
        let closer = Disconnector::new();
        assert!(!closer.disconnect(&to, &[]).unwrap(), "nobody was said to hold it");
        assert!(!closer.disconnect(&to, &[u32::MAX]).unwrap(), "who is not there holds nothing");
        mine.write_all(b"a").unwrap();
        assert!(closer.disconnect(&to, &[std::process::id()]).unwrap());
        assert!(mine.write_all(b"b").is_err());
        assert!(peer.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_datagram_socket_leads_nowhere_afterwards() {
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mine = UdpSocket::bind("127.0.0.1:0").unwrap();
        mine.connect(there.local_addr().unwrap()).unwrap();
        let to = connection(cookie(&mine), None, there.local_addr().unwrap(), Protocol::UDP);
        assert!(Disconnector::new().disconnect(&to, &[std::process::id()]).unwrap());
        assert!(mine.send(b"a").is_err());
    }
}
