// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;

/// What tidy says of a tree with a single file, as `detail` and the start of the rule.
fn findings(path: &str, text: &str) -> Vec<String> {
    tree(&[(path, text)])
}

fn tree(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<File> =
        files.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect();
    check(&files).iter().map(|finding| format!("{}:{}: {}", finding.path, finding.line, finding.detail)).collect()
}

fn rust(path: &str, body: &str) -> Vec<String> {
    findings(path, &format!("// SPDX-License-Identifier: MIT\n{body}\n"))
}

#[track_caller]
fn check_rust(path: &str, body: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|expected| format!("{path}:2: names `{expected}`")).collect();
    assert_eq!(rust(path, body), expected, "{path}: {body}");
}

#[test]
fn the_core_names_no_io() {
    let core = "agent-daemon/src/policy/store.rs";
    for (body, expected) in [
        ("use aya::Ebpf;", "aya::Ebpf"),
        ("use std::{collections::BTreeMap, fs::File};", "std::fs::File"),
        ("use std::fs;", "std::fs"),
        ("fn f() { std::fs::read(\"x\"); }", "std::fs::read"),
        ("use tokio::net::UnixStream;", "tokio::net::UnixStream"),
        ("use std::os::unix::net::UnixListener as L;", "std::os::unix::net::UnixListener"),
        ("use std::net::{IpAddr, TcpStream};", "std::net::TcpStream"),
        ("fn f() -> std::process::ExitCode { todo }", "std::process::ExitCode"),
        ("use agent_proto::v1;", "agent_proto::v1"),
        ("use std::env;", "std::env"),
        ("use rustix::{fs::{open, Mode}};", "rustix::fs::open"),
    ] {
        let found = rust(core, body);
        assert!(found.contains(&format!("{core}:2: names `{expected}`")), "{body}: {found:?}");
    }
    for harmless in [
        "use std::net::{IpAddr, SocketAddr};",
        "use std::path::PathBuf;",
        "// std::fs::read\n/* aya::x /* tokio::net */ */",
        "const A: &str = \"std::fs::read\"; const B: &str = r#\"aya::\"x\"#;",
        "fn f<'a>(c: char) -> impl Sized + use<'a> { c == '\"'; my::std::fs }",
        "pub(crate) fn f() {}",
        "#[cfg(test)]\nmod tests { use std::fs; fn f() { std::process::exit(1) } }",
        "#[cfg(test)]\nuse std::{fs, env};",
    ] {
        assert_eq!(rust(core, harmless), [""; 0], "{harmless}");
    }
}

#[test]
fn what_follows_a_test_module_is_read_again() {
    let body = "#[cfg(test)] mod tests { fn f() {} } use std::fs;";
    check_rust("agent-daemon/src/identity/entry.rs", body, &["std::fs"]);
    let body = "#[cfg(not(test))] use std::fs;";
    check_rust("agent-daemon/src/identity/entry.rs", body, &["std::fs"]);
}

#[test]
fn which_files_are_core_is_known() {
    let body = "use std::fs;";
    for core in ["clock.rs", "diagnostic.rs", "process/mod.rs", "session/mod.rs", "audit/record.rs", "audit/chain.rs"] {
        check_rust(&format!("agent-daemon/src/{core}"), body, &["std::fs"]);
    }
    for other in ["audit/store.rs", "attest/script.rs", "main.rs", "policy/tests.rs", "testing/fake.rs"] {
        check_rust(&format!("agent-daemon/src/{other}"), body, &[]);
    }
}

#[test]
fn dependencies_point_inward() {
    for (path, body, expected) in [
        ("agent-daemon/src/process/table.rs", "use crate::kernel::Programs;", &["crate::kernel::Programs"][..]),
        ("agent-daemon/src/process/table.rs", "use crate::process::ExecId;", &[]),
        ("agent-daemon/src/credential/lease.rs", "use crate::api::Status;", &["crate::api::Status"]),
        ("agent-daemon/src/app.rs", "use crate::api::Status;", &[]),
        ("agent-daemon/src/policy/store.rs", "use crate::authority::SigningKey;", &["crate::authority::SigningKey"]),
        ("agent-daemon/src/audit/chain.rs", "use crate::authority::SigningKey;", &[]),
        ("agent-daemon/src/audit/chain.rs", "use crate::kernel::Programs;", &["crate::kernel::Programs"]),
        ("agent-daemon/src/app.rs", "use aya::Ebpf;", &["aya::Ebpf"]),
        ("agent-daemon/src/kernel/load.rs", "use aya::Ebpf;", &[]),
        ("agentctl/src/main.rs", "use aya::Ebpf;", &["aya::Ebpf"]),
        ("agent-daemon/src/attest/mod.rs", "use tonic::Status;", &["tonic::Status"]),
        ("agent-daemon/src/attest/mod.rs", "fn f() { tonic_health::server::f() }", &["tonic_health::server::f"]),
        ("agent-daemon/src/api/mod.rs", "use tonic::Status;", &[]),
        ("agentctl/src/main.rs", "use tonic::Status;", &[]),
        ("agentctl/src/main.rs", "use agent_daemon::clock;", &["agent_daemon::clock"]),
        ("agent-daemon/src/credential/seal.rs", "use ring::aead;", &["ring::aead"]),
        ("agent-daemon/src/credential/seal.rs", "use ring::*;", &["ring::*"]),
        ("agent-daemon/src/credential/seal.rs", "use ring;", &["ring"]),
        ("agent-daemon/src/credential/jwt.rs", "use ring::rand::SystemRandom;", &[]),
        ("agent-daemon/src/attest/binary.rs", "use ring::digest::SHA256;", &[]),
        ("agent-daemon/src/authority/key.rs", "use ring::signature;", &[]),
    ] {
        check_rust(path, body, expected);
    }
}

