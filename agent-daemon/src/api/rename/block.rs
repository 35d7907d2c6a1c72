// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Finds the name in a block of headers without decoding the block.
//!
//! What stands where is told by the representations alone (<https://www.rfc-editor.org/rfc/rfc7541#section-6>). The
//! tables of both sides stay in step without our keeping their contents: a name that is put in place of a longer one makes
//! the server's entry smaller, so the server forgets nothing that the client still counts on. Only an empty name grows,
//! by a byte; a client that fills its table to the last byte with one loses its connection.

use std::collections::VecDeque;
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
/// The first place of the table that the client fills; the newest entry has it.
/// <https://www.rfc-editor.org/rfc/rfc7541#section-2.3.3>
const FIRST_DYNAMIC: u64 = 62;
/// More entries of that name do not fit into a table of 4,096 bytes, each of 32 and its texts.
const MAX_REMEMBERED: usize = 97;
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

/// What of the client's table has to be known: which of its entries have the name.
#[derive(Debug, Default)]
pub(super) struct Table {
    inserted: u64,
    /// By number, the newest last.
    names: VecDeque<u64>,
}

impl Table {
    fn insert(&mut self, is_name: bool) {
        self.inserted = self.inserted.saturating_add(1);
        if is_name {
            if self.names.len() == MAX_REMEMBERED {
                self.names.pop_front();
            }
            self.names.push_back(self.inserted);
        }
    }

    fn is_name(&self, index: usize) -> bool {
        if index == AUTHORITY_INDEX {
            return true;
        }
        let back = u64::try_from(index).ok().and_then(|index| index.checked_sub(FIRST_DYNAMIC));
        back.and_then(|back| self.inserted.checked_sub(back)).is_some_and(|number| self.names.contains(&number))
    }
}

/// The name in a block. More than one is no request, and the server would refuse it too.
pub(super) fn name(block: &[u8], table: &mut Table) -> io::Result<Option<Name>> {
    let mut found = None;
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
        let name = if !is_literal {
            let is_empty_name = first >= 0x80 && index == AUTHORITY_INDEX;
            is_empty_name.then_some(Name { at: begins..rest.at, kind: NameKind::Field })
        } else {
            let is_name = match index {
                0 => match rest.text()? {
                    (false, name) => name == AUTHORITY,
                    (true, name) => name == AUTHORITY_CODED,
                },
                index => table.is_name(index),
            };
            let begins = rest.at;
            let (is_coded, value) = rest.text()?;
            if first >= 0x40 {
                table.insert(is_name);
            }
            is_name.then(|| {
                let is_taken = match is_coded {
                    true => value == LOCALHOST_CODED,
                    // As the server above reads it.
                    false => http::uri::Authority::try_from(value).is_ok(),
                };
                Name { at: begins..rest.at, kind: NameKind::Value { is_taken } }
            })
        };
        if name.is_some() && found.is_some() {
            return Err(malformed());
        }
        found = found.or(name);
    }
    Ok(found)
}

/// The block with another name.
pub(super) fn renamed(block: &[u8], name: Option<Name>) -> Vec<u8> {
    let Some(Name { at, kind }) = name else { return block.to_vec() };
    let mut out = Vec::with_capacity(block.len());
    out.extend_from_slice(block.get(..at.start).unwrap_or_default());
    if kind == NameKind::Field {
        // A literal that no table remembers.
        out.push(0x01);
    }
    out.push(u8::try_from(NAME.len()).unwrap_or_default());
    out.extend_from_slice(NAME);
    out.extend_from_slice(block.get(at.end..).unwrap_or_default());
    out
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
