// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The audit log's lines, and whether its chain holds.

use std::ops::ControlFlow;
use std::sync::Arc;

use agent_proto::admin::{MemberFilter, QueryAuditRequest, QueryAuditResponse, VerifyAuditResponse};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;
use tonic::Status;

use super::facts::ServingState;
use super::failure;
use super::outlet::{Broken, Outlet};
use super::processes::{PAGE, PAGE_BYTES};
use crate::api::convert;
use crate::audit::{KINDS, Log, MAX_LAST, Member, Progress, Query, VerifyReport, seq_of};

/// Records between two messages of progress.
const PROGRESS_RECORDS: u64 = 50_000;
/// Longest word or name to look for; none in the log is longer.
const MAX_FILTER_BYTES: usize = 4096;
/// Members asked for at once.
const MAX_MEMBERS: usize = 16;

/// What an operator asks the log.
pub(super) fn query(asked: QueryAuditRequest) -> Result<Query, Status> {
    let last = match usize::try_from(asked.last) {
        Ok(0) => None,
        Ok(last) if last <= MAX_LAST => Some(last),
        _ => return Err(Status::invalid_argument(format!("last: at most {MAX_LAST}"))),
    };
    let moment = |name: &str, sent: Option<prost_types::Timestamp>| {
        let moment = sent.map(|sent| convert::moment(&sent).ok_or(sent)).transpose();
        moment.map_err(|_| Status::invalid_argument(format!("{name}: not a time")))
    };
    let text = |name: &str, sent: String| {
        if sent.len() > MAX_FILTER_BYTES {
            return Err(Status::invalid_argument(format!("{name}: too long")));
        }
        Ok((!sent.is_empty()).then_some(sent))
    };
    let outcome = text("outcome", asked.outcome)?;
    if outcome.as_deref().is_some_and(|outcome| !matches!(outcome, "allow" | "deny")) {
        return Err(Status::invalid_argument("outcome: `allow` or `deny`"));
    }
    let kind = text("kind", asked.kind)?;
    if kind.as_deref().is_some_and(|kind| !KINDS.contains(&kind)) {
        return Err(Status::invalid_argument(format!("kind: one of {}", KINDS.join(", "))));
    }
    Ok(Query {
        last,
        since: moment("since", asked.since)?,
        until: moment("until", asked.until)?,
        spiffe_id: text("spiffe_id", asked.spiffe_id)?,
        destination: text("destination", asked.destination)?,
        lease_id: text("lease_id", asked.lease_id)?,
        decision_id: text("decision_id", asked.decision_id)?,
        exec_id: (asked.exec_id != 0).then_some(asked.exec_id),
        tgid: (asked.tgid != 0).then_some(asked.tgid),
        kind,
        outcome,
        members: members(asked.members)?,
    })
}

fn members(asked: Vec<MemberFilter>) -> Result<Vec<Member>, Status> {
    if asked.len() > MAX_MEMBERS {
        return Err(Status::invalid_argument(format!("members: at most {MAX_MEMBERS}")));
    }
    let check = |MemberFilter { path, value }| {
        let is_path =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if path.len() > MAX_FILTER_BYTES || !path.split('.').all(is_path) {
            return Err(Status::invalid_argument("members: a path is names joined by dots, for example session.agent"));
        }
        if value.len() > MAX_FILTER_BYTES {
            return Err(Status::invalid_argument("members: a value is too long"));
        }
        Ok(Member { path, value })
    };
    asked.into_iter().map(check).collect()
}

/// Streams the lines that match, and says the number of the last one. Blocks.
pub(super) fn past(log: &Log, query: &Query, outlet: &Outlet<QueryAuditResponse>) -> Result<u64, Broken> {
    let mut page = Page::default();
    let mut last = 0;
    let mut broken = None;
    let summary = log.query(query, |line| {
        last = seq_of(line).unwrap_or(last).max(last);
        let Some(full) = page.add(line) else { return ControlFlow::Continue(()) };
        match outlet.push_blocking(full) {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                broken = Some(why);
                ControlFlow::Break(())
            }
        }
    });
    if let Some(broken) = broken {
        return Err(broken);
    }
    let summary = summary.map_err(|error| failure::audit(&error))?;
    if let Some(rest) = page.take() {
        outlet.push_blocking(rest)?;
    }
    if summary.unreadable > 0 {
        // What was found was sent; that it is everything cannot be said.
        let text = format!(
            "{} lines are not audit records and were left out; `agentctl audit verify` says which",
            summary.unreadable
        );
        return Err(Status::data_loss(text).into());
    }
    Ok(last)
}