#[test]
fn every_source_file_has_its_licence_line() {
    let expected = "no `SPDX-License-Identifier` in the first two lines";
    for path in ["xtask/src/a.rs", "proto/proto/a.proto"] {
        assert_eq!(findings(path, "//! text\n"), [format!("{path}:1: {expected}")]);
        assert_eq!(findings(path, "// SPDX-License-Identifier: MIT\n"), [""; 0]);
    }
    assert_eq!(findings("proto/src/gen/a.rs", "// generated \n"), [""; 0]);
}

#[test]
fn vague_names_and_long_files_are_refused() {
    let header = "// SPDX-License-Identifier: MIT\n";
    for vague in ["a/utils.rs", "a/helpers.rs", "a/common/mod.rs", "a/types.rs", "a/misc.rs"] {
        assert_eq!(findings(vague, header).len(), 1, "{vague}");
    }
    assert_eq!(findings("a/common_name.rs", header), [""; 0]);
    for (path, lines, expected) in [
        ("a/long.rs", 500, 0),
        ("a/long.rs", 501, 1),
        ("a/tests.rs", 600, 0),
        ("a/tests.rs", 601, 1),
        ("tests/e2e/src/x.rs", 600, 0),
        ("p/gen/x.rs", 9999, 0),
    ] {
        let text = format!("{header}{}", "//\n".repeat(lines - 1));
        assert_eq!(findings(path, &text).len(), expected, "{path} with {lines} lines");
    }
}

#[test]
fn open_items_need_an_issue() {
    let word = ["TO", "DO"].concat();
    for (line, expected) in [
        (format!("# {word}: later"), 1),
        (format!("# {word} #: later"), 1),
        (format!("# {}(me)", ["FIX", "ME"].concat()), 1),
        (format!("# {word}(#12): later"), 0),
        (format!("# {}S are counted", word), 0),
        ("# to do".to_owned(), 0),
    ] {
        assert_eq!(findings("a/b.toml", &line).len(), expected, "{line}");
    }
}

#[test]
fn trailing_white_space_and_registry_hosts_are_refused() {
    let host = ["crates", "io"].join(".");
    for (path, text, expected) in [
        ("a.md", "text \n".to_owned(), 1),
        ("a.toml", "a = 1\t\n".to_owned(), 1),
        (".ci/run", "echo \n".to_owned(), 1),
        ("a.md", "text\n\n".to_owned(), 0),
        ("a.md", format!("see {host}.\n"), 1),
        ("a.md", format!("index.{host}/x\n"), 1),
        ("a.md", format!("my{host}n\n"), 0),
        ("Cargo.lock", format!("{host} \n"), 0),
        ("p/gen/a.rs", format!("{host} \n"), 0),
    ] {
        assert_eq!(findings(path, &text).len(), expected, "{path}: {text}");
    }
}

#[test]
fn members_take_the_workspaces_lints_and_agentctl_never_the_daemon() {
    let root = ("Cargo.toml", "[workspace]\nmembers = [\"agentctl\"]\n");
    let lints = "[lints]\nworkspace = true\n";
    let cases = [
        (lints.to_owned(), 0),
        ("[package]\nname = \"x\"\n".to_owned(), 1),
        ("[lints]\nworkspace = false\n".to_owned(), 1),
        (format!("{lints}[dependencies]\nagent-daemon = {{ workspace = true }}\n"), 1),
        (format!("{lints}[dev-dependencies.agent-daemon]\npath = \"..\"\n"), 1),
        (format!("{lints}[dependencies]\nagent-proto = \"1\"\n"), 0),
        ("not toml".to_owned(), 1),
    ];
    for (manifest, expected) in cases {
        assert_eq!(tree(&[root, ("agentctl/Cargo.toml", &manifest)]).len(), expected, "{manifest}");
    }
    assert_eq!(tree(&[root]).len(), 1, "a member without a manifest");
    assert_eq!(tree(&[("Cargo.toml", "[package]\n")]).len(), 1, "no members");
}

#[test]
fn relative_links_lead_somewhere() {
    let other = ("docs/other.md", "# A Heading: `code`\n```\n# no heading\n```\n");
    for (link, expected) in [
        ("[a](docs/other.md)", 0),
        ("[a](docs/other.md#a-heading-code)", 0),
        ("[a](docs/other.md#no-heading)", 1),
        ("[a](docs/)", 0),
        ("[a](./docs/../README.md \"title\")", 0),
        ("[a](docs/missing.md)", 1),
        ("[a](../outside.md)", 1),
        ("[a](https://example.org/x.md)", 0),
        ("[a]: docs/missing.md", 1),
        ("`[a](docs/missing.md)`", 0),
        ("```\n[a](docs/missing.md)\n```", 0),
        ("[a](#nowhere)", 1),
    ] {
        assert_eq!(tree(&[("README.md", link), other]).len(), expected, "{link}");
    }
    assert_eq!(tree(&[("docs/a.md", "[a](other.md) [b](../README.md)"), other]).len(), 1);
}

#[test]
fn a_finding_shows_its_place_and_its_rule() {
    let finding = Finding { path: "a.rs".into(), line: 3, detail: "names `x`".into(), rule: "why" };
    assert_eq!(finding.to_string(), "a.rs:3: names `x`\n  rule: why");
}
