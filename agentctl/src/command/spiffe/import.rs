// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registration entries of SPIRE (`spire-server entry show -output json`) as entries of ours. An entry is carried over
//! only if it gives its identity to nobody but those to whom SPIRE gives it on a node of its parent; which nodes those are
//! only `--parent` can say. What is not carried over is listed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::file_or_standard_input;
use crate::Verdict;
use crate::error::Error;
use crate::output::Output;

const SCHEMA: &str = "agentctl.spiffe.import/v1";
/// Some thousand entries.
const MAX_BYTES: usize = 16 << 20;
/// Selectors that mean the same here. All others speak of things this daemon does not look at.
const SAME: [&str; 7] = ["uid", "gid", "user", "group", "supplementary_gid", "path", "sha256"];
/// What the daemon takes of names; a whole-program test reloads it with what is written here.
const MAX_DNS_NAMES: usize = 16;
const MAX_FEDERATES_WITH: usize = 32;
const MAX_HINT_BYTES: usize = 128;
const MAX_ID_BYTES: usize = 128;
const RESERVED_PATH: &str = "/agent-daemon/";
/// So that policies can speak of them.
const GROUP: &str = "spire";

#[derive(Deserialize)]
struct Shown {
    #[serde(default)]
    entries: Vec<SpireEntry>,
}

/// Whatever is not here is not needed to tell what an entry gives to whom.
#[derive(Deserialize)]
struct SpireEntry {
    #[serde(default)]
    id: String,
    spiffe_id: SpireId,
    parent_id: Option<SpireId>,
    #[serde(default)]
    selectors: Vec<SpireSelector>,
    #[serde(default)]
    x509_svid_ttl: Number,
    #[serde(default)]
    jwt_svid_ttl: Number,
    #[serde(default)]
    federates_with: Vec<String>,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    downstream: bool,
    #[serde(default)]
    store_svid: bool,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    expires_at: Number,
}

#[derive(Deserialize)]
struct SpireId {
    trust_domain: String,
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
struct SpireSelector {
    r#type: String,
    value: String,
}

/// 64-bit numbers are texts there.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(i64),
    Text(String),
}

impl Default for Number {
    fn default() -> Self {
        Self::Plain(0)
    }
}

