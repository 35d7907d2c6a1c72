// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A small agent: connects to the API first, asks the daemon for a credential for exactly that connection, then
//! speaks TLS and HTTP on it.
//!
//! Exit codes: 0 served, 1 refused (by the daemon or the API), 2 anything else.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use agent_proto::v1::ReleaseResponse;
use agent_proto::v1::agent_service_client::AgentServiceClient;
use anyhow::Context;
use clap::Parser;
use example_agents::fetch::{self, Answer, Presentation};
use example_agents::{ask, step};
use rustix::io::FdFlags;
use serde_json::json;
use tonic::transport::Channel;

const PROGRAM: &str = "rust-agent";

#[derive(Parser)]
#[command(about = "Connects to an API, asks for a credential for that connection, and uses it there")]
struct Arguments {
    /// The daemon's socket, unix:/path; default: AGENT_SOCKET.
    #[arg(long)]
    socket: Option<String>,
    /// The destination to ask for, as the daemon's configuration names it.
    #[arg(long)]
    destination: String,
    /// Which of several bindings.
    #[arg(long, default_value = "")]
    binding: String,
    /// The API's address.
    #[arg(long, required_unless_present = "skip_connect")]
    connect: Option<SocketAddr>,
    /// Ask without a connection.
    #[arg(long, conflicts_with = "connect")]
    skip_connect: bool,
    /// The API's name in its certificate.
    #[arg(long, default_value = "localhost")]
    server_name: String,
    /// PEM file of the authority that signed the API's certificate.
    #[arg(long, required_unless_present = "skip_connect")]
    ca: Option<PathBuf>,
    /// What to fetch.
    #[arg(long, default_value = "/reports/today")]
    path: String,
    /// Write the credential to this new file (mode 0600). A real agent never does; the demo shows with it that a
    /// stolen credential dies with its owner.
    #[arg(long)]
    token_out: Option<PathBuf>,
    /// Go on living: for so many seconds, or until standard input closes.
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "SECONDS")]
    hold: Option<Option<u64>>,
    /// Replace this program by another one, which inherits the connections to the API and to the daemon.
    #[arg(long, num_args = 1.., allow_hyphen_values = true, value_name = "PROGRAM ARGS")]
    then_exec: Vec<OsString>,
}

/// What stays open for as long as the agent lives.
struct Session {
    served: bool,
    /// A connection to the daemon on which this image has said nothing yet.
    spare: UnixStream,
    api: Option<(TcpStream, u64)>,
    _channel: Channel,
    _answer: Option<Answer>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(cause) => {
            // Standard output may be the thing that failed.
            drop(step::say(PROGRAM, "failed", json!({"reason": format!("{cause:#}")})));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let session = runtime.block_on(async {
        let session = work(&arguments).await?;
        if let Some(seconds) = arguments.hold {
            step::say(PROGRAM, "holding", json!({}))?;
            hold(seconds).await;
        }
        anyhow::Ok(session)
    })?;
    runtime.shutdown_background();
    match arguments.then_exec.split_first() {
        Some((program, rest)) => Err(exec(program, rest, &session)),
        None => Ok(session.served),
    }
}

async fn work(arguments: &Arguments) -> anyhow::Result<Session> {
    let api = match arguments.connect {
        Some(address) => {
            let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
            let cookie = ask::cookie(&stream)?;
            let (local, remote) = (stream.local_addr()?.to_string(), stream.peer_addr()?.to_string());
            step::say(PROGRAM, "connected", json!({"local": local, "remote": remote, "cookie": cookie.to_string()}))?;
            Some((stream, cookie))
        }
        None => None,
    };

    let socket = ask::socket_path(arguments.socket.as_deref())?;
    // Opened before the channel that is used: once that one has answered, the daemon has accepted this one too.
    let spare = ask::open(&socket)?;
    let channel = ask::channel(ask::open(&socket)?).await?;
    let request = ask::request(&arguments.destination, api.as_ref().map(|(_, cookie)| *cookie), &arguments.binding);
    let release = match AgentServiceClient::new(channel.clone()).release(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            step::say(
                PROGRAM,
                "refused",
                json!({"code": step::code_name(status.code()), "message": status.message()}),
            )?;
            return Ok(Session { served: false, spare, api, _channel: channel, _answer: None });
        }
    };
    step::say(PROGRAM, "released", ask::describe(&release))?;
    let secret = release.credential.as_ref().map(|credential| credential.secret.as_slice()).unwrap_or_default();
    if let Some(path) = &arguments.token_out {
        keep(path, secret)?;
    }

    let answer = match (&api, &arguments.ca) {
        (Some((stream, _)), Some(ca)) => {
            let stream = stream.try_clone().context("cannot duplicate the socket")?;
            let how = presentation(&release);
            Some(fetch::get(stream, &arguments.server_name, ca, &arguments.path, how, secret).await?)
        }
        _ => None,
    };
    if let Some(answer) = &answer {
        step::say(PROGRAM, "response", json!({"status": answer.status, "body": answer.body}))?;
    }
    let served = answer.as_ref().is_none_or(|answer| answer.status == 200);
    Ok(Session { served, spare, api, _channel: channel, _answer: answer })
}

fn presentation(release: &ReleaseResponse) -> Presentation {
    match release.credential.as_ref().map(|credential| credential.r#type.as_str()) {
        Some("static") => Presentation::ApiKey,
        _ => Presentation::Bearer,
    }
}

fn keep(path: &Path, secret: &[u8]) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(secret))
        .with_context(|| format!("cannot write {}", path.display()))
}

async fn hold(seconds: Option<u64>) {
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => {
            let closed = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
            // An error on standard input ends the wait as its end does.
            drop(closed.await);
        }
    }
}

/// Returns only when the program could not be started.
fn exec(program: &OsString, rest: &[OsString], session: &Session) -> anyhow::Error {
    let mut command = Command::new(program);
    command.args(rest);
    let mut passed = || -> anyhow::Result<()> {
        pass_on(&session.spare).context("cannot pass the daemon's socket on")?;
        command.env("AGENT_CHANNEL_FD", session.spare.as_raw_fd().to_string());
        if let Some((stream, cookie)) = &session.api {
            pass_on(stream).context("cannot pass the API's socket on")?;
            command.env("API_FD", stream.as_raw_fd().to_string()).env("API_COOKIE", cookie.to_string());
        }
        let program = program.to_string_lossy();
        step::say(PROGRAM, "exec", json!({"image": program, "channel_fd": session.spare.as_raw_fd()}))?;
        Ok(())
    };
    match passed() {
        Ok(()) => anyhow::Error::new(command.exec()).context(format!("cannot start {}", program.to_string_lossy())),
        Err(cause) => cause,
    }
}

fn pass_on(socket: &impl AsFd) -> rustix::io::Result<()> {
    rustix::io::fcntl_setfd(socket, FdFlags::empty())
}
