// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The browser in which the pages that agentctl writes are tested.

use anyhow::{Result, ensure};

use super::packages::{self, Packages};
use crate::command::{self, say};

const CHROMIUM: Packages = Packages {
    what: "Chromium with its driver",
    apt: &["chromium", "chromium-driver"],
    dnf: &["chromium", "chromedriver"],
};

pub(super) fn ensure() -> Result<()> {
    let is_there = || ["chromium", "chromedriver"].iter().all(|name| command::on_path(name).is_some());
    if is_there() {
        return Ok(());
    }
    say("setup: installing Chromium, in which the tests look at pages (100 MB)");
    packages::install(&CHROMIUM)?;
    ensure!(is_there(), "Chromium was installed, but there is no chromium and chromedriver on the PATH");
    Ok(())
}
