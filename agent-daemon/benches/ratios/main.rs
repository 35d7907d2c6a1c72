// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The ratios that the design budgets, measured side by side in one run: the thing and the same thing without us,
//! in turns, so that what disturbs the one disturbs the other.
//!
//! `cargo xtask bench` builds everything in release mode and runs this as root. What each number means is said in
//! the table that it prints.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a command-line tool")]

mod audit;
mod cleanup;
mod client;
mod daemon;
mod echo;
mod egress;
mod hooks;
mod program;
mod release;
mod report;
mod scale;
mod session;
mod spiffe;
mod startup;
mod statistics;
mod storm;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser as _;

#[derive(Debug, clap::Parser)]
#[command(about = "Measures what the design budgets; run it through `cargo xtask bench`")]
struct Options {
    /// The daemon's release binary
    #[arg(long)]
    daemon: Option<PathBuf>,
    /// The minimal program, compiled
    #[arg(long, requires = "daemon")]
    program: Option<PathBuf>,
    /// An empty folder on a disk, for the daemons' state
    #[arg(long, requires = "daemon")]
    state: Option<PathBuf>,
    /// The folder with spire-server and spire-agent, to be measured beside us
    #[arg(long)]
    spire: Option<PathBuf>,
    /// Fewer rounds: for a look, not for the record
    #[arg(long)]
    quick: bool,
    /// Only these parts, by name
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Of SVIDs only what is called so, in part: "FetchJWTSVID, warm, 8 clients"
    #[arg(long)]
    filter: Option<String>,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = report::Format::Table)]
    output: report::Format,
    /// Be the bare server: answer with messages of these sizes on this socket
    #[arg(long, hide = true, num_args = 2, value_names = ["SOCKET", "SHAPE"])]
    echo: Option<Vec<String>>,
    /// Be a process that asks when it is told to: the socket, whether in a session, below how many images
    #[arg(long, hide = true, num_args = 3, value_names = ["SOCKET", "IN_SESSION", "IMAGES"])]
    asker: Option<Vec<String>>,
    /// Be the child that the kernel half's self-test starts
    #[arg(long, hide = true)]
    self_test_child: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// fork, exec, exit and connect with and without the hooks; the programs' run times
    Hooks,
    /// Verdicts and connections in governed trees, and how fast what is taken back is closed
    Egress,
    /// Bindings lost when many processes start at once
    Storm,
    /// Memory, size, start
    Startup,
    /// Releases against a bare server, and with much in the tables
    Release,
    /// Releases in a session that was delegated eight times
    Session,
    /// Checking a long audit log
    Audit,
    /// SVIDs over the Workload API against a bare server, and against SPIRE where it is given
    Spiffe,
}

/// What every part needs.
#[derive(Debug)]
struct Setting {
    daemon: PathBuf,
    program: PathBuf,
    state: PathBuf,
    spire: Option<PathBuf>,
    filter: Option<String>,
    is_quick: bool,
}

impl Setting {
    /// The first number, or the second in a quick run.
    fn times<T>(&self, full: T, quick: T) -> T {
        if self.is_quick { quick } else { full }
    }
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    if options.self_test_child {
        io::copy(&mut io::stdin().lock(), &mut io::sink())?;
        return Ok(());
    }
    if let Some([socket, shape]) = options.echo.as_deref() {
        return echo::serve(socket.as_ref(), &shape.parse()?);
    }
    if let Some([socket, in_session, images]) = options.asker.as_deref() {
        return session::ask(socket.as_ref(), in_session.parse()?, images.parse()?);
    }
    let (Some(daemon), Some(program), Some(state)) = (options.daemon, options.program, options.state) else {
        eprintln!("bench: nothing is measured here: run `cargo xtask bench`");
        return Ok(());
    };
    ensure!(rustix::process::geteuid().is_root(), "kernel programs can be loaded by root only");
    let setting =
        Setting { daemon, program, state, spire: options.spire, filter: options.filter, is_quick: options.quick };
    let is_asked = |part: Part| options.only.is_empty() || options.only.contains(&part);
    cleanup::on_signals()?;
    let mut report = report::Report::new(setting.is_quick)?;
    if is_asked(Part::Hooks) {
        hooks::measure(&setting, &mut report).context("measuring the hooks")?;
    }
    if is_asked(Part::Egress) {
        egress::measure(&setting, &mut report).context("measuring governed trees")?;
    }
    if is_asked(Part::Storm) {
        storm::measure(&setting, &mut report).context("measuring the storm")?;
    }
    if is_asked(Part::Startup) {
        startup::measure(&setting, &mut report).context("measuring the start")?;
    }
    if is_asked(Part::Release) {
        release::measure(&setting, &mut report).context("measuring releases")?;
    }
    if is_asked(Part::Session) {
        session::measure(&setting, &mut report).context("measuring sessions")?;
    }
    if is_asked(Part::Audit) {
        audit::measure(&setting, &mut report).context("measuring the audit log")?;
    }
    if is_asked(Part::Spiffe) {
        spiffe::measure(&setting, &mut report).context("measuring SVIDs")?;
    }
    cleanup::run();
    print!("{}", report.finish(options.output)?);
    Ok(())
}

/// A line of progress.
fn say(line: impl std::fmt::Display) {
    eprintln!("bench: {line}");
}
