// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl status`.

use agent_proto::admin::{StatusRequest, StatusResponse};
use jiff::Timestamp;

use crate::Verdict;
use crate::client::Client;
use crate::error::Error;
use crate::output::{Line, Output, Style};
use crate::table::{Cell, Column, Table};
use crate::text::{bytes, count, dash};
use crate::{json, time};

const SCHEMA: &str = "agentctl.status/v1";
const CAPACITY: &[Column] =
    &[Column::Left("CAPACITY"), Column::Right("USED"), Column::Right("LIMIT"), Column::Right("FULL")];
const COUNTERS: &[Column] = &[Column::Left("LOSS OR FAILURE"), Column::Right("COUNT")];
const PROGRAMS: &[Column] = &[
    Column::Left("PROGRAM"),
    Column::Left("ORIGIN"),
    Column::Right("RUNS"),
    Column::Right("MEAN NS"),
    Column::Right("VERIFIED INSNS"),
];

pub(crate) async fn run(client: &Client, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let status = client.answer(client.api().status(StatusRequest {})).await?;
    if output.is_json() {
        output.document(SCHEMA, &json::Status::from(&status))?;
    } else {
        render(&status, time::now(), output)?;
    }
    Ok(Verdict::ok_if(status.state == "serving"))
}

fn render(status: &StatusResponse, now: Timestamp, output: &mut Output<'_>) -> Result<(), Error> {
    let style = match status.state.as_str() {
        "serving" => Style::Good,
        "degraded" => Style::Warn,
        _ => Style::Bad,
    };
    output.line(
        &Line::painted(Style::Title, "agent-daemon ").and(&status.version).and(" is ").paint(style, &status.state),
    )?;
    for reason in &status.degraded {
        output.line(&Line::painted(Style::Warn, format!("  - {reason}")))?;
    }
    let width = status.endpoints.iter().map(|endpoint| endpoint.name.len()).max().unwrap_or_default().max(12);
    let mut row = |name: &str, value: &str| output.text(format!("  {name:<width$}  {value}"));
    row("trust domain", dash(&status.trust_domain))?;
    let up = time::since(status.started_at.as_ref(), now);
    row(
        "started",
        &format!("{} ({})", time::stamp(status.started_at.as_ref()), if up.is_empty() { "just now" } else { &up }),
    )?;
    row("kernel", &format!("{}, boot {}", status.kernel_release, status.boot_id))?;
    let tiers = status.tiers.join(", ");
    row("hook tiers", if tiers.is_empty() { "none proved" } else { &tiers })?;
    row("policy", dash(&status.policy_generation))?;
    let loaded = [
        count(status.policies, "policy", "policies"),
        count(status.entries, "entry", "entries"),
        count(status.destinations, "destination", "destinations"),
        count(status.bindings, "binding", "bindings"),
    ];
    row("loaded", &loaded.join(", "))?;
    row("memory", &bytes(status.resident_bytes))?;
    for endpoint in &status.endpoints {
        row(&endpoint.name, &endpoint.address)?;
    }
    if !status.last_reload_error.is_empty() {
        output.line(&Line::painted(
            Style::Bad,
            format!(
                "  last reload failed at {}, the set before it is in force: {}",
                time::stamp(status.last_reload.as_ref()),
                status.last_reload_error
            ),
        ))?;
    }
    audit(status, output)?;
    tables(status, output)
}

fn audit(status: &StatusResponse, output: &mut Output<'_>) -> Result<(), Error> {
    let Some(audit) = &status.audit else {
        return output.line(&Line::painted(Style::Bad, "  audit         unknown: the daemon does not say"));
    };
    let line = Line::new(format!(
        "  audit         {} in {}, {}, head {}, ",
        count(audit.records, "record", "records"),
        count(audit.segments, "segment", "segments"),
        audit.durability,
        dash(&audit.head)
    ));
    output.line(&match (audit.writable, audit.failures) {
        (true, 0) => line.paint(Style::Good, "writable"),
        (true, failures) => {
            line.paint(Style::Warn, format!("writable after {}", count(failures, "failure", "failures")))
        }
        (false, _) => line.paint(Style::Bad, "not writable: every request is refused"),
    })
}

fn tables(status: &StatusResponse, output: &mut Output<'_>) -> Result<(), Error> {
    let mut capacity = Vec::new();
    for gauge in &status.capacity {
        let percent = gauge.used.saturating_mul(100).checked_div(gauge.limit).unwrap_or(100);
        let style = match percent {
            ..80 => Style::Plain,
            80..100 => Style::Warn,
            _ => Style::Bad,
        };
        capacity.push(vec![
            Cell::new(&gauge.name),
            Cell::new(gauge.used.to_string()),
            Cell::new(gauge.limit.to_string()),
            Cell::painted(style, format!("{percent}%")),
        ]);
    }
    section(CAPACITY, capacity, output)?;
    // Counters that never moved would bury the ones that did; JSON has them all.
    let counters = status.counters.iter().filter(|counter| counter.value > 0);
    let counters = counters
        .map(|counter| vec![Cell::new(&counter.name), Cell::painted(Style::Warn, counter.value.to_string())])
        .collect();
    section(COUNTERS, counters, output)?;
    let programs = status.programs.iter().map(|program| {
        let mean = program.run_time_ns.checked_div(program.run_count).filter(|_| program.run_time_ns > 0);
        vec![
            Cell::new(&program.name),
            Cell::new(&program.origin),
            Cell::new(program.run_count.to_string()),
            Cell::new(mean.map(|mean| mean.to_string()).unwrap_or_default()),
            Cell::new(program.verified_instructions.to_string()),
        ]
    });
    section(PROGRAMS, programs.collect(), output)
}

fn section(columns: &'static [Column], rows: Vec<Vec<Cell>>, output: &mut Output<'_>) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    output.blank()?;
    Table::new(columns).page(rows, output)
}

#[cfg(test)]
mod tests {
    use agent_proto::admin::{AuditStatus, Counter, Gauge};

    use super::*;
    use crate::cli::Format;

    fn rendered(status: &StatusResponse) -> String {
        let mut text = Vec::new();
        render(status, Timestamp::UNIX_EPOCH, &mut Output::new(&mut text, Format::Table, false)).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let text = rendered(&StatusResponse {
            state: "degraded".into(),
            degraded: vec!["the ring buffer lost events".into()],
            last_reload_error: "a.cedar:1: no".into(),
            audit: Some(AuditStatus { writable: false, ..Default::default() }),
            counters: vec![
                Counter { name: "ringbuf_dropped".into(), value: 7 },
                Counter { name: "quiet".into(), value: 0 },
            ],
            capacity: vec![
                Gauge { name: "full".into(), used: 10, limit: 10 },
                Gauge { name: "no limit at all".into(), used: 0, limit: 0 },
            ],
            ..Default::default()
        });
        for expected in [
            "is degraded\n  - the ring buffer lost events\n",
            "hook tiers    none proved",
            "last reload failed",
            "not writable: every request is refused",
            "ringbuf_dropped",
            "100%",
        ] {
            assert!(text.contains(expected), "no {expected:?} in\n{text}");
        }
        assert!(!text.contains("quiet"), "{text}");
    }
}
