// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What SVIDs cost over the SPIFFE Workload API, next to the same exchange with a server that does nothing, and next to
//! another implementation where there is one on this machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use agent_proto::spiffe::{JwtsvidRequest, X509svidRequest, X509svidResponse};
use anyhow::{Context as _, anyhow};
use e2e::Spire;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::daemon::{Installed, Plan};
use crate::echo::{Echo, Shape};
use crate::report::{Budget, Report, Row};
use crate::statistics::Sorted;
use crate::{Setting, say};

const PLAN: Plan = Plan { name: "spiffe", durability: "written", policies: 10 };
/// Streams that are held open to see what one costs; within the bounds of connections and of calls on one.
const STREAMS: u32 = 2048;
const STREAMS_PER_CONNECTION: u32 = 16;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// A token, for an audience that was not asked for before.
    Jwt,
    /// The first message of a stream of certificates.
    X509,
}

/// Whether the connection is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Warm,
    Cold,
}

/// Who is asked.
#[derive(Debug, Clone)]
struct Server {
    name: &'static str,
    socket: PathBuf,
}

struct Client {
    socket: PathBuf,
    api: SpiffeWorkloadApiClient<Channel>,
    number: usize,
    asked: usize,
}

impl Client {
    async fn connect(socket: &Path, number: usize) -> anyhow::Result<Self> {
        Ok(Self { socket: socket.to_owned(), api: connect(socket).await?, number, asked: 0 })
    }

    async fn ask(&mut self, ask: Ask, connection: Connection) -> anyhow::Result<()> {
        if connection == Connection::Cold {
            self.api = connect(&self.socket).await?;
        }
        self.asked = self.asked.wrapping_add(1);
        match ask {
            Ask::Jwt => {
                let audience = vec![format!("https://{}-{}.example", self.number, self.asked)];
                let message = JwtsvidRequest { audience, spiffe_id: String::new() };
                let answer = self.api.fetch_jwtsvid(request(message)).await.map_err(|status| refused(&status))?;
                anyhow::ensure!(!answer.into_inner().svids.is_empty(), "no token");
            }
            Ask::X509 => {
                first(&mut self.api).await?;
            }
        }
        Ok(())
    }
}

async fn connect(socket: &Path) -> anyhow::Result<SpiffeWorkloadApiClient<Channel>> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    Ok(SpiffeWorkloadApiClient::new(channel.with_context(|| format!("cannot connect to {}", socket.display()))?))
}

async fn first(api: &mut SpiffeWorkloadApiClient<Channel>) -> anyhow::Result<Streaming<X509svidResponse>> {
    let stream = api.fetch_x509svid(request(X509svidRequest {})).await.map_err(|status| refused(&status))?;
    let mut stream = stream.into_inner();
    let message = stream.message().await.map_err(|status| refused(&status))?.context("an empty stream")?;
    anyhow::ensure!(!message.svids.is_empty(), "no certificate");
    Ok(stream)
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    request
}

fn refused(status: &tonic::Status) -> anyhow::Error {
    anyhow!("refused: {:?} {}", status.code(), status.message())
}

/// A real SPIRE that knows this program.
fn peer(bin: &Path, setting: &Setting) -> anyhow::Result<Spire> {
    let spire = Spire::start(bin, setting.state.join("spire"), "peer.example")?;
    spire.entry("/client", 0, &[])?;
    spire.wait_for_identity()?;
    Ok(spire)
}

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let installed = Installed::new(setting, &PLAN)?;
    let daemon = installed.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spire = setting.spire.as_deref().map(|bin| peer(bin, setting)).transpose()?;
    runtime.block_on(async {
        let mut sample = connect(&daemon.spiffe).await?;
        let message = JwtsvidRequest { audience: vec!["https://0-0.example".to_owned()], spiffe_id: String::new() };
        let token = sample.fetch_jwtsvid(request(message)).await.map_err(|status| refused(&status))?.into_inner();
        let mut stream =
            sample.fetch_x509svid(request(X509svidRequest {})).await.map_err(|s| refused(&s))?.into_inner();
        let svids = stream.message().await?.context("an empty stream")?;
        let echo_socket = setting.state.join("spiffe-echo.sock");
        let echo = Echo::start(&echo_socket, &Shape::of_svids(&token, &svids)?)?;
        drop((sample, stream));
        let ours = Server { name: "agent-daemon", socket: daemon.spiffe.clone() };
        let bare = Server { name: "bare tonic echo", socket: echo_socket };
        let peer = spire.as_ref().map(|spire| Server { name: "SPIRE", socket: spire.socket.clone() });
        if let Some(spire) = &spire {
            report.note(format!("The peer is {}.", spire.version));
        }
        for ask in [Ask::Jwt, Ask::X509] {
            for connection in [Connection::Warm, Connection::Cold] {
                for clients in [1, 8, 64] {
                    compare(setting, report, (ask, connection, clients), &ours, &bare, peer.as_ref()).await?;
                }
            }
        }
        memory(report, &daemon).await?;
        drop(echo);
        Ok(())
    })
}

