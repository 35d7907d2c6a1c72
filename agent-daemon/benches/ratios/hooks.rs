// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the kernel programs cost the host: the same work with and without them, and what the kernel itself counts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent_daemon::kernel::{self, Kernel, Maps, ProgramReport};
use anyhow::{Context as _, anyhow, ensure};
use aya::programs::{ProgramInfo, loaded_programs};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio_util::sync::CancellationToken;

use crate::cleanup::{self, ProgramTimes};
use crate::report::{Budget, Report, Row};
use crate::statistics::{Sorted, ratios};
use crate::{Setting, program, say};

/// Taking programs out is finished in the background.
const DETACH: Duration = Duration::from_secs(10);

/// Our programs in the kernel, with somebody who reads their events as a daemon does.
pub(crate) struct Attached {
    pub(crate) maps: Arc<Maps>,
    programs: Vec<ProgramReport>,
    dir: PathBuf,
    ids: Vec<u32>,
    stop_reading: CancellationToken,
    reader: JoinHandle<io::Result<()>>,
}

impl Attached {
    pub(crate) fn new(dir: PathBuf) -> anyhow::Result<Self> {
        let config = kernel::Config {
            pin_dir: dir.clone(),
            mount_bpffs: true,
            max_processes: None,
            max_connections: None,
            event_buffer_bytes: None,
        };
        let Kernel { maps, events, programs, .. } =
            kernel::open(&config).context("cannot attach the kernel programs")?;
        let id = |program: &ProgramReport| -> anyhow::Result<u32> {
            Ok(ProgramInfo::from_pin(dir.join(format!("program_{}", program.name)))?.id())
        };
        let ids = programs.iter().map(id).collect::<anyhow::Result<_>>()?;
        let stop_reading = CancellationToken::new();
        let stopped = stop_reading.clone();
        let reader = thread::Builder::new().name("events".to_owned()).spawn(move || {
            on_every_cpu()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(events.run(stopped, drop))
        })?;
        Ok(Self { maps, programs, dir, ids, stop_reading, reader })
    }

    pub(crate) fn programs(&self) -> &[ProgramReport] {
        &self.programs
    }

    /// Takes them out and waits until they are.
    pub(crate) fn detach(self) -> anyhow::Result<()> {
        let Self { maps, programs, dir, ids, stop_reading, reader } = self;
        stop_reading.cancel();
        reader.join().map_err(|_| anyhow!("bug: the reader of events panicked"))??;
        drop((maps, programs));
        kernel::unload(&dir)?;
        let deadline = Instant::now() + DETACH;
        while loaded_programs().filter_map(Result::ok).any(|program| ids.contains(&program.id())) {
            ensure!(Instant::now() < deadline, "the kernel programs are still there after {DETACH:?}");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// The thread that asks may run anywhere, whatever its parent may.
fn on_every_cpu() -> io::Result<()> {
    let mut every = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| every.set(cpu));
    Ok(sched_setaffinity(None, &every)?)
}

/// Sets of our programs that somebody else attached: the side "without" carries them too.
pub(crate) fn others() -> usize {
    loaded_programs().filter_map(Result::ok).filter(|program| program.name_as_str() == Some("sock_release")).count()
}

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let dir = cleanup::pin_dir("hooks")?;
    let others = others();
    if others > 0 {
        report.note(format!(
            "{others} other set(s) of these kernel programs were attached during the run; \"without\" carries them too"
        ));
    }
    pinned_to_one_cpu(|| side_by_side(setting, report, &dir))?;
    run_times(setting, report, dir)
}

/// Parent and child on one CPU: where the scheduler would put them differs more than what is measured.
pub(crate) fn pinned_to_one_cpu<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = sched_getaffinity(None)?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| before.is_set(*cpu)).context("no CPU may be used")?;
    let mut one = CpuSet::new();
    one.set(last);
    sched_setaffinity(None, &one)?;
    let result = work();
    sched_setaffinity(None, &before)?;
    result
}

#[derive(Debug, Default)]
struct Side {
    spawn: Vec<f64>,
    connect: Vec<f64>,
}

