// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where cgroup v2 and the BPF file system are mounted. Hybrid hosts mount cgroup v2 below
//! `/sys/fs/cgroup`, so it is looked up and never assumed.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;

const BPFFS: &str = "/sys/fs/bpf";

/// The root of cgroup v2.
pub(super) fn cgroup_root() -> Result<PathBuf, Error> {
    first_of_type(&mountinfo()?, "cgroup2").ok_or(Error::NoCgroup)
}

/// Makes sure that the BPF file system is mounted, mounting it at its usual place where allowed.
pub(super) fn ensure_bpffs(mount_if_missing: bool) -> Result<PathBuf, Error> {
    if let Some(path) = first_of_type(&mountinfo()?, "bpf") {
        return Ok(path);
    }
    if !mount_if_missing {
        return Err(Error::NoBpffs);
    }
    let flags =
        rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("bpf", BPFFS, "bpf", flags, Some(c"mode=0700")).map_err(|source| Error::Io {
        operation: "mount the BPF file system at",
        path: BPFFS.into(),
        source: source.into(),
    })?;
    Ok(BPFFS.into())
}

fn mountinfo() -> Result<String, Error> {
    let path = Path::new("/proc/self/mountinfo");
    fs::read_to_string(path).map_err(|source| Error::Io { operation: "read", path: path.to_owned(), source })
}

/// The mount point of the first mount of a file system type (`proc_pid_mountinfo(5)`).
fn first_of_type(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        (rest.split(' ').next()? == kind && root == "/").then(|| PathBuf::from(unescape(point)))
    })
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_found_on_hybrid_and_unified_hosts() {
        let hybrid = "30 20 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let unified = "30 20 0:25 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let container = "30 20 0:25 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let odd = "30 20 0:25 / /mnt/with\\040blank rw - cgroup2 cgroup rw\nnonsense\n";
        for (text, expected) in [
            (hybrid, Some("/sys/fs/cgroup/unified")),
            (unified, Some("/sys/fs/cgroup")),
            (container, None),
            (odd, Some("/mnt/with blank")),
            ("", None),
        ] {
            assert_eq!(first_of_type(text, "cgroup2"), expected.map(PathBuf::from), "{text}");
        }
    }
}
