// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::thread::LinkNameSpaceType;
use serde_json::{Value, json};

use crate::{Actor, Next, chain, raw, sockets};

/// A member of a command, as text.
pub(crate) fn text<'a>(command: &'a Value, name: &str) -> Result<&'a str> {
    command.get(name).and_then(Value::as_str).with_context(|| format!("{name} is missing"))
}

pub(crate) fn number(command: &Value, name: &str) -> Result<u32> {
    let number = command.get(name).and_then(Value::as_u64).with_context(|| format!("{name} is missing"))?;
    Ok(u32::try_from(number)?)
}

fn is_set(command: &Value, name: &str) -> bool {
    command.get(name).and_then(Value::as_bool).unwrap_or_default()
}

impl Actor {
    /// One command; in a forked child this returns too.
    pub(crate) fn obey(&mut self, command: &Value) -> Result<(Value, Next)> {
        let reply = match text(command, "do")? {
            "connect" | "send_to" | "fast_open" | "uring" => self.open(command)?,
            "reopen" => {
                let socket = self.fd(text(command, "socket")?)?;
                rustix::net::connect(socket, &sockets::address(command)?)?;
                json!({"cookie": sockets::cookie(socket)?})
            }
            "cookie" => json!({"cookie": sockets::cookie(self.fd(text(command, "socket")?)?)?}),
            "socket" => self.socket(command)?,
            "send_message" => self.send_message(command)?,
            "listen" => self.listen(command)?,
            "close" => json!({"closed": self.fds.remove(text(command, "socket")?).is_some()}),
            "pass" => sockets::pass(self.fd(text(command, "socket")?)?, text(command, "to")?)?,
            "await_fd" => {
                let listener = sockets::listen_unix(text(command, "at")?)?;
                self.name(command, listener)?;
                json!({})
            }
            "take" => {
                let taken = sockets::take(self.fd(text(command, "from")?)?)?;
                self.name(command, taken)?;
                json!({})
            }
            "channel" => {
                let stream = std::os::unix::net::UnixStream::connect(text(command, "to")?)?;
                sockets::greeted(&stream)?;
                self.name(command, stream.into())?;
                json!({})
            }
            "call" => self.call(command)?,
            "write" => sockets::write(self.fd(text(command, "socket")?)?, text(command, "bytes")?)?,
            "read" => sockets::read_all(self.fd(text(command, "socket")?)?)?,
            "fork" => return self.fork(command),
            "run" => run(command)?,
            "exec" => return Err(self.exec(command)),
            "call_and_exec" => {
                let done = self.call_and_leave(command)?;
                self.say(&done)?;
                return Err(self.exec(command));
            }
            "abandon_leader" => return Ok((json!({}), Next::Abandon)),
            "set_uid" => {
                raw::set_uid(number(command, "uid")?)?;
                json!({})
            }
            "own_network" => {
                raw::own_network()?;
                json!({})
            }
            "join_network" => {
                let namespace = fs::File::open(text(command, "of")?)?;
                rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                json!({})
            }
            "own_mounts" => {
                own_mounts()?;
                json!({})
            }
            "bind" => {
                let (from, over) = (text(command, "from")?, text(command, "over")?);
                rustix::mount::mount_bind(from, over).with_context(|| format!("cannot mount over {over}"))?;
                json!({})
            }
            "unbind" => {
                rustix::mount::unmount(text(command, "at")?, rustix::mount::UnmountFlags::DETACH)?;
                json!({})
            }
            "put" => {
                let path = text(command, "path")?;
                fs::write(path, text(command, "text")?).with_context(|| format!("cannot write {path}"))?;
                json!({})
            }
            "chain" => {
                chain::start(text(command, "to")?.parse()?, text(command, "folder")?.as_ref())?;
                json!({})
            }
            "exit" => return Ok((json!({}), Next::End(0))),
            other => bail!("unknown command {other}"),
        };
        Ok((reply, Next::Go))
    }

    /// Keeps a descriptor under the name the command gives; what had it before is closed.
    fn name(&mut self, command: &Value, fd: OwnedFd) -> Result<()> {
        let name = text(command, "as")?;
        self.channels.remove(name);
        self.fds.insert(name.to_owned(), fd);
        Ok(())
    }

