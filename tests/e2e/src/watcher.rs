// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::daemon::binaries;
use crate::talker::Talker;
use crate::wait::wait_for;

/// An operator who watches the kernel: `agentctl watch --kernel`, until it is dropped.
#[derive(Debug)]
pub struct Watcher(Talker);

impl Watcher {
    pub(crate) fn start(admin_socket: &Path) -> Result<Self> {
        let mut command = Command::new(binaries()?.join("agentctl"));
        command.args(["--output", "json", "--admin-socket"]).arg(admin_socket).args(["watch", "--kernel"]);
        command.env_remove("AGENT_ADMIN_SOCKET");
        Talker::start(command).map(Self)
    }

    /// Waits for an event that fits; those before it are gone then.
    ///
    /// # Errors
    /// When it does not come, or the watching ends.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(what, || self.0.heard(&fits))
    }

    /// Whether there is such an event by now; those before it are gone then.
    pub(crate) fn sees(&self, fits: impl Fn(&Value) -> bool) -> Result<bool> {
        Ok(self.0.heard(fits)?.is_some())
    }
}
