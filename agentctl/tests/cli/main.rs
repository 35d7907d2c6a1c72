// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The real binary against a daemon that speaks the real API over a real Unix socket.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod fake;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use agent_proto::admin::revoke_request::What;
use fake::{AGENT, AGENT_TGID, Daemon, World};
use serde_json::Value;

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn command(socket: &Path, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.env_remove("NO_COLOR").env("AGENT_ADMIN_SOCKET", format!("unix:{}", socket.display()));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

fn run(socket: &Path, line: &str) -> Ran {
    let output = command(socket, line).output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `(command line, exit code, what standard output or error must hold)`.
fn check(world: World, cases: &[(&str, i32, &str)]) {
    let daemon = Daemon::start(world);
    for (line, code, text) in cases {
        let ran = run(&daemon.socket(), line);
        let shown = format!("{line}: {:?}\n{}\n{}", ran.code, ran.stdout, ran.stderr);
        assert_eq!(ran.code, Some(*code), "{shown}");
        assert!(ran.stdout.contains(text) || ran.stderr.contains(text), "no {text:?} in {shown}");
        assert!(!ran.stdout.contains('\x1b') && !ran.stderr.contains('\x1b'), "escapes in {shown:?}");
        assert_eq!(*code == 2, !ran.stderr.is_empty(), "standard error is for errors: {shown}");
    }
}

#[test]
fn a_good_world_exits_zero() {
    check(
        World::default(),
        &[
            ("status", 0, "is serving"),
            ("doctor", 0, "1 passed, 1 warned, 0 failed"),
            ("ps", 0, "report-writer: script:path expected /opt/agent.py got /tmp/impostor.py"),
            ("ps --list", 0, "impostor\\u{1b}[2J"),
            ("ps --all", 0, "kthreadd"),
            ("ps 7", 0, "spiffe://example.org/agent/report-writer by entry report-writer"),
            ("ps x42", 0, "got      script:path:/tmp/impostor.py"),
            ("ps --identified", 0, "x18446744073709551615"),
            ("connections", 0, "tcp → [::1]:443"),
            ("leases", 0, "lease-1"),
            ("sessions", 0, "corp:248 (Ada)"),
            ("sessions s0000000000000001", 0, "no active sessions"),
            ("sessions s00000000000000ff --end", 0, "ended 1 session"),
            ("approvals", 0, "corp:ada"),
            ("approvals list", 0, "release mail by smtp"),
            ("approvals allow a1", 0, "allowed mail for spiffe://example.org/mailer, once"),
            (
                "approvals deny a1 --session",
                0,
                "denied mail for spiffe://example.org/mailer for the rest of its session",
            ),
            ("decisions", 0, "no_identity"),
            ("explain 7 --destination reports", 0, "allow"),
            ("explain x18446744073709551615 -d reports", 0, "allow"),
            ("policy explain", 0, "permit writers  a.cedar\n    permit(principal, action, resource);"),
            ("policy validate", 0, "valid: 1 policy"),
            ("audit tail", 0, "x42"),
            ("audit query --raw", 0, "{\"seq\":1,\"kind\":\"decision\""),
            ("audit verify", 0, "the chain holds"),
            ("reload", 0, "reloaded"),
            ("revoke --lease lease-1", 0, "revoked 1 lease:\n  lease-1"),
            ("watch -n 1", 0, "exec"),
            ("secret list", 0, "no secrets"),
            ("spiffe bundle show", 0, "late.example: no answer"),
            ("completions zsh", 0, "#compdef agentctl"),
            ("--help", 0, "Exit codes: 0 allow or ok, 1 deny or finding, 2 error."),
        ],
    );
}

#[test]
fn a_denial_or_finding_exits_one() {
    let world = World {
        state: "degraded".into(),
        doctor_fails: true,
        log_is_broken: true,
        reload_is_refused: true,
        ..World::default()
    };
    check(
        world,
        &[
            ("status", 1, "is degraded"),
            ("doctor", 1, "0 passed, 1 warned, 1 failed"),
            ("explain 8 --destination reports", 1, "one fact differs"),
            ("explain 7 --destination elsewhere", 1, "deny"),
            ("audit verify", 1, "the chain is broken: a line was changed"),
            ("reload", 1, "a.cedar:1:2: error: unexpected token\nrefused, nothing was changed"),
            ("revoke --lease nobody", 1, "nothing was revoked"),
            ("status --output html", 2, "this command has no such output"),
            ("sessions s0000000000000001 --end", 1, "nothing was ended"),
            ("approvals allow a2", 1, "nothing was answered"),
            ("revoke --exec x42", 1, "nothing was revoked"),
            ("secret remove nothing", 1, "there is no secret nothing"),
            ("spiffe bundle remove nothing.example", 1, "no bundle of nothing.example is known"),
            ("spiffe bundle show --trust-domain nothing.example", 1, "no bundle of nothing.example is known"),
            ("spiffe bundle show --trust-domain late.example", 1, "could not be fetched yet: no answer"),
            ("ps 4711", 1, "no live process 4711"),
            ("ps x4711", 1, "no live exec instance x4711"),
        ],
    );
}

#[test]
fn an_error_exits_two_with_its_reason() {
    let world = World { reload_hangs: true, verify_ends_early: true, processes_break_off: true, ..World::default() };
    check(
        world,
        &[
            ("explain 4711 --destination reports", 2, "error: not found: no such process\nhint: "),
            ("reload --timeout 200ms", 2, "error: the daemon gave no answer within 200ms\nhint: "),
            ("audit verify", 2, "error: the daemon ended the stream before it was complete"),
            ("ps", 2, "error: the daemon cannot answer now: stopping"),
            ("ps --list", 2, "error: the daemon cannot answer now: stopping"),
            ("ps --output json", 2, "error: the daemon cannot answer now: stopping"),
            (
                "policy validate /nonexistent.cedar",
                2,
                "error: cannot read /nonexistent.cedar: no such file or directory",
            ),
            ("secret set name", 2, "error: the secret is empty"),
            ("secret set name s3cret", 2, "unexpected argument"),
            ("nonsense", 2, "unrecognized subcommand"),
            ("explain 7", 2, "--destination"),
        ],
    );
}

#[test]
fn a_document_that_was_cut_short_does_not_look_whole() {
    let daemon = Daemon::start(World { processes_break_off: true, ..World::default() });
    let ran = run(&daemon.socket(), "ps --output json");
    assert!(ran.stdout.contains("report-writer"));
    assert!(serde_json::from_str::<Value>(&ran.stdout).is_err());
}

#[test]
fn no_daemon_is_said_with_the_path_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.sock");
    let ran = run(&missing, "status");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    let path = missing.display();
    assert!(
        ran.stderr
            .starts_with(&format!("error: cannot connect to the admin socket {path}: no such file or directory\n")),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("hint: is agent-daemon running?"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 2);

    let dead = directory.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    let ran = run(&dead, "status");
    assert!(ran.code == Some(2) && ran.stderr.contains("nothing listens"), "{}", ran.stderr);
}

#[test]
fn a_socket_that_speaks_something_else_is_an_error_and_not_a_wait() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
        drop(stream.read(&mut [0; 16]));
    });
    let ran = run(&socket, "status --timeout 5s");
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.starts_with("error: ") && ran.stderr.contains("\nhint: "), "{}", ran.stderr);
    server.join().unwrap();
}

