// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Real processes, the test's own first of all, as our kernel programs would have recorded them.

use std::fs;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

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
    exec_instance_of(tgid(), id)
}

/// The same of another process of the test's.
pub fn exec_instance_of(tgid: u32, id: ExecId) -> ExecInstance {
    let proc = PathBuf::from(format!("/proc/{tgid}"));
    let stat = fs::read_to_string(proc.join("stat")).expect("stat");
    let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
    let field = |at: usize| rest.split(' ').nth(at).expect("a field");
    let tick = NANOSECONDS / rustix::param::clock_ticks_per_second().max(1);
    let start = BootTime(field(19).parse::<u64>().expect("field 22").saturating_mul(tick));
    let status = fs::read_to_string(proc.join("status")).expect("status");
    let ids = |name: &str| -> (u32, u32) {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("ids");
        let mut ids = line.split_whitespace().map(|id| id.parse().expect("a number"));
        (ids.next().expect("a real id"), ids.next().expect("an effective id"))
    };
    let ((uid, euid), (gid, egid)) = (ids("Uid"), ids("Gid"));
    let exe = fs::read_link(proc.join("exe")).expect("exe");
    let namespace = |name: &str| -> u32 {
        let link = fs::read_link(proc.join("ns").join(name)).expect("a namespace");
        let link = link.to_str().and_then(|link| link.split_once('[')?.1.strip_suffix(']')).expect("type:[inode]");
        link.parse().expect("an inode number")
    };
    ExecInstance {
        id,
        process: ProcessKey { tgid, start_boottime: start },
        parent: None,
        parent_tgid: field(1).parse().expect("field 4"),
        began: start,
        session_id: None,
        cgroup_id: 1,
        exe: file_id(&proc.join("exe")),
        ancestors: Box::default(),
        depth: 0,
        uid,
        gid,
        euid,
        egid,
        capabilities: 0,
        permitted: 0,
        namespaces: Namespaces {
            pid: namespace("pid"),
            mnt: namespace("mnt"),
            net: namespace("net"),
            user: namespace("user"),
        },
        governed: None,
        flags: Flags::default(),
        comm: "test".into(),
        filename: exe.as_os_str().as_bytes().into(),
    }
}

fn file_id(path: &Path) -> FileId {
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
