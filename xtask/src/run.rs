// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon in the foreground on `examples/`, for a person to play with.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, ensure};

use crate::command::{self, say};
use crate::workspace::Workspace;
use crate::{build, setup};

/// Does not come back when the daemon started: the daemon takes the place of this process, so that signals,
/// the terminal and the exit code are its own. It prints one line per endpoint once it is ready.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace, setup::Scope::Run)?;
    build::run(workspace)?;
    let config = workspace.root().join("examples/config.toml");
    ensure!(config.is_file(), "there is no {}", config.display());
    let state = workspace.target().join("run");
    fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
    let filter = env::var_os("RUST_LOG");
    let environment: Vec<(&str, &OsStr)> = filter.iter().map(|filter| ("RUST_LOG", filter.as_os_str())).collect();
    let mut daemon = command::as_root("the daemon", &workspace.binaries().join("agent-daemon"), &environment)?;
    say(format_args!("starting the daemon on {}; its state is in {}", config.display(), state.display()));
    let error = daemon.arg("--config").arg(&config).current_dir(&state).exec();
    Err(error).context("cannot start the daemon")
}