impl Number {
    fn is_set(&self) -> bool {
        match self {
            Self::Plain(number) => *number != 0,
            Self::Text(text) => text.parse::<i64>() != Ok(0),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct LeftOut {
    /// SPIRE's id of the entry.
    entry: String,
    spiffe_id: String,
    /// Whether the whole entry is left out, or only this of it.
    whole: bool,
    what: String,
}

#[derive(Serialize)]
struct Document {
    entries: usize,
    toml: String,
    left_out: Vec<LeftOut>,
}

pub(super) fn run(parents: &[String], file: &Path, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let what = file.display().to_string();
    let bytes = file_or_standard_input(file, MAX_BYTES)?;
    let shown: Shown = serde_json::from_slice(&bytes).map_err(|source| Error::NotEntries { what, source })?;
    let document = convert(&shown.entries, parents);
    let verdict = Verdict::ok_if(document.left_out.is_empty());
    if output.is_json() {
        output.document(SCHEMA, &document)?;
    } else {
        output.raw(document.toml.as_bytes())?;
        output.raw(comments(&document).as_bytes())?;
    }
    Ok(verdict)
}

fn convert(entries: &[SpireEntry], parents: &[String]) -> Document {
    let (mut toml, mut left_out, mut count) = (String::new(), Vec::new(), 0);
    let mut used = HashSet::new();
    for (number, entry) in entries.iter().enumerate() {
        let spiffe_id = uri(&entry.spiffe_id);
        let mut leave = |whole: bool, what: String| {
            left_out.push(LeftOut { entry: entry.id.clone(), spiffe_id: spiffe_id.clone(), whole, what });
        };
        if let Some(reason) = obstacle(entry, parents) {
            leave(true, reason);
            continue;
        }
        let kept = Kept::of(entry);
        for what in lost(entry, parents).into_iter().chain(kept.lost(entry)) {
            leave(false, what);
        }
        count += 1;
        let id =
            if is_id(&entry.id) && used.insert(&entry.id) { entry.id.clone() } else { format!("imported#{number}") };
        toml.push_str(&table(entry, &kept, &id, &spiffe_id));
    }
    Document { entries: count, toml, left_out }
}

/// What an entry says there and cannot say here, although it gives its identity to the same.
fn lost(entry: &SpireEntry, parents: &[String]) -> Vec<String> {
    let parent = entry.parent_id.as_ref().map_or_else(|| "that is not said".to_owned(), uri);
    let parent = format!("its parent {parent}: it holds on every node that takes it (--parent picks)");
    let parent = parents.is_empty().then_some(parent);
    let others = [
        (
            entry.x509_svid_ttl.is_set() || entry.jwt_svid_ttl.is_set(),
            "its lifetimes: a binding says how long an SVID lives",
        ),
        (entry.admin, "admin: no identity administers this daemon"),
    ];
    let others = others.into_iter().filter(|(is_there, _)| *is_there).map(|(_, what)| what.to_owned());
    parent.into_iter().chain(others).collect()
}

/// What the daemon takes of the parts that give nothing to anybody else when they are missing.
struct Kept {
    hint: Option<String>,
    dns_names: Vec<String>,
    federates_with: Vec<String>,
}

impl Kept {
    fn of(entry: &SpireEntry) -> Self {
        let hint = Some(entry.hint.clone()).filter(|hint| is_hint(hint));
        let names = entry.dns_names.iter().filter(|name| is_host_name(name));
        let own = &entry.spiffe_id.trust_domain;
        let domains = entry.federates_with.iter().map(|name| domain(name)).filter(|name| *name != own.as_str());
        Self {
            hint,
            dns_names: names.take(MAX_DNS_NAMES).cloned().collect(),
            federates_with: domains.take(MAX_FEDERATES_WITH).map(str::to_owned).collect(),
        }
    }

    fn lost(&self, entry: &SpireEntry) -> Vec<String> {
        let mut lost = Vec::new();
        if self.hint.is_none() && !entry.hint.is_empty() {
            lost.push(format!("its hint: at most {MAX_HINT_BYTES} bytes without control characters"));
        }
        for name in entry.dns_names.iter().filter(|name| !self.dns_names.contains(name)) {
            lost.push(format!(
                "the DNS name {name}: at most {MAX_DNS_NAMES}, in lower case, without wildcard and dot at the end"
            ));
        }
        for name in entry.federates_with.iter().map(|name| domain(name)) {
            if !self.federates_with.iter().any(|kept| kept == name) {
                lost.push(format!("federates_with {name}: at most {MAX_FEDERATES_WITH}, and not the own trust domain"));
            }
        }
        lost
    }
}

/// SPIRE's ids have no `#`, so none is that of a number.
fn is_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte))
}

fn domain(name: &str) -> &str {
    name.strip_prefix("spiffe://").unwrap_or(name)
}

fn is_hint(hint: &str) -> bool {
    (1..=MAX_HINT_BYTES).contains(&hint.len()) && !hint.chars().any(char::is_control)
}

