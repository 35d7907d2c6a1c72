// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Governed trees: what a verdict costs and how that grows, what a connection costs with and without, and how long what was
//! taken back stays open.

use std::fs;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use agent_daemon::credential::Network;
use agent_daemon::egress::{Class, Half, Place, Tables as _};
use agent_daemon::identity::TreeSettings;
use agent_daemon::kernel::ProgramReport;
use agent_daemon::process::{Classified, Protocol, Records as _, Stamp, Verdict};
use agent_proto::admin::admin_service_client::AdminServiceClient;
use agent_proto::admin::{ReloadRequest, RevokeRequest, revoke_request};
use agent_proto::v1::{ConnectionRef, ReleaseRequest, connection_ref};
use anyhow::{Context as _, anyhow, ensure};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::cleanup::{self, ProgramTimes};
use crate::client::Client;
use crate::daemon::{ALL_LEASES, Installed, Plan};
use crate::hooks::{Attached, connect, pinned_to_one_cpu};
use crate::report::{Budget, Report, Row};
use crate::statistics::{Sorted, ratios};
use crate::{Setting, say};

const FEW: u32 = 10;
const MANY: u32 = 100_000;
const TREE: u32 = 1;
/// Of the second set of the same process.
const LATER: Stamp = Stamp(1 << 40);

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    pinned_to_one_cpu(|| verdicts(setting, report))?;
    pinned_to_one_cpu(|| side_by_side(setting, report))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(revocations(setting, report))
}

/// Tables of two sizes: of the first half and of the second.
fn fill(attached: &Attached, port: u16, sizes: [u32; 2]) -> anyhow::Result<()> {
    let maps = &*attached.maps;
    let settings = [TreeSettings::STRICTEST; 2];
    maps.set_tree(TREE, 1, settings)?;
    for (half, size) in [Half::First, Half::Second].into_iter().zip(sizes) {
        let place = |network| Place { protocol: Protocol::TCP, port, network };
        maps.put(half, &place(Network::host(IpAddr::V4(Ipv4Addr::LOCALHOST))), 0)?;
        for number in 1..size {
            // Spread over all of the address space, as declared and learned addresses are.
            let address = Ipv4Addr::from(number.wrapping_mul(0x9e37_79b1) | 0x8000_0000);
            maps.put(half, &place(Network::host(IpAddr::V4(address))), 1 + number % 1000)?;
        }
        maps.set_class(Class { half, place: 1 }, &[Verdict::Allow])?;
    }
    let own = maps.process(std::process::id())?.context("this process has no record")?;
    maps.plant(std::process::id(), own.id, TREE)?;
    Ok(())
}

/// From here on this process is decided by one of the sets.
fn decide_by(attached: &Attached, half: Half, stamp: Stamp) -> anyhow::Result<()> {
    let own = attached.maps.process(std::process::id())?.context("this process has no record")?;
    let ids = (own.euid, own.egid);
    let word = Classified { place: Class { half, place: 1 }.in_record(), stamp, ids };
    attached.maps.classify(std::process::id(), own.id, word)?;
    Ok(())
}

/// The mean run time of the program on `connect`, by the size of the table that decides.
fn verdicts(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let (rounds, count) = setting.times((40, 400), (10, 200));
    say(format_args!("verdicts with {FEW} and {MANY} addresses: {rounds} rounds of {count}"));
    let _times = ProgramTimes::keep()?;
    let attached = Attached::new(cleanup::pin_dir("egress")?)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    fill(&attached, listener.local_addr()?.port(), [FEW, MANY])?;
    let program = attached.programs().iter().find(|program| program.name == "connect4").context("no connect4")?;
    let mut stamp = LATER;
    let mut means = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let order = if round % 2 == 0 { [Half::First, Half::Second] } else { [Half::Second, Half::First] };
        for half in order {
            stamp.0 += 1;
            decide_by(&attached, half, stamp)?;
            half.of_mut(&mut means).push(mean(program, || connect(&listener, count).map(drop))?);
        }
    }
    attached.detach()?;
    let [few, many] = &means;
    let ratios = ratios(many, few);
    let (low, high) = ratios.quartiles();
    let median = |samples: &[f64]| Sorted::new(samples.iter().copied()).median();
    let detail =
        format!("{:.0} ns / {:.0} ns; middle half of the rounds {low:.3}–{high:.3}", median(many), median(few));
    let what = "verdict on connect, 100,000 addresses / 10 (mean run time of connect4)";
    report.row(Row::ratio(what, ratios.median(), detail, Budget::AtMost(1.1)));
    Ok(())
}

