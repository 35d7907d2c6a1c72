// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One process of the demo. It ends with its guard, whatever happens.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines that nobody has asked for yet; a process that prints more waits.
const UNREAD_LINES: usize = 1024;
const STDERR_SHOWN_BYTES: usize = 4096;

/// Who a process runs as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum User {
    Root,
    Unprivileged(u32),
}

/// A running process whose standard output is read line by line.
pub(crate) struct Actor {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: PathBuf,
}

impl Actor {
    /// Starts it with exactly the environment that `command` was given.
    pub(crate) fn start(name: &str, mut command: Command, user: User, stderr: PathBuf) -> Result<Self> {
        if let User::Unprivileged(id) = user {
            // The standard library drops the supplementary groups as well.
            command.uid(id).gid(id);
        }
        let log = File::create(&stderr).with_context(|| format!("cannot create {}", stderr.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().to_string_lossy()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("bug: standard output is not a pipe")?;
        let (sender, lines) = sync_channel(UNREAD_LINES);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { name: name.to_owned(), child, stdin, lines, stderr })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The rest of the next line that starts with `prefix`.
    pub(crate) fn line(&self, prefix: &str) -> Result<String> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let line = self.next(deadline).with_context(|| format!("waiting for `{prefix}`"))?;
            if let Some(rest) = line.strip_prefix(prefix) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// The next step; it must be the one that is expected.
    pub(crate) fn step(&self, expected: &str) -> Result<Value> {
        let line = self
            .next(Instant::now() + STEP_TIMEOUT)
            .with_context(|| format!("{} should have said `{expected}`", self.name))?;
        let step: Value =
            serde_json::from_str(&line).with_context(|| format!("{} printed something else: {line}", self.name))?;
        let said = step.get("step").and_then(Value::as_str).unwrap_or_default();
        if said != expected {
            bail!("{} should have said `{expected}`, it said {line}", self.name);
        }
        Ok(step)
    }

    fn next(&self, deadline: Instant) -> Result<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("{} said nothing for too long{}", self.name, self.complaint()),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended too early{}", self.name, self.complaint()),
        }
    }

    /// Closes its standard input and waits for its end: the agents live until then.
    pub(crate) fn let_go(mut self) -> Result<ExitStatus> {
        self.stdin = None;
        self.wait()
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub(crate) fn terminate(mut self) -> Result<ExitStatus> {
        // Every shell has `kill`; a program of that name is not everywhere.
        let pid = self.pid().to_string();
        let sent = Command::new("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]).status()?;
        anyhow::ensure!(sent.success(), "cannot send SIGTERM to {}", self.name);
        self.wait()
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} did not end in time{}", self.name, self.complaint());
            }
            // There is no portable wait with a deadline; this is a demo and not a race.
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of what it wrote to standard error, for an error message.
    pub(crate) fn complaint(&self) -> String {
        let text = std::fs::read(&self.stderr).unwrap_or_default();
        let start = text.len().saturating_sub(STDERR_SHOWN_BYTES);
        let shown = String::from_utf8_lossy(text.get(start..).unwrap_or_default()).trim().to_owned();
        if shown.is_empty() { String::new() } else { format!("; it complained:\n{shown}") }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Already gone is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// For people: `0`, or the signal's number.
pub(crate) fn exit_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &std::path::Path) -> Actor {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Actor::start("actor", command, User::Root, folder.join("stderr")).unwrap()
    }

    #[test]
    fn steps_are_read_in_order_and_another_step_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let actor = shell(r#"echo READY 7; echo '{"step":"one"}'; echo '{"step":"two"}'; cat"#, folder.path());
        assert_eq!(actor.line("READY ").unwrap(), "7");
        actor.step("one").unwrap();
        let error = actor.step("three").unwrap_err().to_string();
        assert!(error.contains("`three`") && error.contains("two"), "{error}");
        assert_eq!(actor.let_go().unwrap().code(), Some(0));
    }

    #[test]
    fn an_actor_that_ends_too_early_is_an_error_with_its_complaint() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", shell("echo no luck >&2", folder.path()).step("one").unwrap_err());
        assert!(error.contains("ended too early") && error.contains("no luck"), "{error}");
    }

    #[test]
    fn termination_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let status = shell("exec cat", folder.path()).terminate().unwrap();
        assert_eq!(exit_text(status), "signal 15");
    }
}
