// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A local HTTPS API that believes a bearer token only after its signature, its claims and the authority agree.
//!
//! Prints `READY <port>` and serves until it gets SIGTERM, SIGINT, or its standard input closes.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use example_agents::authority::Authority;
use example_agents::service::{self, Api, ApiKey};
use example_agents::tls;
use example_agents::token::Expected;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

const MAX_KEY_BYTES: u64 = 4096;

#[derive(Parser)]
#[command(about = "An HTTPS API for the demo: GET /reports/today (bearer token), GET /static (API key)")]
struct Arguments {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where to write the PEM of the authority that clients must trust.
    #[arg(long)]
    ca_out: PathBuf,
    /// The daemon's JWKS and introspection endpoint: unix:/path or http://127.0.0.1:port.
    #[arg(long)]
    authority: Authority,
    /// The audience that tokens must name.
    #[arg(long)]
    audience: String,
    /// The trust domain that subjects must be in.
    #[arg(long)]
    trust_domain: String,
    /// The issuer that tokens must name; not looked at without this.
    #[arg(long)]
    issuer: Option<String>,
    /// A file with the key for GET /static; without it that path refuses everybody.
    #[arg(long)]
    api_key_file: Option<PathBuf>,
    /// End when standard input closes, so that it never outlives whoever started it.
    #[arg(long)]
    until_stdin_closes: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let api_key = arguments.api_key_file.as_deref().map(read_key).transpose()?;
    let api = Api {
        expected: Expected {
            audience: arguments.audience,
            trust_domain: arguments.trust_domain,
            issuer: arguments.issuer,
        },
        authority: arguments.authority,
        api_key,
        now,
    };
    let served = tls::serve_localhost()?;
    std::fs::write(&arguments.ca_out, &served.ca_pem)
        .with_context(|| format!("cannot write {}", arguments.ca_out.display()))?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port)).await.context("cannot listen")?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        writeln!(std::io::stdout(), "READY {}", listener.local_addr()?.port())?;
        let stdin = tokio::task::spawn_blocking(move || {
            if arguments.until_stdin_closes {
                drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
            }
        });
        let stop = async {
            let closed = async {
                if stdin.await.is_err() || !arguments.until_stdin_closes {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = closed => {}
            }
        };
        service::serve(listener, TlsAcceptor::from(served.config), Arc::new(api), stop).await;
        anyhow::Ok(())
    })?;
    // A thread may still wait on standard input; it holds nothing that must be given back.
    runtime.shutdown_background();
    Ok(())
}

fn read_key(path: &std::path::Path) -> anyhow::Result<ApiKey> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_KEY_BYTES).read_to_end(&mut text))
        .with_context(|| format!("cannot read {}", path.display()))?;
    ApiKey::new(text.trim_ascii())
}

fn now() -> u64 {
    u64::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec).unwrap_or(u64::MAX)
}
