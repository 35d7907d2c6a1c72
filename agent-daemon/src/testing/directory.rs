// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::authority;

/// A directory of mode 0700 that goes with its owner.
#[derive(Debug)]
pub struct PrivateDirectory {
    path: PathBuf,
}

impl PrivateDirectory {
    /// An empty one.
    pub fn new() -> Self {
        let mut random = [0; 8];
        authority::fill_random(&mut random).expect("random bytes");
        let path = std::env::temp_dir().join(format!("agent-test-{:016x}", u64::from_ne_bytes(random)));
        DirBuilder::new().mode(0o700).create(&path).expect("a temporary directory");
        // Whatever the umask of another test is at this moment.
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("the directory's mode");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for PrivateDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // What is left of it does no harm, and a failing test must show its own failure.
        let _left = fs::remove_dir_all(&self.path);
    }
}
