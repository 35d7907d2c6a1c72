// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The executed file: `unix:path` and `unix:sha256`. The file behind `/proc/PID/exe` counts only if it is the
//! inode that the kernel recorded at exec.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::linux::fs::MetadataExt as _;

use super::evidence::Program;
use super::measure::Measurer;
use super::proc::ProcessDir;
use crate::identity::Provenance;
use crate::process::FileId;

const OVERLAYFS: u64 = 0x794c_7630;
const BTRFS: u64 = 0x9123_683e;

/// The program, or why it is not known.
///
/// The content is measured wherever it runs; the name counts only where names mean what they mean to us.
pub(super) fn read(
    process: &ProcessDir,
    recorded: &FileId,
    is_home: bool,
    measurer: &Measurer,
) -> Result<Program, String> {
    let path = process.link("exe").map_err(|error| format!("the executable has no name: {error}"))?;
    let path = path.to_str().ok_or("the executable's path is not UTF-8")?.to_owned();
    let mut file = process.open("exe").map_err(|error| format!("the executable cannot be opened: {error}"))?;
    if !is_recorded(&file, recorded).map_err(|error| format!("the executable cannot be examined: {error}"))? {
        return Err("the executable is not the file that the kernel recorded, or was changed since".to_owned());
    }
    let (sha256, note) = match measurer.measure(&mut file) {
        Ok(digest) => (Some(digest.to_string()), None),
        Err(error) => (None, Some(format!("not measured: {error}"))),
    };
    let path_provenance = if is_home { Provenance::Kernel } else { Provenance::Claimed };
    let provenance = if sha256.is_some() { Provenance::Measured } else { path_provenance };
    let elsewhere = || "the path is of another mount or user namespace, where it may name anything".to_owned();
    let note = note.or_else(|| (!is_home).then(elsewhere));
    Ok(Program { path, path_provenance, sha256, provenance, note })
}

/// Whether an open file is the inode in the record, unchanged since.
pub(super) fn is_recorded(file: &File, recorded: &FileId) -> std::io::Result<bool> {
    let metadata = file.metadata()?;
    let is_same_device = rustix::fs::major(metadata.st_dev()) == recorded.major
        && rustix::fs::minor(metadata.st_dev()) == recorded.minor;
    // These file systems show other device numbers to user space than the superblock has.
    let is_device_comparable = !matches!(file_system(file), Some(OVERLAYFS | BTRFS));
    Ok((is_same_device || !is_device_comparable)
        && metadata.st_ino() == recorded.inode
        && metadata.st_ctime() == recorded.ctime_sec
        && metadata.st_ctime_nsec() == i64::from(recorded.ctime_nsec))
}

fn file_system(file: impl AsFd) -> Option<u64> {
    u64::try_from(rustix::fs::fstatfs(file).ok()?.f_type).ok()
}