/// As the daemon reads it.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
    };
    let last_is_number = text.rsplit('.').next().is_some_and(|label| label.starts_with(|c: char| c.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(is_label) && !last_is_number
}

/// Why an entry cannot be carried over as it is.
fn obstacle(entry: &SpireEntry, parents: &[String]) -> Option<String> {
    let parent = entry.parent_id.as_ref().map(uri);
    if !parents.is_empty() && !parent.as_ref().is_some_and(|id| parents.contains(id)) {
        let parent = parent.unwrap_or_else(|| "not said".to_owned());
        return Some(format!("its parent is {parent}"));
    }
    let path = &entry.spiffe_id.path;
    if path.is_empty() || path == RESERVED_PATH.trim_end_matches('/') || path.starts_with(RESERVED_PATH) {
        return Some(format!("its SPIFFE ID has no path, or one below {RESERVED_PATH}, which is the daemon's own"));
    }
    if entry.store_svid {
        return Some("store_svid: SPIRE gives this identity to no process".to_owned());
    }
    if entry.downstream {
        return Some("downstream: this daemon gives no authority to other servers".to_owned());
    }
    if entry.parent_id.as_ref().is_some_and(|parent| parent.path == "/spire/server") {
        return Some("it is a node's: its selectors are not a workload's".to_owned());
    }
    if entry.expires_at.is_set() {
        return Some("it expires, and entries of this daemon do not".to_owned());
    }
    let is_same = |selector: &&SpireSelector| {
        let kind = selector.value.split(':').next().unwrap_or_default();
        selector.r#type == "unix" && SAME.contains(&kind)
    };
    // Without one of its selectors it would give the identity to more than before.
    if let Some(selector) = entry.selectors.iter().find(|selector| !is_same(selector)) {
        return Some(format!("the selector {}:{} is not known here", selector.r#type, selector.value));
    }
    let narrows = |selector: &SpireSelector| selector.value.starts_with("path:");
    if entry.selectors.iter().all(narrows) {
        return Some("a path alone does not identify a program: add unix:sha256 or unix:uid".to_owned());
    }
    None
}

fn uri(id: &SpireId) -> String {
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

fn table(entry: &SpireEntry, kept: &Kept, id: &str, spiffe_id: &str) -> String {
    let mut text = String::from("[[entry]]\n");
    let selectors: Vec<String> =
        entry.selectors.iter().map(|selector| format!("{}:{}", selector.r#type, selector.value)).collect();
    let mut line = |key: &str, value: String| {
        // Writing to a text does not fail.
        let _written = writeln!(text, "{key} = {value}");
    };
    line("id", quoted(id));
    line("spiffe_id", quoted(spiffe_id));
    line("kind", quoted("workload"));
    line("selectors", list(&selectors));
    line("groups", list(&[GROUP.to_owned()]));
    if let Some(hint) = &kept.hint {
        line("hint", quoted(hint));
    }
    for (key, values) in [("dns_names", &kept.dns_names), ("federates_with", &kept.federates_with)] {
        if !values.is_empty() {
            line(key, list(values));
        }
    }
    text.push('\n');
    text
}

fn list(values: &[String]) -> String {
    format!("[{}]", values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", "))
}

/// A string of JSON is one of TOML, but for one character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn comments(document: &Document) -> String {
    let mut text = format!("# {} entries were carried over.\n", document.entries);
    for left in &document.left_out {
        let what = if left.whole { "Left out" } else { "Without" };
        let _written = writeln!(
            text,
            "# {what}: {} ({}): {}",
            left.entry.escape_debug(),
            left.spiffe_id.escape_debug(),
            left.what.escape_debug()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a SPIRE server wrote them.
    const SHOWN: &str = r#"{"entries":[
        {"admin":true,"created_at":"1795697400","dns_names":[],"downstream":false,"expires_at":"0","federates_with":[],"hint":"","id":"9f7a","jwt_svid_ttl":0,"parent_id":{"path":"/host","trust_domain":"example.org"},"revision_number":"0","selectors":[{"type":"unix","value":"uid:1002"}],"spiffe_id":{"path":"/admin","trust_domain":"example.org"},"store_svid":false,"x509_svid_ttl":0},
        {"downstream":true,"expires_at":"0","id":"46bc","parent_id":{"path":"/host","trust_domain":"example.org"},"selectors":[{"type":"unix","value":"uid:1001"}],"spiffe_id":{"path":"/nested","trust_domain":"example.org"}},
        {"dns_names":["web.example.org","web"],"downstream":false,"expires_at":"0","federates_with":["spiffe://other.example"],"hint":"ex\"ternal","id":"web","jwt_svid_ttl":120,"selectors":[{"type":"unix","value":"path:/usr/bin/web"},{"type":"unix","value":"uid:1000"}],"spiffe_id":{"path":"/web","trust_domain":"example.org"},"x509_svid_ttl":1800},
        {"id":"k8s","selectors":[{"type":"unix","value":"uid:1"},{"type":"k8s","value":"ns:prod"}],"spiffe_id":{"path":"/k","trust_domain":"example.org"}},
        {"id":"old","expires_at":"1893456000","selectors":[{"type":"unix","value":"uid:1"}],"spiffe_id":{"path":"/o","trust_domain":"example.org"}},
        {"id":"stored","store_svid":true,"selectors":[{"type":"unix","value":"uid:1"}],"spiffe_id":{"path":"/s","trust_domain":"example.org"}},
        {"id":"path","selectors":[{"type":"unix","value":"path:/bin/x"}],"spiffe_id":{"path":"/p","trust_domain":"example.org"}},
        {"id":"node","parent_id":{"path":"/spire/server","trust_domain":"example.org"},"selectors":[{"type":"unix","value":"uid:1"}],"spiffe_id":{"path":"/n","trust_domain":"example.org"}}
    ],"next_page_token":""}"#;

    fn converted() -> Document {
        let shown: Shown = serde_json::from_str(SHOWN).unwrap();
        convert(&shown.entries, &[])
    }

    #[test]
    fn an_entry_is_carried_over_only_when_it_gives_its_identity_to_nobody_else() {
        let document = converted();
        let expected = r#"[[entry]]
id = "9f7a"
spiffe_id = "spiffe://example.org/admin"
kind = "workload"
selectors = ["unix:uid:1002"]
groups = ["spire"]

[[entry]]
id = "web"
spiffe_id = "spiffe://example.org/web"
kind = "workload"
selectors = ["unix:path:/usr/bin/web", "unix:uid:1000"]
groups = ["spire"]
hint = "ex\"ternal"
dns_names = ["web.example.org", "web"]
federates_with = ["other.example"]

"#;
        assert_eq!(document.toml, expected);
        let left: Vec<(&str, bool)> = document.left_out.iter().map(|left| (left.entry.as_str(), left.whole)).collect();
        let expected = [
            ("9f7a", false),
            ("9f7a", false),
            ("46bc", true),
            ("web", false),
            ("web", false),
            ("k8s", true),
            ("old", true),
            ("stored", true),
            ("path", true),
            ("node", true),
        ];
        assert_eq!(left, expected);
        assert!(comments(&document).starts_with("# 2 entries were carried over.\n# Without: 9f7a"));
    }

    #[test]
    fn only_entries_of_the_parents_that_were_named_are_carried_over_and_then_no_parent_is_missed() {
        let shown: Shown = serde_json::from_str(SHOWN).unwrap();
        let document = convert(&shown.entries, &["spiffe://example.org/host".to_owned()]);
        assert_eq!(document.entries, 1);
        let lost = |id: &str| {
            let of = document.left_out.iter().filter(|left| left.entry == id);
            of.map(|left| (left.whole, left.what.as_str())).collect::<Vec<_>>()
        };
        assert_eq!(lost("9f7a"), [(false, "admin: no identity administers this daemon")]);
        assert_eq!(lost("web"), [(true, "its parent is not said")]);
        assert_eq!(lost("node"), [(true, "its parent is spiffe://example.org/spire/server")]);
    }

    #[test]
    fn a_hostile_name_cannot_leave_its_comment() {
        let text = SHOWN.replace("\"k8s\",\"value\":\"ns:prod\"", "\"k8s\",\"value\":\"ns\\n[[entry]]\\u001b[2J\"");
        let shown: Shown = serde_json::from_str(&text).unwrap();
        let written = comments(&convert(&shown.entries, &[]));
        assert!(written.lines().all(|line| line.starts_with("# ")), "{written}");
        assert!(!written.contains('\u{1b}'));
    }
}
