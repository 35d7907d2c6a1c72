// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Starting the minimal program, once after the other or many at once.

use std::io::PipeWriter;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

/// How long so many take, from fork to reaped, one after the other.
pub(crate) fn spawn_in_turn(program: &Path, count: u32) -> anyhow::Result<Duration> {
    let mut command = Command::new(program);
    command.env_clear();
    let began = Instant::now();
    for _ in 0..count {
        let status = command.status().with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(status.success(), "the minimal program failed: {status}");
    }
    Ok(began.elapsed())
}

/// Processes that wait. Dropped, they end and are reaped.
#[derive(Debug)]
pub(crate) struct Waiting {
    children: Vec<Child>,
    /// When this end closes, all of them see the end of their input.
    end: Option<PipeWriter>,
}

impl Waiting {
    pub(crate) fn spawn(program: &Path, count: usize) -> anyhow::Result<Self> {
        let (input, end) = std::io::pipe()?;
        let mut waiting = Self { children: Vec::with_capacity(count), end: Some(end) };
        let mut command = Command::new(program);
        command.env_clear().arg("wait");
        for _ in 0..count {
            command.stdin(Stdio::from(input.try_clone()?));
            waiting.children.push(command.spawn().with_context(|| format!("cannot run {}", program.display()))?);
        }
        Ok(waiting)
    }

    pub(crate) fn tgids(&self) -> impl Iterator<Item = u32> {
        self.children.iter().map(Child::id)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.end.take());
        for child in &mut self.children {
            // Nothing is left to be done about one that cannot be waited for.
            let _reaped = child.wait();
        }
    }
}