    /// A child that obeys on its own. Its number goes to the parent's test.
    fn fork(&mut self, command: &Value) -> Result<(Value, Next)> {
        let wanted = command.get("pid").map(|_| number(command, "pid")).transpose()?;
        let cgroup =
            command.get("cgroup").map(|_| fs::File::open(text(command, "cgroup")?).map_err(anyhow::Error::from));
        let cgroup = cgroup.transpose()?;
        let pid = match (wanted, &cgroup) {
            (None, None) => raw::fork()?,
            (wanted, cgroup) => raw::fork_into(wanted, cgroup.as_ref().map(|cgroup| cgroup.as_fd()))?,
        };
        if pid == 0 {
            self.become_child()?;
            // Its first command has been obeyed: what it says now is not an answer to anybody.
            let line = self.next_line()?;
            return self.obey(&line);
        }
        Ok((json!({"pid": pid}), Next::Go))
    }

    fn next_line(&mut self) -> Result<Value> {
        use std::io::BufRead as _;
        let mut line = String::new();
        ensure!(self.control.read_line(&mut line)? > 0, "the test went away");
        Ok(serde_json::from_str(&line)?)
    }

    /// Becomes another image. Returns only if that fails.
    fn exec(&mut self, command: &Value) -> anyhow::Error {
        match self.prepare_exec(command) {
            Ok(mut image) if is_set(command, "from_thread") => {
                let failed = std::thread::spawn(move || image.exec()).join();
                failed.map_or_else(|_| anyhow::anyhow!("the thread panicked"), anyhow::Error::from)
            }
            Ok(mut image) => image.exec().into(),
            Err(error) => error,
        }
    }

    fn prepare_exec(&self, command: &Value) -> Result<Command> {
        let program = text(command, "program")?;
        let mut kept = Vec::new();
        for name in command.get("keep").and_then(Value::as_array).into_iter().flatten() {
            let name = name.as_str().context("keep holds names")?;
            let fd = self.fd(name)?;
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
            kept.push(format!("{name}={}", fd.as_raw_fd()));
        }
        let mut image = if is_set(command, "memfd") {
            let memory = rustix::fs::memfd_create("e2e", rustix::fs::MemfdFlags::CLOEXEC)?;
            let mut file = fs::File::from(memory);
            std::io::copy(&mut fs::File::open(program)?, &mut file)?;
            by_descriptor(file)
        } else if is_set(command, "unlink") {
            let file = fs::File::open(program)?;
            fs::remove_file(program)?;
            by_descriptor(file)
        } else {
            Command::new(program)
        };
        for argument in command.get("arguments").and_then(Value::as_array).into_iter().flatten() {
            image.arg(argument.as_str().context("arguments are text")?);
        }
        image.env("E2E_FDS", kept.join(","));
        Ok(image)
    }
}

/// A user namespace in which this user may do anything, and a mount namespace that belongs to it.
fn own_mounts() -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    raw::own_mounts()?;
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        fs::write(format!("/proc/self/{file}"), text).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )?)
}

/// The descriptor closes on exec, after the kernel has resolved its name.
fn by_descriptor(file: fs::File) -> Command {
    let image = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    std::mem::forget(file);
    image
}

/// Starts a program, and waits for its end: what it wrote, and how it ended or why it did not begin.
fn run(command: &Value) -> Result<Value> {
    let arguments = command.get("arguments").and_then(Value::as_array).cloned().unwrap_or_default();
    let arguments = arguments.iter().filter_map(Value::as_str);
    raw::keep_children();
    let ran = Command::new(text(command, "program")?).args(arguments).stdin(Stdio::null()).output();
    raw::ignore_children();
    Ok(match ran {
        Ok(output) => json!({
            "output": String::from_utf8_lossy(&output.stdout),
            "code": output.status.code(),
            "signal": output.status.signal(),
        }),
        Err(error) => json!({"failed": error.raw_os_error(), "output": ""}),
    })
}
