// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From a bare machine with stable Rust to one that builds and runs everything.
//!
//! Everything lands under `target/`, except distribution packages, which are installed only when something is
//! really missing, and what npm wants beside `sdk/typescript`. What is there already is only checked, so a second run costs
//! well under a second.

pub(crate) mod apt;
mod browser;
mod cargo_tools;
pub(crate) mod machine;
mod node;
mod packages;
mod python;
mod rust_src;

use std::process::Command;

use anyhow::{Context, Result};

pub(crate) use cargo_tools::BPF_LINKER;
pub(crate) use rust_src::library;

use crate::command::{self, say};
use crate::workspace::Workspace;

/// How much is needed. The committed kernel object spares the demo and the tests the kernel toolchain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// What the daemon and the demo need.
    Run,
    /// And what the tests need.
    Test,
    /// And what building the kernel programs needs.
    Full,
    /// And what only CI uses.
    Ci,
    /// And what boots other kernels.
    Machines,
}

pub(crate) fn run(workspace: &Workspace, scope: Scope) -> Result<()> {
    python::ensure(workspace)?;
    if scope >= Scope::Test {
        browser::ensure()?;
        node::ensure(workspace)?;
    }
    if scope >= Scope::Full {
        let compiler = Compiler::in_use()?;
        let library = rust_src::ensure(workspace, &compiler)?;
        say(format_args!("setup: standard library {} at {}", compiler.release, library.display()));
        cargo_tools::ensure(workspace, &BPF_LINKER)?;
    }
    if scope >= Scope::Ci {
        cargo_tools::ensure(workspace, &cargo_tools::CARGO_DENY)?;
    }
    if scope >= Scope::Machines {
        machine::ensure()?;
    }
    say("setup: everything is in place");
    Ok(())
}

/// The compiler that cargo uses here.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    /// For example `1.95.0`.
    pub(crate) release: String,
    /// Its installation.
    pub(crate) sysroot: std::path::PathBuf,
}

impl Compiler {
    pub(crate) fn in_use() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = command::capture(Command::new(&rustc).arg("-vV"))?;
        let release = version.lines().find_map(|line| line.strip_prefix("release: "));
        let release = release.context("`rustc -vV` names no release")?.to_owned();
        let sysroot = command::capture(Command::new(&rustc).args(["--print", "sysroot"]))?;
        Ok(Self { release, sysroot: sysroot.trim_end().into() })
    }
}
