// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::net::SocketAddr;

use super::{BootTime, ExecId, SessionId};

/// One socket that an exec instance connected or sent from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Socket cookie: unique per boot.
    pub cookie: u64,
    /// Who called connect or send.
    pub exec_id: ExecId,
    /// Thread group of the caller.
    pub tgid: u32,
    /// Its thread that did.
    pub tid: u32,
    /// Its session.
    pub session_id: Option<SessionId>,
    /// Its governed tree.
    pub tree: Option<u32>,
    /// When.
    pub at: BootTime,
    /// Effective ids of the calling thread at that moment.
    pub uid: u32,
    /// See `uid`.
    pub gid: u32,
    /// Where to; v4-mapped IPv6 is IPv4 here.
    pub remote: SocketAddr,
    /// Where from, once known.
    pub local: Option<SocketAddr>,
    /// Inode number of the socket's network namespace, once known.
    pub net_ns: Option<u32>,
    /// TCP, UDP or another.
    pub protocol: Protocol,
    /// The hook that saw it.
    pub hook: Hook,
    /// TCP: the handshake was completed and the connection is not closed. Others: always.
    pub is_open: bool,
    /// TCP: it was closed, or never opened.
    pub is_closed: bool,
    /// What the kernel programs said to it.
    pub verdict: Verdict,
    /// Why.
    pub ground: Ground,
}

/// What the kernel programs say to a connection. The last one is the strictest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Let through, and told of.
    Audit,
    /// Refused with `EPERM`.
    #[default]
    Deny,
}

impl Verdict {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Deny => "deny",
        }
    }
}

/// By what the kernel programs came to their verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// The opener is in no governed tree: nothing was asked.
    Ungoverned,
    /// What policy says of the destinations at this address.
    Destination,
    /// No declared destination is there.
    Undeclared,
    /// The opener was not classified, or not with the ids that it had then.
    Pending,
    /// It was a socket of a kind of which the hooks of connections see nothing.
    Socket,
}

/// A transport protocol by its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u16);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// A kernel hook of ours on the way of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// `cgroup/connect4`
    Connect4,
    /// `cgroup/connect6`
    Connect6,
    /// `cgroup/sendmsg4`
    Sendmsg4,
    /// `cgroup/sendmsg6`
    Sendmsg6,
    /// `cgroup/sock_create`, of refused sockets
    SockCreate,
}

impl Hook {
    /// Its name in the kernel.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::SockCreate => "sock_create",
        }
    }
}

/// A TCP connection as its opener sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// The opener's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Inode number of the network namespace.
    pub net_ns: u32,
}
