// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An interpreter that an unprivileged user can run, with the packages that the Python agents need.
//!
//! The environment that setup made may sit in somebody's private home folder, and so may its interpreter.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::agentctl::text;

const DESCRIBE: &str = "import json, os, sys, sysconfig
print(json.dumps({
    'interpreter': os.path.realpath(sys.executable),
    'version': '%d.%d' % sys.version_info[:2],
    'packages': sysconfig.get_path('platlib'),
    'prefix': os.path.realpath(sys.base_prefix),
    'standard': os.path.realpath(sysconfig.get_path('stdlib')),
}))";
/// Parts of an installation that no agent needs.
const LEFT_OUT: &[&str] = &["__pycache__", "test", "tests", "idlelib", "lib2to3", "site-packages", "ensurepip"];
const MAX_DEPTH: usize = 32;

/// What a `#!` line and an environment need.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    /// The real file, as the kernel will resolve it.
    pub(crate) interpreter: PathBuf,
    /// For `PYTHONPATH`.
    pub(crate) packages: PathBuf,
}

/// Copies the packages into `folder`, and the interpreter too when `uid` cannot run any installed one.
pub(crate) fn install(environment: &Path, folder: &Path, uid: u32) -> Result<Python> {
    let python = environment.join("bin/python3");
    let said = Command::new(&python)
        .args(["-I", "-c", DESCRIBE])
        .output()
        .with_context(|| format!("cannot run {}; `cargo xtask setup` makes it", python.display()))?;
    ensure!(said.status.success(), "{} failed: {}", python.display(), String::from_utf8_lossy(&said.stderr));
    let said: Value = serde_json::from_slice(&said.stdout).context("the interpreter did not describe itself")?;

    let packages = folder.join("packages");
    copy_tree(Path::new(text(&said, "packages")), &packages, &["__pycache__", "pip", "setuptools", "grpc_tools"], 0)?;
    let version = text(&said, "version");
    let found = [PathBuf::from(text(&said, "interpreter")), PathBuf::from(format!("/usr/bin/python{version}"))]
        .into_iter()
        .find(|candidate| works(candidate, &packages, uid));
    if let Some(interpreter) = found {
        return Ok(Python { interpreter, packages });
    }

    let copied = folder.join("python");
    let interpreter = copied.join("bin").join(format!("python{version}"));
    let standard = Path::new(text(&said, "standard"));
    copy_tree(standard, &copied.join("lib").join(format!("python{version}")), LEFT_OUT, 0)?;
    fs::create_dir_all(copied.join("bin"))?;
    copy_file(Path::new(text(&said, "interpreter")), &interpreter)?;
    // A shared libpython lies beside the standard library.
    for entry in fs::read_dir(Path::new(text(&said, "prefix")).join("lib"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("libpython") {
            copy_file(&entry.path(), &copied.join("lib").join(entry.file_name()))?;
        }
    }
    set_mode(&copied.join("bin"), 0o755)?;
    set_mode(&copied.join("lib"), 0o755)?;
    set_mode(&copied, 0o755)?;
    ensure!(
        works(&interpreter, &packages, uid),
        "no Python {version} that user {uid} can run was found, and a copy of {} does not work either",
        text(&said, "interpreter")
    );
    Ok(Python { interpreter, packages })
}

/// Whether this user can run it and import what the agents import.
fn works(interpreter: &Path, packages: &Path, uid: u32) -> bool {
    Command::new(interpreter)
        .args(["-B", "-s", "-c", "import ssl, grpc, google.protobuf"])
        .env_clear()
        .env("PYTHONPATH", packages)
        .current_dir("/")
        .uid(uid)
        .gid(uid)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Copies files and folders, readable for everybody and writable for the owner only.
pub(crate) fn copy_tree(from: &Path, to: &Path, left_out: &[&str], depth: usize) -> Result<()> {
    ensure!(depth < MAX_DEPTH, "{} is nested too deeply", from.display());
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    set_mode(to, 0o755)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if left_out.iter().any(|unwanted| name.to_str() == Some(*unwanted)) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        // Follows links: what they point at is what is wanted. A dangling one is passed over.
        match fs::metadata(&source) {
            Ok(metadata) if metadata.is_dir() => copy_tree(&source, &target, left_out, depth + 1)?,
            Ok(metadata) if metadata.is_file() => copy_file(&source, &target)?,
            _ => {}
        }
    }
    Ok(())
}

/// Copies one file; it stays executable if it was.
pub(crate) fn copy_file(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    let executable = fs::metadata(from)?.permissions().mode() & 0o111 != 0;
    set_mode(to, if executable { 0o755 } else { 0o644 })
}

/// Sets the permission bits, whatever the umask is.
pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_tree_is_readable_for_all_and_lacks_what_was_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("sub/test")).unwrap();
        fs::write(from.join("sub/program"), "x").unwrap();
        set_mode(&from.join("sub/program"), 0o700).unwrap();
        fs::write(from.join("text"), "y").unwrap();
        set_mode(&from.join("text"), 0o600).unwrap();
        let to = folder.path().join("to");
        copy_tree(&from, &to, &["test"], 0).unwrap();
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("sub"), mode("sub/program"), mode("text")), (0o755, 0o755, 0o644));
        assert!(!to.join("sub/test").exists());
    }
}
