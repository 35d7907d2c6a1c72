// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Log records of OpenTelemetry in its JSON file format: each line is a whole `LogsData`, as collectors read it.
//!
//! Names are those of the semantic conventions where there are such, and begin with `agent_daemon.` elsewhere.

use serde_json::{Value, json};

use super::{Record, Weight, Who, known};

/// Readers of lines have a limit: that of OpenTelemetry's collector is one MiB unless it is set.
const MAX_LINE_BYTES: usize = 512 * 1024;

/// Lines of several records each.
pub(crate) fn logs(lines: &[String]) -> Vec<Value> {
    let now = jiff::Timestamp::now();
    let mut all = Vec::new();
    let (mut records, mut length) = (Vec::new(), 0_usize);
    for line in lines {
        let record = log_record(&Record::new(line), now);
        let written = record.to_string().len();
        if length.saturating_add(written) > MAX_LINE_BYTES && !records.is_empty() {
            all.push(logs_data(&std::mem::take(&mut records)));
            length = 0;
        }
        length = length.saturating_add(written);
        records.push(record);
    }
    if !records.is_empty() {
        all.push(logs_data(&records));
    }
    all
}

fn logs_data(records: &[Value]) -> Value {
    let resource = [("service.name", json!("agent-daemon")), ("os.type", json!("linux"))];
    let resource: Vec<Value> = resource.iter().map(|(name, value)| attribute(name, value)).collect();
    let scope = json!({"name": "agent-daemon.audit", "version": env!("CARGO_PKG_VERSION")});
    let logs = json!({"scope": scope, "logRecords": records});
    json!({"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": [logs]}]})
}

fn log_record(record: &Record<'_>, now: jiff::Timestamp) -> Value {
    let (severity, severity_text) = match record.weight() {
        Weight::Usual => (9, "INFO"),
        Weight::Low => (11, "INFO3"),
        Weight::Medium => (13, "WARN"),
        Weight::High => (17, "ERROR"),
    };
    let (trace, span) = context(record);
    known(json!({
        "timeUnixNano": record.time().unwrap_or(now).as_nanosecond().to_string(),
        "observedTimeUnixNano": now.as_nanosecond().to_string(),
        "severityNumber": severity,
        "severityText": severity_text,
        "eventName": format!("agent_daemon.{}", record.kind()),
        "body": value(&json!(record.message())),
        "attributes": attributes(record),
        "traceId": trace,
        "spanId": span,
    }))
}

/// The step that it belongs to, or what the request named.
fn context<'r>(record: &'r Record<'_>) -> (Option<&'r str>, Option<&'r str>) {
    if let (Some(trace), Some(span)) = (record.text("/step/trace_id"), record.text("/step/span_id")) {
        return (Some(trace), Some(span));
    }
    let mut parts = record.text("/traceparent").unwrap_or_default().split('-').skip(1);
    let hex = |text: &&str, digits: usize| text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match (parts.next().filter(|text| hex(text, 32)), parts.next().filter(|text| hex(text, 16))) {
        (Some(trace), Some(span)) => (Some(trace), Some(span)),
        _ => (None, None),
    }
}

fn attributes(record: &Record<'_>) -> Vec<Value> {
    let text = |pointer: &str| record.text(pointer).map(|text| json!(text));
    let of_program = matches!(record.who(), Who::Program(_));
    let of_tool = record.text("/step/kind") == Some("tool_call");
    // What agents do has names of its own there: https://opentelemetry.io/docs/specs/semconv/gen-ai/
    // On the step alone: what is joined to it is not one more.
    let operation = match record.text("/step/kind").filter(|_| record.kind() == "step") {
        Some("tool_call") => Some(json!("execute_tool")),
        Some("instruction") => Some(json!("invoke_agent")),
        Some("reasoning") => Some(json!("chat")),
        _ => None,
    };
    let policies = record.texts("/policy_ids");
    let all = [
        ("gen_ai.operation.name", operation),
        ("gen_ai.tool.name", text("/step/name").filter(|_| of_tool)),
        ("gen_ai.agent.name", text("/session/agent")),
        ("gen_ai.agent.id", text("/spiffe_id").filter(|_| of_program)),
        ("gen_ai.conversation.id", text("/session_id")),
        ("user.id", text("/user").filter(|_| record.who() != Who::Operator)),
        ("user.name", text("/session/user_name")),
        ("process.pid", record.pid().map(|pid| json!(pid))),
        ("process.executable.path", record.path().map(|path| json!(path))),
        ("server.address", text("/connection/remote_address")),
        ("server.port", record.number("/connection/remote_port").map(|port| json!(port))),
        ("network.transport", text("/connection/protocol")),
        ("error.type", record.code().filter(|_| record.succeeded() == Some(false)).map(|code| json!(code))),
        // The line of the log, from which its chain can be checked.
        ("log.record.original", Some(json!(record.line))),
        ("agent_daemon.kind", Some(json!(record.kind()))),
        ("agent_daemon.seq", record.number("/seq").map(|seq| json!(seq))),
        ("agent_daemon.boot_id", text("/boot_id")),
        ("agent_daemon.action", text("/action")),
        ("agent_daemon.outcome", text("/outcome").or_else(|| text("/state"))),
        ("agent_daemon.audit_mode", record.is_only_audited().then_some(json!(true))),
        ("agent_daemon.cause", text("/cause")),
        ("agent_daemon.detail", record.details().map(|detail| json!(detail))),
        ("agent_daemon.decision_id", text("/decision_id")),
        ("agent_daemon.policy_ids", (!policies.is_empty()).then(|| json!(policies))),
        ("agent_daemon.policy_generation", text("/policy_generation")),
        ("agent_daemon.destination", text("/destination")),
        ("agent_daemon.lease_id", text("/lease_id")),
        ("agent_daemon.exec_id", record.exec_id().map(|id| json!(id))),
        ("agent_daemon.process.user.id", record.uid().map(|uid| json!(uid))),
        ("agent_daemon.about.exec_id", record.about().map(|id| json!(id))),
        ("agent_daemon.about.spiffe_id", text("/spiffe_id").filter(|_| !of_program)),
        ("agent_daemon.about.user", text("/user").filter(|_| record.who() == Who::Operator)),
        ("agent_daemon.step.kind", text("/step/kind")),
        ("agent_daemon.step.joined_by", text("/step/joined_by")),
    ];
    all.iter().filter_map(|(name, value)| value.as_ref().map(|value| attribute(name, value))).collect()
}

