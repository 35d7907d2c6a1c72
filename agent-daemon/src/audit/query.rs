// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Finds lines in the log: byte for byte as they stand, streaming, in bounded memory.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::Error;
use super::directory::{list_segments, segment_path};
use super::segment::{Lines, Next};

/// Most lines that [`Query::last`] gives.
pub const MAX_LAST: usize = 100_000;

/// Which lines; all that is given must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only the newest so many that match, at most [`MAX_LAST`].
    pub last: Option<usize>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// The identity of the one who asked.
    pub spiffe_id: Option<String>,
    /// What it asked for.
    pub destination: Option<String>,
    /// Which lease.
    pub lease_id: Option<String>,
    /// Which decision.
    pub decision_id: Option<String>,
    /// The exec instance that asked, or held the lease.
    pub exec_id: Option<u64>,
    /// Its thread group id.
    pub tgid: Option<u32>,
    /// `decision`, `lease_ended`, …
    pub kind: Option<String>,
    /// `allow` or `deny`.
    pub outcome: Option<String>,
    /// Members anywhere in the record, and what they have to be.
    pub members: Vec<Member>,
}

/// A member of a record, by the names on the way to it: `session.agent`. Of a list, any of its elements will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Names, joined by dots.
    pub path: String,
    /// As JSON writes it, without the quotes of a text.
    pub value: String,
}

impl Member {
    fn is_in(&self, record: &Value) -> bool {
        is_at(record, &self.path, &self.value)
    }
}

fn is_at(value: &Value, path: &str, wanted: &str) -> bool {
    if let Value::Array(elements) = value {
        return elements.iter().any(|element| is_at(element, path, wanted));
    }
    if path.is_empty() {
        return match value {
            Value::String(text) => text == wanted,
            Value::Null | Value::Object(_) | Value::Array(_) => false,
            Value::Bool(is) => wanted == if *is { "true" } else { "false" },
            Value::Number(number) => {
                let written = number.to_string();
                written == wanted
            }
        };
    }
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    value.get(name).is_some_and(|value| is_at(value, rest, wanted))
}

/// What a query came upon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuerySummary {
    /// Lines that matched.
    pub matched: u64,
    /// Lines that are no audit records; `verify` says which.
    pub unreadable: u64,
}

/// The members a query can ask for.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    spiffe_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    destination: Option<Cow<'a, str>>,
    #[serde(borrow)]
    lease_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    decision_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    outcome: Option<Cow<'a, str>>,
    exec_id: Option<u64>,
    tgid: Option<u32>,
    exec: Option<Subject>,
    caller: Option<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    exec_id: Option<u64>,
    tgid: Option<u32>,
}

impl Query {
    /// Whether a line matches; `None` when it is no audit record.
    pub fn matches(&self, line: &str) -> Option<bool> {
        if !self.members.is_empty() {
            // The words come first: most lines do not hold them.
            if !self.members.iter().all(|member| line.contains(&*escaped(&member.value))) {
                return serde_json::from_str::<Fields<'_>>(line).is_ok().then_some(false);
            }
            let record: Value = serde_json::from_str(line).ok()?;
            if !self.members.iter().all(|member| member.is_in(&record)) {
                return Some(false);
            }
        }
        let fields: Fields<'_> = serde_json::from_str(line).ok()?;
        let time: Timestamp = fields.time.parse().ok()?;
        let same = |asked: &Option<String>, found: &Option<Cow<'_, str>>| {
            asked.as_deref().is_none_or(|asked| found.as_deref() == Some(asked))
        };
        let subjects = || fields.exec.iter().chain(fields.caller.iter());
        Some(
            self.since.is_none_or(|since| time >= since)
                && self.until.is_none_or(|until| time <= until)
                && self.kind.as_deref().is_none_or(|kind| fields.kind == kind)
                && same(&self.spiffe_id, &fields.spiffe_id)
                && same(&self.destination, &fields.destination)
                && same(&self.lease_id, &fields.lease_id)
                && same(&self.decision_id, &fields.decision_id)
                && same(&self.outcome, &fields.outcome)
                && self.exec_id.is_none_or(|asked| {
                    fields.exec_id == Some(asked) || subjects().any(|subject| subject.exec_id == Some(asked))
                })
                && self.tgid.is_none_or(|asked| {
                    fields.tgid == Some(asked) || subjects().any(|subject| subject.tgid == Some(asked))
                }),
        )
    }
}

