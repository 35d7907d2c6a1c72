// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole-program tests on kernels that are not the running one, in QEMU.
//!
//! With KVM where the processor has it, else emulated, which is four to six times slower: then only the tests of what
//! kernels differ in are run unless others are named.

mod image;
mod kernel;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use kernel::SUITES;
use machine::Outcome;

use crate::command::{self, say};
use crate::test::{self, Tier};
use crate::workspace::Workspace;
use crate::{build, setup};

/// Guests at once: each wants a processor.
const AT_ONCE: usize = 2;
/// What rests on hooks and on what the kernel keeps.
const USUAL: [&str; 2] = ["egress::", "revocation::"];

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
    let filters: Vec<String> =
        if options.filters.is_empty() { USUAL.map(str::to_owned).to_vec() } else { options.filters.clone() };
    ensure!(filters.iter().all(|filter| !filter.contains(char::is_whitespace)), "a filter has no blanks");
    let base = image::base(&folder, &programs, test, &filters)?;
    kernel::refresh(&folder);
    let suites: Vec<&str> = SUITES
        .into_iter()
        .filter(|suite| options.kernel.is_empty() || options.kernel.iter().any(|one| one == suite))
        .collect();
    let mut guests = Vec::new();
    for suite in suites {
        let kernel = kernel::fetch(&folder, suite)?;
        guests.push((suite, image::with_modules(&folder, &base, suite, &kernel)?, kernel));
    }
    let mut failed = Vec::new();
    for together in guests.chunks(AT_ONCE) {
        let results: Vec<(&str, Result<usize>)> = thread::scope(|scope| {
            let run = |(suite, initrd, kernel): &'_ (&'static str, _, kernel::Kernel)| {
                let (suite, initrd, image) = (*suite, PathBuf::clone(initrd), kernel.image.clone());
                let folder = &folder;
                (suite, scope.spawn(move || one(folder, suite, &image, &initrd)))
            };
            let running: Vec<_> = together.iter().map(run).collect();
            let join = |(suite, thread): (_, thread::ScopedJoinHandle<'_, Result<usize>>)| {
                (suite, thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked"))))
            };
            running.into_iter().map(join).collect()
        });
        for (suite, result) in results {
            match result {
                Ok(passed) => say(format_args!("{suite}: {passed} tests passed")),
                Err(error) => {
                    say(format_args!("{suite}: {error:#}"));
                    failed.push(suite);
                }
            }
        }
    }
    ensure!(failed.is_empty(), "failed on the kernels of {}", failed.join(", "));
    Ok(())
}

fn is_suite(program: &Path) -> bool {
    program.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("e2e-")) && {
        // The library's own tests have the same name.
        command::capture(Command::new(program).arg("--list")).is_ok_and(|list| list.contains("egress::"))
    }
}

/// One guest. A boot that did not come up is tried once more; tests that did not end are not.
fn one(folder: &Path, suite: &str, image: &Path, initrd: &Path) -> Result<usize> {
    let began = Instant::now();
    let (mut outcome, mut said) = machine::boot(folder, suite, image, initrd)?;
    if outcome == Outcome::NotBooted {
        say(format_args!("{suite}: the guest did not come up; once more"));
        (outcome, said) = machine::boot(folder, suite, image, initrd)?;
    }
    let kernel = said.lines().find_map(|line| line.strip_prefix("VMTEST-START ")).unwrap_or("no kernel");
    say(format_args!("{suite}: {kernel}, {:.0} s", began.elapsed().as_secs_f64()));
    let judged = machine::judged(&outcome);
    if judged.is_err() {
        say(format_args!("{suite}: what the guest said:\n{said}"));
    }
    judged
}
