// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::control::Control;
use crate::wait::wait_until;

/// A process that obeys. It ends with this guard.
#[derive(Debug)]
pub struct Actor {
    pid: u32,
    stream: BufReader<UnixStream>,
    control: Arc<Control>,
    /// Ours to wait for; a forked child is its parent's.
    child: Option<Child>,
}

impl Actor {
    pub(crate) fn of_child(child: Child, control: &Arc<Control>) -> Result<Self> {
        let pid = child.id();
        Ok(Self { pid, stream: control.report(pid)?, control: Arc::clone(control), child: Some(child) })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Does a command; what it failed with is an answer.
    ///
    /// # Errors
    /// When the process does not answer.
    pub fn tell(&mut self, command: &Value) -> Result<Value> {
        self.send(command)?;
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).with_context(|| format!("no answer to {command}"))?;
        ensure!(length > 0, "process {} ended while it did {command}", self.pid);
        serde_json::from_str(&line).with_context(|| format!("{command} was answered {line}"))
    }

    /// Does a command that has to work.
    ///
    /// # Errors
    /// When it does not.
    pub fn act(&mut self, command: &Value) -> Result<Value> {
        let answer = self.tell(command)?;
        match answer.get("error") {
            Some(error) => bail!("{command} failed: {error}"),
            None => Ok(answer),
        }
    }

    fn send(&mut self, command: &Value) -> Result<()> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes()).context("the actor is gone")
    }

    /// Connects as `name`; gives the socket's cookie.
    ///
    /// # Errors
    /// When it cannot.
    pub fn connect(&mut self, name: &str, to: &str) -> Result<u64> {
        let opened = self.act(&json!({"do": "connect", "as": name, "to": to}))?;
        ensure!(opened["failed"].is_null(), "cannot connect to {to}: errno {}", opened["failed"]);
        opened["cookie"].as_u64().context("no cookie")
    }

    /// A forked child. With a number, it gets exactly that one.
    ///
    /// # Errors
    /// When it cannot.
    pub fn fork(&mut self, pid: Option<u32>) -> Result<Self> {
        let mut command = json!({"do": "fork"});
        if let Some(pid) = pid {
            command["pid"] = pid.into();
        }
        self.fork_as(&command)
    }

    /// A forked child that begins in another cgroup, whose directory this is.
    ///
    /// # Errors
    /// When it cannot.
    pub fn fork_into(&mut self, cgroup: &Path) -> Result<Self> {
        self.fork_as(&json!({"do": "fork", "cgroup": cgroup.to_str().context("not a text")?}))
    }

    fn fork_as(&mut self, command: &Value) -> Result<Self> {
        let pid = self.act(command)?["pid"].as_u64().context("no process number")?;
        let pid = u32::try_from(pid)?;
        let stream = self.control.report(pid)?;
        Ok(Self { pid, stream, control: Arc::clone(&self.control), child: None })
    }

    /// Becomes another image: `command` is an `exec` in one of its ways.
    ///
    /// # Errors
    /// When it stays what it was.
    pub fn become_image(&mut self, command: &Value) -> Result<()> {
        self.send(command)?;
        self.next_image()
    }

    /// Becomes another image from a plain file.
    ///
    /// # Errors
    /// As [`Self::become_image`].
    pub fn exec(&mut self, program: &str, keep: &[&str]) -> Result<()> {
        self.become_image(&json!({"do": "exec", "program": program, "keep": keep}))
    }

    /// A call that is sent just before another image takes the process over. Gives what came of it before.
    ///
    /// # Errors
    /// When it stays what it was.
    pub fn call_and_exec(&mut self, command: &Value) -> Result<Value> {
        let before = self.act(command)?;
        self.next_image()?;
        Ok(before)
    }

    fn next_image(&mut self) -> Result<()> {
        let mut line = String::new();
        // The connection closes on exec; an answer means that there was none.
        let length = self.stream.read_line(&mut line).unwrap_or_default();
        ensure!(length == 0, "no exec: {line}");
        self.stream = self.control.report(self.pid)?;
        Ok(())
    }

    /// Ends by itself, and is waited for.
    ///
    /// # Errors
    /// When it does not end.
    pub fn exit(mut self) -> Result<()> {
        self.act(&json!({"do": "exit"}))?;
        match &mut self.child {
            Some(child) => drop(child.wait()?),
            None => {
                let proc = format!("/proc/{}", self.pid);
                wait_until("a process should have ended", || Ok(!Path::new(&proc).exists()))?;
            }
        }
        Ok(())
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // A forked child ends when its control connection closes.
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