/// As it stands within a line, where it is short and plain enough to be looked for.
fn escaped(value: &str) -> Cow<'_, str> {
    let is_plain = value.chars().all(|character| character.is_ascii_alphanumeric() || ":-_./@ ".contains(character));
    if is_plain { value.into() } else { "".into() }
}

/// Hands matching lines to `each`, oldest first, until it breaks.
pub(super) fn run(
    directory: &Path,
    query: &Query,
    mut each: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<QuerySummary, Error> {
    let mut summary = QuerySummary::default();
    let segments = list_segments(directory)?;
    let Some(last) = query.last else {
        for segment in segments {
            let flow =
                read(directory, segment, |line, _| match line.and_then(|line| Some((line, query.matches(line)?))) {
                    Some((line, true)) => {
                        summary.matched = summary.matched.saturating_add(1);
                        each(line)
                    }
                    Some((_, false)) => ControlFlow::Continue(()),
                    None => {
                        summary.unreadable = summary.unreadable.saturating_add(1);
                        ControlFlow::Continue(())
                    }
                })?;
            if flow.is_break() {
                break;
            }
        }
        return Ok(summary);
    };

    // Newest segment first, remembering where lines stand rather than the lines, so that memory stays small.
    let last = last.min(MAX_LAST);
    let mut found: VecDeque<(u64, VecDeque<u64>)> = VecDeque::new();
    let mut missing = last;
    for segment in segments.into_iter().rev() {
        if missing == 0 {
            break;
        }
        let mut starts = VecDeque::new();
        let _end = read(directory, segment, |line, start| {
            match line.and_then(|line| query.matches(line)) {
                Some(true) => {
                    if starts.len() >= missing {
                        starts.pop_front();
                    }
                    starts.push_back(start);
                }
                Some(false) => {}
                None => summary.unreadable = summary.unreadable.saturating_add(1),
            }
            ControlFlow::Continue(())
        })?;
        missing = missing.saturating_sub(starts.len());
        found.push_front((segment, starts));
    }
    for (segment, starts) in found {
        let path = segment_path(directory, segment);
        let mut lines = match Lines::open(&path) {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::Io { operation: "open", path, source }),
        };
        for start in starts {
            lines.seek(start).map_err(Error::io("read", &path))?;
            let Next::Line = lines.next().map_err(Error::io("read", &path))? else { continue };
            let Ok(line) = str::from_utf8(lines.line()) else { continue };
            summary.matched = summary.matched.saturating_add(1);
            if each(line).is_break() {
                return Ok(summary);
            }
        }
    }
    Ok(summary)
}

/// Every whole line of a segment and where it starts; nothing when retention removed the segment meanwhile.
pub(super) fn read(
    directory: &Path,
    segment: u64,
    mut each: impl FnMut(Option<&str>, u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error> {
    let path = segment_path(directory, segment);
    let mut lines = match Lines::open(&path) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ControlFlow::Continue(())),
        Err(source) => return Err(Error::Io { operation: "open", path, source }),
    };
    loop {
        match lines.next().map_err(Error::io("read", &path))? {
            Next::Line => {
                if each(str::from_utf8(lines.line()).ok(), lines.start()).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Next::TooLong => {
                return Err(Error::Damaged { path, line: lines.number(), what: "the line is longer than any record" });
            }
            // A line that is being written now.
            Next::Torn | Next::End => return Ok(ControlFlow::Continue(())),
        }
    }
}
