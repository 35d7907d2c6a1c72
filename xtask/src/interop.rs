// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tests against programs in Go, which take minutes to build: go-spiffe, and a SPIRE server with its agent.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{self, say};
use crate::test;
use crate::workspace::Workspace;

/// What the whole-program tests of this tier are called.
pub(crate) const TEST_PROGRAM: &str = "interop";
const SPIRE: [&str; 2] = ["spire-server", "spire-agent"];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Given to the test program: name filters and libtest's options
    #[arg(last = true)]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let built = workspace.target().join("interop-go");
    build(workspace, "client", &built, &["."])?;
    let spire = spire(workspace)?;
    let environment = [("AGENT_TEST_GO", built.as_os_str()), ("AGENT_TEST_SPIRE", spire.as_os_str())];
    test::whole_program(workspace, test::Tier::Interop, &environment, &options.arguments)?;
    say("all tests against programs in Go passed");
    Ok(())
}

/// The folder with SPIRE's programs: that of `SPIRE_BIN`, or one in which they are built from their sources.
pub(crate) fn spire(workspace: &Workspace) -> Result<PathBuf> {
    let folder = match std::env::var_os("SPIRE_BIN").map(PathBuf::from) {
        Some(folder) => folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?,
        None => {
            let built = workspace.target().join("interop-go");
            build(workspace, "spire", &built, &SPIRE.map(|program| format!("github.com/spiffe/spire/cmd/{program}")))?;
            built
        }
    };
    for program in SPIRE {
        ensure!(folder.join(program).is_file(), "there is no {program} in {}", folder.display());
    }
    Ok(folder)
}

fn build(workspace: &Workspace, module: &str, into: &Path, packages: &[impl AsRef<str>]) -> Result<()> {
    let go = command::on_path("go")
        .context("Go is not installed (https://go.dev/dl); this tier builds its peers from their sources")?;
    let folder = workspace.root().join("tests/e2e/go").join(module);
    say(format_args!("building tests/e2e/go/{module} (the first time takes minutes)"));
    let mut command = Command::new(go);
    // The trailing slash says that it is a folder, even if there is none yet.
    command.args(["build", "-trimpath", "-o"]).arg(into.join("")).args(packages.iter().map(AsRef::as_ref));
    command::run(command.current_dir(folder))
}
