// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::process::Namespaces;

const SYSTEM: &str = "/proc";
/// No file that is read here is larger, whatever its process does.
const LIMIT: u64 = 256 * 1024;

/// The process file system; elsewhere than `/proc` only in tests.
#[derive(Debug, Clone)]
pub struct Proc {
    root: PathBuf,
}

impl Default for Proc {
    fn default() -> Self {
        Self { root: SYSTEM.into() }
    }
}

impl Proc {
    /// Whether it is the kernel's own.
    pub(super) fn is_live(&self) -> bool {
        self.root == Path::new(SYSTEM)
    }

    /// One that is laid out elsewhere, with plain files in the places of the kernel's.
    #[cfg(any(test, feature = "testing"))]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// One process's directory, held open: what is read through it is of this process or fails.
    pub(super) fn process(&self, tgid: u32) -> io::Result<ProcessDir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, self.root.join(tgid.to_string()), flags, Mode::empty())?;
        Ok(ProcessDir { dir })
    }

    /// When a process started, in clock ticks after boot: field 22 of its `stat`.
    pub(super) fn start_ticks(&self, tgid: u32) -> io::Result<u64> {
        let text = self.process(tgid)?.text("stat")?;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed stat");
        let (_, rest) = text.rsplit_once(") ").ok_or_else(malformed)?;
        rest.split(' ').nth(19).and_then(|field| field.parse().ok()).ok_or_else(malformed)
    }
}

/// The mount and user namespace in which names mean what they mean to the daemon.
///
/// Whoever owns a user namespace can mount anything over any name in it, execute that name and undo it, so a
/// name resolved elsewhere proves nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Home {
    mnt: u32,
    user: u32,
}

impl Home {
    /// The daemon's own. None when it cannot be read: then no name is believed.
    pub(super) fn own() -> Option<Self> {
        let own = |name: &str| inode(&std::fs::read_link(format!("/proc/self/ns/{name}")).ok()?);
        Some(Self { mnt: own("mnt")?, user: own("user")? })
    }

    /// Whether an exec instance began there.
    pub(super) fn holds(self, namespaces: &Namespaces) -> bool {
        namespaces.mnt == self.mnt && namespaces.user == self.user
    }
}

/// The inode number in the text of a link such as `net:[4026531840]`.
fn inode(link: &Path) -> Option<u32> {
    link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

/// `/proc/PID`, held open.
#[derive(Debug)]
pub(super) struct ProcessDir {
    dir: OwnedFd,
}

impl ProcessDir {
    pub(super) fn text(&self, name: &str) -> io::Result<String> {
        String::from_utf8(self.bytes(name)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    pub(super) fn bytes(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(name)?.take(LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Opens a file in it; magic links such as `exe` lead to the very file.
    pub(super) fn open(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?.into())
    }

    pub(super) fn link(&self, name: &str) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::new())?;
        Ok(PathBuf::from(lossless(target)))
    }

    /// The namespace that it is in now, of a kind such as `net`; the record has the one at exec.
    pub(super) fn namespace(&self, kind: &str) -> io::Result<u32> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed namespace");
        inode(&self.link(&format!("ns/{kind}"))?).ok_or_else(malformed)
    }

    /// The namespaces of names that it is in now; none when they cannot be read.
    pub(super) fn home(&self) -> Option<Home> {
        Some(Home { mnt: self.namespace("mnt").ok()?, user: self.namespace("user").ok()? })
    }

    /// A directory behind a magic link (`root`, `cwd`).
    pub(super) fn directory(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.dir, name, flags, Mode::empty())?)
    }
}

fn lossless(text: std::ffi::CString) -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec(text.into_bytes())
}

/// A path's components without `.`; none when it has `..`, which the kernel would follow and we do not.
pub(super) fn plain_components(path: &Path) -> Option<Vec<&std::ffi::OsStr>> {
    let mut components = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::RootDir | std::path::Component::CurDir => {}
            std::path::Component::Normal(name) => components.push(name),
            std::path::Component::ParentDir | std::path::Component::Prefix(_) => return None,
        }
    }
    Some(components)
}

/// Opens a name in a directory without following a symbolic link.
pub(super) fn open_plain(directory: impl AsFd, name: &std::ffi::OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}
