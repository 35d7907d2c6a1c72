// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole-program tests on kernels that are not the running one, in QEMU.
//!
//! With KVM where the processor has it, else emulated, which is four to six times slower: then only the tests of what
//! kernels differ in are run unless others are named.

mod image;
mod kernel;
mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use kernel::{Kernel, SUITES};
use machine::{Case, Outcome};

use crate::command::{self, say};
use crate::test::{self, Tier};
use crate::workspace::Workspace;
use crate::{build, setup};

/// Guests at once: each wants a processor.
const AT_ONCE: usize = 2;
/// What rests on hooks and on what the kernel keeps.
const USUAL: [&str; 4] = ["egress::", "images::", "revocation::", "tiers::"];
/// Kernels that are told to have less: with no BPF among the LSMs, whose programs load there and never run, and without
/// reading of their memory. Both must be reported truthfully.
const SPECIAL: [(&str, &str, &str, &[&str]); 2] = [
    ("trixie-lsm", "trixie", "lsm=landlock,lockdown,yama", &["images::a_governed_tree", "tiers::"]),
    ("trixie-lockdown", "trixie", "lockdown=confidentiality", &["tiers::"]),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only the newest kernel of this suite of Debian (may be given again)
    #[arg(long, value_parser = SUITES)]
    kernel: Vec<String>,
    /// Names of tests, in place of the usual ones
    #[arg(last = true)]
    filters: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace, setup::Scope::Machines)?;
    build::run(workspace)?;
    let [test] =
        &test::test_programs(workspace, Tier::Usual)?.into_iter().filter(|one| is_suite(one)).collect::<Vec<_>>()[..]
    else {
        anyhow::bail!("there is not exactly one program of whole-program tests");
    };
    let folder = workspace.target().join("vmtest");
    fs::create_dir_all(&folder)?;
    let programs = ["agent-daemon", "agentctl", "actor"].map(|name| workspace.binaries().join(name));
    let separates = |letter: char| letter.is_whitespace() || letter == ',';
    ensure!(options.filters.iter().all(|filter| !filter.contains(separates)), "a filter has neither blanks nor commas");
    let base = image::base(&folder, &programs, test)?;
    kernel::refresh(&folder);
    let cases = cases(options);
    let mut kernels: BTreeMap<&str, (Kernel, PathBuf)> = BTreeMap::new();
    for case in &cases {
        if !kernels.contains_key(case.suite) {
            let kernel = kernel::fetch(&folder, case.suite)?;
            let initrd = image::with_modules(&folder, &base, case.suite, &kernel)?;
            kernels.insert(case.suite, (kernel, initrd));
        }
    }
    // The longest first; whoever is done takes the next.
    let (next, failed) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                    let Some((kernel, initrd)) = kernels.get(case.suite) else { continue };
                    match one(&folder, case, &kernel.image, initrd) {
                        Ok(passed) => say(format_args!("{}: {passed} tests passed", case.name)),
                        Err(error) => {
                            say(format_args!("{}: {error:#}", case.name));
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(case.name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "failed on the kernels of {}", failed.join(", "));
    Ok(())
}

/// The kernels that are asked for; without names of tests also those that are told to have less.
fn cases(options: &Options) -> Vec<Case> {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let is_asked = |suite: &str| options.kernel.is_empty() || options.kernel.iter().any(|one| one == suite);
    let (filters, special) = match options.filters.is_empty() {
        true => (texts(&USUAL), &SPECIAL[..]),
        false => (options.filters.clone(), &[][..]),
    };
    let usual = SUITES.into_iter().map(|suite| Case { name: suite, suite, told: "", filters: filters.clone() });
    let special = special.iter().map(|(name, suite, told, tests)| Case { name, suite, told, filters: texts(tests) });
    usual.chain(special).filter(|case| is_asked(case.suite)).collect()
}

fn is_suite(program: &Path) -> bool {
    program.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("e2e-")) && {
        // The library's own tests have the same name.
        command::capture(Command::new(program).arg("--list")).is_ok_and(|list| list.contains("egress::"))
    }
}

/// One guest. A boot that did not come up is tried once more; tests that did not end are not.
fn one(folder: &Path, case: &Case, image: &Path, initrd: &Path) -> Result<usize> {
    let suite = case.name;
    let began = Instant::now();
    let (mut outcome, mut said) = machine::boot(folder, case, image, initrd)?;
    if outcome == Outcome::NotBooted {
        say(format_args!("{suite}: the guest did not come up; once more"));
        (outcome, said) = machine::boot(folder, case, image, initrd)?;
    }
    let kernel = said.lines().find_map(|line| line.strip_prefix("VMTEST-START ")).unwrap_or("no kernel");
    say(format_args!("{suite}: {kernel}, {:.0} s", began.elapsed().as_secs_f64()));
    let judged = machine::judged(&outcome);
    if judged.is_err() {
        say(format_args!("{suite}: what the guest said:\n{said}"));
    }
    judged
}
