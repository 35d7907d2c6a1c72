// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From records to a tree. What a record does not say is not there; nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::Found;
use super::steps::{Step, Steps};
use crate::id::ExecId;

/// Sessions within sessions and programs below programs are told no deeper.
pub(super) const MAX_DEPTH: usize = 64;

/// All that is told: by user, what was done for nobody last.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Told {
    pub(crate) users: Vec<User>,
    /// What was decided outside of any session.
    pub(crate) programs: Vec<Program>,
}

/// On whose behalf.
#[derive(Debug, Serialize)]
pub(crate) struct User {
    pub(crate) user: String,
    pub(crate) name: String,
    pub(crate) verified_by: String,
    pub(crate) issuer: String,
    pub(crate) sessions: Vec<Session>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Session {
    pub(crate) session_id: String,
    pub(crate) agent: String,
    pub(crate) purpose: String,
    /// None: all that policy permitted.
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) bound: bool,
    pub(crate) opened_at: String,
    pub(crate) opened_by: String,
    pub(crate) expires_at: String,
    pub(crate) ended_at: String,
    pub(crate) cause: String,
    pub(crate) decision_id: String,
    pub(crate) policy_ids: Vec<String>,
    /// From the opener down.
    pub(crate) programs: Vec<Program>,
    /// Those that were delegated from it.
    pub(crate) sessions: Vec<Session>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Program {
    pub(crate) exec_id: ExecId,
    pub(crate) path: String,
    pub(crate) script: String,
    pub(crate) spiffe_id: String,
    pub(crate) decisions: Vec<Decision>,
    pub(crate) programs: Vec<Program>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Decision {
    pub(crate) time: String,
    pub(crate) decision_id: String,
    pub(crate) action: String,
    pub(crate) allowed: bool,
    pub(crate) audit_mode: bool,
    pub(crate) reason: String,
    pub(crate) detail: String,
    pub(crate) spiffe_id: String,
    pub(crate) destination: String,
    pub(crate) policy_ids: Vec<String>,
    pub(crate) policy_generation: String,
    pub(crate) traceparent: String,
    /// The person's word that it waited for; empty: none.
    pub(crate) approval: String,
    /// The steps that it was made in, the innermost last.
    pub(crate) steps: Vec<Step>,
    pub(crate) connection: Option<Connection>,
    pub(crate) credential: Option<Credential>,
    /// Who exchanged the credential, and for what.
    pub(crate) exchanged: Vec<Program>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Connection {
    pub(crate) cookie: String,
    pub(crate) protocol: String,
    pub(crate) remote_address: String,
    pub(crate) remote_port: String,
    pub(crate) matched_by: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct Credential {
    pub(crate) lease_id: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) binding: String,
    pub(crate) audience: String,
    pub(crate) expires_at: String,
    pub(crate) ended_at: String,
    pub(crate) cause: String,
}

impl Told {
    pub(crate) fn of(found: &Found) -> Self {
        let mut told = Self::default();
        let ends = Ends::new(found);
        let opened: BTreeSet<String> = found.openings.iter().map(|opening| field(opening, "session_id")).collect();
        let mut inside: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
        let mut outside = Vec::new();
        for decision in &found.decisions {
            // What was exchanged hangs where its credential came from.
            if ends.exchanges.contains_key(&field(decision, "subject_lease_id")) {
                continue;
            }
            // A session that was refused never was: it is told where it would have been delegated from.
            let is_refused = field(decision, "action") == "act_for";
            let session = field(decision, if is_refused { "session.parent" } else { "session_id" });
            match opened.contains(&session) {
                true => inside.entry(session).or_default().push(decision),
                false => outside.push(decision),
            }
        }
        let mut below: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
        let mut roots = Vec::new();
        for opening in &found.openings {
            let parent = field(opening, "session.parent");
            match opened.contains(&parent) {
                true => below.entry(parent).or_default().push(opening),
                false => roots.push(opening),
            }
        }
        for opening in roots {
            let id = field(opening, "user");
            let session = session(opening, &inside, &below, &ends, 0);
            match told.users.iter_mut().find(|user| user.user == id) {
                Some(user) => user.sessions.push(session),
                None => told.users.push(User {
                    user: id,
                    name: field(opening, "session.user_name"),
                    verified_by: field(opening, "session.verified_by"),
                    issuer: field(opening, "session.issuer"),
                    sessions: vec![session],
                }),
            }
        }
        told.programs = programs(&outside, None, &ends);
        told
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.programs.is_empty()
    }
}

/// What else the log says of what decisions name, by their ids.
struct Ends<'a> {
    sessions: BTreeMap<String, &'a Value>,
    leases: BTreeMap<String, &'a Value>,
    steps: Steps<'a>,
    /// The exchanges of credentials whose own decisions are there.
    exchanges: BTreeMap<String, Vec<&'a Value>>,
}

impl<'a> Ends<'a> {
    fn new(found: &'a Found) -> Self {
        let by = |records: &'a [Value], name: &str| records.iter().map(|one| (field(one, name), one)).collect();
        let known: BTreeSet<String> = found.decisions.iter().map(|one| field(one, "lease_id")).collect();
        let mut exchanges: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
        for exchange in &found.decisions {
            let subject = field(exchange, "subject_lease_id");
            if !subject.is_empty() && known.contains(&subject) {
                exchanges.entry(subject).or_default().push(exchange);
            }
        }
        Self {
            exchanges,
            sessions: by(&found.session_ends, "session_id"),
            leases: by(&found.lease_ends, "lease_id"),
            steps: Steps::new(found),
        }
    }
}

fn session(
    opening: &Value,
    inside: &BTreeMap<String, Vec<&Value>>,
    below: &BTreeMap<String, Vec<&Value>>,
    ends: &Ends<'_>,
    depth: usize,
) -> Session {
    let id = field(opening, "session_id");
    let end = ends.sessions.get(&id);
    let of_end = |name: &str| end.map(|end| field(end, name)).unwrap_or_default();
    let decisions = inside.get(&id).map(Vec::as_slice).unwrap_or_default();
    let children = below.get(&id).map(Vec::as_slice).unwrap_or_default();
    let children = if depth < MAX_DEPTH { children } else { &[] };
    Session {
        agent: field(opening, "session.agent"),
        purpose: field(opening, "session.purpose"),
        scopes: opening.pointer("/session/scopes").map(texts),
        bound: opening.pointer("/session/bound").and_then(Value::as_bool).unwrap_or_default(),
        opened_at: field(opening, "time"),
        opened_by: field(opening, "spiffe_id"),
        expires_at: field(opening, "session.expires_at"),
        ended_at: of_end("time"),
        cause: of_end("cause"),
        decision_id: field(opening, "decision_id"),
        policy_ids: opening.get("policy_ids").map(texts).unwrap_or_default(),
        programs: programs(decisions, Some(opening), ends),
        sessions: children.iter().map(|child| session(child, inside, below, ends, depth.saturating_add(1))).collect(),
        session_id: id,
    }
}

/// What is known of a program before it is hung into the tree.
#[derive(Default)]
struct Known<'a> {
    parent: Option<u64>,
    path: String,
    script: String,
    spiffe_id: String,
    decisions: Vec<&'a Value>,
}

/// The programs of these decisions as trees; of a session from its opener down.
fn programs(decisions: &[&Value], opening: Option<&Value>, ends: &Ends<'_>) -> Vec<Program> {
    let mut known: BTreeMap<u64, Known<'_>> = BTreeMap::new();
    let opener = opening.and_then(|opening| opening.get("exec"));
    let top = opener.and_then(|exec| exec.get("exec_id")).and_then(Value::as_u64);
    if let (Some(opening), Some(exec), Some(id)) = (opening, opener, top) {
        let (path, script, spiffe_id) = (field(exec, "path"), field(exec, "script"), field(opening, "spiffe_id"));
        known.insert(id, Known { path, script, spiffe_id, ..Known::default() });
    }
    for decision in decisions {
        let Some(exec) = decision.get("exec") else { continue };
        let lineage = decision.get("lineage").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        // The asker first, then what is above it.
        let mut line = [exec].into_iter().chain(lineage).take(MAX_DEPTH).peekable();
        let mut is_asker = true;
        while let Some(program) = line.next() {
            let Some(id) = program.get("exec_id").and_then(Value::as_u64) else { break };
            let above = line.peek().and_then(|above| above.get("exec_id")).and_then(Value::as_u64);
            let one = known.entry(id).or_default();
            one.parent = above.filter(|_| Some(id) != top).or(one.parent);
            for (slot, name) in
                [(&mut one.path, "path"), (&mut one.script, "script"), (&mut one.spiffe_id, "spiffe_id")]
            {
                if slot.is_empty() {
                    *slot = field(program, name);
                }
            }
            if is_asker {
                one.spiffe_id = Some(field(decision, "spiffe_id")).filter(|id| !id.is_empty()).unwrap_or_default();
                one.decisions.push(decision);
                is_asker = false;
            }
            if Some(id) == top {
                break;
            }
        }
    }
    let mut children: BTreeMap<Option<u64>, Vec<u64>> = BTreeMap::new();
    for (id, one) in &known {
        // An id is never that of its own ancestor; a forged log must not make a circle.
        let parent = one.parent.filter(|parent| parent < id && known.contains_key(parent));
        children.entry(parent).or_default().push(*id);
    }
    let mut hung = hang(None, &mut known, &children, ends, 0);
    // Of a tree that is in no session, what decided nothing and only leads there is left out at the top.
    if top.is_none() {
        while let [only] = hung.as_mut_slice()
            && only.decisions.is_empty()
            && only.programs.len() == 1
        {
            hung = std::mem::take(&mut only.programs);
        }
    }
    hung
}

fn hang(
    parent: Option<u64>,
    known: &mut BTreeMap<u64, Known<'_>>,
    children: &BTreeMap<Option<u64>, Vec<u64>>,
    ends: &Ends<'_>,
    depth: usize,
) -> Vec<Program> {
    if depth > MAX_DEPTH {
        return Vec::new();
    }
    let ids = children.get(&parent).map(Vec::as_slice).unwrap_or_default();
    let mut programs = Vec::new();
    for id in ids {
        let Some(one) = known.remove(id) else { continue };
        programs.push(Program {
            exec_id: ExecId(*id),
            path: one.path,
            script: one.script,
            spiffe_id: one.spiffe_id,
            decisions: one.decisions.into_iter().map(|record| decision(record, ends, 0)).collect(),
            programs: hang(Some(*id), known, children, ends, depth.saturating_add(1)),
        });
    }
    programs
}

/// Who exchanged a credential. What is above them is no part of it: they were given it.
fn exchanged(lease_id: &str, ends: &Ends<'_>, depth: usize) -> Vec<Program> {
    let of_it = ends.exchanges.get(lease_id).map(Vec::as_slice).unwrap_or_default();
    let of_it = if depth < MAX_DEPTH { of_it } else { &[] };
    let by = |record: &&Value| {
        let exec = record.get("exec")?;
        Some(Program {
            exec_id: ExecId(exec.get("exec_id").and_then(Value::as_u64)?),
            path: field(exec, "path"),
            script: field(exec, "script"),
            spiffe_id: field(record, "spiffe_id"),
            decisions: vec![decision(record, ends, depth.saturating_add(1))],
            programs: Vec::new(),
        })
    };
    of_it.iter().filter_map(by).collect()
}

fn decision(record: &Value, ends: &Ends<'_>, depth: usize) -> Decision {
    let lease_id = field(record, "lease_id");
    let end = ends.leases.get(&lease_id);
    let of_end = |name: &str| end.map(|end| field(end, name)).unwrap_or_default();
    Decision {
        time: field(record, "time"),
        decision_id: field(record, "decision_id"),
        action: field(record, "action"),
        allowed: field(record, "outcome") == "allow",
        audit_mode: record.get("audit_mode").and_then(Value::as_bool).unwrap_or_default(),
        reason: field(record, "reason"),
        detail: field(record, "detail"),
        spiffe_id: field(record, "spiffe_id"),
        destination: field(record, "destination"),
        policy_ids: record.get("policy_ids").map(texts).unwrap_or_default(),
        policy_generation: field(record, "policy_generation"),
        traceparent: field(record, "traceparent"),
        approval: record.get("approval").map(approval).unwrap_or_default(),
        steps: ends.steps.around(record),
        exchanged: exchanged(&lease_id, ends, depth),
        connection: record.get("connection").map(|connection| Connection {
            cookie: field(connection, "cookie"),
            protocol: field(connection, "protocol"),
            remote_address: field(connection, "remote_address"),
            remote_port: field(connection, "remote_port"),
            matched_by: field(connection, "matched_by"),
        }),
        credential: (!lease_id.is_empty()).then(|| Credential {
            kind: field(record, "credential_type"),
            binding: field(record, "binding"),
            audience: field(record, "audience"),
            expires_at: field(record, "expires_at"),
            ended_at: of_end("time"),
            cause: of_end("cause"),
            lease_id,
        }),
    }
}

fn approval(approval: &Value) -> String {
    let scope = if field(approval, "scope") == "session" { "for the session" } else { "once" };
    format!("answered {scope} by uid {} (approval {})", field(approval, "by_uid"), field(approval, "approval_id"))
}

/// A member by the names on the way to it; empty when it is not there.
pub(crate) fn field(record: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(record, |value, name| value.get(name));
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A user's session, one that was delegated from it, and a program outside.
    pub(crate) fn found() -> Found {
        let opening = |id: &str, parent: Option<&str>, exec: u64| {
            json!({"kind": "decision", "time": "2026-11-27T10:00:00Z", "action": "act_for", "outcome": "allow",
                "session_id": id, "user": "corp:ada", "spiffe_id": "spiffe://e/launcher", "decision_id": "d0",
                "policy_ids": ["act"], "exec": {"exec_id": exec, "path": "/bin/agentctl"},
                "session": {"parent": parent, "verified_by": "oidc", "user_name": "Ada <b>", "issuer": "https://idp",
                    "agent": "coder", "purpose": "the report", "bound": true}})
        };
        let release = |id: &str, session: Option<&str>, exec: u64, lineage: &[u64], outcome: &str| {
            let lineage: Vec<_> =
                lineage.iter().map(|id| json!({"exec_id": id, "path": format!("/bin/p{id}")})).collect();
            json!({"kind": "decision", "seq": 3, "time": "2026-11-27T10:00:01Z", "action": "release", "outcome": outcome,
                "decision_id": id, "session_id": session, "spiffe_id": "spiffe://e/tool", "destination": "mail",
                "reason": "allowed", "policy_ids": ["p"], "policy_generation": "sha256:0",
                "approval": {"approval_id": "a1", "scope": "session", "by_uid": 0},
                "lease_id": (outcome == "allow").then(|| format!("lease-{id}")), "credential_type": "jwt-svid",
                "connection": {"cookie": 7, "protocol": "tcp", "remote_address": "::1", "remote_port": 443},
                "exec": {"exec_id": exec, "path": "/bin/tool"}, "lineage": lineage,
                "step": session.map(|_| json!({"span_id": "b2", "parent_span_id": "a1", "session_id": "s1",
                    "kind": "tool_call", "name": "search", "reference": "sha256:aa", "joined_by": "time"}))})
        };
        Found {
            decisions: vec![
                release("d1", Some("s1"), 30, &[20, 10, 5, 1], "allow"),
                release("d2", Some("s2"), 40, &[30, 20, 10, 5, 1], "deny"),
                release("d3", None, 90, &[80, 1], "allow"),
            ],
            openings: vec![opening("s1", None, 10), opening("s2", Some("s1"), 30)],
            session_ends: vec![json!({"session_id": "s1", "time": "2026-11-27T11:00:00Z", "cause": "revoked"})],
            lease_ends: vec![json!({"lease_id": "lease-d1", "time": "2026-11-27T10:30:00Z", "cause": "exited"})],
            steps: vec![
                json!({"seq": 1, "session_id": "s1", "step": {"span_id": "a1", "kind": "reasoning"}}),
                json!({"seq": 2, "session_id": "s1", "step": {"span_id": "b2", "parent_span_id": "a1"},
                    "content": {"text": "<b>find", "redacted": 0, "is_cut": true}}),
                // The name again, when it was all over.
                json!({"seq": 9, "session_id": "s1", "step": {"span_id": "a1", "kind": "approval"}}),
            ],
            step_ends: vec![json!({"seq": 5, "session_id": "s1", "time": "2026-11-27T10:20:00Z", "cause": "done",
                "step": {"span_id": "b2"}})],
        }
    }

    #[test]
    fn what_was_done_for_a_user_hangs_below_its_session_from_the_opener_down() {
        let told = Told::of(&found());
        assert_eq!(told.users.len(), 1);
        let outer = &told.users[0].sessions[0];
        assert_eq!((outer.session_id.as_str(), outer.cause.as_str()), ("s1", "revoked"));
        // x10 opened it; what is above is no part of it.
        assert_eq!(outer.programs[0].exec_id, ExecId(10));
        assert_eq!(outer.programs[0].programs[0].programs[0].exec_id, ExecId(30));
        let decision = &outer.programs[0].programs[0].programs[0].decisions[0];
        assert_eq!(decision.credential.as_ref().unwrap().cause, "exited");
        let steps: Vec<_> = decision.steps.iter().map(|step| (step.words(), step.joined_by.as_str())).collect();
        assert_eq!(steps, [("reasoning".to_owned(), ""), ("tool_call search (sha256:aa)".to_owned(), "time")]);
        assert_eq!((decision.steps[1].cause.as_str(), decision.steps[1].content.as_str()), ("done", "<b>find…"));
        let inner = &outer.sessions[0];
        assert_eq!((inner.session_id.as_str(), inner.programs[0].exec_id), ("s2", ExecId(30)));
        assert!(!inner.programs[0].programs[0].decisions[0].allowed);
        // Outside of sessions what only leads there is left out.
        assert_eq!(told.programs[0].exec_id, ExecId(90));
    }

    #[test]
    fn an_exchange_hangs_below_the_credential_that_was_shown() {
        let mut found = found();
        let exchange = |id: &str, exec: u64, of: &str| {
            json!({"action": "exchange", "outcome": "allow", "decision_id": id, "session_id": "s1", "lease_id": id,
                "subject_lease_id": of, "spiffe_id": "spiffe://e/server",
                "exec": {"exec_id": exec, "path": "/bin/server"}, "lineage": [{"exec_id": 1, "path": "/sbin/init"}]})
        };
        // The server is older than all that it serves.
        found.decisions.extend([exchange("e2", 4, "e1"), exchange("e1", 3, "lease-d1")]);
        let told = Told::of(&found);
        let session = &told.users[0].sessions[0];
        assert_eq!(session.programs.len(), 1, "what is above the server is no part of the session");
        let first = &session.programs[0].programs[0].programs[0].decisions[0].exchanged[0];
        assert_eq!((first.exec_id, first.decisions[0].decision_id.as_str()), (ExecId(3), "e1"));
        assert_eq!(first.decisions[0].exchanged[0].decisions[0].decision_id, "e2");
        // Of one whose credential is not there.
        let alone = Found { decisions: vec![exchange("e2", 4, "gone")], ..Found::default() };
        assert_eq!(Told::of(&alone).programs[0].decisions[0].decision_id, "e2");
        let circle = vec![exchange("a", 4, "b"), exchange("b", 5, "a")];
        assert!(Told::of(&Found { decisions: circle, ..Found::default() }).is_empty());
    }

    #[test]
    fn a_forged_log_makes_no_circle_and_no_depth_without_end() {
        let circle = json!({"kind": "decision", "exec": {"exec_id": 5}, "lineage": [{"exec_id": 9}, {"exec_id": 5}]});
        let told = Told::of(&Found { decisions: vec![circle], ..Found::default() });
        assert!(!told.is_empty());
        let opening =
            |id: &str, parent: &str| json!({"action": "act_for", "session_id": id, "session": {"parent": parent}});
        let around = json!({"session_id": "s", "step": {"span_id": "a", "parent_span_id": "a"}});
        let inside =
            json!({"exec": {"exec_id": 5}, "step": {"session_id": "s", "span_id": "b", "parent_span_id": "a"}});
        let told = Told::of(&Found { decisions: vec![inside], steps: vec![around], ..Found::default() });
        assert_eq!(told.programs[0].decisions[0].steps.len(), MAX_DEPTH);
        let told = Told::of(&Found { openings: vec![opening("a", "b"), opening("b", "a")], ..Found::default() });
        assert!(told.users.is_empty(), "nobody is at the top of a circle");
    }
}
