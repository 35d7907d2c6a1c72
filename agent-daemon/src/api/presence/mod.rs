// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether the program image that was pinned at accept is the one that speaks on the connection.
//!
//! Between `connect` and accept there is time for an exec. A process could connect, write a request, hand a copy of
//! the socket to a child, and become a program that has an identity; the daemon would pin that program, answer the
//! request as its own, and the child would read the answer. So once the caller is pinned the daemon sends a PING
//! (<https://www.rfc-editor.org/rfc/rfc9113#section-6.7>) with bytes that nobody can know before, and no request is
//! looked at until they came back. The kernel names the process of every message; that it is still the same image
//! is checked before every answer.
//!
//! Where nothing waited on the listening socket after the image began, it needs no proof: whatever came later was connected by
//! this image, because there has been no other in its process since. Most connections of programs that live for a while
//! are such, and save the round trip.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::sync::watch;

use crate::authority;

const HEADER: usize = 9;
const PAYLOAD: usize = 8;
/// What every client begins with.
const PREFACE: usize = 24;
const PING: u8 = 6;
const ACK: u8 = 1;

/// One connection's proof.
#[derive(Debug)]
pub(super) struct Presence {
    payload: [u8; PAYLOAD],
    outgoing: Outgoing,
    incoming: Incoming,
    proved: watch::Sender<bool>,
}

/// Where the PING goes: after the first frame of ours, which has to be our settings.
#[derive(Debug)]
enum Outgoing {
    Header { read: Vec<u8> },
    Rest { left: usize },
    Ping { frame: [u8; HEADER + PAYLOAD], sent: usize },
    Done,
}

/// Where we are in what comes in. Frames are only counted here; what is wrong with them is found elsewhere.
#[derive(Debug)]
enum Incoming {
    Skip { left: usize },
    Header { read: Vec<u8> },
    Answer { read: Vec<u8> },
    Done,
}

impl Presence {
    pub(super) fn new() -> Result<Self, authority::Error> {
        let mut payload = [0; PAYLOAD];
        authority::fill_random(&mut payload)?;
        Ok(Self {
            payload,
            outgoing: Outgoing::Header { read: Vec::with_capacity(HEADER) },
            incoming: Incoming::Skip { left: PREFACE },
            proved: watch::Sender::new(false),
        })
    }

    /// Of a connection of which it is known that the pinned image opened it.
    pub(super) fn known() -> Self {
        Self {
            payload: [0; PAYLOAD],
            outgoing: Outgoing::Done,
            incoming: Incoming::Done,
            proved: watch::Sender::new(true),
        }
    }

    /// Becomes true with the proof, and ends with the connection.
    pub(super) fn proved(&self) -> watch::Receiver<bool> {
        self.proved.subscribe()
    }

    /// Whether everything of ours has been written.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.outgoing, Outgoing::Done)
    }

    /// Writes on behalf of the server above, with the PING in its place.
    pub(super) fn poll_write(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(io.as_mut(), cx))?;
        let room = match &self.outgoing {
            Outgoing::Header { read } => HEADER.saturating_sub(read.len()),
            Outgoing::Rest { left } => *left,
            Outgoing::Ping { .. } | Outgoing::Done => bytes.len(),
        };
        let part = bytes.get(..room).unwrap_or(bytes);
        let written = ready!(io.poll_write(cx, part))?;
        self.wrote(part.get(..written).unwrap_or(part));
        Poll::Ready(Ok(written))
    }

    /// Writes the PING if it is its turn.
    pub(super) fn poll_send(
        &mut self,
        mut io: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Outgoing::Ping { frame, sent } = &mut self.outgoing {
            let rest = frame.get(*sent..).unwrap_or_default();
            if rest.is_empty() {
                self.outgoing = Outgoing::Done;
                break;
            }
            match ready!(io.as_mut().poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => *sent = sent.saturating_add(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, part: &[u8]) {
        match &mut self.outgoing {
            Outgoing::Header { read } => {
                read.extend_from_slice(part);
                if let Some(header) = Header::parse(read) {
                    self.outgoing = Outgoing::Rest { left: header.length };
                }
            }
            Outgoing::Rest { left } => *left = left.saturating_sub(part.len()),
            Outgoing::Ping { .. } | Outgoing::Done => {}
        }
        if matches!(self.outgoing, Outgoing::Rest { left: 0 }) {
            self.outgoing = Outgoing::Ping { frame: ping(self.payload), sent: 0 };
        }
    }

    /// Looks at bytes that the pinned process wrote.
    pub(super) fn received(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = match &self.incoming {
                Incoming::Skip { left } => *left,
                Incoming::Header { read } => HEADER.saturating_sub(read.len()),
                Incoming::Answer { read } => PAYLOAD.saturating_sub(read.len()),
                Incoming::Done => return,
            };
            let (part, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            bytes = rest;
            self.advance(part);
        }
    }

    fn advance(&mut self, part: &[u8]) {
        match &mut self.incoming {
            Incoming::Skip { left } => {
                *left = left.saturating_sub(part.len());
                if *left == 0 {
                    self.incoming = Incoming::Header { read: Vec::with_capacity(HEADER) };
                }
            }
            Incoming::Header { read } => {
                read.extend_from_slice(part);
                self.incoming = match Header::parse(read) {
                    None => return,
                    Some(header) if header.is_answer() => Incoming::Answer { read: Vec::with_capacity(PAYLOAD) },
                    Some(header) if header.length == 0 => Incoming::Header { read: Vec::with_capacity(HEADER) },
                    Some(header) => Incoming::Skip { left: header.length },
                };
            }
            Incoming::Answer { read } => {
                read.extend_from_slice(part);
                if read.len() < PAYLOAD {
                    return;
                }
                if *read == self.payload {
                    self.proved.send_replace(true);
                    self.incoming = Incoming::Done;
                } else {
                    self.incoming = Incoming::Header { read: Vec::with_capacity(HEADER) };
                }
            }
            Incoming::Done => {}
        }
    }
}

struct Header {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes else { return None };
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([s, t, u, v]) & 0x7fff_ffff })
    }

    fn is_answer(&self) -> bool {
        self.length == PAYLOAD && self.kind == PING && self.flags & ACK != 0 && self.stream == 0
    }
}

fn ping(payload: [u8; PAYLOAD]) -> [u8; HEADER + PAYLOAD] {
    let mut frame = [0, 0, 8, PING, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (to, from) in frame.iter_mut().skip(HEADER).zip(payload) {
        *to = from;
    }
    frame
}

#[cfg(test)]
mod tests;
