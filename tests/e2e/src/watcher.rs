// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::daemon::binaries;
use crate::wait::wait_for;

/// Events that wait to be looked at; when there are more, `agentctl` waits.
const WAITING: usize = 1024;

/// An operator who watches the kernel: `agentctl watch --kernel`, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    child: Child,
    events: Receiver<Value>,
}

impl Watcher {
    pub(crate) fn start(admin_socket: &Path) -> Result<Self> {
        let mut command = Command::new(binaries()?.join("agentctl"));
        command.args(["--output", "json", "--admin-socket"]).arg(admin_socket).args(["watch", "--kernel"]);
        command.env_remove("AGENT_ADMIN_SOCKET").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("the output is not piped")?).lines();
        let (sender, events) = sync_channel(WAITING);
        std::thread::spawn(move || {
            // Ends with the child, or with the watcher.
            for line in lines {
                let Ok(event) = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?))
                else {
                    return;
                };
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, events })
    }

    /// Waits for an event that fits; those before it are gone then.
    ///
    /// # Errors
    /// When it does not come, or the watching ends.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(what, || self.next(&fits))
    }

    /// Whether there is such an event by now; those before it are gone then.
    pub(crate) fn sees(&self, fits: impl Fn(&Value) -> bool) -> Result<bool> {
        Ok(self.next(fits)?.is_some())
    }

    fn next(&self, fits: impl Fn(&Value) -> bool) -> Result<Option<Value>> {
        loop {
            match self.events.try_recv() {
                Ok(event) if fits(&event) => return Ok(Some(event)),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => bail!("agentctl watch ended"),
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It may have ended by itself, with the daemon.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
