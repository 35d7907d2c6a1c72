// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The test's own process, as our kernel programs would have recorded it.

use std::fs;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::process::{BootTime, ExecId, ExecInstance, FileId, Flags, Namespaces, ProcessKey};

const NANOSECONDS: u64 = 1_000_000_000;

/// The thread group id of the test.
pub fn tgid() -> u32 {
    std::process::id()
}

/// The test's executable.
pub fn exe_path() -> PathBuf {
    fs::read_link("/proc/self/exe").expect("/proc/self/exe")
}

/// The record of the test's own process: its true start, executable, ids and namespaces.
pub fn exec_instance_of_self(id: ExecId) -> ExecInstance {
    let start = start_ticks().saturating_mul(NANOSECONDS / rustix::param::clock_ticks_per_second().max(1));
    let exe = exe_path();
    ExecInstance {
        id,
        process: ProcessKey { tgid: tgid(), start_boottime: BootTime(start) },
        parent: None,
        parent_tgid: std::os::unix::process::parent_id(),
        began: BootTime(start),
        session_id: None,
        cgroup_id: 1,
        exe: file_id(&exe),
        ancestors: Box::default(),
        depth: 0,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        euid: rustix::process::geteuid().as_raw(),
        egid: rustix::process::getegid().as_raw(),
        capabilities: 0,
        namespaces: Namespaces {
            pid: namespace("pid"),
            mnt: namespace("mnt"),
            net: namespace("net"),
            user: namespace("user"),
        },
        flags: Flags::default(),
        comm: "test".into(),
        filename: exe.as_os_str().as_bytes().into(),
    }
}

fn start_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("/proc/self/stat");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
    rest.split(' ').nth(19).and_then(|field| field.parse().ok()).expect("field 22")
}

fn file_id(path: &std::path::Path) -> FileId {
    let metadata = fs::metadata(path).expect("the executable");
    FileId {
        major: rustix::fs::major(metadata.st_dev()),
        minor: rustix::fs::minor(metadata.st_dev()),
        inode: metadata.st_ino(),
        generation: 0,
        ctime_sec: metadata.st_ctime(),
        ctime_nsec: u32::try_from(metadata.st_ctime_nsec()).expect("nanoseconds"),
    }
}

fn namespace(name: &str) -> u32 {
    let link = fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
    let link = link.to_str().and_then(|link| link.split_once('[')?.1.strip_suffix(']')).expect("type:[inode]");
    link.parse().expect("an inode number")
}
