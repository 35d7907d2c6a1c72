// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::path::Path;

use agent_ebpf::Offsets;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::Error;
use super::btf::Btf;

/// Resolves every offset the programs need from the kernel's BTF.
pub(super) fn resolve(path: &Path) -> Result<Offsets, Error> {
    let data = fs::read(path).map_err(|source| Error::Io { operation: "read", path: path.to_owned(), source })?;
    let btf = Btf::parse(&data, Offsets::MEMBERS.iter().map(|(structure, _)| *structure))?;
    let mut resolved = Vec::with_capacity(Offsets::MEMBERS.len());
    for (structure, paths) in Offsets::MEMBERS {
        resolved.push(btf.offset(structure, paths)?);
    }
    Offsets::read_from_bytes(resolved.as_bytes()).map_err(|_| Error::Bug("bug: offsets and members differ in number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_every_member() {
        let offsets = resolve(Path::new("/sys/kernel/btf/vmlinux")).unwrap();
        assert_ne!(offsets.task_tgid, 0);
        assert_ne!(offsets.task_pid, offsets.task_tgid);
        assert_ne!(offsets.inode_ctime_sec, offsets.inode_ctime_nsec);
    }
}
