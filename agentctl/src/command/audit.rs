// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl audit`: the log's records, and whether its chain holds.

use agent_proto::admin::{MemberFilter, QueryAuditRequest, VerifyAuditRequest, VerifyAuditResponse};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::Verdict;
use crate::cli::{AuditCommand, AuditFilter, AuditOutcome, Format};
use crate::client::{Client, Patience};
use crate::command::trace;
use crate::error::Error;
use crate::id::ExecId;
use crate::output::{Line, Output, Style, quiet};
use crate::table::{Cell, Column, Table};
use crate::text::{brief, count};
use crate::{export, json, time};

const SCHEMA_RECORD: &str = "agentctl.audit.record/v1";
const SCHEMA_VERIFY: &str = "agentctl.audit.verify/v1";
const COLUMNS: &[Column] = &[
    Column::Right("SEQ"),
    Column::Left("TIME"),
    Column::Left("KIND"),
    Column::Left("RESULT"),
    Column::Left("EXEC"),
    Column::Right("PID"),
    Column::Left("IDENTITY"),
    Column::Left("DESTINATION"),
    Column::Left("DETAIL"),
];
/// Fields that have a column of their own, belong to the chain, or are too long for a row.
const SHOWN: &[&str] = &[
    "seq",
    "prev",
    "time",
    "boot_id",
    "kind",
    "outcome",
    "exec",
    "exec_id",
    "tgid",
    "spiffe_id",
    "destination",
    "lineage",
    "near_misses",
    "signature",
];

pub(crate) async fn run(client: &Client, command: &AuditCommand, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let (filter, last, follow) = match command {
        AuditCommand::Tail { lines, follow, filter } => (filter, *lines, *follow),
        AuditCommand::Query { last, follow, filter } => (filter, last.unwrap_or(0), *follow),
        AuditCommand::Trace(args) => return trace::run(client, args, output).await,
        AuditCommand::Verify => return verify(client, output).await,
    };
    if filter.raw && matches!(output.format(), Format::Ocsf | Format::Otlp) {
        return Err(Error::NoSuchOutput);
    }
    let patience = if follow { Patience::Endless } else { Patience::Finite };
    let mut pages = client.pages(patience, client.api().query_audit(request(filter, last, follow))).await?;
    let mut table = Table::new(COLUMNS);
    while !output.is_closed()
        && let Some(page) = pages.next().await?
    {
        let records = &page.records;
        match output.format() {
            _ if filter.raw => records.iter().try_for_each(|record| output.raw(format!("{record}\n").as_bytes()))?,
            Format::Json => records.iter().try_for_each(|record| output.raw(wrap(record)?.as_bytes()))?,
            Format::Ocsf => {
                records.iter().try_for_each(|record| output.raw(line(&export::event(record))?.as_bytes()))?;
            }
            Format::Otlp => {
                export::logs(records).iter().try_for_each(|logs| output.raw(line(logs)?.as_bytes()))?;
            }
            Format::Table | Format::Html => {
                table.page(records.iter().map(|record| row(record)).collect(), output)?;
            }
        }
        output.flush()?;
    }
    if !filter.raw && output.format() == Format::Table {
        table.finish("no records", output)?;
    }
    Ok(Verdict::Ok)
}

fn request(filter: &AuditFilter, last: u32, follow: bool) -> QueryAuditRequest {
    let now = time::now();
    QueryAuditRequest {
        last,
        follow,
        since: filter.since.map(|moment| moment.resolve(now)),
        until: filter.until.map(|moment| moment.resolve(now)),
        spiffe_id: filter.identity.clone().unwrap_or_default(),
        destination: filter.destination.clone().unwrap_or_default(),
        lease_id: filter.lease.clone().unwrap_or_default(),
        decision_id: filter.decision.clone().unwrap_or_default(),
        exec_id: filter.exec.map(|ExecId(id)| id).unwrap_or_default(),
        tgid: filter.pid.unwrap_or_default(),
        kind: filter.kind.clone().unwrap_or_default(),
        outcome: match filter.outcome {
            None => String::new(),
            Some(AuditOutcome::Allow) => "allow".to_owned(),
            Some(AuditOutcome::Deny) => "deny".to_owned(),
        },
        members: filter
            .members
            .iter()
            .map(|(path, value)| MemberFilter { path: path.clone(), value: value.clone() })
            .collect(),
    }
}

