// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Puts a name in place of one that our HTTP/2 server does not take.
//!
//! gRPC's C core, on which its Python, C++, C#, Ruby and PHP are built, puts the escaped path of a Unix socket into
//! `:authority`. That is no authority (<https://www.rfc-editor.org/rfc/rfc3986#section-3.2>), and the server resets every
//! call. Nobody reads the name on a Unix socket, so it is replaced, and such programs need no change.
//!
//! The first request of a connection decides: where its name can be taken, nothing is touched from there on.

mod block;

use std::io;

use self::block::{Name, Table};

/// What every client begins with.
const PREFACE: usize = 24;
const HEADER: usize = 9;
/// `SETTINGS_MAX_FRAME_SIZE` as every connection begins, and as our server leaves it.
const MAX_FRAME: usize = 16_384;
/// A block of headers, over all of its frames; the server above takes as much.
const MAX_BLOCK: usize = 64 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_BYTES: usize = 5;

/// What comes in on one connection.
pub(super) struct Renamer {
    at: At,
    mode: Mode,
    table: Table,
    /// Of the frame that begins.
    header: Vec<u8>,
    /// The frames of the block that is being gathered, as they came.
    raw: Vec<u8>,
    /// Its fragments, put together.
    block: Vec<u8>,
    /// Flags and stream of its first frame.
    first: Option<(u8, [u8; 4])>,
    /// What the server above has not read yet.
    ready: Vec<u8>,
    taken: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// No request was seen yet.
    Deciding,
    /// Every request has another name.
    Renaming,
    /// Nothing is looked at any more.
    Off,
}

/// Where we are in what comes in.
enum At {
    Pass { left: usize },
    Header,
    Block { left: usize, flags: u8 },
}

impl std::fmt::Debug for Renamer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renamer").field("is_off", &self.is_off()).finish_non_exhaustive()
    }
}

impl Renamer {
    pub(super) fn new() -> Self {
        Self {
            at: At::Pass { left: PREFACE },
            mode: Mode::Deciding,
            table: Table::default(),
            header: Vec::with_capacity(HEADER),
            raw: Vec::new(),
            block: Vec::new(),
            first: None,
            ready: Vec::new(),
            taken: 0,
        }
    }

    /// Whether bytes can go around this, and none is left in it.
    pub(super) fn is_off(&self) -> bool {
        matches!(self.mode, Mode::Off) && self.waiting().is_empty()
    }

    /// What the server above can read.
    pub(super) fn waiting(&self) -> &[u8] {
        self.ready.get(self.taken..).unwrap_or_default()
    }

    /// So much of it was read.
    pub(super) fn took(&mut self, length: usize) {
        self.taken = self.taken.saturating_add(length);
        if self.waiting().is_empty() {
            // A connection that goes on unchanged needs no room for it.
            self.ready = Vec::new();
            self.taken = 0;
        }
    }

