// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Node.js, and the packages of the TypeScript SDK: beside it, where npm wants them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::packages::{self, Packages};
use crate::command::{self, say};
use crate::digest;
use crate::workspace::Workspace;

const NODE: Packages = Packages { what: "Node.js with npm", apt: &["nodejs", "npm"], dnf: &["nodejs", "npm"] };
/// As `engines` of the SDK has it.
const WORKS: &str = "const [major, minor] = process.versions.node.split('.').map(Number); \
                     process.exit(major > 18 || (major === 18 && minor >= 18) ? 0 : 1)";

pub(super) fn ensure(workspace: &Workspace) -> Result<()> {
    let is_there =
        || command::on_path("npm").is_some() && command::succeeds(Command::new("node").args(["--eval", WORKS]));
    if !is_there() {
        say("setup: installing Node.js with npm, for the TypeScript SDK");
        packages::install(&NODE)?;
        ensure!(is_there(), "the TypeScript SDK needs Node.js 18.18 or newer with npm, and none is on the PATH");
    }
    let sdk = workspace.typescript();
    let lock = sdk.join("package-lock.json");
    let content = fs::read(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let wanted = digest::of_bytes(&content);
    let stamp = sdk.join("node_modules/.lock-digest");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    say("setup: installing the packages of the TypeScript SDK in sdk/typescript/node_modules");
    command::run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&sdk))?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))
}
