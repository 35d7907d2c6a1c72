// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the chain stands when the daemon starts: reads the last segment, finds a torn line, checks the head.
//!
//! Only a line that the file ends in the middle of is mended, because a crash leaves exactly that. Everything
//! else that does not fit is damage, and refused.

use std::fs;
use std::path::Path;

use super::Error;
use super::chain::{Envelope, Hash, Position, follow};
use super::directory::{list_segments, segment_path};
use super::segment::{Lines, Next};
use super::sidecar::{HEAD_FILE, Head, RETAINED_FILE, Retained, damaged};
use crate::authority::Jwk;

/// The log as it was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The oldest segment.
    pub(super) first_segment: u64,
    /// The newest segment, to which lines are added.
    pub(super) segment: u64,
    /// Its length in whole lines.
    pub(super) length: u64,
    /// Where the chain stands.
    pub(super) position: Position,
    /// What stands after the last whole line.
    pub(super) torn: Option<Torn>,
}

/// An incomplete line.
#[derive(Debug)]
pub(super) struct Torn {
    pub(super) bytes: u64,
    pub(super) hash: Hash,
}

struct Scan {
    /// Where its first line stands; `None` when it has no whole line.
    first: Option<Position>,
    /// Where the chain stands after its last.
    position: Position,
    length: u64,
    torn: Option<Torn>,
    /// The hash of the record the caller asked for.
    hash_at: Option<Hash>,
}

/// Looks at the directory; `None` when no log was begun there.
pub(super) fn find(directory: &Path, key: &Jwk) -> Result<Option<Found>, Error> {
    let head = Head::read(directory)?;
    let retained = Retained::read(directory, key)?;
    let mut segments = list_segments(directory)?;
    if let Some(retained) = &retained {
        // Named as removed, but a crash came between the name and the removal.
        for segment in segments.extract_if(.., |segment| *segment <= retained.segment) {
            let path = segment_path(directory, segment);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    let start = match &retained {
        Some(retained) => {
            retained.position().ok_or_else(|| damaged(directory, RETAINED_FILE, "it is not as it was written"))?
        }
        None => Position::START,
    };
    let expected = head.as_ref().map_or(start.last_seq(), |head| head.seq);
    let truncated = |found| Error::Truncated { path: directory.to_owned(), found, expected };
    let (Some(first_segment), Some(segment)) = (segments.first().copied(), segments.last().copied()) else {
        return if expected == 0 { Ok(None) } else { Err(truncated(0)) };
    };
    let first_expected = retained.as_ref().map_or(1, |retained| retained.segment.saturating_add(1));
    for (segment, expected) in segments.iter().zip(first_expected..) {
        if *segment != expected {
            let path = segment_path(directory, expected);
            return Err(Error::Damaged { path, line: 0, what: "the segment is missing" });
        }
    }

    let asked = head.as_ref().map(|head| head.seq);
    let mut holding = segment;
    let last = scan(directory, segment, asked)?;
    let (length, torn) = (last.length, last.torn);
    let mut known = (last.first, last.position, last.hash_at);
    if known.0.is_none() {
        // The crash came before its first line: the chain stands where the one before it ended.
        known = if segment == first_segment {
            (None, start, None)
        } else {
            holding = segment.saturating_sub(1);
            let before = scan(directory, holding, asked)?;
            if before.first.is_none() || before.torn.is_some() {
                let path = segment_path(directory, holding);
                return Err(Error::Damaged { path, line: 0, what: "it is not whole, but was not the last" });
            }
            (before.first, before.position, before.hash_at)
        };
    }
    let (first, position, hash_at) = known;
    if holding == first_segment && first.is_some_and(|first| first != start) {
        let path = segment_path(directory, holding);
        return Err(Error::Damaged { path, line: 1, what: "it does not follow from what was removed before it" });
    }
    match &head {
        None if position.last_seq() > 1 => return Err(damaged(directory, HEAD_FILE, "it is missing")),
        None => {}
        Some(head) if head.segment > segment || head.seq > position.last_seq() => {
            return Err(truncated(position.last_seq()));
        }
        // An older head is in a segment that was whole when the next one was begun.
        Some(head) if first.is_some_and(|first| head.seq < first.next_seq) && head.segment < holding => {}
        Some(head) if head.segment == holding && hash_at.map(|hash| hash.hex()) == Some(head.hash.clone()) => {}
        Some(head) if first.is_none() && head.seq == position.last_seq() && head.hash == position.head.hex() => {}
        Some(_) => return Err(damaged(directory, HEAD_FILE, "the log does not hold the record it names")),
    }
    Ok(Some(Found { first_segment, segment, length, position, torn }))
}

/// Follows the chain through one segment, from wherever its first line says it stands.
fn scan(directory: &Path, segment: u64, asked: Option<u64>) -> Result<Scan, Error> {
    let path = segment_path(directory, segment);
    let damaged = |line, what| Error::Damaged { path: path.clone(), line, what };
    let mut lines = Lines::open(&path).map_err(Error::io("open", &path))?;
    let mut scan = Scan { first: None, position: Position::START, length: 0, torn: None, hash_at: None };
    loop {
        match lines.next().map_err(Error::io("read", &path))? {
            Next::Line => {}
            Next::End => return Ok(scan),
            Next::Torn => {
                let bytes = lines.end().saturating_sub(lines.start());
                scan.torn = Some(Torn { bytes, hash: Hash::of(lines.line()) });
                return Ok(scan);
            }
            Next::TooLong => return Err(damaged(lines.number(), "the line is longer than any record")),
        }
        if scan.first.is_none() {
            let first = stands_at(lines.line()).ok_or_else(|| damaged(1, "the line is not an audit record"))?;
            scan.first = Some(first);
            scan.position = first;
        }
        follow(&scan.position, lines.line()).map_err(|what| damaged(lines.number(), what))?;
        let seq = scan.position.next_seq;
        scan.position = scan.position.after(lines.line());
        scan.length = lines.end();
        if asked == Some(seq) {
            scan.hash_at = Some(scan.position.head);
        }
    }
}

/// Where a line says it stands.
pub(super) fn stands_at(line: &[u8]) -> Option<Position> {
    let envelope: Envelope<'_> = serde_json::from_slice(line).ok()?;
    Some(Position { next_seq: envelope.seq, head: Hash::from_hex(&envelope.prev)? })
}
