// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One boot in QEMU, and what came of it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::setup::machine::QEMU;

/// A guest that says nothing at the end of it has failed.
const LIMIT: Duration = Duration::from_secs(560);
const LOOK: Duration = Duration::from_millis(100);
/// Two processors and one thread that emulates both, without an instruction that it emulates wrongly: what was reliable.
const EMULATED: [&str; 4] = ["-accel", "tcg,thread=single", "-cpu", "max,cx16=off"];
const NATIVE: [&str; 4] = ["-accel", "kvm", "-cpu", "host"];

/// One boot.
#[derive(Debug)]
pub(super) struct Case {
    /// Of its files.
    pub(super) name: &'static str,
    /// The kernel's suite.
    pub(super) suite: &'static str,
    /// What else the kernel is told.
    pub(super) told: &'static str,
    /// Names of tests.
    pub(super) filters: Vec<String>,
}

/// What a guest said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The tests ran; the number of those that passed, and the names of those that did not.
    Ran { passed: usize, failed: Vec<String>, code: i32 },
    /// They began, and the guest did not say how they ended.
    Died,
    /// It did not come up.
    NotBooted,
}

/// Boots a kernel and waits for what it says on its second serial port.
pub(super) fn boot(folder: &Path, case: &Case, image: &Path, initrd: &Path) -> Result<(Outcome, String)> {
    let (name, told, tests) = (case.name, case.told, case.filters.join(","));
    let (console, result) = (folder.join(format!("{name}.console")), folder.join(format!("{name}.result")));
    for file in [&console, &result] {
        fs::write(file, "")?;
    }
    let serial = |file: &Path| format!("file:{}", file.display());
    let mut qemu = Command::new(QEMU);
    qemu.args(["-M", "q35", "-smp", "2", "-m", "2048", "-display", "none", "-nodefaults", "-no-reboot"])
        .args(if is_native()? { NATIVE } else { EMULATED })
        .args(["-serial", &serial(&console), "-serial", &serial(&result), "-kernel"])
        .arg(image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &format!("console=ttyS0 panic=-1 quiet {told} vmtest.tests={tests}")])
        .stdin(Stdio::null());
    let mut guest = qemu.spawn().with_context(|| format!("cannot run {QEMU}"))?;
    wait(&mut guest)?;
    let said = String::from_utf8_lossy(&fs::read(result)?).replace('\r', "");
    Ok((outcome(&said), said))
}

/// It ends by itself, or is ended.
fn wait(guest: &mut Child) -> Result<()> {
    let until = Instant::now() + LIMIT;
    while guest.try_wait()?.is_none() {
        if Instant::now() >= until {
            guest.kill()?;
            guest.wait()?;
            return Ok(());
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether the processor does it. That there is a `/dev/kvm` says nothing: some hosts have one that runs no kernel.
fn is_native() -> Result<bool> {
    let flags = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let has = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    Ok(has && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok())
}

fn outcome(said: &str) -> Outcome {
    if !said.lines().any(|line| line.starts_with("VMTEST-START ")) {
        return Outcome::NotBooted;
    }
    let code =
        said.lines().find_map(|line| line.strip_prefix("VMTEST-EXIT:")).and_then(|code| code.trim().parse().ok());
    let Some(code) = code else { return Outcome::Died };
    let count =
        said.lines().find_map(|line| line.strip_prefix("test result: ")?.split_once(". ")?.1.split_once(" passed"));
    let passed = count.and_then(|(number, _)| number.parse().ok()).unwrap_or_default();
    // What tests print may stand between a name and its result, but at the end libtest lists those that failed.
    let listed = said.rsplit("\nfailures:\n").next().filter(|_| said.contains("\nfailures:\n")).unwrap_or_default();
    let failed =
        listed.lines().take_while(|line| line.starts_with("    ")).map(|line| line.trim().to_owned()).collect();
    Outcome::Ran { passed, failed, code }
}

/// As what it counts: an error unless all tests passed, and at least one ran.
pub(super) fn judged(outcome: &Outcome) -> Result<usize> {
    match outcome {
        Outcome::Ran { passed: 0, failed, .. } if failed.is_empty() => bail!("no test ran"),
        Outcome::Ran { passed, failed, code: 0 } if failed.is_empty() => Ok(*passed),
        Outcome::Ran { failed, code, .. } => bail!("failed ({code}): {}", failed.join(", ")),
        Outcome::Died => bail!("the guest ended, or took too long, in the middle of the tests"),
        Outcome::NotBooted => bail!("the guest did not come up"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_guest_that_says_that_all_passed_passed() {
        let start = "VMTEST-START 6.1 lsm=bpf\n";
        let passed = "test a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored\nVMTEST-EXIT:0\n";
        let failed = "test a::b ... noise\nfailures:\n\n---- a::b stdout ----\nx\n\nfailures:\n    a::b\n\n\
                      test result: FAILED. 1 passed; 1 failed\nVMTEST-EXIT:101\n";
        let none = "test result: ok. 0 passed; 0 failed\nVMTEST-EXIT:0\n";
        let of = |text: &str| outcome(&format!("{start}{text}"));
        assert_eq!(judged(&of(passed)).unwrap(), 2);
        assert_eq!(of(failed), Outcome::Ran { passed: 1, failed: vec!["a::b".to_owned()], code: 101 });
        for (text, expected) in [(failed, "a::b"), (none, "no test ran"), ("test a ... ok\n", "in the middle")] {
            let error = judged(&of(text)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(outcome(passed), Outcome::NotBooted);
    }
}
