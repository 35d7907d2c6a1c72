// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Many processes at once: is every exec bound to its program?

use std::thread;
use std::time::Duration;

use agent_daemon::kernel::Maps;
use agent_daemon::process::{ExecInstance, Records as _};
use agent_ebpf::flags;
use anyhow::{Context as _, anyhow, ensure};

use crate::hooks::Attached;
use crate::program::Waiting;
use crate::report::{Budget, Report, Row};
use crate::{Setting, cleanup, say};

const THREADS: usize = 4;
/// Processes alive at once, of each thread.
const BATCH: usize = 250;
/// A parent goes on a moment before the exec of its child is complete.
const SETTLE: u32 = 2000;

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let batches = setting.times(50, 5);
    let total = THREADS * batches * BATCH;
    say(format_args!("a storm of {total} fork+exec from {THREADS} threads, each looked up"));
    let attached = Attached::new(cleanup::pin_dir("storm")?)?;
    let maps = &*attached.maps;
    let before = maps.counts();
    let lost = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| storm(setting, maps, batches))).collect();
        threads.into_iter().try_fold(0, |lost, thread| -> anyhow::Result<usize> {
            Ok(lost + thread.join().map_err(|_| anyhow!("bug: a thread of the storm panicked"))??)
        })
    })?;
    let failures: Vec<String> = maps
        .counts()
        .iter()
        .zip(&before)
        // A full event buffer loses hints, never bindings.
        .filter(|(after, before)| after.name != "events_dropped" && after.value > before.value)
        .map(|(after, before)| format!("{} {}", after.name, after.value - before.value))
        .collect();
    attached.detach()?;
    let failures = if failures.is_empty() { "no failure counted".to_owned() } else { failures.join(", ") };
    let detail = format!("{total} execs, up to {} alive at once, each looked up; {failures}", THREADS * BATCH);
    let lost = f64::from(u32::try_from(lost)?);
    report.row(Row::new("exec bindings lost in a storm of fork+exec", lost, "", detail, Budget::AtMost(0.0)));
    Ok(())
}

fn storm(setting: &Setting, maps: &Maps, batches: usize) -> anyhow::Result<usize> {
    let name = setting.program.as_os_str().as_encoded_bytes();
    let own = std::process::id();
    let mut lost = 0;
    for _ in 0..batches {
        let waiting = Waiting::spawn(&setting.program, BATCH)?;
        for tgid in waiting.tgids() {
            let is_bound = settled(maps, tgid)?.is_some_and(|instance| {
                let is_whole = !instance.flags.has(flags::INCOMPLETE | flags::FORK | flags::SEEDED);
                let parent = instance.ancestors.first().is_some_and(|parent| parent.tgid == own);
                is_whole && parent && *instance.filename == *name && instance.exe.inode != 0
            });
            lost += usize::from(!is_bound);
        }
        let tgids: Vec<u32> = waiting.tgids().collect();
        drop(waiting);
        for tgid in tgids {
            ensure!(maps.process(tgid)?.is_none_or(|left| *left.filename != *name), "a record outlived its process");
        }
    }
    Ok(lost)
}

fn settled(maps: &Maps, tgid: u32) -> anyhow::Result<Option<ExecInstance>> {
    for _ in 0..SETTLE {
        match maps.process(tgid).context("cannot read a record")? {
            Some(instance) if instance.flags.has(flags::FORK) => thread::sleep(Duration::from_micros(200)),
            other => return Ok(other),
        }
    }
    Ok(maps.process(tgid)?)
}
