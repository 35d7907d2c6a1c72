// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::wait::wait_for;

/// An actor that does not answer within this hangs.
const ANSWER: Duration = Duration::from_secs(90);

/// Where actors report: every process image opens one connection and says its process number first.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Those that reported and were not asked for yet.
    waiting: Mutex<HashMap<u32, BufReader<UnixStream>>>,
}

impl Control {
    pub(crate) fn bind(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| format!("cannot bind {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path: path.to_owned(), waiting: Mutex::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next report of a process.
    pub(crate) fn report(&self, pid: u32) -> Result<BufReader<UnixStream>> {
        wait_for(&format!("process {pid} should have reported"), || {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while let Ok((stream, _)) = self.listener.accept() {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(ANSWER))?;
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                reader.read_line(&mut line).context("an actor did not say who it is")?;
                let hello: Value = serde_json::from_str(&line)?;
                let who = hello.get("pid").and_then(Value::as_u64).context("an actor did not say its number")?;
                waiting.insert(u32::try_from(who)?, reader);
            }
            Ok(waiting.remove(&pid))
        })
    }
}
