// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An event of the Open Cybersecurity Schema Framework (OCSF).

use serde_json::{Value, json};

use super::{Record, Weight, Who, known};

/// The oldest that has all that is said here; newer ones only add to it.
const VERSION: &str = "1.2.0";

/// One event of one record, in one line.
pub(crate) fn event(line: &str) -> Value {
    let record = Record::new(line);
    let (class, activity) = class(&record);
    let (severity_id, severity) = match record.weight() {
        Weight::Usual => (1, "Informational"),
        Weight::Low => (2, "Low"),
        Weight::Medium => (3, "Medium"),
        Weight::High => (4, "High"),
    };
    let (status_id, status) = match record.succeeded() {
        None => (0, "Unknown"),
        Some(true) => (1, "Success"),
        Some(false) => (2, "Failure"),
    };
    let mut event = json!({
        "category_uid": class.category,
        "category_name": class.category_name,
        "class_uid": class.uid,
        "class_name": class.name,
        "activity_id": activity.0,
        "activity_name": activity.1,
        "type_uid": class.uid.saturating_mul(100).saturating_add(activity.0),
        "type_name": format!("{}: {}", class.name, activity.1),
        // What cannot be read has none; it is known only when that was found.
        "time": record.time().unwrap_or_else(jiff::Timestamp::now).as_millisecond(),
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "status_code": record.code(),
        "status_detail": record.details(),
        "message": record.message(),
        "metadata": {
            "version": VERSION,
            "product": {"name": "agent-daemon", "vendor_name": "agent-daemon", "version": record.text("/version")},
            "log_name": "audit",
            "event_code": record.kind(),
            "original_time": record.text("/time"),
            "sequence": record.number("/seq"),
            "uid": record.number("/seq").map(|seq| format!("{}:{seq}", record.text("/boot_id").unwrap_or_default())),
            "correlation_uid": record.text("/decision_id").or_else(|| record.text("/session_id")),
        },
        "raw_data": record.line,
    });
    if let Some(event) = event.as_object_mut() {
        event.extend(of_class(&record, &class));
    }
    known(event)
}

struct Class {
    category: u32,
    category_name: &'static str,
    uid: u32,
    name: &'static str,
}

const AUTHENTICATION: Class =
    Class { category: 3, category_name: "Identity & Access Management", uid: 3002, name: "Authentication" };
const API: Class = Class { category: 6, category_name: "Application Activity", uid: 6003, name: "API Activity" };
const LIFECYCLE: Class =
    Class { category: 6, category_name: "Application Activity", uid: 6002, name: "Application Lifecycle" };
const BASE: Class = Class { category: 0, category_name: "Uncategorized", uid: 0, name: "Base Event" };

/// The class of a record, and its activity in that.
fn class(record: &Record<'_>) -> (Class, (u32, &'static str)) {
    const CREATE: (u32, &str) = (1, "Create");
    const READ: (u32, &str) = (2, "Read");
    const UPDATE: (u32, &str) = (3, "Update");
    const DELETE: (u32, &str) = (4, "Delete");
    const OTHER: (u32, &str) = (99, "Other");
    match (record.kind(), record.text("/action").or_else(|| record.text("/operation")).unwrap_or_default()) {
        // Before it is known for whom, it is a request like any other.
        ("decision", "act_for") if record.text("/user").is_some() => (AUTHENTICATION, (1, "Logon")),
        ("session_ended", _) => (AUTHENTICATION, (2, "Logoff")),
        ("start", _) => (LIFECYCLE, (3, "Start")),
        ("stop", _) => (LIFECYCLE, (4, "Stop")),
        ("decision", "renew") | ("reload", _) | ("approval", _) => (API, UPDATE),
        ("decision", action) if action.starts_with("attest") => (API, READ),
        ("decision", _) => (API, CREATE),
        ("lease_ended" | "revoke", _) | ("secret", "remove") => (API, DELETE),
        ("secret", _) => (API, UPDATE),
        ("explain", _) => (API, READ),
        ("caller_refused" | "step" | "step_ended", _) => (API, OTHER),
        // The log's own, trust, and what a later version writes.
        _ => (BASE, (0, "Unknown")),
    }
}

