// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{Setup, Talker, World};

/// Nothing that a peer does takes longer unless it is broken.
pub const SOON: Duration = Duration::from_secs(20);
/// Users by which the processes are told apart: all else about them is the same.
pub const SERVER: u32 = 65532;
/// See [`SERVER`].
pub const CLIENT: u32 = 65531;
/// Who [`SERVER`] is.
pub const SERVER_ID: &str = "spiffe://example.org/workload/server";
/// Who [`CLIENT`] is.
pub const CLIENT_ID: &str = "spiffe://example.org/workload/client";

const ENTRIES: &str = r#"
[[entry]]
id = "server"
spiffe_id = "spiffe://example.org/workload/server"
kind = "workload"
selectors = ["unix:uid:65532"]
groups = ["agents"]

[[entry]]
id = "client"
spiffe_id = "spiffe://example.org/workload/client"
kind = "workload"
selectors = ["unix:uid:65531"]
groups = ["agents"]
"#;

/// A daemon that gives those two SVIDs for four seconds.
pub fn two_workloads() -> Setup {
    Setup::default().with_entries(ENTRIES).with_svids("4s")
}

/// A program that speaks SPIFFE by the Python library.
///
/// # Errors
/// When it does not start.
pub fn python(world: &World, uid: u32, arguments: &[&str]) -> Result<Talker> {
    python_script(world, uid, "spiffe_client.py", arguments)
}

/// A script of these tests, with the Python packages that we did not write.
///
/// # Errors
/// When it does not start.
pub fn python_script(world: &World, uid: u32, script: &str, arguments: &[&str]) -> Result<Talker> {
    let root = std::env::var("AGENT_TEST_ROOT").context("AGENT_TEST_ROOT is not set: use xtask test")?;
    let script = readable(world, &PathBuf::from(root).join("tests/e2e/python").join(script))?;
    let python = world.interop()?.join("bin/python3");
    let arguments: Vec<&str> = [script.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    world.talk(&python.to_string_lossy(), uid, &arguments)
}

/// The same for one that uses our Python SDK, which comes to lie beside it; it is told where the agents' socket is.
///
/// # Errors
/// As [`python_script`].
pub fn sdk_script(world: &World, uid: u32, script: &str, arguments: &[&str]) -> Result<Talker> {
    let root = std::env::var("AGENT_TEST_ROOT").context("AGENT_TEST_ROOT is not set: use xtask test")?;
    let package = PathBuf::from(root).join("sdk/python/src/agent_daemon");
    for folder in ["", "_proto"] {
        let target = world.path("bin/agent_daemon").join(folder);
        fs::create_dir_all(&target)?;
        for entry in fs::read_dir(package.join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "py") {
                fs::copy(&path, target.join(path.file_name().context("it has no name")?))?;
            }
        }
    }
    let socket = world.socket();
    python_script(world, uid, script, &[&[socket.as_str()], arguments].concat())
}

/// The same in TypeScript's SDK.
///
/// # Errors
/// When it does not start.
pub fn node_script(world: &World, uid: u32, script: &str, arguments: &[&str]) -> Result<Talker> {
    let root = PathBuf::from(std::env::var("AGENT_TEST_ROOT").context("AGENT_TEST_ROOT is not set: use xtask test")?);
    let package = root.join("sdk/typescript");
    copy_all(&package.join("dist"), &world.path("bin/agent-daemon"))?;
    fs::copy(package.join("package.json"), world.path("bin/agent-daemon/package.json"))?;
    let modules = world.path("bin/node_modules");
    if !modules.exists() {
        std::os::unix::fs::symlink(package.join("node_modules"), modules)?;
    }
    let script = readable(world, &root.join("tests/e2e/node").join(script))?;
    let node = on_path("node")?;
    let socket = world.socket();
    world.talk(&node.to_string_lossy(), uid, &[&[script.as_str(), &socket], arguments].concat())
}

/// A program that `cargo xtask setup` installs where it is missing.
///
/// # Errors
/// When there is none.
pub fn on_path(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    found.with_context(|| format!("there is no {name}: cargo xtask setup"))
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("{} is not built", from.display()))? {
        let from = entry?.path();
        let to = to.join(from.file_name().context("it has no name")?);
        if from.is_dir() { copy_all(&from, &to)? } else { fs::copy(&from, &to).map(drop)? }
    }
    Ok(())
}

/// Scripts that another script starts.
///
/// # Errors
/// When they cannot be copied.
pub fn beside(world: &World, scripts: &[&str]) -> Result<()> {
    let root = std::env::var("AGENT_TEST_ROOT").context("AGENT_TEST_ROOT is not set: use xtask test")?;
    let folder = PathBuf::from(root).join("tests/e2e/python");
    scripts.iter().try_for_each(|script| readable(world, &folder.join(script)).map(drop))
}

/// A program where the user may read it, whoever may enter the repository.
///
/// # Errors
/// When it cannot be copied.
pub fn readable(world: &World, program: &Path) -> Result<String> {
    let name = program.file_name().context("it has no name")?.to_string_lossy();
    let copy = world.path(&format!("bin/{name}"));
    if !copy.exists() {
        fs::copy(program, &copy).with_context(|| format!("cannot copy {}", program.display()))?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    }
    Ok(copy.to_string_lossy().into_owned())
}

/// One that nobody listens on now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
