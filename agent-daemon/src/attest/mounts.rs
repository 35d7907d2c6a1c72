// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What lies under an open file: the superblock's own device number, and whether it is a file system that a
//! program serves.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxFlags};

use super::proc::ProcessDir;

const FUSE: u64 = 0x6573_5546;

/// Whether a program answers the reads of a file: two reads need not be of the same content then.
pub(super) fn is_served_by_program(file: impl AsFd) -> std::io::Result<bool> {
    Ok(u64::try_from(rustix::fs::fstatfs(file)?.f_type) == Ok(FUSE))
}

/// The superblock's device of an open file, if it was opened through one of the process's mounts. `stat` does not
/// tell it on overlay and btrfs, and another's mount may have any name.
pub(super) fn device(process: &ProcessDir, file: &File) -> Option<(u32, u32)> {
    let stat = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) {
        parse(&String::from_utf8_lossy(&process.bytes("mountinfo").ok()?), stat.stx_mnt_id)
    } else {
        None
    }
}

/// `proc_pid_mountinfo(5)`: mount id, parent id, major:minor of the superblock.
fn parse(mountinfo: &str, mount: u64) -> Option<(u32, u32)> {
    mountinfo.lines().find_map(|line| {
        let mut fields = line.split(' ');
        if fields.next()?.parse() != Ok(mount) {
            return None;
        }
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_number_alone() {
        let text = "30 20 0:25 / /a rw - tmpfs tmpfs rw\n31 30 8:1 / /30\\0400:9 rw - ext4 x rw\nnonsense\n310 1";
        for (mount, expected) in [(30, Some((0, 25))), (31, Some((8, 1))), (20, None), (310, None), (3, None)] {
            assert_eq!(parse(text, mount), expected, "{mount}");
        }
    }
}
