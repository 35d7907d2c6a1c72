// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tools that cargo installs, each in exactly one version, under `target/tools`.

use std::fs;

use anyhow::{Context, Result};

use crate::command::{self, say};
use crate::workspace::Workspace;

/// One tool. The version is part of what we build from: another one may give other bytes.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Quicker to build, slower to run.
    debug: bool,
    /// What it takes here, so that nobody thinks it hangs.
    patience: &'static str,
}

/// Loads the LLVM of rustc itself, so it goes together with the compiler's LLVM version.
pub(crate) const BPF_LINKER: Tool =
    Tool { name: "bpf-linker", version: "0.10.3", debug: false, patience: "a minute or two" };
/// Licences, bans and sources.
pub(super) const CARGO_DENY: Tool =
    Tool { name: "cargo-deny", version: "0.20.2", debug: true, patience: "about two minutes" };

pub(super) fn ensure(workspace: &Workspace, tool: &Tool) -> Result<()> {
    if is_installed(workspace, tool) {
        return Ok(());
    }
    say(format_args!(
        "setup: building {} {} under target/tools; this takes {}",
        tool.name, tool.version, tool.patience
    ));
    let tools = workspace.tools();
    let mut cargo = workspace.cargo(["install", "--locked", "--force"]);
    cargo.arg("--root").arg(&tools).arg("--target-dir").arg(tools.join("build"));
    if tool.debug {
        cargo.arg("--debug");
    }
    cargo.arg(format!("{}@={}", tool.name, tool.version));
    // Flags meant for the workspace must not change a tool, nor its build directory.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_TARGET");
    command::run(&mut cargo).with_context(|| format!("cannot install {} {}", tool.name, tool.version))
}

/// Whether cargo's own list of what it installed has exactly this version, and the program is there.
fn is_installed(workspace: &Workspace, tool: &Tool) -> bool {
    let list = fs::read_to_string(workspace.tools().join(".crates.toml")).unwrap_or_default();
    workspace.tools().join("bin").join(tool.name).is_file() && lists(&list, tool)
}

fn lists(list: &str, tool: &Tool) -> bool {
    let Ok(list) = list.parse::<toml::Table>() else { return false };
    let wanted = format!("{} {} ", tool.name, tool.version);
    list.get("v1").and_then(toml::Value::as_table).is_some_and(|tools| tools.keys().any(|key| key.starts_with(&wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exactly_the_pinned_version_counts_as_installed() {
        let list =
            |version: &str| format!("[v1]\n\"bpf-linker {version} (registry+https://index)\" = [\"bpf-linker\"]\n");
        for (list, expected) in [
            (list("0.10.3"), true),
            (list("0.10.30"), false),
            (list("0.13.0"), false),
            (String::new(), false),
            ("[v1".into(), false),
        ] {
            assert_eq!(lists(&list, &BPF_LINKER), expected, "{list}");
        }
    }
}