/// The record as it stands, inside a line with our schema; a line that is not JSON is given as text.
fn wrap(record: &str) -> Result<String, Error> {
    // A control character could only stand between tokens, where the daemon writes nothing.
    if !record.contains(char::is_control) && serde_json::from_str::<IgnoredAny>(record).is_ok() {
        return Ok(format!("{{\"schema\":\"{SCHEMA_RECORD}\",\"record\":{}}}\n", quiet(record)));
    }
    let text = serde_json::to_string(record).map_err(Error::Json)?;
    Ok(format!("{{\"schema\":\"{SCHEMA_RECORD}\",\"record\":null,\"unreadable\":{}}}\n", quiet(&text)))
}

/// What agents wrote is in it; on a terminal it must not do anything.
fn line(value: &Value) -> Result<String, Error> {
    Ok(format!("{}\n", quiet(&serde_json::to_string(value).map_err(Error::Json)?)))
}

fn row(record: &str) -> Vec<Cell> {
    let Ok(Value::Object(fields)) = serde_json::from_str(record) else {
        let mut cells = vec![Cell::new("?"), Cell::new(""), Cell::painted(Style::Bad, "unreadable")];
        cells.extend((0..5).map(|_| Cell::new("")));
        cells.push(Cell::new(record.chars().take(120).collect::<String>()));
        return cells;
    };
    // A fact about the process stands in `exec`, in `caller` where nothing more was found out about it, or beside the
    // rest. Elsewhere the caller is an operator.
    let is_refused = fields.get("kind").is_some_and(|kind| kind == "caller_refused");
    let whole = if is_refused { "caller" } else { "exec" };
    let of_exec = |name: &str| {
        let value = fields.get(whole).and_then(|exec| exec.get(name)).or_else(|| fields.get(name));
        value.map(plain).unwrap_or_default()
    };
    let field = |name: &str| fields.get(name).map(plain).unwrap_or_default();
    let exec_id = of_exec("exec_id");
    let exec_id = exec_id.parse::<u64>().map(|id| ExecId(id).to_string()).unwrap_or(exec_id);
    let result = field("outcome");
    let style = match result.as_str() {
        "allow" => Style::Good,
        "deny" => Style::Bad,
        _ => Style::Plain,
    };
    vec![
        Cell::new(field("seq")),
        Cell::new(moment(&field("time"))),
        Cell::new(field("kind")),
        Cell::painted(style, result),
        Cell::new(exec_id),
        Cell::new(of_exec("tgid")),
        Cell::new(field("spiffe_id")),
        Cell::new(field("destination")),
        Cell::new(detail(&fields)),
    ]
}

/// To the second, as in the other tables; what is not a time is shown as it stands.
fn moment(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Err(_) => text.to_owned(),
    }
}

