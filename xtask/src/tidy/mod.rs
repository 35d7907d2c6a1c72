// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Rules of this tree that no compiler checks. Every finding names its rule and the reason for it.

mod boundaries;
mod links;
mod manifests;
mod rust;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::say;
use crate::digest::files_below;
use crate::workspace::Workspace;

/// Folders that are not ours or not written by people.
const SKIPPED: [&str; 5] = ["target", ".git", "__pycache__", "node_modules", ".venv"];
/// Larger files are not text that a person wrote.
const READ_LIMIT: u64 = 4 * 1024 * 1024;

/// A file of the tree.
#[derive(Debug)]
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    fn extension(&self) -> &str {
        self.name().rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// Written by a generator and committed.
    fn is_generated(&self) -> bool {
        self.path.contains("/gen/") || self.name() == "Cargo.lock"
    }

    /// Only ever part of a test build.
    fn is_test(&self) -> bool {
        let segments: Vec<&str> = self.path.split('/').collect();
        self.name() == "tests.rs" || segments.iter().any(|segment| matches!(*segment, "tests" | "testing" | "benches"))
    }
}

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// From 1; zero for the file as a whole.
    line: usize,
    detail: String,
    rule: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}\n  rule: {}", self.detail, self.rule)
    }
}

pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = read(workspace.root())?;
    let findings = check(&files);
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => say(format_args!("tidy: {} files keep the rules", files.len())),
        count => bail!("tidy: {count} findings"),
    }
    Ok(())
}

/// All text files of the tree.
fn read(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for path in files_below(root, &SKIPPED)? {
        let metadata = path.metadata().with_context(|| format!("cannot inspect {}", path.display()))?;
        let bytes = if metadata.len() > READ_LIMIT { Vec::new() } else { fs::read(&path)? };
        let name = path.strip_prefix(root).context("a file outside the tree")?.to_string_lossy().into_owned();
        // What is not text still counts as a target of links.
        files.push(File { path: name, text: String::from_utf8(bytes).unwrap_or_default() });
    }
    Ok(files)
}

fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        text::check(file, &mut findings);
        if file.extension() == "rs" && !file.is_generated() {
            boundaries::check(file, &mut findings);
        }
    }
    manifests::check(files, &mut findings);
    links::check(files, &mut findings);
    findings.sort();
    findings.dedup();
    findings
}