/// Streams what matches from now on. `lines` was subscribed before the past was read, up to `seen`.
pub(super) async fn follow(
    query: &Query,
    seen: u64,
    mut lines: Receiver<Arc<str>>,
    mut state: watch::Receiver<ServingState>,
    outlet: &Outlet<QueryAuditResponse>,
) -> Result<(), Broken> {
    loop {
        // Every wait here is cancel-safe: none of them has taken a line when another one wins.
        let line = tokio::select! {
            line = lines.recv() => line,
            () = outlet.closed() => return Err(Broken::Gone),
            () = stopping(&mut state) => return Err(Status::unavailable("the daemon is stopping").into()),
        };
        let mut page = Page::default();
        let mut next = line;
        loop {
            match next {
                Ok(line) => {
                    // A line with no number is none of ours; the log does not write such.
                    let is_new = seq_of(&line).is_some_and(|seq| seq > seen);
                    if is_new
                        && query.matches(&line) == Some(true)
                        && let Some(full) = page.add(&line)
                    {
                        outlet.push(full).await?;
                    }
                }
                Err(RecvError::Lagged(lost)) => {
                    if let Some(rest) = page.take() {
                        outlet.push(rest).await?;
                    }
                    let text = format!("this reader fell {lost} records behind; ask again for what it missed");
                    return Err(Status::data_loss(text).into());
                }
                Err(RecvError::Closed) => {
                    if let Some(rest) = page.take() {
                        outlet.push(rest).await?;
                    }
                    return Err(Status::unavailable("the audit log is closed").into());
                }
            }
            next = match lines.try_recv() {
                Ok(line) => Ok(line),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(lost)) => Err(RecvError::Lagged(lost)),
                Err(TryRecvError::Closed) => Err(RecvError::Closed),
            };
        }
        if let Some(rest) = page.take() {
            outlet.push(rest).await?;
        }
    }
}

/// Until the daemon stops, or nobody is left to say so.
pub(super) async fn stopping(state: &mut watch::Receiver<ServingState>) {
    let _closed = state.wait_for(|state| *state == ServingState::Stopping).await.is_err();
}

