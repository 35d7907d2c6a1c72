// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which leases were alive when the daemon last wrote: what a crash took from memory, the log still has.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::Error;
use super::directory::{list_segments, segment_path};
use super::query::read;
use super::record::{DecisionRecord, Outcome};
use super::segment::{Lines, Next};

/// Most leases that can be taken up again.
pub const MAX_RECOVERED_LEASES: usize = 200_000;

/// A lease that was granted and of whose end the log says nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantedLease {
    /// Of the record, from 1.
    pub seq: u64,
    /// When it was granted.
    pub time: Timestamp,
    /// Exec ids of another boot mean nothing now.
    pub boot_id: String,
    /// Everything the decision said.
    pub decision: DecisionRecord,
}

#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    time: Timestamp,
    #[serde(borrow)]
    boot_id: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    lease_id: Option<Cow<'a, str>>,
}

/// Leases granted since a moment and not ended, oldest first. Reads only segments that can hold one.
///
/// `since` is now less the longest lifetime of a lease. A line that is no audit record is an error: a lease of
/// which the log cannot tell is not taken up as if it could.
pub fn recover_leases(directory: &Path, since: Timestamp) -> Result<std::vec::IntoIter<GrantedLease>, Error> {
    let mut segments = Vec::new();
    for segment in list_segments(directory)?.into_iter().rev() {
        segments.push(segment);
        // All of the segments before this one are older than its first line.
        if first_time(directory, segment)?.is_some_and(|time| time < since) {
            break;
        }
    }
    let mut granted: HashMap<String, GrantedLease> = HashMap::new();
    for segment in segments.into_iter().rev() {
        let mut number: u64 = 0;
        let mut failure = None;
        let _end = read(directory, segment, |line, _| {
            number = number.saturating_add(1);
            match line.ok_or("the line is not UTF-8").and_then(|line| apply(line, since, &mut granted)) {
                Ok(()) if granted.len() > MAX_RECOVERED_LEASES => {
                    failure = Some(Error::TooManyLeases { limit: MAX_RECOVERED_LEASES });
                    ControlFlow::Break(())
                }
                Ok(()) => ControlFlow::Continue(()),
                Err(what) => {
                    failure = Some(Error::Damaged { path: segment_path(directory, segment), line: number, what });
                    ControlFlow::Break(())
                }
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
    }
    let mut leases: Vec<_> = granted.into_values().collect();
    leases.sort_unstable_by_key(|lease| lease.seq);
    Ok(leases.into_iter())
}

fn apply(line: &str, since: Timestamp, granted: &mut HashMap<String, GrantedLease>) -> Result<(), &'static str> {
    let header: Line<'_> = serde_json::from_str(line).map_err(|_| "the line is not an audit record")?;
    let Some(lease_id) = header.lease_id else { return Ok(()) };
    if header.kind == "lease_ended" {
        granted.remove(lease_id.as_ref());
        return Ok(());
    }
    if header.kind != "decision" || header.time < since {
        return Ok(());
    }
    let decision: DecisionRecord = serde_json::from_str(line).map_err(|_| "the line is not a decision record")?;
    if decision.outcome == Outcome::Allow {
        let lease = GrantedLease { seq: header.seq, time: header.time, boot_id: header.boot_id.into_owned(), decision };
        granted.insert(lease_id.into_owned(), lease);
    }
    Ok(())
}

/// When the first line of a segment was written.
fn first_time(directory: &Path, segment: u64) -> Result<Option<Timestamp>, Error> {
    let path = segment_path(directory, segment);
    let mut lines = Lines::open(&path).map_err(Error::io("open", &path))?;
    Ok(match lines.next().map_err(Error::io("read", &path))? {
        Next::Line => serde_json::from_slice::<Line<'_>>(lines.line()).ok().map(|line| line.time),
        Next::Torn | Next::End | Next::TooLong => None,
    })
}
