// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The files that an entry lists as its tree's programs, as they are on disk now.
//!
//! A name that somebody else than root may give to another file, or a file that somebody else may write to, says nothing;
//! such a file counts only with its hash.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Attestor, mounts};
use crate::egress::Changed;
use crate::identity::Allowed;

/// Files of one directory.
const MAX_FILES: usize = 8192;
const EXECUTABLE: u32 = 0o111;
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A file that may be executed. Overlay and btrfs show user space another device than the kernel has, so there may be two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundProgram {
    /// Major and minor numbers.
    pub devices: Vec<(u32, u32)>,
    /// Its number.
    pub inode: u64,
    /// As what.
    pub changed: Changed,
}

/// What was found once about the directories on the way.
#[derive(Debug, Default)]
struct Directories(HashMap<PathBuf, (bool, Option<(u32, u32)>)>);

impl Attestor {
    /// The files, and why others are none. Blocks.
    pub fn programs(&self, allowed: &[Allowed]) -> (Vec<FoundProgram>, Vec<String>) {
        let (mut found, mut problems, mut directories) = (Vec::new(), Vec::new(), Directories::default());
        for one in allowed {
            match one {
                Allowed::File { path, sha256 } => match self.program(path, sha256.as_deref(), &mut directories) {
                    Ok(program) => found.push(program),
                    Err(problem) => problems.push(format!("{}: {problem}", path.display())),
                },
                Allowed::Directory(path) => match self.listed(path, &mut directories) {
                    Ok(programs) => found.extend(programs),
                    Err(problem) => problems.push(format!("{}: {problem}", path.display())),
                },
            }
        }
        (found, problems)
    }

    fn listed(&self, path: &Path, directories: &mut Directories) -> Result<Vec<FoundProgram>, String> {
        let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
        let mode = fs::symlink_metadata(&path).map_err(|error| error.to_string())?.st_mode();
        if !directories.of(self, &path).0 || mode & OTHERS_WRITE != 0 {
            return Err("others than root may put files into it".to_owned());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(&path).map_err(|error| error.to_string())?.take(MAX_FILES) {
            let entry = entry.map_err(|error| error.to_string())?;
            // What is none, or is somebody's who may change it, is passed over: the directory is allowed, not each of them.
            if let Ok(program) = self.program(&entry.path(), None, directories) {
                found.push(program);
            }
        }
        Ok(found)
    }

    fn program(
        &self,
        path: &Path,
        sha256: Option<&str>,
        directories: &mut Directories,
    ) -> Result<FoundProgram, String> {
        let path = fs::canonicalize(path).map_err(|error| error.to_string())?;
        let parent = path.parent().ok_or("it is no file")?;
        let (is_roots, device) = directories.of(self, parent);
        let metadata = match sha256 {
            None => fs::symlink_metadata(&path).map_err(|error| error.to_string())?,
            Some(sha256) => self.measured(&path, sha256)?,
        };
        if !metadata.is_file() || metadata.st_mode() & EXECUTABLE == 0 {
            return Err("it is no executable file".to_owned());
        }
        let is_others = metadata.st_uid() != 0 || metadata.st_mode() & OTHERS_WRITE != 0 || !is_roots;
        if is_others && sha256.is_none() {
            return Err("others than root may change it or its name; give its sha256".to_owned());
        }
        let of_stat = (rustix::fs::major(metadata.st_dev()), rustix::fs::minor(metadata.st_dev()));
        let mut devices = vec![of_stat];
        devices.extend(device.filter(|device| *device != of_stat));
        let nanoseconds = u32::try_from(metadata.st_ctime_nsec()).unwrap_or_default();
        let changed = Changed { seconds: metadata.st_ctime(), nanoseconds };
        Ok(FoundProgram { devices, inode: metadata.st_ino(), changed })
    }

    /// As it was while it was measured.
    fn measured(&self, path: &Path, sha256: &str) -> Result<fs::Metadata, String> {
        // Not opened before it is known to be a file: opening others can do things, and wait.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| error.to_string())?;
        let reopened = format!("/proc/self/fd/{}", found.as_raw_fd());
        let found = File::from(found);
        let before = found.metadata().map_err(|error| error.to_string())?;
        if !before.is_file() {
            return Err("it is no executable file".to_owned());
        }
        let mut file = File::open(reopened).map_err(|error| error.to_string())?;
        let content = self.measurer().measure(&mut file).map_err(|error| error.to_string())?;
        if *content != *sha256 {
            return Err(format!("its content is another: sha256 {content}"));
        }
        Ok(before)
    }
}

impl Directories {
    /// Whether nobody but root can put another file in the place of one of root's that is in it, and the device of its
    /// superblock.
    fn of(&mut self, attestor: &Attestor, path: &Path) -> (bool, Option<(u32, u32)>) {
        if let Some(known) = self.0.get(path) {
            return *known;
        }
        let metadata = fs::symlink_metadata(path);
        let is_kept = |mode: u32| mode & OTHERS_WRITE == 0 || mode & STICKY != 0;
        let is_roots = metadata.is_ok_and(|metadata| metadata.st_uid() == 0 && is_kept(metadata.st_mode()))
            && path.parent().is_none_or(|above| self.of(attestor, above).0);
        let device = File::open(path).ok().and_then(|file| {
            let own = attestor.proc().process(std::process::id()).ok()?;
            mounts::device(&own, &file)
        });
        self.0.insert(path.to_owned(), (is_roots, device));
        (is_roots, device)
    }
}
