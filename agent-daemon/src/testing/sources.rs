// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::{Arc, Mutex, PoisonError};

use crate::diagnostic::{Diagnostic, SourceFile};
use crate::node::Load;
use crate::snapshot::Sources;

/// The operator's files, in memory. Clones share them.
#[derive(Debug, Clone)]
pub struct MemorySources {
    files: Arc<Mutex<Result<Sources, Vec<Diagnostic>>>>,
}

impl MemorySources {
    /// One file of each kind.
    pub fn new(entries: &str, catalog: &str, policies: &str) -> Self {
        let sources = Sources {
            entries: vec![file("entries.toml", entries)],
            catalog: vec![file("destinations.toml", catalog)],
            policies: vec![file("policies.cedar", policies)],
        };
        Self { files: Arc::new(Mutex::new(Ok(sources))) }
    }

    /// Writes the entries anew; the next load sees it.
    pub fn write_entries(&self, text: &str) {
        self.write(|sources| sources.entries = vec![file("entries.toml", text)]);
    }

    /// The same for destinations, sources and bindings.
    pub fn write_catalog(&self, text: &str) {
        self.write(|sources| sources.catalog = vec![file("destinations.toml", text)]);
    }

    /// The same for policies.
    pub fn write_policies(&self, text: &str) {
        self.write(|sources| sources.policies = vec![file("policies.cedar", text)]);
    }

    /// Makes every file unreadable.
    pub fn make_unreadable(&self) {
        let unreadable = Diagnostic::error_at(&file("entries.toml", ""), 0, "the file cannot be read");
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Err(vec![unreadable]);
    }

    /// The files as they are.
    pub fn sources(&self) -> Result<Sources, Vec<Diagnostic>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, change: impl FnOnce(&mut Sources)) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sources = files.clone().unwrap_or_default();
        change(&mut sources);
        *files = Ok(sources);
    }
}

impl Load for MemorySources {
    fn load(&self) -> Result<Sources, Vec<Diagnostic>> {
        self.sources()
    }
}

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.to_owned(), text: text.to_owned() }
}
