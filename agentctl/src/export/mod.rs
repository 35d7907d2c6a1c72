// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Records of the audit log as other systems take them. The record itself is always in it, so nothing is lost and the
//! chain can be checked from what was exported.

mod ocsf;
mod otlp;

pub(crate) use self::ocsf::event;
pub(crate) use self::otlp::logs;

use serde_json::{Map, Value};

use crate::id::ExecId;

/// A record, or a line of the log that is none.
struct Record<'a> {
    line: &'a str,
    fields: Map<String, Value>,
}

impl<'a> Record<'a> {
    fn new(line: &'a str) -> Self {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Self { line, fields },
            _ => Self { line, fields: Map::new() },
        }
    }

    fn kind(&self) -> &str {
        self.text("/kind").unwrap_or("unreadable")
    }

    fn at(&self, pointer: &str) -> Option<&Value> {
        let (first, rest) = pointer.strip_prefix('/')?.split_once('/').unwrap_or((pointer.get(1..)?, ""));
        let value = self.fields.get(first)?;
        let value = if rest.is_empty() { Some(value) } else { value.pointer(&format!("/{rest}")) };
        value.filter(|value| !value.is_null())
    }

    fn text(&self, pointer: &str) -> Option<&str> {
        self.at(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    fn number(&self, pointer: &str) -> Option<u64> {
        self.at(pointer).and_then(Value::as_u64)
    }

    fn texts(&self, pointer: &str) -> Vec<&str> {
        self.at(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn time(&self) -> Option<jiff::Timestamp> {
        self.text("/time")?.parse().ok()
    }

    /// Whoever it is about stands in `exec`, in `caller`, in `by`, in `step`, or beside the rest.
    fn of_process<'s, T>(&'s self, name: &str, read: impl Fn(&'s Self, &str) -> Option<T>) -> Option<T> {
        ["/exec", "/caller", "/by", "/step", ""].iter().find_map(|whole| read(self, &format!("{whole}/{name}")))
    }

    fn exec_id(&self) -> Option<String> {
        let exec_id = self.of_process("exec_id", Self::number).or_else(|| self.number("/opener"));
        exec_id.map(|id| ExecId(id).to_string())
    }

    fn pid(&self) -> Option<u64> {
        self.of_process("tgid", Self::number)
    }

    fn path(&self) -> Option<&str> {
        self.of_process("path", Self::text)
    }

    fn uid(&self) -> Option<u64> {
        self.of_process("uid", Self::number)
    }

    fn weight(&self) -> Weight {
        let failed = self.text("/outcome").is_some_and(|outcome| outcome != "allow" && outcome != "success");
        match self.kind() {
            "unreadable" | "recovered" => Weight::High,
            "caller_refused" | "revoke" => Weight::Medium,
            _ if failed || self.at("/error").is_some() => Weight::Low,
            _ => Weight::Usual,
        }
    }

    /// None where nothing was asked that could succeed.
    fn succeeded(&self) -> Option<bool> {
        match (self.kind(), self.text("/outcome"), self.text("/state")) {
            ("caller_refused" | "unreadable", ..) | (_, _, Some("denied" | "expired" | "abandoned")) => Some(false),
            (_, Some(outcome), _) => Some(matches!(outcome, "allow" | "success")),
            ("revoke" | "secret", ..) | (_, _, Some("allowed")) => Some(true),
            _ => None,
        }
    }

    /// In one line, for people.
    fn message(&self) -> String {
        let words = [
            Some(self.kind()),
            self.text("/action").or_else(|| self.text("/operation")),
            self.text("/outcome").or_else(|| self.text("/state")),
            self.text("/destination"),
            self.text("/step/kind"),
            self.text("/step/name"),
            self.text("/reason").or_else(|| self.text("/cause")),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// How much it matters to whoever watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weight {
    Usual,
    /// Something was denied or did not work.
    Low,
    /// Somebody broke a rule, or an operator intervened.
    Medium,
    /// The log itself.
    High,
}

/// Without what is not known.
fn known(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, known(value)));
            Value::Object(fields.filter(|(_, value)| !is_nothing(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(known).filter(|item| !is_nothing(item)).collect()),
        other => other,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    pub(super) const DECISION: &str = r#"{"seq":7,"prev":"ab","time":"2026-11-27T10:00:01.5Z","boot_id":"b","kind":"decision","decision_id":"d1","action":"release","outcome":"deny","reason":"no_identity","detail":"no entry","policy_ids":["p"],"policy_generation":"sha256:0","spiffe_id":"spiffe://e/tool","user":"corp:ada","session_id":"s1","exec":{"exec_id":42,"tgid":9,"start_boottime_ns":1,"comm":"tool","path":"/bin/tool","sha256":"00ff","uid":65534,"gid":65534},"lineage":[{"exec_id":41,"tgid":8,"path":"/bin/sh"}],"connection":{"cookie":7,"remote_address":"::1","remote_port":443,"protocol":"tcp"},"destination":"mail","step":{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","kind":"tool_call","name":"search","exec_id":42}}"#;
    pub(super) const KINDS: [&str; 9] = [
        DECISION,
        r#"{"seq":1,"time":"2026-11-27T10:00:00Z","boot_id":"b","kind":"start","version":"0.1.0","kernel_release":"6.1"}"#,
        r#"{"seq":8,"time":"2026-11-27T10:00:02Z","boot_id":"b","kind":"decision","action":"act_for","outcome":"allow","user":"corp:ada","session_id":"s1","session":{"verified_by":"token","issuer":"https://idp.example","user_name":"Ada","purpose":"the report","expires_at":"2026-11-27T11:00:00Z"},"exec":{"exec_id":42,"tgid":9,"path":"/bin/tool","uid":0}}"#,
        r#"{"seq":9,"time":"2026-11-27T10:00:03Z","boot_id":"b","kind":"session_ended","session_id":"s1","user":"corp:ada","cause":"closed","opener":42}"#,
        r#"{"seq":10,"time":"2026-11-27T10:00:03Z","boot_id":"b","kind":"caller_refused","reason":"bad_request","caller":{"uid":5,"gid":5,"tgid":12,"exec_id":43}}"#,
        r#"{"seq":11,"time":"2026-11-27T10:00:04Z","boot_id":"b","kind":"step","session_id":"s1","user":"corp:ada","step":{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","kind":"tool_call","name":"search","exec_id":42}}"#,
        r#"{"seq":12,"time":"2026-11-27T10:00:05Z","boot_id":"b","kind":"lease_ended","lease_id":"l1","exec_id":42,"spiffe_id":"spiffe://e/tool","cause":"exited"}"#,
        r#"{"seq":13,"time":"2026-11-27T10:00:05Z","boot_id":"b","kind":"revoke","by":{"uid":0,"gid":0},"what":"lease_id:l1","reason":"stolen","revoked":1}"#,
        "no record \u{1b}[2J",
    ];
}
