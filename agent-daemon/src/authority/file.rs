// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Small private files that survive a crash whole: created once, or replaced at once.
//!
//! A file that others may read or write, or that is not ours, is refused rather than repaired: whatever it
//! holds may already be known or forged.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Makes a directory of mode 0700, or checks that the one there is ours alone.
pub(crate) fn ensure_private_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            if let Some(parent) = parent(path) {
                sync_directory(parent)?;
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path)?;
            if !metadata.is_dir() {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a directory"));
            }
            check_private(&metadata)
        }
        Err(error) => Err(error),
    }
}

/// The bytes of a private file; `None` when there is none.
pub(crate) fn read_private(path: &Path, limit: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match open_nofollow(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    check_private(&metadata)?;
    // The whole capacity at once: a vector that grows leaves copies of a secret behind.
    let expected = usize::try_from(metadata.len()).unwrap_or(usize::MAX).min(limit).saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected));
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "file is larger than allowed"));
    }
    Ok(Some(bytes))
}

/// Writes a file of mode 0600 unless there is one already; says whether it did.
///
/// The name appears only with its whole content, so a crash cannot leave an empty key behind.
pub(crate) fn create_new(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let temporary = write_temporary(path, bytes)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => {
            sync_parent(path)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Puts a file of mode 0600 in place of what is there, whole or not at all.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = write_temporary(path, bytes)?;
    if let Err(error) = fs::rename(&temporary, path) {
        fs::remove_file(&temporary)?;
        return Err(error);
    }
    sync_parent(path)
}

/// What shows that a file is another one, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    dev: u64,
    ino: u64,
    mtime: (i64, i64),
    length: u64,
}

impl Seen {
    pub(crate) fn of(metadata: &fs::Metadata) -> Self {
        let mtime = (metadata.mtime(), metadata.mtime_nsec());
        Self { dev: metadata.dev(), ino: metadata.ino(), mtime, length: metadata.len() }
    }
}

/// Removes a file; nothing to do when there is none.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Opens for reading what is not a symbolic link.
pub(crate) fn open_nofollow(path: &Path) -> io::Result<File> {
    // NONBLOCK: opening a FIFO that somebody put there must not hang the start.
    OpenOptions::new().read(true).custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK)).open(path)
}

pub(crate) fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}

fn check_private(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may access it (want mode 0700 or 0600)"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    Ok(())
}

fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    // The leading period keeps it out of every listing here, and no valid name starts with one.
    let temporary = path.with_file_name(format!(
        ".{}.{}.{}.tmp",
        name.to_string_lossy(),
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    // One left by a crash of a process with our pid; ours are distinct by number.
    match fs::remove_file(&temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(flags(OFlags::NOFOLLOW))
        .open(&temporary)?;
    if let Err(error) = file.write_all(bytes).and_then(|()| file.sync_all()) {
        fs::remove_file(&temporary)?;
        return Err(error);
    }
    Ok(temporary)
}

fn parent(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    parent(path).map_or(Ok(()), sync_directory)
}

/// A directory that [`ensure_private_directory`] accepts.
#[cfg(test)]
pub(crate) fn private_tempdir() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().expect("a temporary directory")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_created_once_and_replaced_whole() {
        let directory = private_tempdir();
        let path = directory.path().join("a");
        assert!(create_new(&path, b"one").unwrap());
        assert!(!create_new(&path, b"two").unwrap());
        assert_eq!(read_private(&path, 3).unwrap().unwrap().as_slice(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(read_private(&path, 5).unwrap().unwrap().as_slice(), b"three");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing temporary stays");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_open_to_others_too_large_or_a_link_is_refused() {
        let directory = private_tempdir();
        let path = directory.path().join("a");
        replace(&path, b"1234").unwrap();
        assert!(read_private(&path, 3).is_err());
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(read_private(&link, 9).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_private(&path, 9).is_err());
        assert!(read_private(&directory.path().join("none"), 9).unwrap().is_none());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let directory = private_tempdir();
        let path = directory.path().join("keys");
        ensure_private_directory(&path).unwrap();
        ensure_private_directory(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(ensure_private_directory(&path).is_err());
    }
}
