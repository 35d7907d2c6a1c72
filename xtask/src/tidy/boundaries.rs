// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which part of the program may name what: dependencies point inward.

use super::rust::{self, Named};
use super::{File, Finding};

struct Rule {
    text: &'static str,
    applies: fn(&str) -> bool,
    forbids: fn(&[&str]) -> bool,
}

const RULES: [Rule; 8] = [
    Rule {
        text: "the core (process, identity, policy, session, audit record and chain, clock, diagnostic) does no IO: it \
               names no aya, tonic, agent_proto, file, socket, process or system call",
        applies: is_core,
        forbids: is_io,
    },
    Rule {
        text: "dependencies point inward: the core does not name the areas around it",
        applies: is_core,
        forbids: |path| matches!(path, ["crate", area, ..] if OUTER_AREAS.contains(area)),
    },
    Rule {
        text: "in the core only the audit chain, whose checkpoints are signed, names authority/",
        applies: |path| is_core(path) && !path.starts_with("agent-daemon/src/audit/"),
        forbids: |path| matches!(path, ["crate", "authority", ..]),
    },
    Rule {
        text: "only agent-daemon/src/kernel names aya",
        applies: |path| !path.starts_with("agent-daemon/src/kernel/") && !path.starts_with("agent-ebpf/programs/"),
        forbids: |path| matches!(path, ["aya" | "aya_obj" | "aya_log", ..]),
    },
    Rule {
        text: "in the daemon only api/, web/ and upstream/ name tonic",
        applies: |path| in_daemon(path) && !["api/", "web/", "upstream/"].iter().any(|area| is_below(path, area)),
        forbids: |path| path.first().is_some_and(|name| *name == "tonic" || name.starts_with("tonic_")),
    },
    Rule {
        text: "keys, signatures and sealing stay in authority/: elsewhere in the daemon ring is for digests and random \
               bytes only",
        applies: |path| in_daemon(path) && !path.starts_with("agent-daemon/src/authority/"),
        forbids: |path| matches!(path, ["ring", rest @ ..] if !matches!(rest, ["digest" | "rand", ..])),
    },
    Rule {
        text: "only the composition root (app.rs, main.rs) puts api/ together with the rest",
        applies: |path| {
            in_daemon(path)
                && !path.starts_with("agent-daemon/src/api/")
                && !path.starts_with("agent-daemon/src/app")
                && !matches!(path, "agent-daemon/src/main.rs" | "agent-daemon/src/lib.rs")
        },
        forbids: |path| matches!(path, ["crate", "api", ..]),
    },
    Rule {
        text: "agentctl speaks to the daemon over the admin socket only and never names agent_daemon",
        applies: |path| path.starts_with("agentctl/"),
        forbids: |path| matches!(path, ["agent_daemon", ..]),
    },
];

/// Everything around the core.
const OUTER_AREAS: [&str; 8] = ["api", "app", "attest", "broker", "config", "credential", "kernel", "shutdown"];

pub(super) fn check(file: &File, findings: &mut Vec<Finding>) {
    // Tests may put anything together.
    if file.is_test() {
        return;
    }
    let rules: Vec<&Rule> = RULES.iter().filter(|rule| (rule.applies)(&file.path)).collect();
    for Named { line, segments } in rust::paths(&file.text) {
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        for rule in rules.iter().filter(|rule| (rule.forbids)(&path)) {
            let detail = format!("names `{}`", path.join("::"));
            findings.push(Finding { path: file.path.clone(), line, detail, rule: rule.text });
        }
    }
}

fn is_below(path: &str, area: &str) -> bool {
    path.strip_prefix("agent-daemon/src/").is_some_and(|path| path.starts_with(area))
}

fn in_daemon(path: &str) -> bool {
    path.starts_with("agent-daemon/src/")
}

fn is_core(path: &str) -> bool {
    let Some(path) = path.strip_prefix("agent-daemon/src/") else { return false };
    let area = path.split(['/', '.']).next().unwrap_or(path);
    match area {
        "process" | "identity" | "policy" | "session" | "clock" | "diagnostic" => true,
        "audit" => path.starts_with("audit/record") || path.starts_with("audit/chain"),
        _ => false,
    }
}

fn is_io(path: &[&str]) -> bool {
    match path {
        ["aya" | "aya_obj" | "agent_proto" | "hyper" | "hyper_util" | "rustix" | "nix" | "libc" | "caps", ..] => true,
        [name, ..] if *name == "tonic" || name.starts_with("tonic_") => true,
        ["std" | "tokio", "fs" | "process", ..] | ["tokio", "net" | "signal", ..] | ["std", "env", ..] => true,
        ["std", "os", "unix" | "linux" | "fd", ..] => true,
        ["std", "net", item, ..] => matches!(*item, "TcpListener" | "TcpStream" | "UdpSocket" | "ToSocketAddrs" | "*"),
        ["std", "*"] | ["tokio", "*"] => true,
        _ => false,
    }
}
