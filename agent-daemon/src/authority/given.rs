// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Files that an operator keeps for us and may replace at any time: certificates, keys, and what logs us in.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::file::{self, Seen};

/// Certificates of a chain or a bundle, and a key: none is larger.
pub(crate) const MAX_PEM_BYTES: usize = 256 * 1024;

/// What others may do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A secret: its group may read it, and nobody else anything.
    Secret,
    /// What is trusted or shown: nobody else may change it.
    Public,
}

impl Kind {
    fn forbidden(self) -> u32 {
        match self {
            Self::Secret => 0o037,
            Self::Public => 0o022,
        }
    }
}

/// A file that may be read.
#[derive(Debug)]
pub(crate) struct Given {
    file: File,
    /// What it looks like now.
    pub(crate) seen: Seen,
}

impl Given {
    /// Links are followed: a folder that Kubernetes mounts is full of them.
    pub(crate) fn open(path: &Path, kind: Kind) -> io::Result<Self> {
        // NONBLOCK: a FIFO that somebody put there must not hang the daemon.
        let file = OpenOptions::new().read(true).custom_flags(file::flags(OFlags::NONBLOCK)).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if metadata.mode() & kind.forbidden() != 0 {
            let words = format!("others have too many rights to it (mode {:04o})", metadata.mode() & 0o7777);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        Ok(Self { file, seen: Seen::of(&metadata) })
    }

    /// All of it, if it has no more bytes than that.
    pub(crate) fn read(self, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        // The whole capacity at once: a vector that grows leaves copies of a secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit.saturating_add(1)));
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        self.file.take(most).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            let words = format!("it has more than {limit} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_taken_with_the_rights_of_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "x").unwrap();
        for (mode, secret, public) in [
            (0o600, true, true),
            (0o640, true, true),
            (0o644, false, true),
            (0o660, false, false),
            (0o610, false, true),
            (0o602, false, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Given::open(&path, Kind::Secret).is_ok(), secret, "{mode:o}");
            assert_eq!(Given::open(&path, Kind::Public).is_ok(), public, "{mode:o}");
        }
    }

    #[test]
    fn what_is_no_file_or_too_large_is_refused_and_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(Given::open(folder.path(), Kind::Public).is_err());
        fs::write(&path, "12345").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let given = Given::open(&link, Kind::Public).unwrap();
        let seen = given.seen;
        assert_eq!(given.read(5).unwrap().as_slice(), b"12345");
        fs::write(&path, "123456").unwrap();
        let given = Given::open(&link, Kind::Public).unwrap();
        assert_ne!(given.seen, seen);
        assert!(given.read(5).unwrap_err().to_string().contains("more than"));
    }
}
