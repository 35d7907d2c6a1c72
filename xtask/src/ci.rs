// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What CI runs, in the order in which a mistake is found soonest.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::command::{self, say};
use crate::workspace::Workspace;
use crate::{codegen, ebpf, setup, test, tidy};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// All checks, but not the tests
    #[arg(long)]
    no_test: bool,
}

type Step = (&'static str, fn(&Workspace) -> Result<()>);

const STEPS: [Step; 8] = [
    ("tidy", tidy::run),
    ("formatting", formatting),
    ("set-up", |workspace| setup::run(workspace, setup::Scope::Ci)),
    ("generated code", |workspace| codegen::run(workspace, &codegen::Options { check: true })),
    ("kernel object", |workspace| ebpf::run(workspace, &ebpf::Options { check: true })),
    ("licences, bans and sources", dependencies),
    ("lints", lints),
    ("documentation", documentation),
];

/// Runs every step even if one fails, so that one run shows everything that is wrong.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut steps = STEPS.to_vec();
    if !options.no_test {
        steps.push(("tests", |workspace| test::run(workspace, &test::Options::default())));
    }
    let mut failed = Vec::new();
    let mut summary = String::new();
    for (name, step) in steps {
        say(format_args!("== {name}"));
        let start = Instant::now();
        let result = step(workspace);
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        summary.push_str(&format!("\n  {outcome:<6} {:>6.1} s  {name}", start.elapsed().as_secs_f64()));
        if let Err(error) = result {
            say(format_args!("{name}: {error:#}"));
            failed.push(name);
        }
    }
    say(format_args!("summary{summary}"));
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn formatting(workspace: &Workspace) -> Result<()> {
    command::run(&mut workspace.cargo(["fmt", "--all", "--check"]))?;
    // A workspace of its own, so that --all does not reach it.
    command::run(&mut workspace.cargo(["fmt", "--check", "--manifest-path=agent-ebpf/programs/Cargo.toml"]))
}

fn lints(workspace: &Workspace) -> Result<()> {
    command::run(&mut workspace.cargo(["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny=warnings"]))
}

fn documentation(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
    command::run(cargo.env("RUSTDOCFLAGS", "--deny=warnings"))
}

fn dependencies(workspace: &Workspace) -> Result<()> {
    let mut cargo = workspace.cargo(["deny", "--locked", "check", "bans", "licenses", "sources"]);
    command::run(cargo.env("PATH", command::path_with(&workspace.tools().join("bin"))?))
}
