// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon claims of a kernel what that kernel does: the ordinary ones, one without BPF among its active LSMs, and one
//! that lets nobody read its memory.

use std::fs;

use anyhow::{Result, ensure};
use e2e::{Setup, World, with_daemon};

use crate::configuring::end_of;
use crate::images::check;

/// Kernel lockdown, where there is any.
fn is_confidential() -> bool {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    lockdown.contains("[confidentiality]")
}

#[test]
fn what_is_claimed_is_what_the_kernel_does() -> Result<()> {
    if is_confidential() {
        // The programs read kernel memory, so there is nothing to claim, and that is said.
        let world = World::prepare(Setup::default())?;
        let (code, said) = end_of(&mut world.daemon.command())?;
        ensure!(code == Some(69), "exit {code:?}: {said}");
        ensure!(
            said.contains("lineage") || said.contains("the identity of program images"),
            "no guarantee named: {said}"
        );
        ensure!(said.contains("lockdown=confidentiality"), "the cause is not named: {said}");
        return Ok(());
    }
    with_daemon(Setup::default(), |world| {
        ensure!(check(world, "tier.egress")?["outcome"] == "pass");
        let lsm = check(world, "tier.lsm")?;
        let reason = lsm["reason"].as_str().unwrap_or_default().to_owned();
        let active = fs::read_to_string("/sys/kernel/security/lsm").ok();
        let has_bpf = active.as_ref().map(|list| list.trim().split(',').any(|name| name == "bpf"));
        if lsm["outcome"] == "pass" {
            ensure!(has_bpf == Some(true) && reason.contains("refused with EPERM before it was there"), "{reason}");
        } else {
            // Programs may well load and be attached there, and never run.
            ensure!(
                reason.contains("does not run them") || reason.contains("this kernel refuses LSM programs"),
                "{reason}"
            );
            let is_refused = reason.contains("this kernel refuses LSM programs");
            ensure!(has_bpf != Some(true) || is_refused, "it should be proved here: {reason}");
        }
        if let Some(active) = active {
            ensure!(reason.contains(active.trim()), "the active LSMs are not named: {reason}");
        }
        let claimed = world.ask(&["status"])?.to_string().contains("\"lsm\"");
        ensure!(claimed == (lsm["outcome"] == "pass"), "status claims otherwise");
        Ok(())
    })
}
