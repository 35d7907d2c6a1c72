// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Finds the name in a block of headers without decoding the block.
//!
//! What stands where is told by the representations alone (<https://www.rfc-editor.org/rfc/rfc7541#section-6>). The
//! tables of both sides stay in step without our keeping one: a name that is put in place of a longer one only makes the
//! server's entry smaller, so it forgets nothing that the client still counts on.

use std::io;
use std::ops::Range;

use super::malformed;

/// In place of every name. No other that is refused is shorter, but the empty one.
const NAME: &[u8] = b"a";
const AUTHORITY: &[u8] = b":authority";
/// The same in the code of RFC 7541 appendix B.
const AUTHORITY_CODED: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
/// Its place in the static table, where its value is empty.
const AUTHORITY_INDEX: usize = 1;
/// `localhost`, as most clients send it.
const LOCALHOST_CODED: &[u8] = &[0xa0, 0xe4, 0x1d, 0x13, 0x9d, 0x09];
const CODED: u8 = 0x80;

/// A name that is written out in a block, or the field that has an empty one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// What is replaced.
    at: Range<usize>,
    kind: NameKind,
}

#[derive(Debug, PartialEq, Eq)]
enum NameKind {
    /// A value.
    Value { is_taken: bool },
    /// A whole field, by its index alone.
    Field,
}

impl Name {
    /// Whether the server takes it as it is. One in the code of RFC 7541 is not read, so only the usual one is known.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.kind, NameKind::Value { is_taken: true })
    }
}

/// The names in a block.
pub(super) fn names(block: &[u8]) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    let mut rest = Rest { block, at: 0 };
    while let Some(first) = rest.peek() {
        let begins = rest.at;
        let (prefix, is_literal) = match first {
            0x80.. => (7, false),
            0x40..=0x7f => (6, true),
            // The size of the table.
            0x20..=0x3f => (5, false),
            _ => (4, true),
        };
        let index = rest.integer(prefix)?;
        if !is_literal {
            if first >= 0x80 && index == AUTHORITY_INDEX {
                names.push(Name { at: begins..rest.at, kind: NameKind::Field });
            }
            continue;
        }
        let is_name = match index {
            0 => match rest.text()? {
                (false, name) => name == AUTHORITY,
                (true, name) => name == AUTHORITY_CODED,
            },
            index => index == AUTHORITY_INDEX,
        };
        let begins = rest.at;
        let (is_coded, value) = rest.text()?;
        if is_name {
            let is_taken = match is_coded {
                true => value == LOCALHOST_CODED,
                // As the server above reads it.
                false => http::uri::Authority::try_from(value).is_ok(),
            };
            names.push(Name { at: begins..rest.at, kind: NameKind::Value { is_taken } });
        }
    }
    Ok(names)
}

/// The block with another name.
pub(super) fn renamed(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(block.len());
    let mut copied = 0;
    for Name { at, kind } in names(block)? {
        out.extend_from_slice(block.get(copied..at.start).unwrap_or_default());
        if kind == NameKind::Field {
            // A literal that no table remembers.
            out.push(0x01);
        }
        out.push(u8::try_from(NAME.len()).unwrap_or_default());
        out.extend_from_slice(NAME);
        copied = at.end;
    }
    out.extend_from_slice(block.get(copied..).unwrap_or_default());
    Ok(out)
}

struct Rest<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn peek(&self) -> Option<u8> {
        self.block.get(self.at).copied()
    }

    fn byte(&mut self) -> io::Result<u8> {
        let byte = self.peek().ok_or_else(malformed)?;
        self.at = self.at.saturating_add(1);
        Ok(byte)
    }

    /// RFC 7541 section 5.1, with so many bits of the first byte.
    fn integer(&mut self, prefix: u32) -> io::Result<usize> {
        let most = 0xff >> 8_u32.saturating_sub(prefix);
        let first = usize::from(self.byte()? & most);
        if first < usize::from(most) {
            return Ok(first);
        }
        let mut value = first;
        // Four more bytes say more than a block can hold.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value = value.saturating_add(usize::from(byte & 0x7f) << shift);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed())
    }

    /// RFC 7541 section 5.2: whether it is coded, and its bytes.
    fn text(&mut self) -> io::Result<(bool, &'a [u8])> {
        let is_coded = self.peek().ok_or_else(malformed)? & CODED != 0;
        let length = self.integer(7)?;
        let end = self.at.checked_add(length).ok_or_else(malformed)?;
        let text = self.block.get(self.at..end).ok_or_else(malformed)?;
        self.at = end;
        Ok((is_coded, text))
    }
}
