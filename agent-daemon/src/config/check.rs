// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `--check-config`: everything that a start or a reload would read, and what was found.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Config, load};
use crate::diagnostic::{Diagnostic, Severity};
use crate::snapshot::Snapshot;

/// A configuration with all that it names, found to be usable.
#[derive(Debug)]
pub struct Checked {
    /// The file itself.
    pub config: Config,
    /// What it names.
    pub snapshot: Snapshot,
    path: PathBuf,
    files: [usize; 3],
}

/// Reads the configuration and everything that it names, as a start would. Opens nothing else and changes nothing.
///
/// # Errors
/// Everything that is wrong with any of it.
pub fn check(path: &Path, credentials_directory: Option<&Path>) -> Result<Checked, Vec<Diagnostic>> {
    let config = load(path, credentials_directory)?;
    let sources = config.sources.read()?;
    let files = [&sources.entries, &sources.catalog, &sources.policies].map(Vec::len);
    let snapshot = Snapshot::parse(0, &sources, &config.trust_domain)?;
    Ok(Checked { config, snapshot, path: path.to_owned(), files })
}

impl Checked {
    /// What is usable but looks like a mistake.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let mut warnings = self.config.warnings.clone();
        warnings.extend(self.snapshot.policies.warnings().iter().cloned());
        let about = |message: String, help: &str| Diagnostic {
            file: self.path.display().to_string(),
            line: 0,
            column: 0,
            severity: Severity::Warning,
            message,
            help: Some(help.to_owned()),
        };
        if self.snapshot.policies.is_empty() {
            warnings.push(about("there is no policy, so nothing is released".to_owned(), "see policies"));
        }
        for binding in self.snapshot.catalog.bindings() {
            for pattern in &binding.identities {
                if !self.snapshot.entries.iter().any(|entry| pattern.matches(&entry.spiffe_id)) {
                    let message = format!("binding {} names {pattern}, which no entry gives", binding.name);
                    warnings.push(about(message, "add an entry with this spiffe_id, or correct the binding"));
                }
            }
        }
        warnings
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [entry_files, catalog_files, policy_files] = self.files;
        let Snapshot { entries, catalog, policies, .. } = &self.snapshot;
        let identities: BTreeSet<&str> = entries.iter().map(|entry| entry.spiffe_id.as_str()).collect();
        writeln!(f, "configuration  {} is valid", self.path.display())?;
        writeln!(f, "trust domain   {}", self.config.trust_domain)?;
        writeln!(f, "entries        {} for {} identities, in {entry_files} files", entries.len(), identities.len())?;
        writeln!(
            f,
            "destinations   {}, with {} sources and {} bindings, in {catalog_files} files",
            catalog.destinations().len(),
            catalog.sources().len(),
            catalog.bindings().len()
        )?;
        write!(f, "policies       {}, in {policy_files} files, generation {}", policies.len(), policies.generation())
    }
}
