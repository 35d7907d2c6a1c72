// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An interpreter that an unprivileged user can run, with the packages that the Python agents need.
//!
//! The environment that setup made may sit in somebody's private home folder, and so may its interpreter.

use std::ffi::OsString;
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
const LEFT_OUT: &[&str] =
    &["__pycache__", "test", "tests", "idlelib", "lib2to3", "site-packages", "ensurepip", "config-*"];
const MAX_DEPTH: usize = 32;

/// What a `#!` line and an environment need.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    /// The real file, as the kernel will resolve it.
    pub(crate) interpreter: PathBuf,
    /// For `PYTHONPATH`.
    packages: PathBuf,
    /// For `LD_LIBRARY_PATH`: a copied interpreter still looks for its library in the old place.
    libraries: Option<PathBuf>,
}

impl Python {
    /// What an otherwise empty environment must hold.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut environment = vec![
            ("PYTHONPATH", self.packages.clone().into_os_string()),
            ("PYTHONNOUSERSITE", "1".into()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ];
        environment.extend(self.libraries.iter().map(|path| ("LD_LIBRARY_PATH", path.clone().into_os_string())));
        environment
    }

    /// Whether this user can run it and import what the agents import.
    fn works(&self, uid: u32) -> bool {
        Command::new(&self.interpreter)
            .args(["-c", "import ssl, grpc, google.protobuf"])
            .env_clear()
            .envs(self.environment())
            .current_dir("/")
            .uid(uid)
            .gid(uid)
            .output()
            .is_ok_and(|output| output.status.success())
    }
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
        .filter_map(|path| path.canonicalize().ok())
        .map(|interpreter| Python { interpreter, packages: packages.clone(), libraries: None })
        .find(|python| python.works(uid));
    if let Some(python) = found {
        return Ok(python);
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
    let python = Python { interpreter, packages, libraries: Some(copied.join("lib")) };
    ensure!(
        python.works(uid),
        "no Python {version} that user {uid} can run was found, and a copy of {} does not work either",
        text(&said, "interpreter")
    );
    Ok(python)
}

/// Copies files and folders, readable for everybody and writable for the owner only.
pub(crate) fn copy_tree(from: &Path, to: &Path, left_out: &[&str], depth: usize) -> Result<()> {
    ensure!(depth < MAX_DEPTH, "{} is nested too deeply", from.display());
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    set_mode(to, 0o755)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if left_out.iter().any(|pattern| fits(pattern, &name.to_string_lossy())) {
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

/// A name, or the start of one with `*` after it.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
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
        fs::write(from.join("data"), "y").unwrap();
        set_mode(&from.join("data"), 0o600).unwrap();
        let to = folder.path().join("to");
        copy_tree(&from, &to, &["te*"], 0).unwrap();
        let mode = |path: &str| fs::metadata(to.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("sub"), mode("sub/program"), mode("data")), (0o755, 0o755, 0o644));
        assert!(!to.join("sub/test").exists());
    }
}
