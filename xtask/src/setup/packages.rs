// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Distribution packages, installed only when a probe showed that something is missing.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command;

/// What one need is called where.
#[derive(Debug)]
pub(super) struct Packages {
    /// What a person reads.
    pub(super) what: &'static str,
    pub(super) apt: &'static [&'static str],
    pub(super) dnf: &'static [&'static str],
}

pub(super) fn install(packages: &Packages) -> Result<()> {
    let what = packages.what;
    let (program, names): (_, &[&str]) = if let Some(apt) = command::on_path("apt-get") {
        (apt, packages.apt)
    } else if let Some(dnf) = command::on_path("dnf") {
        (dnf, packages.dnf)
    } else {
        bail!("{what} is missing and there is neither apt-get nor dnf here: please install it and run this again");
    };
    let result = (|| {
        if program.ends_with("apt-get") {
            // A stale index is fine if the packages can still be had.
            let index = command::run(root(what, &program)?.args(["--quiet", "--quiet", "update"]));
            command::run(root(what, &program)?.args(["install", "--yes", "--no-install-recommends"]).args(names))
                .or_else(|error| index.and(Err(error)))
        } else {
            command::run(root(what, &program)?.args(["install", "--assumeyes"]).args(names))
        }
    })();
    result.with_context(|| format!("cannot install {what} ({})", names.join(" ")))
}

fn root(what: &str, program: &Path) -> Result<std::process::Command> {
    let why = format!("installing {what}");
    command::as_root(&why, program, &[("DEBIAN_FRONTEND", "noninteractive".as_ref())])
}
