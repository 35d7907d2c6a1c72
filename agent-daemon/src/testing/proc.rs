// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::{PrivateDirectory, exe_path, tgid};
use crate::attest::Proc;

/// A `/proc` of plain files, in which processes can change their ids and vanish.
#[derive(Debug)]
pub struct FakeProc {
    root: PrivateDirectory,
}

impl FakeProc {
    /// With the test's own process in it, as it is.
    pub fn new() -> Self {
        let proc = Self { root: PrivateDirectory::new() };
        let own = proc.process(tgid());
        fs::create_dir(&own).expect("a directory");
        for name in ["stat", "status", "cgroup", "mountinfo"] {
            fs::write(own.join(name), fs::read(format!("/proc/self/{name}")).expect("a file of /proc")).expect(name);
        }
        symlink(exe_path(), own.join("exe")).expect("a link");
        symlink("/", own.join("root")).expect("a link");
        fs::create_dir(own.join("ns")).expect("a directory");
        for kind in ["mnt", "user", "net"] {
            let namespace = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
            symlink(namespace, own.join("ns").join(kind)).expect("a link");
        }
        proc
    }

    /// For an attestor.
    pub fn proc(&self) -> Proc {
        Proc::at(self.root.path())
    }

    /// Gives a process other user and group ids, real and effective.
    pub fn set_ids(&self, tgid: u32, uid: u32, gid: u32) {
        // In place: whoever holds the file open sees it change, as in the real one.
        let status = format!(
            "Name:\ttest\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\nGroups:\t{gid} \n"
        );
        fs::write(self.process(tgid).join("status"), status).expect("status");
    }

    /// Makes the ids of a process unreadable without its being gone.
    pub fn break_status(&self, tgid: u32) {
        let path = self.process(tgid).join("status");
        fs::remove_file(&path).expect("status");
        fs::create_dir(&path).expect("a directory in its place");
    }

    /// Removes a process.
    pub fn remove(&self, tgid: u32) {
        fs::remove_dir_all(self.process(tgid)).expect("its directory");
    }

    fn process(&self, tgid: u32) -> PathBuf {
        self.root.path().join(tgid.to_string())
    }
}

impl Default for FakeProc {
    fn default() -> Self {
        Self::new()
    }
}
