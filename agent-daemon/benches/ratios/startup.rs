// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Size, memory, and the time from exec to ready.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::daemon::{ALL_LEASES, Installed, Plan};
use crate::program::Waiting;
use crate::report::{Budget, Report, Row};
use crate::statistics::Sorted;
use crate::{Setting, say};

const PROCESSES: usize = 1000;
const MB: f64 = 1e6;

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let starts = setting.times(7, 3);
    say(format_args!("size, memory, {starts} first starts and {starts} restarts with {PROCESSES} live processes"));
    let installed =
        Installed::new(setting, &Plan { name: "startup", durability: "written", policies: 10, leases: ALL_LEASES })?;
    let waiting = Waiting::spawn(&setting.program, PROCESSES)?;
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        installed.reset()?;
        for samples in [&mut first, &mut again] {
            let daemon = installed.start()?;
            samples.push((daemon.ready_after, daemon.cpu_time()?));
        }
    }
    drop(waiting);
    for (what, samples) in [
        ("first start to ready with 1,000 live processes (all seeded, keys made)", first),
        ("restart to ready with 1,000 live processes (programs adopted)", again),
    ] {
        let (ready_after, cpu_time): (Vec<_>, Vec<_>) = samples.into_iter().unzip();
        let (sorted, cpu_time) = (Sorted::of(ready_after), Sorted::of(cpu_time).median());
        let slowest = sorted.per_mille(1000);
        let detail = format!("{starts} starts; slowest {:.0} ms; CPU time {:.0} ms", slowest * 1e3, cpu_time * 1e3);
        report.row(Row::new(what, sorted.median() * 1e3, "ms", detail, Budget::AtMost(300.0)));
    }

    installed.reset()?;
    let daemon = installed.start()?;
    let (at_start, _) = daemon.resident_bytes()?;
    let idle = setting.times(5, 2);
    thread::sleep(Duration::from_secs(idle));
    let (resident, anonymous) = daemon.resident_bytes()?;
    let detail = format!(
        "{:.1} MB when ready; {idle} s later, {:.1} MB of it anonymous, the rest program text and the event buffer",
        at_start / MB,
        anonymous / MB
    );
    let what = "idle resident memory of the daemon";
    report.row(Row::new(what, resident / MB, "MB", detail, Budget::AtMost(20.0)));
    let size = f64::from(u32::try_from(fs::metadata(&setting.daemon)?.len())?) / MB;
    report.row(Row::new("stripped release binary of the daemon", size, "MB", String::new(), Budget::AtMost(20.0)));
    Ok(())
}
