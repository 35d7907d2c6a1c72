// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What operators may see of the kernel half, behind a trait so that a fake can stand in.

use std::fmt::Debug;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::load::ProgramReport;
use super::maps::Maps;
use super::mounts;
use super::selftest::{Proof, prove};

const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The first bytes of BTF on this machine's byte order.
const BTF_MAGIC: [u8; 2] = 0xeb9f_u16.to_ne_bytes();

/// One program that runs in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramView {
    /// The hook's name.
    pub name: String,
    /// Whether an earlier daemon attached it.
    pub is_adopted: bool,
    /// How often it ran; zero unless the kernel keeps statistics.
    pub run_count: u64,
    /// For how long altogether.
    pub run_time_ns: u64,
    /// Instructions the verifier looked at.
    pub verified_instructions: u64,
}

/// Something that the kernel half rests on, looked at now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assumption {
    /// Stable name: `kernel.btf`.
    pub id: &'static str,
    /// For people.
    pub title: &'static str,
    /// What is lost without it.
    pub guarantee: &'static str,
    /// What to do when it does not hold.
    pub fix: &'static str,
    /// What was seen, or what is wrong.
    pub result: Result<String, String>,
}

/// The kernel half as operators see it.
pub trait KernelView: Debug + Send + Sync + 'static {
    /// The programs that run all the time.
    fn programs(&self) -> Vec<ProgramView>;

    /// What was tried when the daemon started.
    fn proofs_at_start(&self) -> Vec<Proof>;

    /// Tries every hook that runs all the time once more. Blocks for some milliseconds.
    fn prove_now(&self) -> Vec<Proof>;

    /// What the programs and their pins rest on. Blocks on the file system.
    fn assumptions(&self) -> Vec<Assumption>;

    /// Events that could not be decoded.
    fn rejected_events(&self) -> u64;
}

/// The running kernel.
#[derive(Debug)]
pub struct LiveKernel {
    maps: Arc<Maps>,
    programs: Vec<ProgramReport>,
    proofs: Vec<Proof>,
    rejected: Arc<AtomicU64>,
    pin_dir: PathBuf,
}

impl LiveKernel {
    /// Over the parts of [`super::Kernel`]; `rejected` is [`super::Events::rejected`].
    pub fn new(
        maps: Arc<Maps>,
        programs: Vec<ProgramReport>,
        proofs: Vec<Proof>,
        rejected: Arc<AtomicU64>,
        pin_dir: PathBuf,
    ) -> Self {
        Self { maps, programs, proofs, rejected, pin_dir }
    }
}

impl KernelView for LiveKernel {
    fn programs(&self) -> Vec<ProgramView> {
        let view = |program: &ProgramReport| {
            let (run_count, run_time_ns) = program.runs();
            ProgramView {
                name: program.name.to_owned(),
                is_adopted: program.is_adopted,
                run_count,
                run_time_ns,
                verified_instructions: program.verified_instructions(),
            }
        };
        self.programs.iter().map(view).collect()
    }

    fn proofs_at_start(&self) -> Vec<Proof> {
        self.proofs.clone()
    }

    fn prove_now(&self) -> Vec<Proof> {
        prove(&self.maps)
    }

    fn assumptions(&self) -> Vec<Assumption> {
        vec![
            Assumption {
                id: "kernel.btf",
                title: "Kernel type information (BTF)",
                guarantee: "the programs read the right fields of kernel structures",
                fix: "use a kernel built with CONFIG_DEBUG_INFO_BTF",
                result: btf(Path::new(BTF)),
            },
            Assumption {
                id: "kernel.cgroup2",
                title: "cgroup v2 hierarchy",
                guarantee: "connections are witnessed",
                fix: "mount cgroup v2 (systemd does)",
                result: match mounts::cgroup_root() {
                    Ok(root) => Ok(format!("mounted at {}", root.display())),
                    Err(error) => Err(error.to_string()),
                },
            },
            Assumption {
                id: "kernel.bpffs",
                title: "BPF file system and our pins",
                guarantee: "bindings survive a restart of the daemon",
                fix: "mount the BPF file system at /sys/fs/bpf and restart the daemon",
                result: pins(&self.pin_dir, &self.programs),
            },
        ]
    }

    fn rejected_events(&self) -> u64 {
        // ORDER: a counter that nothing else depends on.
        self.rejected.load(Ordering::Relaxed)
    }
}

fn btf(path: &Path) -> Result<String, String> {
    let mut magic = [0; 2];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if magic == BTF_MAGIC => Ok(format!("{} is readable", path.display())),
        Ok(()) => Err(format!("{} does not hold type information", path.display())),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}

fn pins(dir: &Path, programs: &[ProgramReport]) -> Result<String, String> {
    mounts::ensure_bpffs(false).map_err(|error| error.to_string())?;
    let is_there = |name: &str| dir.join(format!("link_{name}")).try_exists();
    for program in programs {
        match is_there(program.name) {
            Ok(true) => {}
            Ok(false) => return Err(format!("the link of {} is no longer pinned in {}", program.name, dir.display())),
            Err(error) => return Err(format!("{} cannot be looked at: {error}", dir.display())),
        }
    }
    Ok(format!("{} programs are pinned in {}", programs.len(), dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_with_the_right_first_bytes_is_type_information() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmlinux");
        assert!(btf(&path).is_err());
        for (bytes, is_btf) in [(&BTF_MAGIC[..], true), (b"\x9f", false), (b"ELF", false)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(btf(&path).is_ok(), is_btf, "{bytes:?}");
        }
    }
}
