// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl run`: opens a session as a workload like any other, and becomes the program.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use agent_proto::v1::agent_service_client::AgentServiceClient;
use agent_proto::v1::open_session_request::{Binding, User};
use agent_proto::v1::{OpenSessionRequest, Scopes, UserToken};

use crate::cli::RunArgs;
use crate::client;
use crate::command::read_bounded;
use crate::error::{Error, Socket};

const MAX_TOKEN_BYTES: usize = 8192;

/// Opens the session. What becomes of this process then is [`exec`]'s.
pub(crate) async fn open(args: &RunArgs, timeout: Duration) -> Result<(), Error> {
    let user = match &args.user_token_file {
        None => None,
        Some(path) => {
            let what = path.display().to_string();
            let file = File::open(path).map_err(|source| Error::Read { what: what.clone(), source })?;
            let bytes = read_bounded(file, &what, MAX_TOKEN_BYTES)?;
            let token = String::from_utf8(bytes).map_err(|_not_utf8| Error::NotText { what })?;
            Some(User::Token(UserToken { token: token.trim().to_owned(), nonce: args.nonce.clone() }))
        }
    };
    let request = OpenSessionRequest {
        user,
        agent: args.agent.clone(),
        purpose: args.purpose.clone(),
        scopes: (!args.scopes.is_empty()).then(|| Scopes { names: args.scopes.clone() }),
        lifetime_seconds: args.lifetime.map_or(0, |life| u32::try_from(life.as_secs().max(1)).unwrap_or(u32::MAX)),
        binding: Binding::Process.into(),
        parent_handle: String::new(),
        spiffe_id: args.spiffe_id.clone(),
    };
    let channel = client::channel(&args.agent_socket(), Socket::Agent, timeout).await?;
    let opened = tokio::time::timeout(timeout, AgentServiceClient::new(channel).open_session(request)).await;
    let answer = opened.map_err(|_elapsed| Error::Timeout { timeout })?;
    answer.map(drop).map_err(|status| Error::Session(Box::new(status)))
}

/// Becomes the program; comes back only when that fails.
pub(crate) fn exec(args: &RunArgs) -> Error {
    let Some((program, arguments)) = args.command.split_first() else {
        return Error::Start { program: String::new(), source: io::ErrorKind::InvalidInput.into() };
    };
    let source = Command::new(program).args(arguments).exec();
    Error::Start { program: program.to_string_lossy().into_owned(), source }
}
