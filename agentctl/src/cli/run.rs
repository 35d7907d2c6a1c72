// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{from_environment, socket_path};
use crate::time;

const DEFAULT_AGENT_SOCKET: &str = "/run/agent-daemon/agent.sock";

#[derive(Debug, Args)]
#[command(after_help = "\
The program takes the place of agentctl: terminal, signals, environment and exit code are its own.
Without a token the session is on behalf of the session's user that this process is in, or else of the local user.
Exit codes before it starts: 125 no session, 126 it cannot be started, 127 it is not there.")]
pub(crate) struct RunArgs {
    /// The name under which it acts; entries may ask for it (session:agent:NAME)
    #[arg(long, value_name = "NAME")]
    pub(crate) agent: String,
    /// An ID or access token of the user, read from this file
    #[arg(long, value_name = "PATH")]
    pub(crate) user_token_file: Option<PathBuf>,
    /// What the runtime had the issuer put into the token
    #[arg(long, value_name = "TEXT", requires = "user_token_file", default_value = "", hide_default_value = true)]
    pub(crate) nonce: String,
    /// What it is for, in the audit record and for policy
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) purpose: String,
    /// A destination that it may reach, by name or label (repeatable) [default: all that policy permits]
    #[arg(long = "scope", value_name = "NAME")]
    pub(crate) scopes: Vec<String>,
    /// How long the session lives at most, for example 30m [default: as the daemon has it]
    #[arg(long, value_parser = time::parse_duration, value_name = "DURATION")]
    pub(crate) lifetime: Option<Duration>,
    /// As this identity of agentctl, where it has several
    #[arg(long, value_name = "SPIFFE-ID", default_value = "", hide_default_value = true)]
    pub(crate) spiffe_id: String,
    /// The socket for workloads [env: AGENT_SOCKET] [default: /run/agent-daemon/agent.sock]
    #[arg(long, value_name = "PATH", value_parser = socket_path)]
    agent_socket: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

impl RunArgs {
    /// Flag, then environment, then the packaged default.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        let given = self.agent_socket.clone().or_else(|| from_environment("AGENT_SOCKET"));
        given.unwrap_or_else(|| DEFAULT_AGENT_SOCKET.into())
    }
}

#[derive(Debug, Args)]
pub(crate) struct SessionsArgs {
    /// Only this one (s and 16 hexadecimal digits)
    #[arg(value_name = "SESSION-ID")]
    pub(crate) session: Option<String>,
    /// Only those of this user, as policies name it
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Ended ones too, as far as the daemon still holds them
    #[arg(long)]
    pub(crate) ended: bool,
    /// End it, with all that was delegated from it and released in them; exit 1 when it is over already
    #[arg(long, requires = "session", conflicts_with_all = ["user", "ended"])]
    pub(crate) end: bool,
}
