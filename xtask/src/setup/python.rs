// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The Python environments: of the example agents in `target/python`, of the whole-program tests in `target/interop`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::packages::{self, Packages};
use crate::command::{self, say};
use crate::digest;
use crate::workspace::Workspace;

const PYTHON: Packages =
    Packages { what: "Python 3 with venv", apt: &["python3", "python3-venv"], dnf: &["python3", "python3-pip"] };

/// One environment, made from one list of packages.
struct Environment {
    requirements: PathBuf,
    folder: PathBuf,
    what: &'static str,
}

pub(super) fn ensure(workspace: &Workspace) -> Result<()> {
    let environments = [
        Environment {
            requirements: workspace.root().join("examples/agents/python/requirements.txt"),
            folder: workspace.python(),
            what: "the Python packages of the example agents in target/python",
        },
        Environment {
            requirements: workspace.root().join("tests/e2e/python/requirements.txt"),
            folder: workspace.interop(),
            what: "the clients and peers of the whole-program tests in target/interop (Envoy among them, 100 MB)",
        },
    ];
    environments.iter().try_for_each(Environment::ensure)
}

impl Environment {
    fn ensure(&self) -> Result<()> {
        let requirements = &self.requirements;
        let content = fs::read(requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
        let wanted = digest::of_bytes(&content);
        let stamp = self.folder.join(".requirements");
        let python = self.folder.join("bin/python3");
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && works(&python, "pass") {
            return Ok(());
        }
        let system = match system_python() {
            Some(python) => python,
            None => {
                packages::install(&PYTHON)?;
                system_python().context("Python was installed, but it still cannot make virtual environments")?
            }
        };
        say(format_args!("setup: installing {}", self.what));
        command::run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&self.folder))?;
        command::run(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
                .arg(requirements),
        )?;
        fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
    }
}

/// One that can make virtual environments. The system's own comes first: a personal one often lives below a
/// home folder that the agents of the demo, which run as another user, cannot enter.
fn system_python() -> Option<PathBuf> {
    let system = Some(PathBuf::from("/usr/bin/python3"));
    [system, command::on_path("python3")].into_iter().flatten().find(|python| works(python, "import ensurepip, venv"))
}

fn works(python: &Path, program: &str) -> bool {
    command::succeeds(Command::new(python).args(["-c", program]))
}
