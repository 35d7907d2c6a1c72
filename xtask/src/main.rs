// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every developer command: `cargo xtask --help`.
//!
//! Nothing here is part of the daemon. Commands find the workspace by themselves, so they work from any
//! folder of it, and each says what it does before it does it.
#![expect(clippy::print_stderr, reason = "a command-line tool")]

mod bench;
mod build;
mod ci;
mod codegen;
mod command;
#[expect(clippy::print_stdout, reason = "the story is told on standard output")]
mod demo;
mod digest;
mod ebpf;
mod interop;
mod run;
mod setup;
mod test;
mod tidy;
mod vmtest;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Every developer command", version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Fetch and check what building needs: the standard library's sources, bpf-linker, Python packages
    Setup,
    /// Build the kernel programs into the committed object
    Ebpf(ebpf::Options),
    /// Generate the gRPC code from proto/
    Codegen(codegen::Options),
    /// Build the daemon, the CLI and the example agents (debug)
    Build,
    /// Run the daemon in the foreground on examples/ (needs root; uses sudo and says so)
    Run,
    /// Show the main job on real processes, step by step (needs root; uses sudo and says so)
    Demo(DemoOptions),
    /// Run all tests, the whole-program ones as root on this kernel
    Test(test::Options),
    /// Run the tests against go-spiffe and a real SPIRE, which it builds (needs Go and root; uses sudo and says so)
    Interop(interop::Options),
    /// Run the whole-program tests of what kernels differ in on other kernels, in QEMU
    Vmtest(vmtest::Options),
    /// Measure what the design budgets, in release mode (needs root; uses sudo and says so)
    Bench(bench::Options),
    /// Check the rules that no compiler checks: dependency directions, headers, sizes, links
    Tidy,
    /// Run everything that CI runs
    Ci(ci::Options),
}

#[derive(Debug, clap::Args)]
struct DemoOptions {
    /// Leave the demo's folder behind for a look at the logs
    #[arg(long)]
    keep: bool,
    /// Everything is built; we are root
    #[arg(long, hide = true)]
    prepared: bool,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup => setup::run(&workspace, setup::Scope::Full),
        Task::Ebpf(options) => ebpf::run(&workspace, &options),
        Task::Codegen(options) => codegen::run(&workspace, &options),
        Task::Build => build::run(&workspace),
        Task::Run => run::run(&workspace),
        Task::Demo(options) => demo(&workspace, &options),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Interop(options) => interop::run(&workspace, &options),
        Task::Vmtest(options) => vmtest::run(&workspace, &options),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Tidy => tidy::run(&workspace),
        Task::Ci(options) => ci::run(&workspace, &options),
    }
}

/// Builds as the user who called, tells the story as root.
fn demo(workspace: &Workspace, options: &DemoOptions) -> Result<()> {
    if options.prepared {
        let story = demo::Options { binaries: workspace.binaries(), python: workspace.python(), keep: options.keep };
        return demo::run(workspace.root(), &story);
    }
    setup::run(workspace, setup::Scope::Run)?;
    build::run(workspace)?;
    let mut again = workspace.again_as_root("the demo")?;
    again.args(["demo", "--prepared"]).args(options.keep.then_some("--keep"));
    command::run(&mut again)
}
