// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl policy suggest`: drafts permits from what was observed. A draft: whoever puts it to use has read it.

use std::collections::{BTreeMap, BTreeSet};

use agent_proto::admin::QueryAuditRequest;
use serde::Serialize;
use serde_json::Value;

use crate::Verdict;
use crate::cli::SuggestArgs;
use crate::client::{Client, Patience};
use crate::error::Error;
use crate::output::{Line, Output, Style};
use crate::text::count;
use crate::time;

const SCHEMA: &str = "agentctl.policy.suggest/v1";
/// Different things that are held; those beyond are counted.
const MAX_OBSERVED: usize = 10_000;

/// A permit that is missing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Permit {
    action: String,
    spiffe_id: String,
    destination: String,
}

/// An address at which nothing is declared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Undeclared {
    protocol: String,
    address: String,
    port: u64,
}

#[derive(Debug, Default)]
struct Observed {
    permits: BTreeMap<Permit, u64>,
    undeclared: BTreeMap<Undeclared, (u64, BTreeSet<String>)>,
    /// Programs without an identity: no permit can name them.
    nobody: BTreeMap<String, u64>,
    left_out: u64,
}

#[derive(Serialize)]
struct Document<'a> {
    permits: Vec<Counted<&'a Permit>>,
    undeclared: Vec<Somewhere<'a>>,
    without_identity: Vec<Counted<Program<'a>>>,
    left_out: u64,
    cedar: String,
}

#[derive(Serialize)]
struct Counted<T> {
    #[serde(flatten)]
    what: T,
    times: u64,
}

#[derive(Serialize)]
struct Somewhere<'a> {
    #[serde(flatten)]
    place: &'a Undeclared,
    spiffe_ids: &'a BTreeSet<String>,
    times: u64,
}

#[derive(Serialize)]
struct Program<'a> {
    path: &'a str,
}

pub(crate) async fn run(client: &Client, args: &SuggestArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let now = time::now();
    let request = QueryAuditRequest {
        since: args.since.map(|moment| moment.resolve(now)),
        until: args.until.map(|moment| moment.resolve(now)),
        spiffe_id: args.identity.clone().unwrap_or_default(),
        kind: "decision".to_owned(),
        ..QueryAuditRequest::default()
    };
    let mut pages = client.pages(Patience::Finite, client.api().query_audit(request)).await?;
    let mut observed = Observed::default();
    while let Some(page) = pages.next().await? {
        for record in page.records.iter().filter_map(|record| serde_json::from_str(record).ok()) {
            observed.take(&record, args.denied);
        }
    }
    let found = !observed.permits.is_empty() || !observed.undeclared.is_empty();
    if output.is_json() {
        output.document(SCHEMA, &observed.document())?;
    } else if found {
        output.text(observed.cedar().trim_end())?;
    } else {
        let nothing = match args.denied {
            true => "nothing was denied for want of a permit, or would have been",
            false => "nothing was let through that only audit mode permitted; --denied looks at denials too",
        };
        output.line(&Line::painted(Style::Dim, nothing))?;
    }
    Ok(Verdict::ok_if(found))
}

fn member<'a>(record: &'a Value, pointer: &str) -> &'a str {
    record.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Observed {
    fn take(&mut self, record: &Value, denied: bool) {
        let is_audited = record["audit_mode"] == true;
        let reason = member(record, "/reason");
        // A forbid is somebody's word, and no permit changes it.
        let is_wanting = matches!(reason, "policy_no_permit" | "egress_undeclared" | "ancestor_not_permitted");
        let action = member(record, "/action");
        if !(is_audited || denied && is_wanting)
            || !matches!(action, "release" | "connect")
            || reason == "policy_forbid"
        {
            return;
        }
        let spiffe_id = member(record, "/spiffe_id");
        if spiffe_id.is_empty() {
            return add(&mut self.nobody, member(record, "/exec/path").to_owned(), &mut self.left_out);
        }
        if reason == "egress_undeclared" {
            let place = Undeclared {
                protocol: member(record, "/connection/protocol").to_owned(),
                address: member(record, "/connection/remote_address").to_owned(),
                port: record.pointer("/connection/remote_port").and_then(Value::as_u64).unwrap_or_default(),
            };
            if self.undeclared.len() >= MAX_OBSERVED && !self.undeclared.contains_key(&place) {
                self.left_out = self.left_out.saturating_add(1);
                return;
            }
            let (times, who) = self.undeclared.entry(place).or_default();
            *times = times.saturating_add(1);
            who.insert(spiffe_id.to_owned());
            return;
        }
        // Where several destinations are at one address, all of them have to be permitted.
        for destination in member(record, "/destination").split(", ").filter(|name| !name.is_empty()) {
            let permit = Permit {
                action: action.to_owned(),
                spiffe_id: spiffe_id.to_owned(),
                destination: destination.to_owned(),
            };
            add(&mut self.permits, permit, &mut self.left_out);
        }
    }

    fn document(&self) -> Document<'_> {
        Document {
            permits: self.permits.iter().map(|(what, times)| Counted { what, times: *times }).collect(),
            undeclared: self
                .undeclared
                .iter()
                .map(|(place, (times, who))| Somewhere { place, spiffe_ids: who, times: *times })
                .collect(),
            without_identity: self
                .nobody
                .iter()
                .map(|(path, times)| Counted { what: Program { path }, times: *times })
                .collect(),
            left_out: self.left_out,
            cedar: self.cedar(),
        }
    }

    /// The draft: policies, and what cannot be one as comments.
    fn cedar(&self) -> String {
        let mut draft =
            "// Drafted from the audit log. Read each before you use it: it permits what happened, not what should.\n\
                         // In a session everybody up to its opener has to be permitted, too.\n"
                .to_owned();
        for (number, (permit, times)) in (1_usize..).zip(&self.permits) {
            let Permit { action, spiffe_id, destination } = permit;
            draft.push_str(&format!(
                "\n// {}\n@id(\"suggested-{number}\")\npermit (\n    principal == Workload::{},\n    \
                 action == Action::{},\n    resource == Destination::{}\n);\n",
                count(*times, "time", "times"),
                quoted(spiffe_id),
                quoted(action),
                quoted(destination)
            ));
        }
        for (Undeclared { protocol, address, port }, (times, who)) in &self.undeclared {
            let bits = if address.contains(':') { 128 } else { 32 };
            let who: Vec<&str> = who.iter().map(String::as_str).collect();
            draft.push_str(&comment(&format!(
                "\n{}, by {}: nothing is declared at {address} port {port}. If it should be:\n\
                 [[destination]]\nname = \"...\"\ncidrs = [\"{address}/{bits}\"]\nports = [{port}]\n\
                 protocol = \"{protocol}\"\naudience = \"...\"",
                count(*times, "time", "times"),
                who.join(", ")
            )));
        }
        for (path, times) in &self.nobody {
            draft.push_str(&comment(&format!(
                "\n{times} times, by {path}, which has no identity: no permit can name it"
            )));
        }
        if self.left_out > 0 {
            draft.push_str(&comment(&format!("\n{} more observations are not in this draft", self.left_out)));
        }
        draft
    }
}

