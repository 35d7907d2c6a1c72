// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What SVIDs cost over the SPIFFE Workload API, next to the same exchange with a server that does nothing, and next to
//! another implementation where there is one on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use agent_proto::spiffe::{JwtsvidRequest, X509svidRequest, X509svidResponse};
use anyhow::{Context as _, anyhow};
use e2e::{Spire, SpireSetup};
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

/// Room for the streams that are held open, and full a moment after the start, as it is of any process that asks often:
/// from then on each answer ends an older one.
const PLAN: Plan = Plan { name: "spiffe", durability: "written", policies: 10, leases: 4096 };
/// Streams that are held open to see what one costs; within the bounds of connections and of calls on one.
const STREAMS: u32 = 2048;
const STREAMS_PER_CONNECTION: u32 = 16;

/// A second, to SPIRE where it signs, or looks at the caller's program.
const WORKING: Budget = Budget::AtLeast(10.0);
/// To SPIRE where it looks up an answer that it gave before, for a caller of which it asks the user alone.
const LOOKING_UP: Budget = Budget::AtLeast(3.0);
const LOOKING_UP_P50: Budget = Budget::AtMost(0.4);

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// A token.
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

/// For whom a token is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// One that nobody asked for before.
    New,
    /// Always the same, so that a server may have a token kept.
    Same,
}

/// Who is asked.
#[derive(Debug, Clone)]
struct Server {
    name: String,
    socket: PathBuf,
    audience: Audience,
}

impl Server {
    fn new(name: impl Into<String>, socket: &Path, audience: Audience) -> Self {
        Self { name: name.into(), socket: socket.to_owned(), audience }
    }
}

/// Another implementation, and what we are to be next to it.
#[derive(Debug, Clone)]
struct Peer {
    server: Server,
    rate: Budget,
    p50: Budget,
}

/// No round asks for what another asked for.
static ASKED: AtomicU64 = AtomicU64::new(1);

struct Client {
    socket: PathBuf,
    api: SpiffeWorkloadApiClient<Channel>,
    number: usize,
}

impl Client {
    async fn connect(socket: &Path, number: usize) -> anyhow::Result<Self> {
        Ok(Self { socket: socket.to_owned(), api: connect(socket).await?, number })
    }

