// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl spiffe`: a client of the Workload API like any other. It gets what this very process may have, by its own
//! identity, and nothing of the operator's; what it fetched ends with it. `import` asks nobody.

mod bundle;
mod certificate;
mod fetch;
mod import;
mod validate;

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use agent_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::Verdict;
use crate::cli::{FetchCommand, SpiffeCommand};
use crate::client::{self, Client};
use crate::command::read_bounded;
use crate::error::{Error, Socket};
use crate::output::Output;

pub(crate) async fn run(
    command: &SpiffeCommand,
    admin_socket: &Path,
    timeout: Duration,
    output: &mut Output<'_>,
) -> Result<Verdict, Error> {
    match command {
        SpiffeCommand::Bundle(command) => {
            let client = Client::connect(admin_socket, timeout).await?;
            bundle::run(&client, command, output).await
        }
        SpiffeCommand::Fetch(FetchCommand::X509 { socket, write }) => {
            let api = Api::connect(&socket.path(), timeout).await?;
            fetch::x509(api, write.as_deref(), output).await
        }
        SpiffeCommand::Fetch(FetchCommand::Jwt { socket, audience, spiffe_id }) => {
            let api = Api::connect(&socket.path(), timeout).await?;
            fetch::jwt(api, audience, spiffe_id, output).await
        }
        SpiffeCommand::Import { parents, file } => import::run(parents, file, output),
        SpiffeCommand::Watch { socket, count } => {
            let api = Api::connect(&socket.path(), timeout).await?;
            fetch::watch(api, *count, output).await
        }
        SpiffeCommand::Validate { socket, audience, file } => {
            let token = validate::token(file.as_deref())?;
            let api = Api::connect(&socket.path(), timeout).await?;
            validate::run(api, audience, token, output).await
        }
    }
}

/// What is in a file that a person named, - being standard input.
fn file_or_standard_input(file: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let what = file.display().to_string();
    if what == "-" {
        return read_bounded(io::stdin().lock(), "standard input", limit);
    }
    let opened = File::open(file).map_err(|source| Error::Read { what: what.clone(), source })?;
    read_bounded(opened, &what, limit)
}

/// One connection to the Workload API.
struct Api {
    client: SpiffeWorkloadApiClient<Channel>,
    timeout: Duration,
}

impl Api {
    async fn connect(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let channel = client::channel(path, Socket::Spiffe, timeout).await?;
        Ok(Self { client: SpiffeWorkloadApiClient::new(channel), timeout })
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        let timeout = self.timeout;
        let response = tokio::time::timeout(timeout, call).await.map_err(|_elapsed| Error::Timeout { timeout })?;
        Ok(response.map_err(refused)?.into_inner())
    }
}

fn refused(status: Status) -> Error {
    Error::Workload(Box::new(status))
}

/// Every call has to say that it means this API.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    request
}