fn of_class(record: &Record<'_>, class: &Class) -> serde_json::Map<String, Value> {
    let user = json!({
        "uid": record.text("/user"),
        "name": record.text("/session/user_name").or_else(|| record.text("/user")),
        "type_id": record.text("/user").map(|_| 1),
    });
    let session = json!({
        "uid": record.text("/session_id"),
        "issuer": record.text("/session/issuer"),
        "expiration_time": record.text("/session/expires_at").and_then(millis),
        "expiration_reason": (class.uid == AUTHENTICATION.uid).then(|| record.text("/cause")).flatten(),
    });
    let all = match class.uid {
        3002 => json!({
            "user": user,
            "session": session,
            "actor": actor(record),
            "service": {"name": "agent-daemon"},
            "auth_protocol": record.text("/session/verified_by"),
            "auth_protocol_id": record.text("/session/verified_by").map(|by| if by == "oidc" { 4 } else { 99 }),
            "is_remote": false,
        }),
        6003 => {
            let mut actor = actor(record);
            // An operator is not who the request was about.
            if let Some(actor) = actor.as_object_mut().filter(|_| record.who() != Who::Operator) {
                if record.text("/user").is_some() {
                    actor.insert("user".to_owned(), user);
                }
                actor.insert("session".to_owned(), session);
            }
            json!({
                "actor": actor,
                "api": {
                    "operation": record.text("/action").or_else(|| record.text("/operation")).unwrap_or_else(|| record.kind()),
                    "service": {"name": "agent-daemon"},
                    "request": record.text("/decision_id").map(|id| json!({"uid": id})),
                    "response": {"error": (record.succeeded() == Some(false)).then(|| record.code()).flatten()},
                },
                // Everybody is on this machine, which has no better name than its boot.
                "src_endpoint": {"uid": record.text("/boot_id").unwrap_or("unknown"), "svc_name": "agent-daemon"},
                "dst_endpoint": {
                    "ip": record.text("/connection/remote_address"),
                    "port": record.number("/connection/remote_port"),
                },
                "resources": resources(record),
            })
        }
        6002 => {
            json!({"app": {"name": "agent-daemon", "vendor_name": "agent-daemon", "version": record.text("/version")}})
        }
        _ => Value::Null,
    };
    match all {
        Value::Object(all) => all,
        _ => serde_json::Map::new(),
    }
}