    /// Takes what came in.
    ///
    /// # Errors
    /// When it is no HTTP/2 that could be renamed; the connection is of no use then.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if matches!(self.mode, Mode::Off) {
                self.ready.extend_from_slice(bytes);
                return Ok(());
            }
            let wanted = match &self.at {
                At::Pass { left } | At::Block { left, .. } => *left,
                At::Header => HEADER.saturating_sub(self.header.len()),
            };
            let (part, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
            bytes = rest;
            self.advance(part)?;
        }
        Ok(())
    }

    fn advance(&mut self, part: &[u8]) -> io::Result<()> {
        match &mut self.at {
            At::Pass { left } => {
                *left = left.saturating_sub(part.len());
                let is_over = *left == 0;
                self.ready.extend_from_slice(part);
                if is_over {
                    self.at = At::Header;
                }
            }
            At::Header => {
                self.header.extend_from_slice(part);
                if self.header.len() == HEADER {
                    self.begin_frame()?;
                }
            }
            At::Block { left, flags } => {
                *left = left.saturating_sub(part.len());
                let (is_over, flags) = (*left == 0, *flags);
                self.raw.extend_from_slice(part);
                if is_over {
                    self.end_frame(flags)?;
                }
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self) -> io::Result<()> {
        let header = std::mem::replace(&mut self.header, Vec::with_capacity(HEADER));
        let [_, _, _, kind, flags, s, t, u, v] = *header.as_slice() else { return Err(malformed()) };
        // The first bit of a stream's number means nothing.
        let (size, stream) = (length(&header), [s & 0x7f, t, u, v]);
        let is_part = match (kind, self.first) {
            (HEADERS, None) => {
                self.first = Some((flags, stream));
                true
            }
            (CONTINUATION, Some((_, of))) if of == stream => true,
            // Nothing may come between the frames of a block.
            (_, Some(_)) => return Err(malformed()),
            (_, None) => false,
        };
        if !is_part {
            self.ready.extend_from_slice(&header);
            self.at = if size == 0 { At::Header } else { At::Pass { left: size } };
            return Ok(());
        }
        if size > MAX_FRAME || self.raw.len().saturating_add(size) > MAX_BLOCK {
            return Err(malformed());
        }
        self.raw.extend_from_slice(&header);
        self.at = At::Block { left: size, flags };
        if size == 0 { self.end_frame(flags) } else { Ok(()) }
    }

    fn end_frame(&mut self, flags: u8) -> io::Result<()> {
        self.at = At::Header;
        if flags & END_HEADERS == 0 {
            return Ok(());
        }
        let (first, stream) = self.first.take().ok_or_else(malformed)?;
        self.block.clear();
        let mut frames = self.raw.as_slice();
        let mut is_first = true;
        while let Some((header, rest)) = frames.split_at_checked(HEADER) {
            let (payload, rest) = rest.split_at_checked(length(header)).ok_or_else(malformed)?;
            self.block.extend_from_slice(if is_first { fragment(payload, first)? } else { payload });
            is_first = false;
            frames = rest;
        }
        let name = block::name(&self.block, &mut self.table)?;
        if self.mode == Mode::Deciding {
            self.mode = if name.as_ref().is_none_or(Name::is_taken) { Mode::Off } else { Mode::Renaming };
        }
        match self.mode {
            Mode::Renaming => self.rename(name, first, stream)?,
            Mode::Deciding | Mode::Off => self.ready.append(&mut self.raw),
        }
        self.raw.clear();
        Ok(())
    }

    fn rename(&mut self, name: Option<Name>, first: u8, stream: [u8; 4]) -> io::Result<()> {
        let block = block::renamed(&self.block, name);
        let mut rest = block.as_slice();
        let (mut kind, mut flags) = (HEADERS, first & END_STREAM);
        loop {
            let (part, after) = rest.split_at_checked(MAX_FRAME).unwrap_or((rest, &[]));
            if after.is_empty() {
                flags |= END_HEADERS;
            }
            let size = u32::try_from(part.len()).map_err(|_| malformed())?.to_be_bytes();
            let [_, size @ ..] = size;
            self.ready.extend_from_slice(&size);
            self.ready.extend_from_slice(&[kind, flags]);
            self.ready.extend_from_slice(&stream);
            self.ready.extend_from_slice(part);
            if after.is_empty() {
                return Ok(());
            }
            (rest, kind, flags) = (after, CONTINUATION, 0);
        }
    }
}

/// The part of the first frame that is headers.
fn fragment(payload: &[u8], flags: u8) -> io::Result<&[u8]> {
    let mut payload = payload;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (first, rest) = payload.split_first().ok_or_else(malformed)?;
        (padding, payload) = (usize::from(*first), rest);
    }
    if flags & PRIORITY != 0 {
        payload = payload.get(PRIORITY_BYTES..).ok_or_else(malformed)?;
    }
    let length = payload.len().checked_sub(padding).ok_or_else(malformed)?;
    payload.get(..length).ok_or_else(malformed)
}

fn length(header: &[u8]) -> usize {
    match header {
        [a, b, c, ..] => usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX),
        _ => usize::MAX,
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the headers of a call cannot be read")
}

#[cfg(test)]
mod tests;
