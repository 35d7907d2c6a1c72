// SPDX-License-Identifier: Apache-2.0 OR MIT

//! All tests: those that need nothing, then the whole program as root on the running kernel.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{self, say};
use crate::workspace::Workspace;
use crate::{build, interop, setup};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only the tests that need no privilege
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,
    /// Only the whole-program tests
    #[arg(long)]
    e2e: bool,
    /// Given to the test programs: name filters and libtest's options
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs both parts even if the first fails, so that one run shows everything; fails if any test failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace, setup::Scope::Test)?;
    let mut failures = Vec::new();
    if !options.e2e {
        note(&mut failures, "tests without privilege", unprivileged(workspace, &options.arguments));
        // Filters are names of tests in Rust.
        if options.arguments.is_empty() {
            note(&mut failures, "tests of the TypeScript SDK", typescript(workspace));
        } else {
            say("the tests of the TypeScript SDK know no such filter and are left out");
        }
    }
    if !options.unit {
        note(&mut failures, "whole-program tests", whole_program(workspace, Tier::Usual, &[], &options.arguments));
    }
    ensure!(failures.is_empty(), "failed: {}", failures.join(", "));
    say("all tests passed");
    Ok(())
}

fn note(failures: &mut Vec<&'static str>, name: &'static str, result: Result<()>) {
    if let Err(error) = result {
        say(format_args!("{name}: {error:#}"));
        failures.push(name);
    }
}

fn unprivileged(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let mut cargo = workspace.cargo(["test", "--locked", "--workspace", "--exclude=e2e", "--no-fail-fast", "--"]);
    command::run(cargo.args(arguments))
}

fn typescript(workspace: &Workspace) -> Result<()> {
    ["test", "codegen:check"].iter().try_for_each(|script| npm(workspace, script))
}

fn npm(workspace: &Workspace, script: &str) -> Result<()> {
    command::run(Command::new("npm").args(["run", "--silent", script]).current_dir(workspace.typescript()))
}

/// Which whole-program tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Those that every machine can run.
    Usual,
    /// Those that need programs in Go.
    Interop,
}

pub(crate) fn whole_program(
    workspace: &Workspace,
    tier: Tier,
    more: &[(&str, &OsStr)],
    arguments: &[String],
) -> Result<()> {
    build::run(workspace)?;
    if tier == Tier::Usual {
        npm(workspace, "build")?;
    }
    let package = workspace.root().join("tests/e2e");
    let programs = test_programs(workspace, tier)?;
    let mut tests = 0;
    for program in &programs {
        tests += listed(&command::capture(Command::new(program).arg("--list").current_dir(&package))?);
    }
    // A suite that was emptied by accident must not look like one that passed.
    ensure!(tests > 0, "there is no whole-program test to run");
    say(format_args!("{tests} whole-program tests on this kernel, one after another"));
    let binaries = workspace.binaries();
    let python = workspace.python();
    let interop = workspace.interop();
    let inherited: Vec<_> = ["PATH", "RUST_BACKTRACE", "RUST_LOG", "CI"]
        .into_iter()
        .filter_map(|name| env::var_os(name).map(|value| (name, value)))
        .collect();
    let mut environment: Vec<(&str, &OsStr)> = vec![
        ("AGENT_TEST_BINARIES", binaries.as_os_str()),
        ("AGENT_TEST_PYTHON", python.as_os_str()),
        ("AGENT_TEST_INTEROP", interop.as_os_str()),
        ("AGENT_TEST_ROOT", workspace.root().as_os_str()),
    ];
    environment.extend(more);
    environment.extend(inherited.iter().map(|(name, value)| (*name, value.as_os_str())));
    let mut failed = Vec::new();
    for program in &programs {
        let mut test = command::as_root("the whole-program test", program, &environment)?;
        test.arg("--test-threads=1").args(arguments).current_dir(&package);
        if let Err(error) = command::run(&mut test) {
            failed.push(format!("{error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Builds the whole-program tests as the user that we are and gives their executables.
pub(crate) fn test_programs(workspace: &Workspace, tier: Tier) -> Result<Vec<PathBuf>> {
    let mut cargo = workspace.cargo(["test", "--locked", "--package=e2e", "--no-run"]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    say("building the whole-program tests");
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the whole-program tests do not build");
    let programs = executables(&String::from_utf8_lossy(&output.stdout), tier)?;
    if programs.is_empty() {
        bail!("cargo built no test program in tests/e2e");
    }
    Ok(programs)
}

/// The test programs named in cargo's JSON messages.
fn executables(messages: &str, tier: Tier) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("reading cargo's messages")?;
        let is_test = message.pointer("/profile/test").and_then(serde_json::Value::as_bool) == Some(true);
        let name = message.pointer("/target/name").and_then(serde_json::Value::as_str);
        let is_of_tier = (name == Some(interop::TEST_PROGRAM)) == (tier == Tier::Interop);
        if let (true, Some(program)) = (is_test && is_of_tier, message.get("executable").and_then(|path| path.as_str()))
        {
            programs.push(Path::new(program).to_owned());
        }
    }
    Ok(programs)
}

/// How many tests a test program lists.
fn listed(text: &str) -> usize {
    text.lines().filter(|line| line.ends_with(": test")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/agentctl"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/e2e-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","profile":{"test":true},"target":{"name":"interop"},"executable":"/t/interop-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":null}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executables(messages, Tier::Usual).unwrap(), [PathBuf::from("/t/e2e-1")]);
        assert_eq!(executables(messages, Tier::Interop).unwrap(), [PathBuf::from("/t/interop-1")]);
        assert!(executables("not json", Tier::Usual).is_err());
    }

    #[test]
    fn listed_tests_are_counted_without_benchmarks_and_summary() {
        let text = "a::b: test\nspeed: benchmark\n\n1 test, 1 benchmark\n";
        assert_eq!((listed(text), listed("\n0 tests, 0 benchmarks\n")), (1, 0));
    }
}
