// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The log's directory: names of its files, which segments there are, and the lock that keeps others out.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::Error;
use crate::authority::file::flags;

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".jsonl";

pub(super) fn segment_name(segment: u64) -> String {
    format!("{PREFIX}{segment:08}{SUFFIX}")
}

pub(super) fn segment_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(segment_name(segment))
}

/// Numbers of the segments there are, in order.
pub(super) fn list_segments(directory: &Path) -> Result<Vec<u64>, Error> {
    let io = || Error::io("list the audit directory", directory);
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(io())? {
        let name = entry.map_err(io())?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse::<u64>().ok())
            .filter(|segment| name.to_str() == Some(segment_name(*segment).as_str()));
        segments.extend(number);
    }
    segments.sort_unstable();
    Ok(segments)
}

/// Removes what a crash left of a side file that was being replaced. Only under the lock.
pub(super) fn remove_temporaries(directory: &Path) -> Result<(), Error> {
    let io = || Error::io("list the audit directory", directory);
    for entry in fs::read_dir(directory).map_err(io())? {
        let name = entry.map_err(io())?.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp")) {
            let path = directory.join(name);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Held for as long as the log is open.
pub(super) fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags(OFlags::NOFOLLOW))
        .open(&path)
        .map_err(Error::io("open the audit lock", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked { path: directory.to_owned() }),
        Err(errno) => Err(Error::Io { operation: "lock", path, source: io::Error::from(errno) }),
    }
}
