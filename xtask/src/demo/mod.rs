// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The main job on real processes: the daemon, the CLI, an API and agents, good and bad, on this kernel.
//!
//! Builds nothing. Every claim that the story prints was checked just before; the first one that does not hold ends
//! the demo with an error that names the step.

mod actor;
mod agentctl;
mod python;
pub(crate) mod stage;
mod story;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Where the built parts are.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The folder with `agent-daemon`, `agentctl`, `demo-api`, `rust-agent` and `raw-ask`.
    pub(crate) binaries: PathBuf,
    /// A Python environment with `examples/agents/python/requirements.txt` installed.
    pub(crate) python: PathBuf,
    /// Leave the demo's folder behind for a look at the logs.
    pub(crate) keep: bool,
}

/// Tells the story. Must be root: the kernel programs need it, and the agents run as another user.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let uid = std::fs::metadata("/proc/self").context("/proc is not mounted")?.uid();
    ensure!(uid == 0, "the demo loads kernel programs and starts agents as another user: it needs root");
    let folder = tempfile::Builder::new().prefix("agent-demo-").tempdir().context("cannot make a folder")?;
    let outcome = story::tell(root, folder.path(), options);
    if options.keep {
        println!("\nLeft behind: {}", folder.keep().display());
    }
    outcome
}
