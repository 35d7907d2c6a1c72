// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A process that does what it is told, one JSON line a command, over the socket that `E2E_CONTROL` names.
//!
//! Every image and every forked child opens a control connection of its own and says who it is, so that the test
//! speaks to each of them alone.

mod chain;
mod commands;
mod grpc;
mod raw;
mod sockets;
mod uring;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::transport::Channel;

/// Everything a process of ours has.
struct Actor {
    control: BufReader<UnixStream>,
    /// Sockets and pipes by name.
    fds: HashMap<String, OwnedFd>,
    /// gRPC channels by the name of their socket.
    channels: HashMap<String, Channel>,
    runtime: Option<Runtime>,
}

/// Who takes the next command.
enum Next {
    /// This thread.
    Go,
    /// Nobody: the process ends.
    End(u8),
    /// Another thread; this one ends and the process does not.
    Abandon,
}

fn main() -> ExitCode {
    raw::ignore_children();
    let actor = Actor::start();
    match actor.and_then(serve) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // The test's own output shows it.
            drop(writeln!(std::io::stderr(), "actor {}: {error:#}", std::process::id()));
            ExitCode::from(2)
        }
    }
}

fn serve(mut actor: Actor) -> Result<u8> {
    loop {
        let mut line = String::new();
        // The test went away.
        if actor.control.read_line(&mut line).unwrap_or_default() == 0 {
            return Ok(0);
        }
        let command: Value = serde_json::from_str(&line).context("a command is not JSON")?;
        match actor.obey(&command) {
            Ok((reply, next)) => {
                actor.say(&reply)?;
                match next {
                    Next::Go => {}
                    Next::End(code) => return Ok(code),
                    Next::Abandon => {
                        std::thread::spawn(move || {
                            let code = serve(actor).unwrap_or(2);
                            #[expect(
                                clippy::disallowed_methods,
                                reason = "the main thread is gone, so it cannot return"
                            )]
                            std::process::exit(i32::from(code));
                        });
                        raw::exit_thread();
                    }
                }
            }
            Err(error) => {
                let errno = error.chain().find_map(|cause| match cause.downcast_ref::<rustix::io::Errno>() {
                    Some(errno) => Some(errno.raw_os_error()),
                    None => cause.downcast_ref::<std::io::Error>()?.raw_os_error(),
                });
                actor.say(&json!({"error": format!("{error:#}"), "errno": errno}))?;
            }
        }
    }
}

impl Actor {
    fn start() -> Result<Self> {
        let mut fds = HashMap::new();
        for pair in std::env::var("E2E_FDS").unwrap_or_default().split(',').filter(|pair| !pair.is_empty()) {
            let (name, number) = pair.split_once('=').context("E2E_FDS is malformed")?;
            fds.insert(name.to_owned(), raw::adopt(number.parse()?));
        }
        let mut actor = Self { control: control()?, fds, channels: HashMap::new(), runtime: None };
        actor.hello()?;
        Ok(actor)
    }

    fn hello(&mut self) -> Result<()> {
        let arguments: Vec<String> = std::env::args().collect();
        self.say(&json!({"pid": std::process::id(), "arguments": arguments}))
    }

    fn say(&mut self, reply: &Value) -> Result<()> {
        self.control.get_mut().write_all(format!("{reply}\n").as_bytes()).context("the test does not listen")
    }

    /// What a forked child must not share with its parent, and who it is now.
    fn become_child(&mut self) -> Result<()> {
        // Dropped, they would tear down the parent's: they share its epoll instance and connections.
        std::mem::forget(self.runtime.take());
        std::mem::forget(std::mem::take(&mut self.channels));
        self.control = control()?;
        self.hello()
    }
}

fn control() -> Result<BufReader<UnixStream>> {
    let path = std::env::var("E2E_CONTROL").context("E2E_CONTROL is not set")?;
    Ok(BufReader::new(UnixStream::connect(&path).with_context(|| format!("cannot connect to {path}"))?))
}
