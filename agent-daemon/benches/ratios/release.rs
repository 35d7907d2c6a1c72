// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a release costs, next to the same exchange with a server that does nothing.

use std::path::Path;
use std::time::Duration;

use crate::client::{self, Client};
use crate::daemon::{self, ALL_LEASES, Daemon, Installed, Plan};
use crate::echo::{Echo, Shape};
use crate::report::{Budget, Report, Row};
use crate::statistics::{Sorted, ratios};
use crate::{Setting, say, scale};

const FEW: Plan = Plan { name: "few", durability: "written", policies: 10, leases: ALL_LEASES };
const MANY: Plan = Plan { name: "many", durability: "written", policies: 1000, leases: ALL_LEASES };
const SYNCED: Plan = Plan { name: "synced", durability: "synced", policies: 10, leases: ALL_LEASES };

/// One server and what was measured of it, round by round.
struct Contender {
    client: Client,
    server: u32,
    block: usize,
    p50: Vec<f64>,
    /// Seconds that a request kept the server's threads busy.
    cpu: Vec<f64>,
    all: Vec<Duration>,
}

impl Contender {
    async fn new(socket: &Path, server: u32, block: usize) -> anyhow::Result<Self> {
        let mut client = Client::connect(socket).await?;
        // The first call collects evidence and measures the caller's program; it is not what is measured here.
        client.in_turn(block.min(200)).await?;
        client.give_back().await?;
        Ok(Self { client, server, block, p50: Vec::new(), cpu: Vec::new(), all: Vec::new() })
    }

    async fn round(&mut self) -> anyhow::Result<()> {
        let before = daemon::cpu_time(self.server)?;
        let samples = self.client.in_turn(self.block).await?;
        let busy = daemon::cpu_time(self.server)?.saturating_sub(before);
        self.cpu.push(busy.as_secs_f64() / f64::from(u32::try_from(self.block)?));
        self.p50.push(Sorted::of(samples.iter().copied()).median());
        self.all.extend(samples);
        self.client.give_back().await
    }

    fn per_mille(&self, share: usize) -> f64 {
        Sorted::of(self.all.iter().copied()).per_mille(share)
    }
}

/// The servers, all running at the same time.
struct Servers {
    few: Daemon,
    many: Daemon,
    synced: Daemon,
    echo: Echo,
    echo_socket: std::path::PathBuf,
}

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let [few, many, synced] = [FEW, MANY, SYNCED].map(|plan| Installed::new(setting, &plan));
    let (few, many, synced) = (few?, many?, synced?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (few, many, synced) = ((few.start()?, few), (many.start()?, many), (synced.start()?, synced));
        scale::add_processes(&few.1.pin_dir, 100)?;
        scale::add_processes(&many.1.pin_dir, 100_000)?;
        let shape = Shape::of(&Client::connect(&few.0.socket).await?.release().await?)?;
        let echo_socket = setting.state.join("echo.sock");
        let servers = Servers {
            few: few.0,
            many: many.0,
            synced: synced.0,
            echo: Echo::start(&echo_socket, &shape)?,
            echo_socket,
        };
        in_turn(setting, report, &servers).await?;
        at_once(setting, report, &servers).await
    })
}

async fn in_turn(setting: &Setting, report: &mut Report, servers: &Servers) -> anyhow::Result<()> {
    let (rounds, block) = setting.times((20, 500), (6, 200));
    say(format_args!("releases against a bare server, one client, {rounds} rounds of {block}"));
    let mut echo = Contender::new(&servers.echo_socket, servers.echo.pid(), block).await?;
    let mut few = Contender::new(&servers.few.socket, servers.few.pid(), block).await?;
    let mut many = Contender::new(&servers.many.socket, servers.many.pid(), block).await?;
    let mut synced = Contender::new(&servers.synced.socket, servers.synced.pid(), block / 10).await?;
    for round in 0..rounds {
        let mut order = [&mut echo, &mut few, &mut many, &mut synced];
        if round % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            contender.round().await?;
        }
    }
    let micros = |seconds: f64| seconds * 1e6;
    let versus = |contender: &Contender, share: usize, base: &Contender| {
        let (contender, base) = (contender.per_mille(share), base.per_mille(share));
        (contender / base, format!("{:.0} µs / {:.0} µs", micros(contender), micros(base)))
    };
    let p50 = ratios(&few.p50, &echo.p50);
    let (low, high) = p50.quartiles();
    let (_, times) = versus(&few, 500, &echo);
    let detail = format!("{times}; middle half of the rounds {low:.2}–{high:.2}");
    let what = "release of a JWT-SVID / bare tonic echo, p50";
    report.row(Row::ratio(what, p50.median(), detail, Budget::AtMost(1.5)));
    let (p99, times) = versus(&few, 990, &echo);
    report.row(Row::ratio("release of a JWT-SVID / bare tonic echo, p99", p99, times, Budget::AtMost(2.0)));
    let cpu = ratios(&few.cpu, &echo.cpu);
    let middle = |samples: &[f64]| micros(Sorted::new(samples.iter().copied()).median());
    let detail = format!("{:.0} µs / {:.0} µs a request", middle(&few.cpu), middle(&echo.cpu));
    report.row(Row::ratio(
        "release of a JWT-SVID / bare tonic echo, the server's CPU time",
        cpu.median(),
        detail,
        Budget::None,
    ));
    let (p50_synced, times) = versus(&synced, 500, &echo);
    report.row(Row::ratio("the same, audit.durability = \"synced\", p50", p50_synced, times, Budget::None));
    let (p99_synced, times) = versus(&synced, 990, &echo);
    report.row(Row::ratio("the same, audit.durability = \"synced\", p99", p99_synced, times, Budget::None));

    let scaled = ratios(&many.p50, &few.p50);
    let (low, high) = scaled.quartiles();
    let (_, times) = versus(&many, 500, &few);
    let detail = format!("{times}; middle half of the rounds {low:.2}–{high:.2}");
    let what = "release at 100,000 processes and 1,000 policies / at 100 and 10, p50";
    report.row(Row::ratio(what, scaled.median(), detail, Budget::AtMost(1.1)));
    Ok(())
}

async fn at_once(setting: &Setting, report: &mut Report, servers: &Servers) -> anyhow::Result<()> {
    let (rounds, count) = setting.times((5, 3200), (2, 1600));
    for number in [8, 64] {
        say(format_args!("requests a second, {number} clients, {rounds} rounds of {count}"));
        let mut rates = [const { Vec::new() }; 3];
        let sockets = [&servers.echo_socket, &servers.few.socket, &servers.synced.socket];
        let mut clients = Vec::new();
        for socket in sockets {
            let mut of_socket = Vec::new();
            for _ in 0..number {
                of_socket.push(Client::connect(socket).await?);
            }
            client::at_once(&mut of_socket, number).await?;
            clients.push(of_socket);
        }
        for _ in 0..rounds {
            for (clients, rates) in clients.iter_mut().zip(&mut rates) {
                let took = client::at_once(clients, count).await?;
                rates.push(f64::from(u32::try_from(count)?) / took.as_secs_f64());
            }
        }
        let [echo, few, synced] = rates.map(Sorted::new);
        for (what, contender) in [("written", few), ("synced", synced)] {
            let what = format!("releases a second, {number} clients, {what} / bare tonic echo");
            let detail = format!("{:.0} / {:.0}", contender.median(), echo.median());
            report.row(Row::ratio(what, contender.median() / echo.median(), detail, Budget::None));
        }
    }
    Ok(())
}
