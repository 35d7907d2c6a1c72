// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for;

const READY: Duration = Duration::from_secs(60);
const ENDPOINTS: usize = 3;
const LOG_SHOWN_BYTES: usize = 6000;

/// Where the product's programs are.
///
/// # Errors
/// When there is no such place.
pub fn binaries() -> Result<PathBuf> {
    let path = match std::env::var_os("AGENT_TEST_BINARIES") {
        Some(path) => path.into(),
        None => std::env::current_exe()?
            .ancestors()
            .nth(2)
            .context("a test program has no place for binaries beside it")?
            .to_owned(),
    };
    anyhow::ensure!(path.join("agent-daemon").exists(), "{} holds no agent-daemon: build it first", path.display());
    Ok(path)
}

/// The daemon as a process. It ends with this guard, and its programs leave the kernel.
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    pub(crate) fn new(config: PathBuf, log: PathBuf) -> Result<Self> {
        Ok(Self { binary: binaries()?.join("agent-daemon"), config, log, child: None })
    }

    /// The command that would start it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--log-format", "text", "--config"]).arg(&self.config);
        command
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up; with its log.
    pub fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.command();
        command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = child.stdout.take().context("bug: standard output is not a pipe")?;
        self.child = Some(child);
        let (sender, lines) = sync_channel(64);
        std::thread::spawn(move || {
            // The pipe is read to its end, so that the daemon never waits for us.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.try_send(line));
            }
        });
        let mut endpoints = Vec::new();
        for _ in 0..ENDPOINTS {
            match lines.recv_timeout(READY) {
                Ok(line) => endpoints.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the daemon is not ready after {READY:?}\n{}", self.complaint())
                }
                Err(RecvTimeoutError::Disconnected) => bail!("the daemon did not come up\n{}", self.complaint()),
            }
        }
        // People paste these, so they have to lead somewhere as they stand.
        for name in ["AGENT_SOCKET", "AGENT_ADMIN_SOCKET", "SPIFFE_ENDPOINT_SOCKET"] {
            let path = endpoints.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix("=unix:"));
            let leads = path.is_some_and(|path| Path::new(path).is_absolute() && Path::new(path).exists());
            ensure!(leads, "no line of {name} leads to a socket: {endpoints:?}");
        }
        Ok(())
    }

    /// Its process number; zero while it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("the daemon does not run")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it as nobody can prevent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait().map(drop)
    }

    /// Asks it to stop, and waits.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the daemon does not run")?;
        wait_for("the daemon should have ended", || Ok(child.try_wait()?))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its resident memory in KiB.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }

    /// The end of its log.
    pub fn complaint(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let start = text.len().saturating_sub(LOG_SHOWN_BYTES);
        String::from_utf8_lossy(text.get(start..).unwrap_or_default()).trim().to_owned()
    }

    /// Everything it logged.
    ///
    /// # Errors
    /// When there is no log.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "beside the failed assertion")]
            {
                eprintln!("the daemon's log:\n{}", self.complaint());
            }
        }
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        let mut unload = Command::new(&self.binary);
        unload.arg("--unload").arg("--config").arg(&self.config).stdin(Stdio::null()).stderr(Stdio::null());
        if let Ok(log) = File::options().append(true).open(&self.log) {
            unload.stderr(log);
        }
        drop(unload.status());
    }
}

/// Takes down what earlier runs left pinned when they were killed.
pub(crate) fn sweep_pins(root: &Path, prefix: &str) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            for pin in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                drop(fs::remove_file(pin.path()));
            }
            drop(fs::remove_dir(entry.path()));
        }
    }
}