#[test]
fn the_flag_wins_over_the_environment() {
    let daemon = Daemon::start(World::default());
    let nowhere = daemon.directory().join("nowhere.sock");
    let ran = run(&nowhere, &format!("status --admin-socket {}", daemon.socket().display()));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn every_command_has_one_document_with_its_schema() {
    let daemon = Daemon::start(World::default());
    for (line, schema) in [
        ("status", "agentctl.status/v1"),
        ("doctor", "agentctl.doctor/v1"),
        ("ps", "agentctl.ps/v1"),
        ("ps 7", "agentctl.ps/v1"),
        ("ps 4711", "agentctl.ps/v1"),
        ("connections", "agentctl.connections/v1"),
        ("leases", "agentctl.leases/v1"),
        ("sessions", "agentctl.sessions/v1"),
        ("sessions s00000000000000ff --end", "agentctl.sessions.end/v1"),
        ("approvals", "agentctl.approvals/v1"),
        ("approvals allow a1", "agentctl.approvals.answer/v1"),
        ("approvals deny a2", "agentctl.approvals.answer/v1"),
        ("decisions", "agentctl.decisions/v1"),
        ("explain 8 -d reports", "agentctl.explain/v1"),
        ("policy validate", "agentctl.policy.validate/v1"),
        ("policy explain", "agentctl.policy.explain/v1"),
        ("audit verify", "agentctl.audit.verify/v1"),
        ("revoke --pid 7", "agentctl.revoke/v1"),
        ("reload", "agentctl.reload/v1"),
        ("secret list", "agentctl.secret.list/v1"),
        ("secret remove x", "agentctl.secret.remove/v1"),
        ("spiffe bundle show", "agentctl.spiffe.bundle.list/v1"),
        ("spiffe bundle show --trust-domain nothing.example", "agentctl.spiffe.bundle.show/v1"),
        ("spiffe bundle remove x.example", "agentctl.spiffe.bundle.remove/v1"),
    ] {
        let ran = run(&daemon.socket(), &format!("{line} --output json"));
        let value: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{line}: {error}\n{}", ran.stdout));
        assert_eq!(value["schema"], schema, "{line}");
        assert!(ran.stdout.trim_start().trim_start_matches('{').trim_start().starts_with("\"schema\""), "{line}");
        assert!(!ran.stdout.contains('\x1b'), "{line}");
        // Where a verdict is given, it is the same as in the other form.
        assert_eq!(ran.code, run(&daemon.socket(), line).code, "{line}");
    }
    let ran = run(&daemon.socket(), "ps --output json");
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["processes"][0]["exec_id"], "x18446744073709551615");
}

