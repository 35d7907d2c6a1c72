// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks the whole log: every line follows from the one before it, every checkpoint is signed, nothing is
//! missing at either end. Works on a log that is being written, and needs only the public key.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::Error;
use super::chain::{Hash, Position, check_checkpoint, follow};
use super::directory::{list_segments, segment_name, segment_path};
use super::segment::{Lines, Next};
use super::sidecar::{HEAD_FILE, Head, RETAINED_FILE, Retained};
use crate::authority::Jwk;

/// Records between two calls of the progress callback.
const PROGRESS_RECORDS: u64 = 10_000;
/// What is read ahead, in batches of so many bytes.
const BATCHES_AHEAD: usize = 4;
const BATCH_BYTES: usize = 256 * 1024;
/// How often retention may get in the way before the check gives up.
const ATTEMPTS: u32 = 10;

/// How far the check has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Lines checked.
    pub records: u64,
    /// Segments begun.
    pub segments: u64,
    /// Signatures checked.
    pub checkpoints: u64,
}

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// How far it came.
    pub progress: Progress,
    /// Hash of the last line that was checked; empty when there was none.
    pub head: String,
    /// The first record still held; above 1 when retention removed older ones.
    pub first_seq: u64,
    /// The last record that was checked.
    pub last_seq: u64,
    /// Records after the last checkpoint: chained, but not signed yet.
    pub unsigned_tail: u64,
    /// Bytes after the last whole line: being written now, or left by a crash.
    pub torn_bytes: u64,
    /// The first thing that is wrong.
    pub problem: Option<Problem>,
    /// The callback broke it off; nothing is known of the rest.
    pub cancelled: bool,
}

/// Where and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file.
    pub segment: String,
    /// Line in it, from 1; zero for the file as a whole.
    pub line: u64,
    /// What is wrong with it.
    pub what: String,
}

impl VerifyReport {
    /// Whether everything was checked and nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.problem.is_none() && !self.cancelled
    }
}

enum Failure {
    Problem(Problem),
    Cancelled,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Damaged { path, line, what } => {
                Self::Problem(problem(path.file_name().unwrap_or_default().to_string_lossy(), line, what))
            }
            error => Self::Error(error),
        }
    }
}

/// Checks the log in a directory against the public audit key.
///
/// The key has to come from a place that whoever could change the log could not change. Errors are only those of
/// reading; what is wrong with the log is in the report.
pub fn verify(
    directory: &Path,
    key: &Jwk,
    progress: impl FnMut(&Progress) -> ControlFlow<()>,
) -> Result<VerifyReport, Error> {
    verify_up_to(directory, key, None, progress)
}

/// The same, where the writer says itself how far the log went before it was asked: nothing that stands on the
/// disk can be made to fit that.
pub(super) fn verify_up_to(
    directory: &Path,
    key: &Jwk,
    written: Option<&Head>,
    mut progress: impl FnMut(&Progress) -> ControlFlow<()>,
) -> Result<VerifyReport, Error> {
    let mut attempt = 1;
    loop {
        // The head first: what is written meanwhile can only be ahead of it.
        let mut report = VerifyReport::default();
        let read = Head::read(directory).and_then(|head| Ok((head, Retained::read(directory, key)?)));
        let outcome = match &read {
            Ok((head, retained)) => {
                let synced = head.iter().map(|head| Expected { head, known: "head.json names", was: "synced" });
                let written = written.iter().map(|head| Expected { head, known: "this daemon wrote", was: "written" });
                let expected: Vec<Expected<'_>> = synced.chain(written).collect();
                check(directory, key, &expected, retained.as_ref(), &mut report, &mut progress).and_then(|()| {
                    let is_begun = report.progress.records > 1 || retained.is_some();
                    match head {
                        None if is_begun => Err(Failure::Problem(problem(HEAD_FILE, 0, "it is missing"))),
                        Some(_) | None => Ok(()),
                    }
                })
            }
            Err(_) => Ok(()),
        };
        let outcome = match read {
            // Segments vanish when retention removes them, and then it has said so: look again.
            Ok((_, retained))
                if attempt < ATTEMPTS
                    && matches!(outcome, Err(Failure::Problem(_)))
                    && Retained::read(directory, key).is_ok_and(|now| now != retained) =>
            {
                attempt = attempt.saturating_add(1);
                continue;
            }
            Ok(_) => outcome,
            Err(error) => Err(Failure::from(error)),
        };
        match outcome {
            Ok(()) => {}
            Err(Failure::Problem(problem)) => report.problem = Some(problem),
            Err(Failure::Cancelled) => report.cancelled = true,
            Err(Failure::Error(error)) => return Err(error),
        }
        return Ok(report);
    }
}

/// A record that the log has to hold.
struct Expected<'a> {
    head: &'a Head,
    /// Who says so.
    known: &'static str,
    was: &'static str,
}