fn mean(program: &ProgramReport, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (runs_before, time_before) = program.runs();
    work()?;
    let (runs, time) = program.runs();
    let (runs, time) = (u32::try_from(runs - runs_before)?, u32::try_from(time - time_before)?);
    ensure!(runs > 0, "{} did not run", program.name);
    Ok(f64::from(time) / f64::from(runs))
}

/// Connections of a governed process, of one that is not, and of one on a machine without us.
fn side_by_side(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let rounds: u32 = setting.times(24, 6);
    let count = setting.times(1000, 400);
    say(format_args!("connect+close, governed and without hooks: {rounds} rounds"));
    let dir = cleanup::pin_dir("governed")?;
    let (mut governed, mut free, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // Each round has a port of its own, so that sockets in TIME_WAIT of another never stand in the way.
        let order = if round % 2 == 0 { [true, false] } else { [false, true] };
        for is_with in order {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let seconds = |took: Duration| took.as_secs_f64() / f64::from(count);
            if !is_with {
                connect(&listener, count / 10)?;
                without.push(seconds(connect(&listener, count)?));
                continue;
            }
            let attached = Attached::new(dir.clone())?;
            connect(&listener, count / 10)?;
            free.push(seconds(connect(&listener, count)?));
            fill(&attached, listener.local_addr()?.port(), [FEW, FEW])?;
            decide_by(&attached, Half::First, LATER)?;
            connect(&listener, count / 10)?;
            governed.push(seconds(connect(&listener, count)?));
            attached.detach()?;
        }
    }
    let micros = |samples: &[f64]| Sorted::new(samples.iter().copied()).median() * 1e6;
    for (what, other, budget) in [
        ("loopback TCP connect+close, governed and permitted / hooks off", &without, Budget::AtMost(1.05)),
        ("loopback TCP connect+close, governed and permitted / not governed", &free, Budget::None),
    ] {
        let ratios = ratios(&governed, other);
        let (low, high) = ratios.quartiles();
        let detail = format!(
            "{:.1} µs / {:.1} µs; middle half of the rounds {low:.3}–{high:.3}",
            micros(&governed),
            micros(other)
        );
        report.row(Row::ratio(what, ratios.median(), detail, budget));
    }
    Ok(())
}