    async fn ask(&mut self, (ask, audience): (Ask, Audience), connection: Connection) -> anyhow::Result<()> {
        if connection == Connection::Cold {
            self.api = connect(&self.socket).await?;
        }
        match ask {
            Ask::Jwt => {
                let asked = match audience {
                    Audience::New => ASKED.fetch_add(1, Ordering::Relaxed),
                    Audience::Same => 0,
                };
                let audience = vec![format!("https://{}-{asked}.example", self.number)];
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

/// Real SPIREs that know this program: two that ask for the user alone, of which one signs without a limit, and one that
/// hashes the program at each call.
struct Spires {
    as_it_comes: Spire,
    unlimited: Spire,
    measuring: Spire,
    /// Of this program.
    megabytes: u64,
}

impl Spires {
    fn start(bin: &Path, setting: &Setting) -> anyhow::Result<Self> {
        let start = |name: &str, setup| {
            let spire = Spire::start(bin, setting.state.join(name), "peer.example", setup)?;
            spire.entry("/client", 0, &[])?;
            spire.wait_for_identity()?;
            anyhow::Ok(spire)
        };
        let as_it_comes = start("spire", SpireSetup::AsItComes)?;
        let unlimited = start("spire-unlimited", SpireSetup::Unlimited)?;
        let measuring = start("spire-measuring", SpireSetup::Measuring)?;
        let megabytes = fs::metadata(std::env::current_exe()?)?.len() / 1_000_000;
        Ok(Self { as_it_comes, unlimited, measuring, megabytes })
    }

    /// Whoever is asked beside us.
    fn peers(&self, ask: Ask) -> Vec<Peer> {
        let peer = |name: String, spire: &Spire, audience, rate, p50| {
            let server = Server::new(name, &spire.socket, audience);
            Peer { server, rate, p50 }
        };
        let what = match ask {
            Ask::Jwt => "token",
            Ask::X509 => "certificate",
        };
        let kept = format!("SPIRE, {what} kept");
        let measuring = format!("SPIRE that hashes {} MB, {what} kept", self.megabytes);
        let measuring = peer(measuring, &self.measuring, Audience::Same, WORKING, Budget::None);
        match ask {
            Ask::Jwt => vec![
                peer("SPIRE that signs".to_owned(), &self.as_it_comes, Audience::New, WORKING, Budget::None),
                peer("SPIRE that signs, unlimited".to_owned(), &self.unlimited, Audience::New, WORKING, Budget::None),
                measuring,
                peer(kept, &self.as_it_comes, Audience::Same, LOOKING_UP, LOOKING_UP_P50),
            ],
            Ask::X509 => vec![measuring, peer(kept, &self.as_it_comes, Audience::Same, Budget::None, Budget::None)],
        }
    }
}

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let installed = Installed::new(setting, &PLAN)?;
    let daemon = installed.start()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spires = setting.spire.as_deref().map(|bin| Spires::start(bin, setting)).transpose()?;
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
        let ours = Server::new("agent-daemon", &daemon.spiffe, Audience::New);
        let bare = Server::new("bare tonic echo", &echo_socket, Audience::New);
        if let Some(spires) = &spires {
            report.note(format!("The peer is SPIRE {}.", spires.as_it_comes.version));
        }
        for ask in [Ask::Jwt, Ask::X509] {
            let peers = spires.as_ref().map(|spires| spires.peers(ask)).unwrap_or_default();
            for connection in [Connection::Warm, Connection::Cold] {
                for clients in [1, 8, 64] {
                    compare(setting, report, (ask, connection, clients), &ours, &bare, &peers).await?;
                }
            }
        }
        if setting.filter.is_none() {
            memory(report, &daemon).await?;
        }
        drop(echo);
        Ok(())
    })
}

/// All latencies, and answers a second, of one server.
struct Measured {
    latencies: Sorted,
    rate: f64,
}

impl Measured {
    fn p50(&self) -> f64 {
        self.latencies.per_mille(500)
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.0} µs, p99 {:.0} µs", self.p50() * 1e6, self.latencies.per_mille(990) * 1e6)
    }
}

async fn compare(
    setting: &Setting,
    report: &mut Report,
    (ask, connection, number): (Ask, Connection, usize),
    ours: &Server,
    bare: &Server,
    peers: &[Peer],
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
    let title = format!("{what}, {state}, {clients}");
    if setting.filter.as_ref().is_some_and(|filter| !title.contains(filter)) {
        return Ok(());
    }
    say(&title);
    let time = setting.times(Duration::from_secs(2), Duration::from_millis(400));
    let measured = async |server: &Server| {
        // The first answers collect evidence and fill caches, on every side.
        at_once(server, number, ask, connection, time / 8).await?;
        at_once(server, number, ask, connection, time).await
    };
    let bare_measured = measured(bare).await?;
    let our = measured(ours).await?;
    let mut rows = |other: &Measured, name: &str, rate, p50| {
        let detail = format!("{:.0} / {:.0} a second; {our} / {other}", our.rate, other.rate);
        report.row(Row::ratio(format!("{title}: a second / {name}"), our.rate / other.rate, detail, rate));
        if !matches!(p50, Budget::None) {
            let detail = format!("{our} / {other}");
            report.row(Row::ratio(format!("{title}: p50 / {name}"), our.p50() / other.p50(), detail, p50));
        }
    };
    rows(&bare_measured, &bare.name, Budget::None, Budget::None);
    for peer in peers {
        rows(&measured(&peer.server).await?, &peer.server.name, peer.rate, peer.p50);
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
    let audience = server.audience;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            let mut samples = Vec::new();
            while began.elapsed() < time {
                let asked = Instant::now();
                client.ask((ask, audience), connection).await?;
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