fn add<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, left_out: &mut u64) {
    if counts.len() >= MAX_OBSERVED && !counts.contains_key(&key) {
        *left_out = left_out.saturating_add(1);
        return;
    }
    let times = counts.entry(key).or_default();
    *times = times.saturating_add(1);
}

/// As Cedar writes a text. Names come from the log, and nothing of them may become a policy.
fn quoted(text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            character if character.is_control() => quoted.push_str(&format!("\\u{{{:x}}}", u32::from(character))),
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Every line of it, so that no name in it can end the comment.
fn comment(text: &str) -> String {
    let line = |line: &str| match line {
        "" => "\n".to_owned(),
        line => format!("// {}\n", line.replace(|character: char| character.is_control(), "?")),
    };
    text.split('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn observed(records: &[Value], denied: bool) -> Observed {
        let mut observed = Observed::default();
        for record in records {
            observed.take(record, denied);
        }
        observed
    }

    fn decision(action: &str, reason: &str, audited: bool, destination: &str) -> Value {
        json!({
            "kind": "decision", "action": action, "reason": reason, "audit_mode": audited, "destination": destination,
            "spiffe_id": "spiffe://example.org/agent/a",
            "connection": {"protocol": "tcp", "remote_address": "192.0.2.1", "remote_port": 443},
        })
    }

    #[test]
    fn what_audit_mode_let_through_becomes_permits_and_denials_only_where_they_are_asked_for() {
        let records = [
            decision("connect", "policy_no_permit", true, "api"),
            decision("connect", "policy_no_permit", true, "api"),
            decision("connect", "policy_no_permit", true, "one, two"),
            decision("release", "policy_no_permit", false, "vault"),
            decision("release", "policy_forbid", true, "never"),
            decision("connect", "egress_undeclared", true, ""),
            decision("connect", "egress_pending", false, "api"),
            decision("act_for", "policy_no_permit", true, "x"),
        ];
        let names = |observed: &Observed| -> Vec<(String, u64)> {
            observed.permits.iter().map(|(permit, times)| (permit.destination.clone(), *times)).collect()
        };
        let audited = observed(&records, false);
        assert_eq!(names(&audited), [("api".to_owned(), 2), ("one".to_owned(), 1), ("two".to_owned(), 1)]);
        assert_eq!(audited.undeclared.len(), 1);
        let denied = observed(&records, true);
        assert!(names(&denied).contains(&("vault".to_owned(), 1)));
        assert!(denied.permits.keys().all(|permit| permit.destination != "never"));
        let cedar = audited.cedar();
        assert!(cedar.contains("resource == Destination::\"api\""), "{cedar}");
        assert!(cedar.contains("// cidrs = [\"192.0.2.1/32\"]"), "{cedar}");
    }

    #[test]
    fn nothing_in_a_record_becomes_policy_text() {
        let hostile = "x\"); permit(principal, action, resource); //\n\u{1b}[2J\\";
        let mut record = decision("connect", "policy_no_permit", true, hostile);
        let mut nobody = record.clone();
        nobody["spiffe_id"] = Value::Null;
        nobody["exec"] = json!({"path": "/bin/x\npermit(principal, action, resource);"});
        record["reason"] = "policy_no_permit".into();
        let cedar = observed(&[record, nobody], false).cedar();
        let begins = |word: &str| cedar.lines().filter(|line| line.trim_start().starts_with(word)).count();
        // One for each part of the name between commas, each as a text.
        assert_eq!((begins("permit"), begins("permit (")), (3, 3), "{cedar}");
        assert!(!cedar.contains('\u{1b}'), "{cedar}");
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\u{a}""#);
    }
}
