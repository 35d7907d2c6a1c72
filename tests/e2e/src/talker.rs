// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::wait::wait_for;

/// Lines that wait to be looked at; when there are more, the program waits.
const WAITING: usize = 1024;

/// A program that says what it sees, a JSON line each, until it is dropped.
#[derive(Debug)]
pub struct Talker {
    child: Child,
    lines: Receiver<Value>,
}

impl Talker {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("the output is not piped")?).lines();
        let (sender, receiver) = sync_channel(WAITING);
        std::thread::spawn(move || {
            // Ends with the child, or with whoever listens.
            for line in lines {
                let Ok(line) = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?))
                else {
                    return;
                };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines: receiver })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line, once it is there.
    ///
    /// # Errors
    /// When it does not come in time, or the program ended.
    pub fn next(&self, within: Duration) -> Result<Value> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("process {} said nothing for {within:?}", self.pid()),
            Err(RecvTimeoutError::Disconnected) => bail!("process {} ended", self.pid()),
        }
    }

    /// A line that fits, if there is one by now; those before it are gone then.
    ///
    /// # Errors
    /// When the program ended.
    pub(crate) fn heard(&self, fits: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
        loop {
            match self.lines.try_recv() {
                Ok(line) if fits(&line) => return Ok(Some(line)),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => bail!("process {} ended", self.pid()),
            }
        }
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        wait_for("a program should have ended", || Ok(self.child.try_wait()?))
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        // It may have ended by itself, with the daemon.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