#[test]
fn every_line_of_a_stream_has_its_schema() {
    let daemon = Daemon::start(World::default());
    for (line, schema, count) in [
        ("watch -n 4", "agentctl.watch/v1", 4),
        ("watch --leases -n 1", "agentctl.watch/v1", 1),
        ("audit query", "agentctl.audit.record/v1", 1),
    ] {
        let ran = run(&daemon.socket(), &format!("{line} --output json"));
        assert_eq!(ran.stdout.lines().count(), count, "{line}");
        for text in ran.stdout.lines() {
            assert_eq!(serde_json::from_str::<Value>(text).unwrap()["schema"], schema);
        }
    }
    let ran = run(&daemon.socket(), "watch --leases -n 1 --output json");
    let event: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&event["event"], &event["lease"]["lease_id"]), (&"lease".into(), &"lease-1".into()));
}

#[test]
fn following_prints_a_record_before_the_next_one_comes() {
    let daemon = Daemon::start(World::default());
    for line in ["audit tail -f", "audit tail -f --output json", "audit tail -f --raw", "watch"] {
        let mut child = command(&daemon.socket(), line).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty(), "{line}");
        // The stream is endless: only we can end it.
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_daemon_that_dies_ends_the_stream_with_an_error() {
    let daemon = Daemon::start(World::default());
    let mut child = command(&daemon.socket(), "watch").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    drop(daemon);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("error: the connection to the daemon broke\nhint: "), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let daemon = Daemon::start(World { crowd: 20_000, ..World::default() });
    for line in ["ps --list", "ps", "ps --output json"] {
        let mut child = command(&daemon.socket(), line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 16];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{line}");
    }
}

#[test]
fn a_long_list_is_complete_in_every_form() {
    let daemon = Daemon::start(World { crowd: 3_000, ..World::default() });
    for line in ["ps", "ps --list"] {
        assert_eq!(run(&daemon.socket(), line).stdout.lines().count(), 1 + 2 + 3_000, "{line}");
    }
    let value: Value = serde_json::from_str(&run(&daemon.socket(), "ps --output json").stdout).unwrap();
    assert_eq!(value["processes"].as_array().unwrap().len(), 3_002);
}

#[test]
fn a_bundle_goes_from_a_file_to_the_daemon_and_back() {
    let daemon = Daemon::start(World::default());
    let file = daemon.directory().join("bundle.json");
    std::fs::write(&file, "{\"keys\":[]}").unwrap();
    let set = format!("spiffe bundle set --trust-domain partner.example {}", file.display());
    assert_eq!(run(&daemon.socket(), &set).stdout, "partner.example is verified by this bundle now\n");
    assert_eq!(run(&daemon.socket(), &set).stdout, "this bundle of partner.example is known already\n");
    let shown = run(&daemon.socket(), "spiffe bundle show --trust-domain partner.example");
    assert_eq!(shown.stdout, "{\"keys\":[]}\n");
    let refused = run(&daemon.socket(), &format!("{set} --format pem"));
    assert!(refused.code == Some(2) && refused.stderr.contains("it is not PEM"), "{}", refused.stderr);
}

#[test]
fn a_secret_goes_from_standard_input_to_the_daemon_and_nowhere_else() {
    let daemon = Daemon::start(World::default());
    let mut child = command(&daemon.socket(), "secret set api-key")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"canary-1\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"sealed api-key, version 1\n");
    assert!(output.stderr.is_empty());

    let file = daemon.directory().join("key");
    std::fs::write(&file, b"canary-2\n").unwrap();
    let ran = run(&daemon.socket(), &format!("secret set other --exact --file {} --output json", file.display()));
    assert!(ran.code == Some(0) && !ran.stdout.contains("canary"), "{}", ran.stdout);

    let secrets = daemon.world.secrets.lock().unwrap();
    assert_eq!(secrets.get("api-key").map(Vec::as_slice), Some(&b"canary-1"[..]));
    assert_eq!(secrets.get("other").map(Vec::as_slice), Some(&b"canary-2\n"[..]));
}

#[test]
fn policies_and_cases_are_read_from_the_files_named() {
    let daemon = Daemon::start(World::default());
    let file = |name: &str, text: &str| {
        let path = daemon.directory().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("good.cedar", "permit");
    let wrong = file("wrong.cedar", "wrong");
    let cases = file("cases.toml", "good\ngood");
    let failing = file("failing.toml", "good\nbad");
    let empty = file("empty.toml", "");
    for (line, code, text) in [
        (format!("policy validate {good}"), 0, "valid"),
        (format!("policy validate {good} {wrong}"), 1, "a.cedar:1:2: error: unexpected token\ninvalid: 1 error"),
        (format!("policy test {cases}"), 0, "2 of 2 cases passed"),
        (format!("policy test {failing} {good}"), 1, "1 of 2 cases passed"),
        (format!("policy test {empty}"), 1, "0 of 0 cases passed"),
    ] {
        let ran = run(&daemon.socket(), &line);
        assert_eq!(ran.code, Some(code), "{line}\n{}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains(text), "{line}\n{}", ran.stdout);
    }
    let ran = run(&daemon.socket(), &format!("policy test {failing} --output json"));
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&value["schema"], &value["passed"]), (&"agentctl.policy.test/v1".into(), &false.into()));
}

#[test]
fn what_was_asked_reaches_the_daemon() {
    let daemon = Daemon::start(World::default());
    run(&daemon.socket(), "revoke --exec x18446744073709551615 --reason stolen");
    run(&daemon.socket(), "revoke --pid 7");
    let revocations = daemon.world.revocations.lock().unwrap();
    assert_eq!(revocations[0].what, Some(What::ExecId(AGENT)));
    assert_eq!(revocations[0].reason, "stolen");
    assert_eq!(revocations[1].what, Some(What::Tgid(AGENT_TGID)));

    let line = "audit query -n 5 --since 1970-01-02 --identity spiffe://e/a --destination d --lease l --decision i \
                --exec x9 --pid 3 --kind decision --outcome deny";
    run(&daemon.socket(), line);
    let queries = daemon.world.queries.lock().unwrap();
    let query = &queries[0];
    assert_eq!((query.last, query.follow, query.exec_id, query.tgid), (5, false, 9, 3));
    assert_eq!(query.since.map(|since| since.seconds), Some(86_400));
    let words =
        [&query.spiffe_id, &query.destination, &query.lease_id, &query.decision_id, &query.kind, &query.outcome];
    assert_eq!(words, ["spiffe://e/a", "d", "l", "i", "decision", "deny"]);
}

#[test]
fn colours_come_when_asked_for_and_never_into_a_pipe() {
    let daemon = Daemon::start(World::default());
    assert!(run(&daemon.socket(), "status --color always").stdout.contains("\x1b[32mserving"));
    assert!(!run(&daemon.socket(), "status").stdout.contains('\x1b'));
    // Names from processes stay harmless even then.
    assert!(!run(&daemon.socket(), "ps --color always").stdout.contains("\x1b[2J"));
    assert!(!run(&daemon.socket(), "status --color always --output json").stdout.contains('\x1b'));
}

/// Every field of a document, at any depth.
fn fields(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.push(name.clone());
                fields(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, found)),
        _ => {}
    }
}

