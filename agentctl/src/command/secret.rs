// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl secret`. A secret comes from standard input or a file: argv is readable by everybody on the node.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use agent_proto::admin::{ListSecretsRequest, PutSecretRequest, RemoveSecretRequest, SecretView};
use serde::Serialize;

use super::read_bounded;
use crate::Verdict;
use crate::cli::SecretCommand;
use crate::client::Client;
use crate::error::Error;
use crate::output::{Line, Output, Style};
use crate::table::{Cell, Column, Table};
use crate::{json, time};

const SCHEMA_SET: &str = "agentctl.secret.set/v1";
const SCHEMA_LIST: &str = "agentctl.secret.list/v1";
const SCHEMA_REMOVE: &str = "agentctl.secret.remove/v1";
const COLUMNS: &[Column] = &[Column::Left("NAME"), Column::Right("VERSION"), Column::Left("UPDATED")];
/// What the daemon stores at most.
const MAX_SECRET_BYTES: usize = 64 << 10;

#[derive(Serialize)]
struct Document<'a> {
    secrets: Vec<json::Secret<'a>>,
}

pub(crate) async fn run(client: &Client, command: &SecretCommand, output: &mut Output<'_>) -> Result<Verdict, Error> {
    match command {
        SecretCommand::Set { name, file, exact } => {
            let secret = read(file.as_deref(), *exact)?;
            let request = PutSecretRequest { name: name.clone(), secret };
            let response = client.answer(client.api().put_secret(request)).await?;
            if output.is_json() {
                output.document(SCHEMA_SET, &json::SecretSet { name, version: response.version })?;
            } else {
                output.text(format!("sealed {name}, version {}", response.version))?;
            }
            Ok(Verdict::Ok)
        }
        SecretCommand::List => {
            let response = client.answer(client.api().list_secrets(ListSecretsRequest {})).await?;
            if output.is_json() {
                let secrets = response.secrets.iter().map(json::Secret::from).collect();
                output.document(SCHEMA_LIST, &Document { secrets })?;
            } else {
                let mut table = Table::new(COLUMNS);
                table.page(response.secrets.iter().map(row).collect(), output)?;
                table.finish("no secrets", output)?;
            }
            Ok(Verdict::Ok)
        }
        SecretCommand::Remove { name } => {
            let request = RemoveSecretRequest { name: name.clone() };
            let removed = client.answer(client.api().remove_secret(request)).await?.removed;
            if output.is_json() {
                output.document(SCHEMA_REMOVE, &json::SecretRemoved { name, removed })?;
            } else if removed {
                output.text(format!("removed {name}"))?;
            } else {
                output.line(&Line::painted(Style::Warn, format!("there is no secret {name}")))?;
            }
            Ok(Verdict::ok_if(removed))
        }
    }
}

fn row(secret: &SecretView) -> Vec<Cell> {
    vec![
        Cell::new(&secret.name),
        Cell::new(secret.version.to_string()),
        Cell::new(time::stamp(secret.updated_at.as_ref())),
    ]
}

fn read(file: Option<&Path>, exact: bool) -> Result<Vec<u8>, Error> {
    match file {
        Some(path) => {
            let what = path.display().to_string();
            let file = File::open(path).map_err(|source| Error::Read { what: what.clone(), source })?;
            take(file, &what, exact)
        }
        None if io::stdin().is_terminal() => Err(Error::SecretOnTerminal),
        None => take(io::stdin().lock(), "the secret on standard input", exact),
    }
}

fn take(from: impl Read, what: &str, exact: bool) -> Result<Vec<u8>, Error> {
    let mut secret = read_bounded(from, what, MAX_SECRET_BYTES)?;
    // Editors and `echo` end a line that the service on the other end never meant.
    if !exact && secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    if secret.is_empty() { Err(Error::EmptySecret) } else { Ok(secret) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_at_the_end_is_dropped_unless_exact() {
        for (given, exact, expected) in [
            ("key", false, Some("key")),
            ("key\n", false, Some("key")),
            ("key\r\n", false, Some("key")),
            ("key\n\n", false, Some("key\n")),
            ("key\r", false, Some("key\r")),
            ("key\n", true, Some("key\n")),
            ("\n", false, None),
            ("\n", true, Some("\n")),
            ("", true, None),
        ] {
            let secret = take(given.as_bytes(), "s", exact).ok();
            assert_eq!(secret.as_deref(), expected.map(str::as_bytes), "{given:?} {exact}");
        }
    }

    #[test]
    fn a_secret_that_is_too_large_is_refused_without_showing_it() {
        let error = take(&vec![b'k'; MAX_SECRET_BYTES + 1][..], "the secret", true).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(matches!(error, Error::TooLarge { .. }) && !text.contains("kk"));
    }
}
