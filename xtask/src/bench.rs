// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the design budgets, measured: builds release binaries as the user that we are, measures as root.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command::{self, say};
use crate::interop;
use crate::workspace::Workspace;

const DOCUMENT: &str = "docs/benchmarks.md";
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Fewer rounds: for a look, not for the record
    #[arg(long)]
    quick: bool,
    /// Write the table into docs/benchmarks.md
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    write: bool,
    /// Only these parts: hooks, egress, storm, startup, release, session, audit, spiffe
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Of SVIDs only what is called so, in part: "FetchJWTSVID, warm, 8 clients"
    #[arg(long, requires = "only")]
    filter: Option<String>,
    /// Measure this one beside us, too: SPIRE, from the folder that SPIRE_BIN names, or built with Go
    #[arg(long, value_parser = ["spire"])]
    peer: Option<String>,
    /// Print a table for people or JSON for programs
    #[arg(long, value_parser = ["table", "json"], default_value = "table", conflicts_with = "write")]
    output: String,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let peer = options.peer.as_ref().map(|_| interop::spire(workspace)).transpose()?;
    let folder = workspace.target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let program = minimal_program(workspace, &folder)?;
    // The benchmark first: it builds a daemon with what only tests need, and the second build replaces that.
    let benchmark = benchmark(workspace)?;
    command::run(&mut workspace.cargo(["build", "--locked", "--release", "--package=agent-daemon"]))?;
    let daemon = workspace.target().join("release/agent-daemon");
    let state = tempfile::Builder::new().prefix("state-").tempdir_in(&folder)?;

    let mut measure = command::as_root("the benchmark", &benchmark, &[("PATH", OsStr::new("/usr/bin:/bin"))])?;
    let output = if options.write { "markdown" } else { &options.output };
    measure.arg("--daemon").arg(&daemon).arg("--program").arg(&program).arg("--state").arg(state.path());
    measure.args(["--output", output]).args(options.quick.then_some("--quick"));
    if let Some(peer) = &peer {
        measure.arg("--spire").arg(peer);
    }
    if !options.only.is_empty() {
        measure.arg("--only").arg(options.only.join(","));
    }
    if let Some(filter) = &options.filter {
        measure.arg("--filter").arg(filter);
    }
    say("measuring; leave the machine alone meanwhile");
    let measured = measure.stderr(Stdio::inherit()).output().context("cannot run the benchmark")?;
    remove(state)?;
    ensure!(measured.status.success(), "the benchmark failed: {}", measured.status);
    let text = String::from_utf8(measured.stdout).context("the benchmark did not print text")?;
    command::print(&text)?;
    if options.write {
        let path = workspace.root().join(DOCUMENT);
        let document = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, replaced(&document, &text)?)?;
        say(format_args!("written into {DOCUMENT}"));
    }
    Ok(())
}

/// The daemons ran as root, so what they left is root's.
fn remove(state: tempfile::TempDir) -> Result<()> {
    let path = state.keep();
    let mut remove = command::as_root("removing the daemons' state", Path::new("rm"), &[])?;
    command::capture(remove.arg("-rf").arg("--").arg(&path)).map(drop)
}

/// Compiled by itself: not a part of the workspace, because it has no standard library.
fn minimal_program(workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let program = folder.join("minimal");
    let source = workspace.root().join("agent-daemon/benches/ratios/minimal.rs");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "--crate-type=bin", "-Copt-level=2", "-Cpanic=abort", "-Cstrip=symbols"]);
    rustc.args(["-Crelocation-model=static", "-Clink-arg=-nostdlib", "-Clink-arg=-static", "-o"]);
    command::run(rustc.arg(&program).arg(&source)).context("compiling the minimal program")?;
    Ok(program)
}

/// Builds the benchmark and gives its executable.
fn benchmark(workspace: &Workspace) -> Result<PathBuf> {
    say("building the benchmark in release mode; the first time takes minutes");
    let mut cargo = workspace.cargo(["build", "--locked", "--release", "--package=agent-daemon", "--bench=ratios"]);
    cargo.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the benchmark does not build");
    executable(&String::from_utf8_lossy(&output.stdout))
}

/// The benchmark named in cargo's JSON messages.
fn executable(messages: &str) -> Result<PathBuf> {
    for line in messages.lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("reading cargo's messages")?;
        let is_bench = message.pointer("/target/kind/0").and_then(|kind| kind.as_str()) == Some("bench");
        if let (true, Some(path)) = (is_bench, message.get("executable").and_then(|path| path.as_str())) {
            return Ok(path.into());
        }
    }
    anyhow::bail!("cargo built no benchmark")
}

/// The document with everything between its marks replaced.
fn replaced(document: &str, measured: &str) -> Result<String> {
    let (head, rest) = document.split_once(BEGIN).with_context(|| format!("{DOCUMENT} has no line {BEGIN}"))?;
    let (_, tail) = rest.split_once(END).with_context(|| format!("{DOCUMENT} has no line {END}"))?;
    Ok(format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", measured.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_part_of_the_document_is_replaced() {
        let document = format!("# Head\n\n{BEGIN}\nold\n{END}\n\ntail\n");
        let expected = format!("# Head\n\n{BEGIN}\n\n| new |\n\n{END}\n\ntail\n");
        assert_eq!(replaced(&document, "| new |\n").unwrap(), expected);
        assert_eq!(replaced(&expected, "| new |\n").unwrap(), expected);
        assert!(replaced("no marks", "x").is_err());
    }

    #[test]
    fn the_benchmark_is_found_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/t/agent-daemon"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bench"]},"executable":"/t/ratios-1"}"#,
        );
        assert_eq!(executable(messages).unwrap(), PathBuf::from("/t/ratios-1"));
        assert!(executable("{}").is_err());
    }
}
