// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Connections as they come in: what goes wrong with one must hold up neither the others nor the end.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// A failing accept (out of descriptors) would otherwise spin: tonic asks again at once.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of the HTTP/2 connection preface, with which every client begins.
const PREFACE_BYTES: usize = 24;
/// How long a client may take for them. Until then it holds a place and has asked for nothing.
const PREFACE_TIME: Duration = Duration::from_secs(5);

/// A listener that rests after a failure.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: UnixListener,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Acceptor {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, pause: None }
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }

    pub(super) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<UnixStream> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((io, _)) => return Poll::Ready(io),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

/// A connection that is over when it does not begin in time, or has not begun when the daemon stops. Once it has,
/// it is left alone: the calls on it are finished.
#[derive(Debug)]
pub(super) struct Prompt<S> {
    io: S,
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Prompt<S> {
    pub(super) fn new(io: S, cancel: &CancellationToken) -> Self {
        let waiting = Waiting {
            missing: PREFACE_BYTES,
            deadline: Box::pin(sleep(PREFACE_TIME)),
            cancelled: Box::pin(cancel.clone().cancelled_owned()),
        };
        Self { io, waiting: Some(waiting) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        let Some(waiting) = &mut this.waiting else { return read };
        if read.is_pending() {
            if waiting.deadline.as_mut().poll(cx).is_ready() || waiting.cancelled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        }
        waiting.missing = waiting.missing.saturating_sub(buf.filled().len().saturating_sub(before));
        if waiting.missing == 0 {
            this.waiting = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
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

impl<S: Connected> Connected for Prompt<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.io.connect_info()
    }
}