/// What is left of a record, as `name=value`, most telling first.
fn detail(fields: &serde_json::Map<String, Value>) -> String {
    const FIRST: &[&str] = &["reason", "cause", "detail", "expected", "actual", "lease_id", "decision_id"];
    let first = FIRST.iter().filter_map(|name| fields.get_key_value(*name));
    let rest = fields.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()) && !SHOWN.contains(&name.as_str()));
    let pairs = first.chain(rest).filter_map(|(name, value)| {
        let text = match value {
            Value::Object(_) | Value::Null => return None,
            Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
            other => plain(other),
        };
        (!text.is_empty()).then(|| format!("{name}={}", brief(&text)))
    });
    pairs.collect::<Vec<_>>().join(" ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

async fn verify(client: &Client, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let mut pages = client.pages(Patience::Finite, client.api().verify_audit(VerifyAuditRequest {})).await?;
    let mut last = None;
    while let Some(progress) = pages.next().await? {
        last = Some(progress);
    }
    // Only a verification that came to its end says anything.
    let report = last.filter(|report: &VerifyAuditResponse| report.finished).ok_or(Error::CutShort)?;
    if output.is_json() {
        output.document(SCHEMA_VERIFY, &json::Verification::from(&report))?;
    } else {
        render_verification(&report, output)?;
    }
    Ok(Verdict::ok_if(report.valid))
}

fn render_verification(report: &VerifyAuditResponse, output: &mut Output<'_>) -> Result<(), Error> {
    let amount = format!(
        "{} in {}, {}",
        count(report.records, "record", "records"),
        count(report.segments, "segment", "segments"),
        count(report.checkpoints, "signed checkpoint", "signed checkpoints")
    );
    if report.valid {
        output.line(&Line::painted(Style::Good, "the chain holds").and(format!(": {amount}")))?;
        output.text(format!("  head {}", report.head))?;
    } else {
        output.line(&Line::painted(Style::Bad, "the chain is broken").and(format!(": {}", report.problem)))?;
        if !report.segment.is_empty() {
            output.text(format!("  at {}:{}", report.segment, report.line))?;
        }
        output.text(format!("  read so far: {amount}"))?;
    }
    if report.first_seq > 1 {
        output.text(format!("  begins at record {}: older segments were removed by retention", report.first_seq))?;
    }
    if report.unsigned_tail > 0 {
        let records = count(report.unsigned_tail, "record", "records");
        output.line(&Line::painted(Style::Dim, format!("  {records} after the last signed checkpoint")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECISION: &str = r#"{"seq":7,"prev":"00","time":"2026-01-31T12:00:00.123456Z","kind":"decision","outcome":"deny","reason":"no_identity","exec":{"exec_id":42,"tgid":9},"destination":"reports","policy_ids":["a","b"],"lease_id":null}"#;

    fn printed(records: &[&str]) -> String {
        let mut text = Vec::new();
        let mut output = Output::new(&mut text, Format::Table, false);
        Table::new(COLUMNS).page(records.iter().map(|record| row(record)).collect(), &mut output).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_record_becomes_one_row_whatever_it_holds() {
        let ended = r#"{"seq":8,"kind":"lease_ended","exec_id":"42","cause":"exited\u001b[2J\n"}"#;
        let refused = r#"{"seq":9,"kind":"caller_refused","reason":"bad_request","caller":{"exec_id":43,"tgid":12}}"#;
        let text = printed(&[DECISION, ended, "not json \x1b[2J", "[1]", "{}", refused]);
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(!text.contains('\x1b'));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("2026-01-31 12:00:00Z") && lines[1].contains("x42") && lines[1].contains("deny"));
        assert!(lines[1].ends_with("reason=no_identity policy_ids=a,b"), "{text}");
        assert!(lines[2].contains("x42") && lines[2].contains("cause=exited\\u{1b}[2J"), "{text}");
        assert!(lines[3].contains("unreadable"));
        assert!(lines[6].contains("x43") && lines[6].contains(" 12 "), "{text}");
    }

    #[test]
    fn a_record_keeps_its_bytes_inside_the_json_line() {
        let wrapped = wrap(DECISION).unwrap();
        assert_eq!(wrapped, format!("{{\"schema\":\"{SCHEMA_RECORD}\",\"record\":{DECISION}}}\n"));
        let torn: Value = serde_json::from_str(&wrap("{\"seq\":1").unwrap()).unwrap();
        assert_eq!(torn["record"], Value::Null);
        assert_eq!(torn["unreadable"], "{\"seq\":1");
    }

    #[test]
    fn a_record_cannot_break_out_of_its_line() {
        for record in ["{}}\n{\"schema\":\"forged\"", "{}\n{}", "{\n}", "null} {"] {
            let wrapped = wrap(record).unwrap();
            assert_eq!(wrapped.lines().count(), 1, "{wrapped}");
            assert_eq!(serde_json::from_str::<Value>(&wrapped).unwrap()["unreadable"], record);
        }
    }

    #[test]
    fn a_broken_chain_says_where() {
        let report = VerifyAuditResponse {
            problem: "the hash of the line before differs".into(),
            segment: "audit-00000002.jsonl".into(),
            line: 12,
            first_seq: 100,
            ..Default::default()
        };
        let mut text = Vec::new();
        render_verification(&report, &mut Output::new(&mut text, Format::Table, false)).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.starts_with(
                "the chain is broken: the hash of the line before differs\n  at audit-00000002.jsonl:12\n"
            )
        );
        assert!(text.contains("begins at record 100"));
    }
}
