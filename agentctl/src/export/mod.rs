// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Records of the audit log as other systems take them. The line of the log is always in it, so nothing is lost and the chain
//! can be checked from what was exported.

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

    /// Who did it. All that is said of a program is of this one.
    fn who(&self) -> Who {
        match self.kind() {
            "decision" => Who::Program("/exec"),
            "caller_refused" => Who::Program("/caller"),
            "step" | "step_ended" => Who::Program("/step"),
            "lease_ended" => Who::Program(""),
            "session_ended" | "approval" | "reload" | "bundle" if self.at("/by").is_some() => Who::Operator,
            "revoke" | "secret" | "explain" => Who::Operator,
            "approval" => Who::Program(""),
            _ => Who::Daemon,
        }
    }

    fn of_who<'s, T>(&'s self, name: &str, read: impl Fn(&'s Self, &str) -> Option<T>) -> Option<T> {
        match self.who() {
            Who::Program(place) => read(self, &format!("{place}/{name}")),
            Who::Operator => read(self, &format!("/by/{name}")),
            Who::Daemon => None,
        }
    }

    fn exec_id(&self) -> Option<String> {
        self.of_who("exec_id", Self::number).map(|id| ExecId(id).to_string())
    }

    fn pid(&self) -> Option<u64> {
        self.of_who("tgid", Self::number)
    }

    fn path(&self) -> Option<&str> {
        self.of_who("path", Self::text)
    }

    fn uid(&self) -> Option<u64> {
        self.of_who("uid", Self::number)
    }

    /// Of somebody else's program, where an operator did something about it.
    fn about(&self) -> Option<String> {
        if matches!(self.who(), Who::Program(_)) {
            return None;
        }
        self.number("/exec_id").or_else(|| self.number("/opener")).map(|id| ExecId(id).to_string())
    }

    /// A word of ours; what a person wrote is no code.
    fn code(&self) -> Option<&str> {
        match self.kind() {
            "revoke" | "approval" | "explain" => self.text("/state"),
            _ => self.text("/reason").or_else(|| self.text("/cause")),
        }
    }

    fn details(&self) -> Option<&str> {
        let said = matches!(self.kind(), "revoke" | "approval").then(|| self.text("/reason")).flatten();
        self.text("/detail").or(said).or_else(|| self.text("/error"))
    }

    /// Policy denied it, and it was allowed only because the destination is not enforced.
    fn is_only_audited(&self) -> bool {
        self.at("/audit_mode").and_then(Value::as_bool) == Some(true)
    }

    fn weight(&self) -> Weight {
        match self.kind() {
            "unreadable" | "recovered" => Weight::High,
            "caller_refused" | "revoke" => Weight::Medium,
            _ if self.succeeded() == Some(false) || self.is_only_audited() || self.at("/error").is_some() => {
                Weight::Low
            }
            _ => Weight::Usual,
        }
    }

    /// None where nothing was asked that could succeed.
    fn succeeded(&self) -> Option<bool> {
        match (self.kind(), self.text("/outcome"), self.text("/state")) {
            // What would be decided is its answer.
            ("revoke" | "secret" | "explain", ..) => Some(true),
            ("caller_refused" | "unreadable", ..) => Some(false),
            ("approval", _, Some("requested")) => None,
            ("approval", _, state) => Some(state == Some("allowed")),
            (_, outcome, _) => outcome.map(|outcome| outcome == "allow"),
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

/// Who did what a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// A program, of which the facts stand there.
    Program(&'static str),
    /// A person, over the operators' socket.
    Operator,
    /// The daemon itself.
    Daemon,
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
    pub(super) const KINDS: [&str; 14] = [
        DECISION,
        r#"{"seq":1,"time":"2026-11-27T10:00:00Z","boot_id":"b","kind":"start","version":"0.1.0","kernel_release":"6.1"}"#,
        r#"{"seq":8,"time":"2026-11-27T10:00:02Z","boot_id":"b","kind":"decision","action":"act_for","outcome":"allow","user":"corp:ada","session_id":"s1","session":{"verified_by":"oidc","issuer":"https://idp.example","user_name":"Ada","purpose":"the report","expires_at":"2026-11-27T11:00:00Z"},"exec":{"exec_id":42,"tgid":9,"path":"/bin/tool","uid":0}}"#,
        r#"{"seq":9,"time":"2026-11-27T10:00:03Z","boot_id":"b","kind":"session_ended","session_id":"s1","user":"corp:ada","cause":"closed","opener":42}"#,
        r#"{"seq":10,"time":"2026-11-27T10:00:03Z","boot_id":"b","kind":"caller_refused","reason":"bad_request","caller":{"uid":5,"gid":5,"tgid":12,"exec_id":43}}"#,
        r#"{"seq":11,"time":"2026-11-27T10:00:04Z","boot_id":"b","kind":"step","session_id":"s1","user":"corp:ada","step":{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7","kind":"tool_call","name":"search","exec_id":42}}"#,
        r#"{"seq":12,"time":"2026-11-27T10:00:05Z","boot_id":"b","kind":"lease_ended","lease_id":"l1","exec_id":42,"spiffe_id":"spiffe://e/tool","cause":"exited"}"#,
        r#"{"seq":13,"time":"2026-11-27T10:00:05Z","boot_id":"b","kind":"revoke","by":{"uid":0,"gid":0},"what":"lease_id:l1","reason":"stolen","revoked":1}"#,
        r#"{"seq":14,"time":"2026-11-27T10:00:06Z","boot_id":"b","kind":"session_ended","session_id":"s1","user":"corp:ada","cause":"revoked","opener":42,"by":{"uid":0,"gid":0,"tgid":77}}"#,
        r#"{"seq":15,"time":"2026-11-27T10:00:06Z","boot_id":"b","kind":"approval","approval_id":"a1","state":"denied","exec_id":42,"tgid":9,"spiffe_id":"spiffe://e/tool","user":"corp:ada","session_id":"s1","action":"release","destination":"mail","policy_ids":["p"],"reason":"not today","by":{"uid":0,"gid":0,"tgid":77}}"#,
        r#"{"seq":16,"time":"2026-11-27T10:00:06Z","boot_id":"b","kind":"explain","by":{"uid":0,"gid":0,"tgid":77},"exec_id":42,"tgid":9,"destination":"mail","outcome":"deny","reason":"no_identity"}"#,
        r#"{"seq":17,"time":"2026-11-27T10:00:06Z","boot_id":"b","kind":"decision","action":"act_for","outcome":"deny","reason":"invalid_token","exec":{"exec_id":42,"tgid":9,"path":"/bin/tool","uid":5}}"#,
        r#"{"seq":18,"time":"2026-11-27T10:00:06Z","boot_id":"b","kind":"decision","action":"release","outcome":"allow","audit_mode":true,"reason":"policy_forbade","policy_ids":["p"],"exec":{"exec_id":42,"tgid":9,"path":"/bin/tool","uid":5}}"#,
        "no record \u{1b}[2J",
    ];
}