#[test]
fn the_documentation_names_every_schema_and_every_field() {
    const PAGE: &str = include_str!("../../../docs/cli.md");
    let daemon = Daemon::start(World { reload_is_refused: true, ..World::default() });
    let cases = daemon.directory().join("cases.toml");
    std::fs::write(&cases, "good").unwrap();
    let test = format!("policy test {}", cases.display());
    let shown = daemon.directory().join("spire.json");
    let entry = r#"{"id":"a","spiffe_id":{"trust_domain":"e","path":"/a"},"selectors":[{"type":"k8s","value":"x"}]}"#;
    std::fs::write(&shown, format!(r#"{{"entries":[{entry}]}}"#)).unwrap();
    let import = format!("spiffe import {}", shown.display());
    for line in [
        "status",
        "doctor",
        "ps",
        "connections",
        "leases",
        "sessions",
        "sessions s00000000000000ff --end",
        "approvals",
        "approvals deny a1",
        "decisions",
        "explain 8 -d reports",
        "policy validate",
        "policy explain",
        &test,
        "audit verify",
        "audit query",
        "revoke --pid 7",
        "reload",
        "secret list",
        "secret remove x",
        "spiffe bundle show",
        "spiffe bundle show --trust-domain late.example",
        "spiffe bundle remove x.example",
        &import,
        "watch -n 4",
    ] {
        let ran = run(&daemon.socket(), &format!("{line} --output json"));
        let is_stream = line.starts_with("watch") || line == "audit query";
        let documents: Vec<&str> = if is_stream { ran.stdout.lines().collect() } else { vec![&ran.stdout] };
        for document in documents {
            let mut value: Value = serde_json::from_str(document).unwrap();
            assert!(PAGE.contains(&format!("`{}`", value["schema"].as_str().unwrap())), "{line}");
            // The inside of a record is the log's own, and documented there.
            if let Some(record) = value.get_mut("record") {
                record.take();
            }
            let mut found = Vec::new();
            fields(&value, &mut found);
            for field in found {
                assert!(PAGE.contains(&format!("`{field}`")), "{line}: {field}");
            }
        }
    }
}