fn attribute(name: &str, of: &Value) -> Value {
    json!({"key": name, "value": value(of)})
}

/// An `AnyValue`. Whole numbers are text in this format, as in all of protobuf's JSON.
fn value(of: &Value) -> Value {
    match of {
        Value::Bool(is) => json!({"boolValue": is}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
        Value::Array(items) => json!({"arrayValue": {"values": items.iter().map(value).collect::<Vec<_>>()}}),
        Value::String(text) => json!({"stringValue": text}),
        other => json!({"stringValue": other.to_string()}),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DECISION, KINDS};
    use super::*;

    fn first(line: &str) -> Value {
        logs(&[line.to_owned()])[0]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0].clone()
    }

    fn attribute_of(record: &Value, name: &str) -> Value {
        let all = record["attributes"].as_array().unwrap();
        all.iter().find(|one| one["key"] == name).map(|one| one["value"].clone()).unwrap_or_default()
    }

    #[test]
    fn a_decision_keeps_its_step_and_its_names() {
        let record = first(DECISION);
        assert_eq!(record["timeUnixNano"], "1795773601500000000");
        assert_eq!(
            (&record["traceId"], &record["spanId"]),
            (&json!("4bf92f3577b34da6a3ce929d0e0e4736"), &json!("00f067aa0ba902b7"))
        );
        assert_eq!((&record["severityNumber"], &record["eventName"]), (&json!(11), &json!("agent_daemon.decision")));
        for (name, value) in [
            ("gen_ai.tool.name", json!({"stringValue": "search"})),
            ("process.pid", json!({"intValue": "9"})),
            ("error.type", json!({"stringValue": "no_identity"})),
            ("agent_daemon.policy_ids", json!({"arrayValue": {"values": [{"stringValue": "p"}]}})),
            ("agent_daemon.exec_id", json!({"stringValue": "x42"})),
        ] {
            assert_eq!(attribute_of(&record, name), value, "{name}");
        }
    }

    #[test]
    fn a_call_of_a_tool_is_one_operation() {
        let operations = KINDS.iter().filter(|line| !attribute_of(&first(line), "gen_ai.operation.name").is_null());
        assert_eq!(operations.count(), 1);
        assert_eq!(attribute_of(&first(KINDS[5]), "gen_ai.operation.name"), json!({"stringValue": "execute_tool"}));
    }

    #[test]
    fn the_line_of_the_log_is_in_it_whatever_it_is() {
        for line in KINDS {
            assert_eq!(attribute_of(&first(line), "log.record.original"), json!({"stringValue": line}));
        }
        let unreadable = first(KINDS[13]);
        assert_eq!(
            (&unreadable["severityNumber"], &unreadable["timeUnixNano"]),
            (&json!(17), &unreadable["observedTimeUnixNano"])
        );
        assert_eq!(first(r#"{"kind":"decision","traceparent":"00-zz-00"}"#)["traceId"], Value::Null);
        assert_eq!(attribute_of(&first(KINDS[9]), "process.pid"), json!({"intValue": "77"}));
        assert_eq!(attribute_of(&first(KINDS[9]), "agent_daemon.about.exec_id"), json!({"stringValue": "x42"}));
        assert_eq!(attribute_of(&first(KINDS[9]), "gen_ai.agent.id"), Value::Null);
    }

    #[test]
    fn no_line_is_longer_than_its_readers_take() {
        let record = format!(r#"{{"kind":"decision","detail":"{}"}}"#, "x".repeat(50_000));
        let lines = logs(&vec![record; 30]);
        assert!(lines.len() > 1 && lines.iter().all(|line| line.to_string().len() < 1 << 20));
        let records = |line: &Value| line["resourceLogs"][0]["scopeLogs"][0]["logRecords"].as_array().unwrap().len();
        assert_eq!(lines.iter().map(records).sum::<usize>(), 30);
        assert!(logs(&[]).is_empty());
    }
}
