// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl`: shows and explains everything the daemon knows, over its admin socket and nothing else.
//!
//! It never reads the daemon's files, its maps or `/proc`: what it prints is what the daemon answers.
//! Exit codes: 0 allow or ok, 1 deny or finding, 2 error.

mod cli;
mod client;
mod command;
mod error;
mod export;
mod id;
mod json;
mod output;
mod table;
mod text;
mod time;
mod tree;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{AuditCommand, Cli, Command, Format};
use crate::error::Error;
use crate::output::Output;

/// What a command found out, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Allowed, valid, found: exit 0.
    Ok,
    /// Denied, invalid, broken, nothing found: exit 1.
    Finding,
}

impl Verdict {
    /// [`Verdict::Ok`] when the condition holds.
    fn ok_if(condition: bool) -> Self {
        if condition { Self::Ok } else { Self::Finding }
    }
}

const EXIT_FINDING: u8 = 1;
const EXIT_ERROR: u8 = 2;
const EXIT_NO_SESSION: u8 = 125;
const EXIT_NOT_STARTED: u8 = 126;
const EXIT_NOT_THERE: u8 = 127;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to be told when even this cannot be written.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(EXIT_ERROR) } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(Verdict::Ok) => match &cli.command {
            // The runtime is gone: nothing of agentctl goes along.
            Command::Run(args) => failed(&cli, &command::run::exec(args)),
            _ => ExitCode::SUCCESS,
        },
        Ok(Verdict::Finding) => ExitCode::from(EXIT_FINDING),
        Err(error) => failed(&cli, &error),
    }
}

fn failed(cli: &Cli, error: &Error) -> ExitCode {
    let paint = cli.color.allows(&io::stderr());
    let mut message = Vec::new();
    error.render(&mut message, paint);
    drop(io::stderr().write_all(&message));
    // As env(1) has it, so that they are told from those of the program.
    ExitCode::from(match (&cli.command, error) {
        (Command::Run(_), Error::Start { source, .. }) if source.kind() == io::ErrorKind::NotFound => EXIT_NOT_THERE,
        (Command::Run(_), Error::Start { .. }) => EXIT_NOT_STARTED,
        (Command::Run(_), _) => EXIT_NO_SESSION,
        _ => EXIT_ERROR,
    })
}

fn run(cli: &Cli) -> Result<Verdict, Error> {
    let fits = match cli.output {
        Format::Table | Format::Json => true,
        Format::Html => matches!(cli.command, Command::Audit(AuditCommand::Trace(_))),
        Format::Ocsf | Format::Otlp => {
            matches!(cli.command, Command::Audit(AuditCommand::Query { .. } | AuditCommand::Tail { .. }))
        }
    };
    if !fits {
        return Err(Error::NoSuchOutput);
    }
    let paint = cli.color.allows(&io::stdout());
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let mut output = Output::new(&mut stdout, cli.output, paint);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let verdict = runtime.block_on(command::run(cli, &mut output))?;
    output.flush()?;
    Ok(verdict)
}