fn millis(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

/// The program that did it, those above it, and by which policy.
fn actor(record: &Record<'_>) -> Value {
    let above = record.at("/lineage").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let parent = above.iter().take(16).rev().fold(Value::Null, |parent, one| {
        json!({
            "uid": one["exec_id"].as_u64().map(|id| crate::id::ExecId(id).to_string()),
            "pid": one["tgid"],
            "name": one["path"].as_str().map(file_name),
            "file": file(one["path"].as_str(), None),
            "parent_process": parent,
        })
    });
    let policies = record.texts("/policy_ids");
    let decision = match record.text("/outcome").filter(|_| record.kind() == "decision") {
        Some(_) if record.is_only_audited() => Some("deny"),
        outcome => outcome,
    };
    let is_known = record.exec_id().is_some() || record.pid().is_some();
    let user = record.uid().map(|uid| json!({"uid": uid.to_string(), "type_id": if uid == 0 { 2 } else { 1 }}));
    let app = match record.who() {
        Who::Program(_) => record.text("/session/agent"),
        Who::Operator => None,
        Who::Daemon => Some("agent-daemon"),
    };
    json!({
        "app_uid": record.text("/spiffe_id").filter(|_| matches!(record.who(), Who::Program(_))),
        "app_name": app,
        // Without a process at least the user is known.
        "user": user.clone().filter(|_| !is_known || record.who() == Who::Operator),
        "process": is_known.then(|| json!({
            "uid": record.exec_id(),
            "pid": record.pid(),
            "name": record.path().map(file_name).or_else(|| record.text("/exec/comm")),
            "file": file(record.path(), record.text("/exec/sha256")),
            "user": user,
            "parent_process": parent,
        })),
        "authorizations": policies.iter().map(|policy| json!({
            "decision": decision,
            "policy": {"uid": policy, "name": policy, "version": record.text("/policy_generation"), "is_applied": true},
        })).collect::<Vec<_>>(),
    })
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

fn file(path: Option<&str>, sha256: Option<&str>) -> Option<Value> {
    let path = path?;
    let hash = |value: &str| json!([{"algorithm_id": 3, "algorithm": "SHA-256", "value": value}]);
    Some(json!({"name": file_name(path), "path": path, "type_id": 1, "hashes": sha256.map(hash)}))
}

/// What it was about.
fn resources(record: &Record<'_>) -> Vec<Value> {
    let named = |kind: &str, name: &str| json!({"type": kind, "name": name, "uid": name});
    let of = |kind: &str, pointer: &str| record.text(pointer).map(|name| named(kind, name));
    let of_other = |kind: &str, pointer: &str| of(kind, pointer).filter(|_| record.who() == Who::Operator);
    [
        of("destination", "/destination"),
        of("binding", "/binding"),
        of("lease", "/lease_id"),
        of("step", "/step/span_id"),
        of("secret", "/name"),
        of("revoked", "/what"),
        of("policy set", "/policy_generation").filter(|_| record.kind() == "reload"),
        record.about().map(|exec_id| named("exec instance", &exec_id)),
        of_other("identity", "/spiffe_id"),
        of_other("user", "/user"),
        of_other("session", "/session_id"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DECISION, KINDS};
    use super::*;

    #[test]
    fn a_decision_says_who_did_what_and_by_which_policy() {
        let event = event(DECISION);
        let at = |pointer: &str| event.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!((at("/class_uid"), at("/type_uid"), at("/status_id")), (json!(6003), json!(600_301), json!(2)));
        assert_eq!((at("/actor/process/uid"), at("/actor/process/parent_process/pid")), (json!("x42"), json!(8)));
        assert_eq!((at("/actor/user/uid"), at("/actor/session/uid")), (json!("corp:ada"), json!("s1")));
        assert_eq!(at("/actor/authorizations/0/policy/uid"), "p");
        assert_eq!((at("/dst_endpoint/port"), at("/resources/0/name")), (json!(443), json!("mail")));
        assert_eq!((at("/time"), at("/raw_data")), (json!(1_795_773_601_500_i64), json!(DECISION)));
        assert_eq!(at("/actor/process/file/hashes/0/value"), "00ff");
    }

    #[test]
    fn what_an_operator_did_is_nobody_elses_deed() {
        for (number, pid, about) in [(7, None, "lease_id:l1"), (9, Some(77), "corp:ada"), (10, Some(77), "x42")] {
            let event = event(KINDS[number]);
            let at = |pointer: &str| event.pointer(pointer).cloned();
            assert_eq!(at("/actor/process/pid"), pid.map(|pid| json!(pid)), "{event}");
            assert_eq!(at("/actor/process/uid").or_else(|| at("/actor/app_uid")), None, "{event}");
            assert_eq!(at("/actor/user/uid"), Some(json!("0")), "{event}");
            assert!(event["resources"].to_string().contains(about), "{event}");
        }
        assert_eq!(event(KINDS[9])["status_detail"], "not today");
        assert_eq!((&event(KINDS[9])["status_code"], &event(KINDS[9])["severity_id"]), (&json!("denied"), &json!(2)));
        assert_eq!(event(KINDS[10])["status_id"], 1);
        assert_eq!(event(KINDS[8]).pointer("/actor/process/pid"), Some(&json!(77)));
        // Of whom no process is known.
        let refused = event(r#"{"kind":"caller_refused","reason":"connection_limit","caller":{"uid":5,"gid":5}}"#);
        assert_eq!(refused["actor"], json!({"user": {"uid": "5", "type_id": 1}}));
    }

    #[test]
    fn what_was_allowed_against_policy_is_no_plain_success() {
        let event = event(KINDS[12]);
        assert_eq!((&event["status_id"], &event["severity_id"]), (&json!(1), &json!(2)));
        assert_eq!(event.pointer("/actor/authorizations/0/decision"), Some(&json!("deny")));
    }

    #[test]
    fn a_logon_without_a_user_is_a_request() {
        let event = event(KINDS[11]);
        assert_eq!((&event["class_uid"], &event["status_code"]), (&json!(6003), &json!("invalid_token")));
    }

    #[test]
    fn every_record_is_an_event_with_what_its_class_requires() {
        for line in KINDS {
            let event = event(line);
            let required: &[&str] = match event["class_uid"].as_u64() {
                Some(6003) => &["/actor", "/api/operation", "/src_endpoint/uid"],
                Some(3002) => &["/user/uid", "/service/name"],
                Some(6002) => &["/app/name"],
                _ => &[],
            };
            for pointer in required {
                assert!(event.pointer(pointer).is_some(), "{pointer} of {event}");
            }
            assert_eq!(event["raw_data"], line);
            assert_eq!(
                event["type_uid"].as_u64(),
                Some(event["class_uid"].as_u64().unwrap() * 100 + event["activity_id"].as_u64().unwrap())
            );
        }
    }
}