/// Checks the whole log. Blocks.
pub(super) fn verify(log: &Log, outlet: &Outlet<VerifyAuditResponse>) -> Result<(), Broken> {
    let mut told: u64 = 0;
    let report = log.verify(|progress| {
        if progress.records < told.saturating_add(PROGRESS_RECORDS) {
            return ControlFlow::Continue(());
        }
        told = progress.records;
        match outlet.push_blocking(so_far(progress)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let report = report.map_err(|error| failure::audit(&error))?;
    if report.cancelled {
        return Err(Broken::Gone);
    }
    outlet.push_blocking(verdict(report))
}

fn so_far(progress: &Progress) -> VerifyAuditResponse {
    VerifyAuditResponse {
        records: progress.records,
        segments: progress.segments,
        checkpoints: progress.checkpoints,
        ..VerifyAuditResponse::default()
    }
}

fn verdict(report: VerifyReport) -> VerifyAuditResponse {
    let valid = report.is_valid();
    let problem = report.problem.unwrap_or_else(|| crate::audit::Problem {
        segment: String::new(),
        line: 0,
        what: String::new(),
    });
    VerifyAuditResponse {
        finished: true,
        valid,
        problem: problem.what,
        segment: problem.segment,
        line: problem.line,
        head: report.head,
        unsigned_tail: report.unsigned_tail,
        first_seq: report.first_seq,
        ..so_far(&report.progress)
    }
}

/// Lines on their way into a message.
#[derive(Debug, Default)]
struct Page {
    lines: Vec<String>,
    bytes: usize,
}

impl Page {
    /// Gives a message when it is full.
    fn add(&mut self, line: &str) -> Option<QueryAuditResponse> {
        self.bytes = self.bytes.saturating_add(line.len());
        self.lines.push(line.to_owned());
        (self.lines.len() >= PAGE || self.bytes >= PAGE_BYTES).then(|| self.take()).flatten()
    }

    fn take(&mut self) -> Option<QueryAuditResponse> {
        self.bytes = 0;
        let records = std::mem::take(&mut self.lines);
        (!records.is_empty()).then_some(QueryAuditResponse { records })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;
    use tokio_stream::StreamExt as _;
    use tonic::Code;

    use super::super::outlet;
    use super::*;

    fn line(seq: u64, kind: &str) -> Arc<str> {
        format!("{{\"seq\":{seq},\"time\":\"2025-06-01T00:00:00Z\",\"kind\":\"{kind}\"}}").into()
    }

    #[test]
    fn a_malformed_question_is_refused_by_field() {
        let asked = QueryAuditRequest::default();
        for (asked, field) in [
            (QueryAuditRequest { last: u32::MAX, ..asked.clone() }, "last"),
            (
                QueryAuditRequest { since: Some(prost_types::Timestamp { seconds: 0, nanos: -1 }), ..asked.clone() },
                "since",
            ),
            (QueryAuditRequest { outcome: "maybe".into(), ..asked.clone() }, "outcome"),
            (QueryAuditRequest { kind: "decisions".into(), ..asked.clone() }, "kind"),
            (QueryAuditRequest { spiffe_id: "x".repeat(5000), ..asked.clone() }, "spiffe_id"),
        ] {
            let status = query(asked).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{}", status.message());
        }
        assert_eq!(query(asked).unwrap(), Query::default());
    }

    #[test]
    fn zero_and_empty_mean_any() {
        let asked = QueryAuditRequest { last: 5, tgid: 7, kind: "decision".into(), ..QueryAuditRequest::default() };
        let expected = Query { last: Some(5), tgid: Some(7), kind: Some("decision".into()), ..Query::default() };
        assert_eq!(query(asked).unwrap(), expected);
    }

    #[tokio::test]
    async fn followed_lines_come_once_and_only_those_that_match() {
        let (sender, lines) = broadcast::channel(16);
        let (_state, state) = watch::channel(ServingState::Serving);
        for (seq, kind) in [(4, "decision"), (5, "decision"), (6, "reload"), (7, "decision")] {
            sender.send(line(seq, kind)).unwrap();
        }
        drop(sender);
        let (outlet, ending, stream) = outlet::open();
        let query = Query { kind: Some("decision".into()), ..Query::default() };
        let outcome = follow(&query, 4, lines, state, &outlet).await;
        assert!(matches!(&outcome, Err(Broken::Failed(status)) if status.code() == Code::Unavailable));
        drop(outlet);
        ending.finish(outcome);
        let messages: Vec<_> = stream.collect().await;
        let seqs: Vec<_> = messages[0].as_ref().unwrap().records.iter().map(|line| seq_of(line).unwrap()).collect();
        assert_eq!(seqs, [5, 7]);
        assert_eq!(messages[1].as_ref().unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn a_reader_that_fell_behind_is_told_and_not_given_a_gap() {
        let (sender, lines) = broadcast::channel(2);
        let (_state, state) = watch::channel(ServingState::Serving);
        for seq in 1..=10 {
            sender.send(line(seq, "decision")).unwrap();
        }
        let (outlet, _ending, _stream) = outlet::open();
        let outcome = follow(&Query::default(), 0, lines, state, &outlet).await;
        assert!(matches!(outcome, Err(Broken::Failed(status)) if status.code() == Code::DataLoss));
    }

    #[tokio::test]
    async fn following_ends_when_the_daemon_stops() {
        let (_sender, lines) = broadcast::channel(2);
        let (stop, state) = watch::channel(ServingState::Serving);
        let (outlet, _ending, _stream) = outlet::open();
        stop.send(ServingState::Stopping).unwrap();
        let outcome = follow(&Query::default(), 0, lines, state, &outlet).await;
        assert!(matches!(outcome, Err(Broken::Failed(status)) if status.code() == Code::Unavailable));
    }

    #[test]
    fn a_page_is_full_by_lines_or_by_bytes() {
        let mut page = Page::default();
        for _ in 1..PAGE {
            assert!(page.add("x").is_none());
        }
        assert_eq!(page.add("x").unwrap().records.len(), PAGE);
        assert_eq!(page.add(&"x".repeat(PAGE_BYTES)).unwrap().records.len(), 1);
        assert!(page.take().is_none());
    }

    #[test]
    fn a_verdict_is_final_and_names_the_place() {
        let problem = crate::audit::Problem { segment: "audit-00000001.jsonl".into(), line: 9, what: "bad".into() };
        let bad = verdict(VerifyReport { problem: Some(problem), ..VerifyReport::default() });
        assert!(bad.finished && !bad.valid);
        assert_eq!((bad.segment.as_str(), bad.line, bad.problem.as_str()), ("audit-00000001.jsonl", 9, "bad"));
        let good = verdict(VerifyReport { first_seq: 3, unsigned_tail: 2, ..VerifyReport::default() });
        assert!(good.finished && good.valid);
        assert_eq!((good.first_seq, good.unsigned_tail), (3, 2));
        assert!(!so_far(&Progress::default()).finished);
    }
}
