// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What boots other kernels: an emulator, and what a guest is made of.

use std::path::Path;

use anyhow::{Result, ensure};

use super::packages::{self, Packages};
use crate::command::{self, say};

/// Linked with nothing: a guest has no libraries but ours.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
pub(crate) const QEMU: &str = "qemu-system-x86_64";

const PACKAGES: Packages = Packages {
    what: "QEMU with what a guest is made of",
    apt: &["qemu-system-x86", "busybox-static", "cpio", "xz-utils", "binutils"],
    dnf: &["qemu-system-x86-core", "busybox", "cpio", "xz", "binutils"],
};

pub(super) fn ensure() -> Result<()> {
    let is_there = || {
        Path::new(BUSYBOX).exists()
            && [QEMU, "cpio", "xz", "objcopy"].iter().all(|name| command::on_path(name).is_some())
    };
    if is_there() {
        return Ok(());
    }
    say("setup: installing QEMU, in which other kernels are booted (80 MB)");
    packages::install(&PACKAGES)?;
    ensure!(is_there(), "QEMU was installed, but something of what a guest needs is not there");
    Ok(())
}
