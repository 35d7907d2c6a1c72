// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The executed file: `unix:path` and `unix:sha256`. The file behind `/proc/PID/exe` counts only if it is the
//! inode that the kernel recorded at exec; a process with rights in some user namespace can point the link
//! elsewhere (`PR_SET_MM_EXE_FILE`), also for another that shares its memory.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agent_ebpf::flags;
use rustix::fs::{Mode, OFlags};

use super::evidence::Program;
use super::measure::Measurer;
use super::mounts;
use super::proc::ProcessDir;
use super::script;
use crate::identity::Provenance;
use crate::process::{ExecInstance, FileId};

/// The program, or why it is not known.
///
/// The content is measured wherever it runs, but not on a file system of its user's; the name counts only where
/// names mean what they mean to us.
pub(super) fn read(
    process: &ProcessDir,
    instance: &ExecInstance,
    is_home: bool,
    measurer: &Measurer,
) -> Result<Program, String> {
    let path = process.link("exe").map_err(|error| format!("the executable has no name: {error}"))?;
    let path = path.to_str().ok_or("the executable's path is not UTF-8")?.to_owned();
    let mut file = process.open("exe").map_err(|error| format!("the executable cannot be opened: {error}"))?;
    let device = mounts::device(process, &file);
    if !is_recorded(&file, device, &instance.exe)
        .map_err(|error| format!("the executable cannot be examined: {error}"))?
    {
        return Err("the executable is not the file that the kernel recorded, or was changed since".to_owned());
    }
    let path_weakness = if !is_home {
        Some("the path is of another mount or user namespace, where it may name anything".to_owned())
    } else if device.is_none() {
        Some("the path is of a mount that its process does not have".to_owned())
    } else {
        None
    };
    let weakness = weakness(instance, &file);
    let (sha256, unmeasured) = match measurer.measure(&mut file) {
        Ok(digest) => (Some(digest.to_string()), None),
        Err(error) => (None, Some(format!("not measured: {error}"))),
    };
    let path_provenance = if path_weakness.is_none() { Provenance::Kernel } else { Provenance::Claimed };
    let provenance = match (&sha256, &weakness) {
        (None, _) => path_provenance,
        (Some(_), None) => Provenance::Measured,
        (Some(_), Some(_)) => Provenance::Claimed,
    };
    Ok(Program { path, sha256, provenance, path_provenance, note: unmeasured.or(weakness).or(path_weakness) })
}

/// The program of an exec instance that is over, if its file is still where it was and what it was. Its path is the
/// kernel's word only where nobody but root can give it another one: unchanged since, a file with one name has had that
/// name all the time (linking, unlinking and renaming change it), and so have the directories on its way.
pub(super) fn read_ended(instance: &ExecInstance, is_home: bool, measurer: &Measurer) -> Option<Program> {
    let name = Path::new(OsStr::from_bytes(&instance.filename));
    let is_script = instance.flags.has(flags::SCRIPT | flags::FILENAME_TRUNCATED);
    if !is_home || is_script || !name.is_absolute() {
        return None;
    }
    // Not opened before it is known to be the file: opening others can do things.
    let found = rustix::fs::open(name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let reopened = format!("/proc/self/fd/{}", found.as_raw_fd());
    let mut file = File::from(found);
    let is_same = |file: &File| is_recorded(file, None, &instance.exe).is_ok_and(|is| is);
    if !is_same(&file) || file.metadata().ok()?.st_nlink() != 1 {
        return None;
    }
    let path = std::fs::read_link(&reopened).ok()?.to_str()?.to_owned();
    let is_roots = script::is_out_of_reach(Path::new(&path));
    file = File::open(&reopened).ok()?;
    if weakness(instance, &file).is_some() {
        return None;
    }
    let sha256 = measurer.measure(&mut file).ok()?.to_string();
    let path_provenance = if is_roots { Provenance::Kernel } else { Provenance::Claimed };
    let provenance = Provenance::Measured;
    is_same(&file).then_some(Program { path, path_provenance, sha256: Some(sha256), provenance, note: None })
}

/// Why what is read from the file need not be what was executed; none when it is.
fn weakness(instance: &ExecInstance, file: &File) -> Option<String> {
    if instance.flags.has(flags::USER_MOUNTED) {
        return Some("the executable's file system was mounted in a user namespace".to_owned());
    }
    match mounts::is_served_by_program(file) {
        Ok(false) => None,
        Ok(true) => Some("the executable's file system is served by a program".to_owned()),
        Err(error) => Some(format!("the executable's file system is not known: {error}")),
    }
}

/// Whether an open file is the inode in the record, unchanged since. `device` is its superblock's, as the mount
/// says; overlay and btrfs show user space other numbers.
fn is_recorded(file: &File, device: Option<(u32, u32)>, recorded: &FileId) -> std::io::Result<bool> {
    let metadata = file.metadata()?;
    let of_stat = (rustix::fs::major(metadata.st_dev()), rustix::fs::minor(metadata.st_dev()));
    let of_record = (recorded.major, recorded.minor);
    Ok((of_stat == of_record || device == Some(of_record))
        && metadata.st_ino() == recorded.inode
        && metadata.st_ctime() == recorded.ctime_sec
        && metadata.st_ctime_nsec() == i64::from(recorded.ctime_nsec))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the same inode number and change time, which an attacker can arrange on file systems of its own.
    #[test]
    fn a_file_on_another_device_is_not_the_recorded_one() {
        let file = File::open("/proc/self/exe").unwrap();
        let metadata = file.metadata().unwrap();
        let (major, minor) = (rustix::fs::major(metadata.st_dev()), rustix::fs::minor(metadata.st_dev()));
        let recorded = |major, minor| FileId {
            major,
            minor,
            inode: metadata.st_ino(),
            generation: 0,
            ctime_sec: metadata.st_ctime(),
            ctime_nsec: u32::try_from(metadata.st_ctime_nsec()).unwrap(),
        };
        for (of_record, device, expected) in [
            ((major, minor), None, true),
            ((major, minor + 1), Some((major, minor + 1)), true),
            ((major, minor + 1), Some((major, minor)), false),
            ((major, minor + 1), None, false),
        ] {
            let found = is_recorded(&file, device, &recorded(of_record.0, of_record.1)).unwrap();
            assert_eq!(found, expected, "{of_record:?} {device:?}");
        }
    }
}
