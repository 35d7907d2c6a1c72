// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the workspace and its build output are, whatever folder xtask was called from.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Names the target folder when xtask starts itself again as root, which may not have cargo.
const TARGET_VARIABLE: &str = "XTASK_TARGET_DIR";

/// The workspace's root and its target folder.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that this xtask belongs to. The target folder comes from cargo, which knows of every way
    /// to move it.
    pub(crate) fn find() -> Result<Self> {
        let root = Self::source_root()?;
        if let Some(target) = env::var_os(TARGET_VARIABLE) {
            return Ok(Self { root, target: target.into() });
        }
        let metadata = command::capture(Command::new(cargo()).current_dir(&root).args([
            "metadata",
            "--no-deps",
            "--format-version=1",
            "--locked",
        ]))?;
        let metadata: serde_json::Value = serde_json::from_str(&metadata).context("reading `cargo metadata`")?;
        let target = metadata.get("target_directory").and_then(|directory| directory.as_str());
        let target = target.context("`cargo metadata` names no target directory")?.into();
        Ok(Self { root, target })
    }

    /// The workspace's root, from where cargo ran this program (several checkouts may share one target folder,
    /// so what was known when it was built is only the second choice).
    pub(crate) fn source_root() -> Result<PathBuf> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = manifest.parent().context("xtask is not in a workspace")?;
        root.canonicalize().with_context(|| format!("no workspace at {}", root.display()))
    }

    /// A workspace somewhere else, for tests.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), target: root.join("target") }
    }

    /// This xtask once more, as root, with its arguments still to be added.
    pub(crate) fn again_as_root(&self, why: &str) -> Result<Command> {
        let xtask = env::current_exe().context("cannot find this program's own file")?;
        let manifest = self.root.join("xtask");
        let path = env::var_os("PATH").unwrap_or_default();
        let environment = [
            ("CARGO_MANIFEST_DIR", manifest.as_os_str()),
            (TARGET_VARIABLE, self.target.as_os_str()),
            ("PATH", path.as_os_str()),
        ];
        command::as_root(why, &xtask, &environment)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What `setup` puts there.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The programs of a debug build.
    pub(crate) fn binaries(&self) -> PathBuf {
        self.target.join("debug")
    }

    /// The Python environment of the whole-program tests: clients and peers that we did not write.
    pub(crate) fn interop(&self) -> PathBuf {
        self.target.join("interop")
    }

    /// The TypeScript SDK, with its packages beside it.
    pub(crate) fn typescript(&self) -> PathBuf {
        self.root().join("sdk/typescript")
    }

    /// The Python environment of the example agents.
    pub(crate) fn python(&self) -> PathBuf {
        self.target.join("python")
    }

    /// `cargo`, in the root.
    pub(crate) fn cargo<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root).args(arguments);
        // What cargo told us of this program would make it build again what looks at such variables.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// The cargo that runs us, or the one on PATH.
pub(crate) fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
