// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A caller's connection. The kernel puts the sender's process and ids on every message (`SO_PASSCRED`), so a
//! socket that was inherited or passed on is found out by the first byte that somebody else writes.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, getsockopt, recvmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::admin::Operator;
use super::door::{Door, Place, Who};
use super::presence::Presence;
use super::rename::Renamer;
use super::status::status;
use crate::attest::{Failure, Peer};
use crate::node::Node;

/// How long the first call of a connection waits for its caller to answer; clients do at once, by themselves.
const PRESENCE_TIME: Duration = Duration::from_secs(2);

/// Read at once while the names of requests are still looked at.
const UNREAD_BYTES: usize = 4096;

/// What a handler knows of its caller.
#[derive(Debug, Clone)]
pub(super) struct CallerInfo {
    peer: Arc<Peer>,
    node: Arc<Node>,
    present: watch::Receiver<bool>,
}

impl CallerInfo {
    /// The caller, once it has shown that it is there itself; see [`super::presence`].
    pub(super) async fn peer(&self) -> Result<Arc<Peer>, Failure> {
        if *self.present.borrow() {
            return Ok(Arc::clone(&self.peer));
        }
        let mut present = self.present.clone();
        match tokio::time::timeout(PRESENCE_TIME, present.wait_for(|present| *present)).await {
            Ok(Ok(_)) => Ok(Arc::clone(&self.peer)),
            Ok(Err(_)) | Err(_) => {
                let failure = Failure::OriginatorMismatch("the program image that was pinned does not answer");
                self.node.refuse_peer("presence", &failure, &self.peer);
                Err(failure)
            }
        }
    }
}

/// Records that a request is not as it has to be; its caller need not have shown that it is there.
pub(super) fn refuse<T>(request: &Request<T>, action: &str, reason: &'static str, detail: &str) {
    if let Some(caller) = request.extensions().get::<CallerInfo>() {
        caller.node.refuse_request(action, reason, detail, &caller.peer);
    }
}

/// The caller of a request, once it has shown that it is there itself.
pub(super) async fn present<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    let caller = request.extensions().get::<CallerInfo>();
    // Not borrowed across the wait: a request of another type need not be shared between threads.
    let caller = caller.cloned().ok_or_else(|| Status::unauthenticated("unresolvable"))?;
    caller.peer().await.map_err(|failure| status(&failure.into()))
}

/// A connection of an attested caller.
pub(super) struct PeerStream {
    io: UnixStream,
    peer: Arc<Peer>,
    node: Arc<Node>,
    /// Real ids of the first message; a later message with others is by a process that changed them.
    ids: Option<(u32, u32)>,
    control: Vec<u8>,
    presence: Presence,
    renamer: Renamer,
    _place: Place,
}

impl PeerStream {
    pub(super) fn new(io: UnixStream, peer: Peer, node: Arc<Node>, place: Place, presence: Presence) -> Self {
        let control = nix::cmsg_space!(UnixCredentials);
        let renamer = Renamer::new();
        Self { io, peer: Arc::new(peer), node, ids: None, control, presence, renamer, _place: place }
    }

    /// What came in, with the names of requests as our server takes them.
    fn read(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        if self.renamer.is_off() {
            return self.receive(buf);
        }
        let mut space = [0; UNREAD_BYTES];
        while self.renamer.waiting().is_empty() {
            let mut came = ReadBuf::new(&mut space);
            self.receive(&mut came)?;
            if came.filled().is_empty() {
                return Ok(());
            }
            self.renamer.push(came.filled())?;
        }
        let waiting = self.renamer.waiting();
        let part = waiting.get(..buf.remaining()).unwrap_or(waiting);
        buf.put_slice(part);
        let length = part.len();
        self.renamer.took(length);
        Ok(())
    }

    fn receive(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let fd = self.io.as_raw_fd();
        let control = &mut self.control;
        let unfilled = buf.initialize_unfilled();
        if unfilled.is_empty() {
            return Ok(());
        }
        let (length, sender) = self.io.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(unfilled)];
            // There is room for credentials only, so descriptors that are sent along are never installed.
            let message = recvmsg::<()>(fd, &mut parts, Some(control), MsgFlags::MSG_CMSG_CLOEXEC)?;
            let sender = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::ScmCredentials(sender) => Some(sender),
                _ => None,
            });
            Ok((message.bytes, sender))
        })?;
        if length > 0 {
            self.is_own(sender)?;
        }
        let before = buf.filled().len();
        buf.advance(length);
        self.presence.received(buf.filled().get(before..).unwrap_or_default());
        Ok(())
    }

    /// Whether a message came from the process that opened the connection, with the ids it had.
    fn is_own(&mut self, sender: Option<UnixCredentials>) -> io::Result<()> {
        let broken = match sender {
            None => Some("a message without a sender"),
            Some(sender) if u32::try_from(sender.pid()) != Ok(self.peer.process.tgid) => {
                Some("another process writes on this connection")
            }
            Some(sender) => {
                let ids = (sender.uid(), sender.gid());
                let first = *self.ids.get_or_insert(ids);
                (first != ids).then_some("the caller changed its user or group")
            }
        };
        let Some(why) = broken else { return Ok(()) };
        self.peer.break_pin(why);
        self.node.refuse_peer("write", &Failure::OriginatorMismatch(why), &self.peer);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}

impl Connected for PeerStream {
    type ConnectInfo = CallerInfo;

    fn connect_info(&self) -> CallerInfo {
        CallerInfo { peer: Arc::clone(&self.peer), node: Arc::clone(&self.node), present: self.presence.proved() }
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.renamer.waiting().is_empty() {
                ready!(self.io.poll_read_ready(cx))?;
            }
            match self.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }
}

/// A connection of an operator. The socket's mode lets in only who runs the daemon; the kernel's word on the
/// peer is checked again.
pub(super) struct OperatorStream {
    io: UnixStream,
    operator: Operator,
    _place: Place,
}

impl OperatorStream {
    /// None for anyone but root and the daemon's own user.
    pub(super) fn admit(io: UnixStream, door: &Door) -> Option<Self> {
        let credentials = getsockopt(&io, PeerCredentials).ok()?;
        let uid = credentials.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            tracing::warn!(uid, "refused on the admin socket");
            return None;
        }
        let operator =
            Operator { uid, gid: credentials.gid(), tgid: u32::try_from(credentials.pid()).ok(), exec_id: None };
        Some(Self { io, operator, _place: door.enter(Who::User(uid)).ok()? })
    }
}

impl Connected for OperatorStream {
    type ConnectInfo = Operator;

    fn connect_info(&self) -> Operator {
        self.operator
    }
}

impl AsyncRead for OperatorStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.presence.poll_write(Pin::new(&mut this.io), cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.presence.is_sent() {
            return Pin::new(&mut self.io).poll_write_vectored(cx, parts);
        }
        let first = parts.iter().find(|part| !part.is_empty()).map_or(&[][..], |part| part);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.presence.poll_send(Pin::new(&mut this.io), cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl AsyncWrite for OperatorStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