/// From the call that takes something back until the other end of the connection sees it closed.
async fn revocations(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let rounds = setting.times(200, 30);
    say(format_args!("revocations, by an operator and by policy: {rounds} each"));
    let plan = Plan { name: "revocation", durability: "written", policies: 10, leases: ALL_LEASES };
    let installed = Installed::new(setting, &plan)?;
    installed.reset()?;
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 89, 1), 0))?;
    install(&installed, listener.local_addr()?.port())?;
    let permits = installed.path("policies/revoked.cedar");
    fs::write(&permits, PERMITS)?;
    let daemon = installed.start()?;
    let mut client = Client::connect(&daemon.socket).await?;
    let mut admin = admin(&installed.path("admin.sock")).await?;
    let (mut by_operator, mut by_policy) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (stream, lease_id) = released(&listener, &mut client).await?;
        let closed = watch(&listener)?;
        let began = Instant::now();
        let what = Some(revoke_request::What::LeaseId(lease_id));
        admin.revoke(RevokeRequest { what, reason: String::new() }).await?;
        by_operator.push(closed.join().map_err(|_| anyhow!("bug: the other end panicked"))?? - began);
        drop(stream);
    }
    for _ in 0..rounds {
        let (stream, _) = released(&listener, &mut client).await?;
        let closed = watch(&listener)?;
        fs::write(&permits, "")?;
        let began = Instant::now();
        admin.reload(ReloadRequest {}).await?;
        by_policy.push(closed.join().map_err(|_| anyhow!("bug: the other end panicked"))?? - began);
        drop(stream);
        fs::write(&permits, PERMITS)?;
        admin.reload(ReloadRequest {}).await?;
    }
    for (what, samples) in [("an operator revokes a lease", by_operator), ("a reload takes back a permit", by_policy)] {
        let sorted = Sorted::of(samples);
        let at = |share| sorted.per_mille(share) * 1e3;
        let detail = format!(
            "{rounds} times; p50 {:.2} ms, p90 {:.2} ms, slowest {:.2} ms; the call itself included",
            at(500),
            at(900),
            at(1000)
        );
        let what = format!("{what}: until the other end sees the connection closed, p99");
        report.row(Row::new(what, at(990), "ms", detail, Budget::AtMost(50.0)));
    }
    Ok(())
}

/// Both what is released and, as the client is governed, what it may connect to.
const PERMITS: &str = r#"
@id("revoked-release") permit (principal in Group::"bench-clients", action == Action::"release", resource == Destination::"revoked");
@id("revoked-connect") permit (principal in Group::"bench-clients", action == Action::"connect", resource == Destination::"revoked");
"#;

/// The client is governed, and has one destination more.
fn install(installed: &Installed, port: u16) -> anyhow::Result<()> {
    let add = |name: &str, text: &str| -> anyhow::Result<()> {
        let path = installed.path(name);
        let before = fs::read_to_string(&path)?;
        Ok(fs::write(&path, before + text)?)
    };
    add("entries.toml", "egress = { mode = \"enforce\" }\n")?;
    let destination = format!(
        r#"[[destination]]
name = "revoked"
cidrs = ["127.0.89.0/24"]
ports = [{port}]
audience = "revoked"
[[binding]]
name = "revoked-token"
destination = "revoked"
identities = ["spiffe://bench.example/agent/client"]
source = "node-jwt"
ttl = "5m"
"#
    );
    add("destinations.toml", &destination)
}

async fn admin(socket: &Path) -> anyhow::Result<AdminServiceClient<Channel>> {
    let path: PathBuf = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Ok(AdminServiceClient::new(Endpoint::from_static("http://localhost").connect_with_connector(connector).await?))
}

/// A connection for which a token was released.
async fn released(listener: &TcpListener, client: &mut Client) -> anyhow::Result<(TcpStream, String)> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        // A moment after a reload it is not known yet what may be reached.
        let Ok(stream) = TcpStream::connect(listener.local_addr()?) else {
            let ask = ReleaseRequest { destination: "revoked".to_owned(), ..ReleaseRequest::default() };
            let _refused = client.service().release(ask).await;
            ensure!(Instant::now() < deadline, "the destination is not reached");
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let cookie = rustix::net::sockopt::socket_cookie(stream.as_fd())?;
        let connection = Some(ConnectionRef { by: Some(connection_ref::By::Cookie(cookie)) });
        let ask = ReleaseRequest { destination: "revoked".to_owned(), connection, ..ReleaseRequest::default() };
        let response = client.service().release(ask).await.map_err(|status| anyhow!("refused: {status:?}"))?;
        let lease = response.into_inner().lease.context("no lease")?;
        return Ok((stream, lease.lease_id));
    }
}

/// The other end, which waits until the connection is closed and says when that was.
fn watch(listener: &TcpListener) -> anyhow::Result<thread::JoinHandle<anyhow::Result<Instant>>> {
    let (mut peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(thread::spawn(move || match peer.read(&mut [0; 16]) {
        Ok(0) => Ok(Instant::now()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(Instant::now()),
        other => Err(anyhow!("not closed: {other:?}")),
    }))
}
