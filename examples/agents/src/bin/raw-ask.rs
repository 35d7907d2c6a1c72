// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What somebody without a right would try: ask for what an agent gets, speak on a channel that an agent left
//! behind, or show a credential that was taken from one.
//!
//! Exit codes: 0 it worked, 1 refused, 2 anything else.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use agent_proto::v1::AttestRequest;
use agent_proto::v1::agent_service_client::AgentServiceClient;
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use example_agents::authority::Authority;
use example_agents::fetch::{self, Presentation};
use example_agents::{ask, step};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use serde_json::json;

const PROGRAM: &str = "raw-ask";
const MAX_TOKEN_BYTES: u64 = 8 * 1024;

#[derive(Parser)]
#[command(about = "Asks, or shows a credential, without being entitled to it")]
struct Arguments {
    #[command(subcommand)]
    attempt: Attempt,
}

#[derive(Subcommand)]
enum Attempt {
    /// Ask the daemon for a credential.
    Release {
        #[command(flatten)]
        channel: ChannelArguments,
        /// The destination to ask for.
        #[arg(long)]
        destination: String,
        #[arg(long, default_value = "")]
        binding: String,
        /// Name this socket as the connection, whoever it belongs to; default: API_COOKIE.
        #[arg(long, conflicts_with = "connect")]
        cookie: Option<u64>,
        /// Open a connection of our own first and name that.
        #[arg(long)]
        connect: Option<SocketAddr>,
    },
    /// Ask the daemon who we are.
    Attest {
        #[command(flatten)]
        channel: ChannelArguments,
    },
    /// Show a token from a file to the API.
    Present {
        #[arg(long)]
        token_file: PathBuf,
        #[arg(long)]
        connect: SocketAddr,
        #[arg(long)]
        ca: PathBuf,
        #[arg(long, default_value = "localhost")]
        server_name: String,
        #[arg(long, default_value = "/reports/today")]
        path: String,
    },
    /// Ask the authority whether a token from a file is still good.
    Introspect {
        #[arg(long)]
        token_file: PathBuf,
        /// unix:/path or http://127.0.0.1:port
        #[arg(long)]
        authority: Authority,
    },
}

#[derive(Args)]
struct ChannelArguments {
    /// The daemon's socket, unix:/path; default: AGENT_SOCKET.
    #[arg(long)]
    socket: Option<String>,
    /// Speak on this inherited connection; default: AGENT_CHANNEL_FD.
    #[arg(long, conflicts_with = "socket")]
    fd: Option<i32>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let worked = runtime.context("no runtime").and_then(|runtime| runtime.block_on(attempt(arguments.attempt)));
    match worked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(cause) => {
            // Standard output may be the thing that failed.
            drop(step::say(PROGRAM, "failed", json!({"reason": format!("{cause:#}")})));
            ExitCode::from(2)
        }
    }
}

async fn attempt(attempt: Attempt) -> anyhow::Result<bool> {
    match attempt {
        Attempt::Release { channel, destination, binding, cookie, connect } => {
            // Kept until the end: a closed socket has no cookie that means anything.
            let own = connect.map(TcpStream::connect).transpose().context("cannot connect")?;
            let cookie = match &own {
                Some(stream) => Some(ask::cookie(stream)?),
                None => cookie.or(from_environment("API_COOKIE")?),
            };
            let mut client = AgentServiceClient::new(ask::channel(open(&channel)?).await?);
            let answer = client.release(ask::request(&destination, cookie, &binding)).await;
            say_answer("released", answer.map(|response| ask::describe(response.get_ref())))
        }
        Attempt::Attest { channel } => {
            let mut client = AgentServiceClient::new(ask::channel(open(&channel)?).await?);
            let answer = client.attest(AttestRequest {}).await;
            say_answer(
                "attested",
                answer.map(|response| {
                    let caller = response.into_inner().caller.unwrap_or_default();
                    json!({"exec_id": caller.exec_id.to_string(), "spiffe_ids": caller.spiffe_ids})
                }),
            )
        }
        Attempt::Present { token_file, connect, ca, server_name, path } => {
            let token = token(&token_file)?;
            let stream = TcpStream::connect(connect).with_context(|| format!("cannot connect to {connect}"))?;
            let answer = fetch::get(stream, &server_name, &ca, &path, Presentation::Bearer, &token).await?;
            step::say(PROGRAM, "response", json!({"status": answer.status, "body": answer.body}))?;
            Ok(answer.status == 200)
        }
        Attempt::Introspect { token_file, authority } => {
            let token = String::from_utf8(token(&token_file)?).map_err(|_| anyhow::anyhow!("not a token"))?;
            let form = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            anyhow::ensure!(token.bytes().all(form), "the file does not hold a token");
            let said = authority.introspect(&token).await?;
            step::say(PROGRAM, "introspected", json!({"active": said.active, "sub": said.sub, "jti": said.jti}))?;
            Ok(said.active)
        }
    }
}

fn say_answer(step: &str, answer: Result<serde_json::Value, tonic::Status>) -> anyhow::Result<bool> {
    let worked = answer.is_ok();
    match answer {
        Ok(fields) => step::say(PROGRAM, step, fields)?,
        Err(status) => {
            step::say(
                PROGRAM,
                "refused",
                json!({"code": step::code_name(status.code()), "message": status.message()}),
            )?;
        }
    }
    Ok(worked)
}

fn open(channel: &ChannelArguments) -> anyhow::Result<UnixStream> {
    let fd = match &channel.socket {
        Some(_) => None,
        None => channel.fd.or(from_environment("AGENT_CHANNEL_FD")?),
    };
    match fd {
        Some(number) => inherited(number).with_context(|| format!("file descriptor {number} is not usable")),
        None => ask::open(&ask::socket_path(channel.socket.as_deref())?),
    }
}

/// What the program that exec'd this one left for it.
fn from_environment<T: FromStr>(name: &str) -> anyhow::Result<Option<T>> {
    match std::env::var(name) {
        Ok(text) => text.parse().map(Some).map_err(|_| anyhow::anyhow!("{name} is not a number")),
        Err(_) => Ok(None),
    }
}

/// A duplicate of a file descriptor that this program was started with. Asking the kernel for it by number needs no
/// promise about who owns the number.
fn inherited(number: i32) -> anyhow::Result<UnixStream> {
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok(UnixStream::from(rustix::process::pidfd_getfd(this, number, PidfdGetfdFlags::empty())?))
}

fn token(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_TOKEN_BYTES).read_to_end(&mut text))
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim_ascii().to_vec())
}