fn side_by_side(setting: &Setting, report: &mut Report, dir: &Path) -> anyhow::Result<()> {
    let rounds = setting.times(24, 6);
    let (spawns, connects) = setting.times((800, 1000), (300, 400));
    say(format_args!("fork+exec+exit and connect+close, with and without hooks: {rounds} rounds"));
    let (mut with, mut without) = (Side::default(), Side::default());
    let mut attached = None;
    program::spawn_in_turn(&setting.program, spawns)?;
    for round in 0..rounds {
        // with, without; without, with; … : a drift falls on both sides alike.
        let order = if round % 2 == 0 { [true, false] } else { [false, true] };
        for is_with in order {
            attached = match (attached.take(), is_with) {
                (None, true) => Some(Attached::new(dir.to_owned())?),
                (Some(attached), false) => {
                    Attached::detach(attached)?;
                    None
                }
                (same, _) => same,
            };
            let side = if is_with { &mut with } else { &mut without };
            // Caches and branch predictors forget while programs are loaded.
            program::spawn_in_turn(&setting.program, spawns / 10)?;
            let spawn = program::spawn_in_turn(&setting.program, spawns)?;
            side.spawn.push(spawn.as_secs_f64() / f64::from(spawns));
            let connect = connect_in_turn(round, connects)?;
            side.connect.push(connect.as_secs_f64() / f64::from(connects));
        }
    }
    if let Some(attached) = attached {
        attached.detach()?;
    }
    for (what, with, without, budget) in [
        ("fork+exec+exit of a static binary, hooks on / off", &with.spawn, &without.spawn, 1.03),
        ("loopback TCP connect+close, hooks on / off", &with.connect, &without.connect, 1.05),
    ] {
        let ratios = ratios(with, without);
        let (low, high) = ratios.quartiles();
        let micros = |samples: &[f64]| Sorted::new(samples.iter().copied()).median() * 1e6;
        let detail =
            format!("{:.1} µs / {:.1} µs; middle half of the rounds {low:.3}–{high:.3}", micros(with), micros(without));
        report.row(Row::ratio(what, ratios.median(), detail, Budget::AtMost(budget)));
    }
    Ok(())
}

/// Each round has an address of its own, so that sockets in TIME_WAIT of another never stand in the way.
fn connect_in_turn(round: u8, count: u32) -> anyhow::Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 88, round.saturating_add(1)), 0))?;
    connect(&listener, count)
}

pub(crate) fn connect(listener: &TcpListener, count: u32) -> anyhow::Result<Duration> {
    let address = listener.local_addr()?;
    one_connection(listener, address)?;
    let began = Instant::now();
    for _ in 0..count {
        one_connection(listener, address)?;
    }
    Ok(began.elapsed())
}

fn one_connection(listener: &TcpListener, address: SocketAddr) -> anyhow::Result<()> {
    let client = TcpStream::connect(address)?;
    let (server, _) = listener.accept()?;
    drop(client);
    drop(server);
    Ok(())
}

fn run_times(setting: &Setting, report: &mut Report, dir: PathBuf) -> anyhow::Result<()> {
    let (rounds, count) = setting.times((40, 250), (10, 100));
    say(format_args!("mean run times of the kernel programs: {rounds} rounds of {count}"));
    let _times = ProgramTimes::keep()?;
    let attached = Attached::new(dir)?;
    let programs = &attached.programs;
    let (v4, v6) = (TcpListener::bind((Ipv4Addr::new(127, 0, 88, u8::MAX), 0))?, TcpListener::bind("[::1]:0")?);
    let mut means = vec![Vec::new(); programs.len()];
    for _ in 0..rounds {
        let before: Vec<(u64, u64)> = programs.iter().map(ProgramReport::runs).collect();
        program::spawn_in_turn(&setting.program, count)?;
        connect(&v4, count)?;
        connect(&v6, count)?;
        for ((program, (runs_before, time_before)), means) in programs.iter().zip(before).zip(&mut means) {
            let (runs, time) = program.runs();
            let (runs, time) = (runs.saturating_sub(runs_before), time.saturating_sub(time_before));
            if let (Ok(runs), Ok(time)) = (u32::try_from(runs), u32::try_from(time)) {
                means.push(f64::from(time) / f64::from(runs));
            }
        }
    }
    for (program, means) in programs.iter().zip(means) {
        let budget = match program.name {
            "connect4" | "connect6" | "sched_process_fork" => Budget::AtMost(500.0),
            "sched_process_exec" => Budget::AtMost(3000.0),
            "sendmsg4" | "sendmsg6" => continue,
            _ => Budget::None,
        };
        // Programs can be preempted, and then the kernel counts what ran instead: hence the middle round.
        let means = Sorted::new(means);
        let (low, high) = means.quartiles();
        ensure!(means.median().is_finite(), "{} did not run", program.name);
        let what = format!("kernel program {}, mean run time", program.name);
        let detail = format!("middle half of the rounds {low:.0}–{high:.0} ns");
        report.row(Row::new(what, means.median(), "ns", detail, budget));
    }
    report.note("Keeping the statistics costs the kernel some 20 to 40 ns a run itself, which is part of these means.");
    attached.detach()
}
