// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One file a command: ask, then print as a table or story for people, or as JSON for programs.

mod approvals;
mod audit;
mod connections;
mod decisions;
mod doctor;
mod explain;
mod leases;
mod policy;
mod ps;
mod reload;
mod revoke;
pub(crate) mod run;
mod secret;
mod sessions;
mod spiffe;
mod status;
mod story;
mod suggest;
mod trace;
mod watch;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use agent_proto::admin::SourceFile;
use clap::CommandFactory;

use crate::Verdict;
use crate::cli::{Cli, Command};
use crate::client::Client;
use crate::error::Error;
use crate::output::Output;

/// A policy or case file larger than this is a mistake.
const MAX_FILE_BYTES: usize = 1 << 20;

/// Runs the command of the command line.
pub(crate) async fn run(cli: &Cli, output: &mut Output<'_>) -> Result<Verdict, Error> {
    if let Command::Completions { shell } = &cli.command {
        return completions(*shell, output);
    }
    if let Command::Spiffe(command) = &cli.command {
        return spiffe::run(command, &cli.admin_socket(), cli.timeout, output).await;
    }
    if let Command::Run(args) = &cli.command {
        run::open(args, cli.timeout).await?;
        return Ok(Verdict::Ok);
    }
    let client = Client::connect(&cli.admin_socket(), cli.timeout).await?;
    match &cli.command {
        Command::Status => status::run(&client, output).await,
        Command::Ps(args) => ps::run(&client, args, output).await,
        Command::Connections(args) => connections::run(&client, args, output).await,
        Command::Leases(args) => leases::run(&client, args, output).await,
        Command::Sessions(args) => sessions::run(&client, args, output).await,
        Command::Approvals(args) => approvals::run(&client, args, output).await,
        Command::Decisions(args) => decisions::run(&client, args, output).await,
        Command::Explain(args) => explain::run(&client, args, output).await,
        Command::Policy(args) => policy::run(&client, args, output).await,
        Command::Audit(args) => audit::run(&client, args, output).await,
        Command::Revoke(args) => revoke::run(&client, args, output).await,
        Command::Reload => reload::run(&client, output).await,
        Command::Doctor => doctor::run(&client, output).await,
        Command::Watch(args) => watch::run(&client, args, output).await,
        Command::Secret(args) => secret::run(&client, args, output).await,
        Command::Spiffe(command) => spiffe::run(command, &cli.admin_socket(), cli.timeout, output).await,
        // Done above, without a connection to this socket.
        Command::Run(_) => Ok(Verdict::Ok),
        Command::Completions { shell } => completions(*shell, output),
    }
}

fn completions(shell: clap_complete::Shell, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "agentctl", &mut script);
    output.raw(&script)?;
    Ok(Verdict::Ok)
}

/// Reads a text file that a person named.
fn source_file(path: &Path) -> Result<SourceFile, Error> {
    let what = path.display().to_string();
    let file = File::open(path).map_err(|source| Error::Read { what: what.clone(), source })?;
    let bytes = read_bounded(file, &what, MAX_FILE_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_not_utf8| Error::NotText { what: what.clone() })?;
    Ok(SourceFile { name: what, text })
}

/// Everything up to a limit; more is an error and not a cut.
fn read_bounded(from: impl Read, what: &str, limit: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    from.take(most)
        .read_to_end(&mut bytes)
        .map_err(|source: io::Error| Error::Read { what: what.to_owned(), source })?;
    if bytes.len() > limit {
        return Err(Error::TooLarge { what: what.to_owned(), limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        assert_eq!(read_bounded(&b"1234"[..], "f", 4).unwrap(), b"1234");
        assert!(matches!(read_bounded(&b"12345"[..], "f", 4), Err(Error::TooLarge { limit: 4, .. })));
    }

    #[test]
    fn a_file_that_is_not_text_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.cedar");
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(source_file(&path), Err(Error::NotText { .. })));
        assert!(matches!(source_file(directory.path()), Err(Error::Read { .. })));
    }

    #[test]
    fn every_shell_has_its_completions() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            let mut output = Output::new(&mut script, crate::cli::Format::Table, false);
            completions(shell, &mut output).unwrap();
            assert!(String::from_utf8(script).unwrap().contains("doctor"));
        }
    }
}
