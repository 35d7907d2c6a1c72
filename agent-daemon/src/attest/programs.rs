// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The files that an entry lists as its tree's programs, as they are on disk now.
//!
//! A name that somebody else than root may give to another file says nothing, nor does a file that somebody else may write
//! to, whatever it holds when it is measured: who has mapped it writes to it without a trace.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::linux::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::{Attestor, mounts};
use crate::egress::Changed;
use crate::identity::Allowed;

/// Files of one directory.
const MAX_FILES: usize = 8192;
const MAX_LINKS: usize = 40;
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
struct Directories {
    roots: HashMap<PathBuf, bool>,
    devices: HashMap<PathBuf, Option<(u32, u32)>>,
}

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
        let path = directories.walk(path)?;
        let mode = fs::symlink_metadata(&path).map_err(|error| error.to_string())?.st_mode();
        if !directories.is_roots(&path) || mode & OTHERS_WRITE != 0 {
            return Err("others than root may put files into it".to_owned());
        }
        let (mut found, mut count) = (Vec::new(), 0);
        for entry in fs::read_dir(&path).map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| error.to_string())?;
            count += 1;
            if count > MAX_FILES {
                return Err(format!("more than {MAX_FILES} files"));
            }
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
        let path = directories.walk(path)?;
        let parent = path.parent().ok_or("it is no file")?;
        let metadata = fs::symlink_metadata(&path).map_err(|error| error.to_string())?;
        if !metadata.is_file() || metadata.st_mode() & EXECUTABLE == 0 {
            return Err("it is no executable file".to_owned());
        }
        if metadata.st_uid() != 0 || metadata.st_mode() & OTHERS_WRITE != 0 {
            return Err("others than root may change it".to_owned());
        }
        if let Some(sha256) = sha256 {
            self.has_content(&path, sha256)?;
        }
        let of_stat = (rustix::fs::major(metadata.st_dev()), rustix::fs::minor(metadata.st_dev()));
        let mut devices = vec![of_stat];
        devices.extend(directories.device(self, parent).filter(|device| *device != of_stat));
        let nanoseconds = u32::try_from(metadata.st_ctime_nsec()).unwrap_or_default();
        let changed = Changed { seconds: metadata.st_ctime(), nanoseconds };
        Ok(FoundProgram { devices, inode: metadata.st_ino(), changed })
    }

    fn has_content(&self, path: &Path, sha256: &str) -> Result<(), String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| error.to_string())?;
        let content = self.measurer().measure(&mut File::from(file)).map_err(|error| error.to_string())?;
        if *content == *sha256 { Ok(()) } else { Err(format!("its content is another: sha256 {content}")) }
    }
}

impl Directories {
    /// The file that a path leads to, if root alone says so: each directory on the way is one of root's, and so is each link.
    fn walk(&mut self, path: &Path) -> Result<PathBuf, String> {
        let mut left: VecDeque<OsString> = plain(path);
        let (mut at, mut links) = (PathBuf::from("/"), 0);
        while let Some(name) = left.pop_front() {
            let is_roots = self.is_roots(&at);
            if name == ".." {
                at.pop();
                continue;
            }
            at.push(&name);
            let metadata = fs::symlink_metadata(&at).map_err(|error| error.to_string())?;
            // What is root's in a directory where others may put things stays there: they may only add to it.
            if !is_roots || metadata.st_uid() != 0 {
                return Err(format!("others than root may change what {} is", at.display()));
            }
            if metadata.is_symlink() {
                links += 1;
                if links > MAX_LINKS {
                    return Err("too many links".to_owned());
                }
                let target = fs::read_link(&at).map_err(|error| error.to_string())?;
                at.pop();
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in plain(&target).into_iter().rev() {
                    left.push_front(name);
                }
            }
        }
        Ok(at)
    }

    /// Whether nobody but root can put another file in the place of one of root's that is in it.
    fn is_roots(&mut self, path: &Path) -> bool {
        if let Some(known) = self.roots.get(path) {
            return *known;
        }
        let is_kept = |mode: u32| mode & OTHERS_WRITE == 0 || mode & STICKY != 0;
        let metadata = fs::symlink_metadata(path);
        let is_roots = metadata
            .is_ok_and(|metadata| metadata.is_dir() && metadata.st_uid() == 0 && is_kept(metadata.st_mode()))
            && path.parent().is_none_or(|above| self.is_roots(above));
        self.roots.insert(path.to_owned(), is_roots);
        is_roots
    }

    /// The device of a directory's superblock.
    fn device(&mut self, attestor: &Attestor, path: &Path) -> Option<(u32, u32)> {
        let find = || {
            let file = File::open(path).ok()?;
            mounts::device(&attestor.proc().process(std::process::id()).ok()?, &file)
        };
        *self.devices.entry(path.to_owned()).or_insert_with(find)
    }
}

/// The names in a path.
fn plain(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}
