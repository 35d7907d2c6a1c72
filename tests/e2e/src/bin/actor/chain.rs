// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A line of processes that nobody can keep up with: each forks the next one, tries to connect, and ends.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::raw;

/// Nobody waits longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Starts the line and returns. It goes on until there is a file `stop`; each that got through writes when, in
/// microseconds since the start of the line, to `reached`, and each that did not to `refused`.
pub(crate) fn start(to: SocketAddr, folder: &Path) -> Result<()> {
    if raw::fork()? == 0 {
        let done = line(to, folder).or_else(|error| note(folder, "failed", &format!("{error:#}")));
        end(u8::from(done.is_err()));
    }
    Ok(())
}

fn line(to: SocketAddr, folder: &Path) -> Result<()> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    let began = Instant::now();
    while began.elapsed() < LIMIT && !folder.join("stop").exists() {
        if raw::fork()? > 0 {
            end(0);
        }
        let at = began.elapsed().as_micros().to_string();
        // A datagram socket, so that nobody has to take in what comes.
        match socket.connect(to) {
            Ok(()) => note(folder, "reached", &at)?,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => note(folder, "refused", &at)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a copy of the actor must not do what is the actor's to do at its end")]
fn end(code: u8) -> ! {
    std::process::exit(code.into())
}

fn note(folder: &Path, name: &str, what: &str) -> Result<()> {
    let next = folder.join(format!("{name}.next"));
    std::fs::write(&next, what)?;
    Ok(std::fs::rename(next, folder.join(name))?)
}
