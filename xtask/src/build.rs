// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Debug builds of everything a person runs.

use anyhow::{Context, Result};

use crate::command;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    command::run(&mut workspace.cargo([
        "build",
        "--locked",
        "--package=agent-daemon",
        "--package=agentctl",
        "--package=example-agents",
    ]))
    .context("building the daemon, the CLI and the example agents")
}