/// All latencies, and answers a second, of one server.
struct Measured {
    latencies: Sorted,
    rate: f64,
}

async fn compare(
    setting: &Setting,
    report: &mut Report,
    (ask, connection, number): (Ask, Connection, usize),
    ours: &Server,
    bare: &Server,
    peer: Option<&Server>,
) -> anyhow::Result<()> {
    let what = match ask {
        Ask::Jwt => "FetchJWTSVID",
        Ask::X509 => "FetchX509SVID, first message",
    };
    let state = match connection {
        Connection::Warm => "warm",
        Connection::Cold => "new connection",
    };
    let clients = if number == 1 { "1 client".to_owned() } else { format!("{number} clients") };
    say(format_args!("{what}, {state}, {clients}"));
    let time = setting.times(Duration::from_secs(2), Duration::from_millis(400));
    let mut of = Vec::new();
    for server in [Some(bare), Some(ours), peer].into_iter().flatten() {
        // The first answers collect evidence and fill caches, on every side.
        at_once(server, number, ask, connection, time / 8).await?;
        of.push((server.name, at_once(server, number, ask, connection, time).await?));
    }
    let mut of = of.into_iter();
    let (Some((_, bare)), Some((_, ours))) = (of.next(), of.next()) else { anyhow::bail!("bug: nothing was measured") };
    let micros = |measured: &Measured, share| measured.latencies.per_mille(share) * 1e6;
    let times =
        |measured: &Measured| format!("p50 {:.0} µs, p99 {:.0} µs", micros(measured, 500), micros(measured, 990));
    let detail = format!("{:.0} / {:.0} a second; {} / {}", ours.rate, bare.rate, times(&ours), times(&bare));
    let title = format!("{what}, {state}, {clients}: a second / bare tonic echo");
    report.row(Row::ratio(title, ours.rate / bare.rate, detail, Budget::None));
    if let Some((name, peer)) = of.next() {
        let detail = format!("{:.0} / {:.0} a second; {} / {}", ours.rate, peer.rate, times(&ours), times(&peer));
        let title = format!("{what}, {state}, {clients}: a second / {name}");
        report.row(Row::ratio(title, ours.rate / peer.rate, detail, Budget::None));
    }
    Ok(())
}

async fn at_once(
    server: &Server,
    number: usize,
    ask: Ask,
    connection: Connection,
    time: Duration,
) -> anyhow::Result<Measured> {
    let mut clients = Vec::new();
    for number in 0..number {
        clients.push(Client::connect(&server.socket, number).await?);
    }
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut samples = Vec::new();
            while began.elapsed() < time {
                let asked = Instant::now();
                client.ask(ask, connection).await?;
                samples.push(asked.elapsed());
            }
            anyhow::Ok(samples)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        all.extend(ended.context("bug: a client panicked")?.with_context(|| format!("asking {}", server.name))?);
    }
    let took = began.elapsed();
    let rate = f64::from(u32::try_from(all.len())?) / took.as_secs_f64();
    Ok(Measured { latencies: Sorted::of(all), rate })
}

/// What an open stream keeps in memory, its share of the connection included.
async fn memory(report: &mut Report, daemon: &crate::daemon::Daemon) -> anyhow::Result<()> {
    say(format_args!("{STREAMS} open streams"));
    let (_, before) = daemon.resident_bytes()?;
    let mut held = Vec::new();
    for _ in 0..STREAMS / STREAMS_PER_CONNECTION {
        let mut api = connect(&daemon.spiffe).await?;
        for _ in 0..STREAMS_PER_CONNECTION {
            held.push(first(&mut api).await?);
        }
    }
    let (_, after) = daemon.resident_bytes()?;
    let each = (after - before) / f64::from(STREAMS) / 1024.0;
    let detail = format!("{STREAMS} streams on {} connections", STREAMS / STREAMS_PER_CONNECTION);
    report.row(Row::new("anonymous memory of an open FetchX509SVID stream", each, "KiB", detail, Budget::None));
    Ok(())
}