fn check(
    directory: &Path,
    key: &Jwk,
    expected: &[Expected<'_>],
    retained: Option<&Retained>,
    report: &mut VerifyReport,
    progress: &mut impl FnMut(&Progress) -> ControlFlow<()>,
) -> Result<(), Failure> {
    let (mut position, first_segment) = match retained {
        Some(retained) => (
            retained
                .position()
                .ok_or_else(|| Failure::Problem(problem(RETAINED_FILE, 0, "it is not as it was written")))?,
            retained.segment.saturating_add(1),
        ),
        None => (Position::START, 1),
    };
    report.first_seq = position.next_seq;
    let mut head = None;
    let mut segments = list_segments(directory)?;
    segments.retain(|segment| *segment >= first_segment);
    // A segment is made before the end of the one before it is written, so until it is begun it is not there.
    let is_made_only =
        |segment: &u64| fs::metadata(segment_path(directory, *segment)).is_ok_and(|file| file.len() == 0);
    if segments.len() > 1 {
        segments.pop_if(|segment| is_made_only(segment));
    }
    let last = segments.last().copied().unwrap_or(0);
    // Retention may have gone beyond a head that was read before it; what it removed is vouched for by its signature.
    let first_held = if retained.is_some() { report.first_seq } else { 0 };
    let mut unseen: Vec<&Expected<'_>> = expected.iter().filter(|one| one.head.seq >= first_held).collect();
    for (segment, due) in segments.into_iter().zip(first_segment..) {
        if segment != due {
            return Err(Failure::Problem(problem(segment_name(due), 0, "the segment is missing")));
        }
        report.progress.segments = report.progress.segments.saturating_add(1);
        let path = segment_path(directory, segment);
        let wrong = |line, what| Failure::Problem(problem(segment_name(segment), line, what));
        let lines = match Lines::open(&path) {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(wrong(0, "it vanished")),
            Err(source) => return Err(Error::Io { operation: "open", path, source }.into()),
        };
        let mut number = 0_u64;
        let over = hashed(lines, |line, hash| {
            number = number.saturating_add(1);
            let envelope = follow(&position, line).map_err(|what| wrong(number, what))?;
            let begins = envelope.kind == "segment";
            if begins != (number == 1) || (begins && segment_of(line) != Some(segment)) {
                return Err(wrong(number, "a segment begins with the record that names it, and only there"));
            }
            report.unsigned_tail = report.unsigned_tail.saturating_add(1);
            if envelope.kind == "checkpoint" {
                check_checkpoint(line, &envelope, key).map_err(|what| wrong(number, what))?;
                report.progress.checkpoints = report.progress.checkpoints.saturating_add(1);
                report.unsigned_tail = 0;
            }
            let seq = position.next_seq;
            position = position.after_hash(hash);
            report.last_seq = seq;
            head = Some(position.head);
            for Expected { head, known, .. } in unseen.extract_if(.., |one| one.head.seq == seq) {
                if head.segment != segment || Hash::from_hex(&head.hash) != Some(position.head) {
                    let what = format!("the line is not the one that {known}");
                    return Err(Failure::Problem(problem(segment_name(segment), number, what)));
                }
            }
            report.progress.records = report.progress.records.saturating_add(1);
            if report.progress.records.is_multiple_of(PROGRESS_RECORDS) && progress(&report.progress).is_break() {
                return Err(Failure::Cancelled);
            }
            Ok(())
        });
        report.head = head.map(|head| head.hex()).unwrap_or_default();
        match over?.map_err(Error::io("read", &path))? {
            Over::End => {}
            Over::Torn { bytes } if segment == last => report.torn_bytes = bytes,
            Over::Torn { .. } => return Err(wrong(number.saturating_add(1), "the line is not whole")),
            Over::TooLong => return Err(wrong(number.saturating_add(1), "the line is longer than any record")),
        }
        if number == 0 && segment != last {
            return Err(wrong(0, "the segment is empty, but is not the last"));
        }
    }
    match unseen.first() {
        Some(Expected { head, was, .. }) => Err(Failure::Problem(problem(
            segment_name(head.segment),
            0,
            format!("the log does not hold record {}, which was {was}: lines were removed", head.seq),
        ))),
        None => Ok(()),
    }
}

/// Lines that were read and hashed.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each ends, and its hash.
    lines: Vec<(usize, Hash)>,
    /// Why there are no more.
    over: Option<io::Result<Over>>,
}

enum Over {
    End,
    Torn { bytes: u64 },
    TooLong,
}

/// Gives every line with its hash, and says how the file ends. Reading and hashing take about as long as all that is checked,
/// so they are done ahead in a thread of their own.
fn hashed(lines: Lines, mut each: impl FnMut(&[u8], Hash) -> Result<(), Failure>) -> Result<io::Result<Over>, Failure> {
    thread::scope(|scope| {
        let (to, from) = sync_channel(BATCHES_AHEAD);
        let reader = thread::Builder::new().name("audit-verify".to_owned());
        if let Err(error) = reader.spawn_scoped(scope, move || read_ahead(lines, &to)) {
            return Ok(Err(error));
        }
        for Batch { bytes, lines, over } in from {
            let mut start = 0;
            for (end, hash) in lines {
                each(bytes.get(start..end).unwrap_or_default(), hash)?;
                start = end;
            }
            if let Some(over) = over {
                return Ok(over);
            }
        }
        Ok(Err(io::Error::other("the reader ended before the file")))
    })
}

/// Until the file ends or nobody wants more.
fn read_ahead(mut lines: Lines, to: &SyncSender<Batch>) {
    loop {
        let mut batch = Batch::default();
        while batch.over.is_none() && batch.bytes.len() < BATCH_BYTES {
            batch.over = match lines.next() {
                Ok(Next::Line) => {
                    batch.bytes.extend_from_slice(lines.line());
                    batch.lines.push((batch.bytes.len(), Hash::of(lines.line())));
                    None
                }
                Ok(Next::End) => Some(Ok(Over::End)),
                Ok(Next::Torn) => Some(Ok(Over::Torn { bytes: lines.end().saturating_sub(lines.start()) })),
                Ok(Next::TooLong) => Some(Ok(Over::TooLong)),
                Err(error) => Some(Err(error)),
            };
        }
        let is_over = batch.over.is_some();
        if to.send(batch).is_err() || is_over {
            return;
        }
    }
}

fn segment_of(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        segment: u64,
    }
    serde_json::from_slice::<Numbered>(line).ok().map(|numbered| numbered.segment)
}

fn problem(segment: impl Into<String>, line: u64, what: impl Into<String>) -> Problem {
    Problem { segment: segment.into(), line, what: what.into() }
}
