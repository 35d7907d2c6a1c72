// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What must not be left behind, whatever ends the run: pins in the kernel and a changed setting.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use agent_daemon::kernel;
use anyhow::Context as _;

static LEFT: Mutex<Left> = Mutex::new(Left { pin_dirs: Vec::new(), statistics: None });

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

struct Left {
    pin_dirs: Vec<PathBuf>,
    /// What the setting was before.
    statistics: Option<String>,
}

/// A pin directory of ours: empty now, and taken down at the end.
pub(crate) fn pin_dir(name: &str) -> anyhow::Result<PathBuf> {
    let dir = Path::new("/sys/fs/bpf").join(format!("agent-daemon-bench-{name}"));
    kernel::unload(&dir).context("cannot take down what an earlier run left")?;
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    if !left.pin_dirs.contains(&dir) {
        left.pin_dirs.push(dir.clone());
    }
    Ok(dir)
}

/// Lets the kernel time its programs; dropping it puts the setting back.
#[derive(Debug)]
pub(crate) struct ProgramTimes;

impl ProgramTimes {
    pub(crate) fn keep() -> anyhow::Result<Self> {
        let before = fs::read_to_string(STATISTICS).context("this kernel keeps no statistics of programs")?;
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).statistics = Some(before);
        fs::write(STATISTICS, "1").context("cannot turn the statistics of programs on")?;
        Ok(Self)
    }
}

impl Drop for ProgramTimes {
    fn drop(&mut self) {
        restore(&mut LEFT.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn restore(left: &mut Left) {
    if let Some(before) = left.statistics.take()
        && let Err(error) = fs::write(STATISTICS, before.trim())
    {
        crate::say(format_args!("{STATISTICS} is still on: {error}"));
    }
}

/// Takes everything back. Idempotent.
pub(crate) fn run() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    restore(&mut left);
    for dir in left.pin_dirs.drain(..) {
        if let Err(error) = kernel::unload(&dir) {
            crate::say(format_args!("{} is left behind: {error}", dir.display()));
        }
    }
}

/// An interrupted run cleans up too. The daemons of the run get the terminal's signal themselves.
#[expect(clippy::exit, clippy::disallowed_methods, reason = "nothing else ends the measuring thread, and all is clean")]
pub(crate) fn on_signals() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        use tokio::signal::unix::{SignalKind, signal};
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            run();
            std::process::exit(130);
        });
    })?;
    Ok(())
}
