// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use agent_ebpf::{ABI_VERSION, Offsets};
use aya::maps::{Array, Map, MapData};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::{CgroupAttachMode, Program, ProgramError, ProgramInfo, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use rustix::time::{ClockId, clock_gettime};
use zerocopy::IntoBytes as _;

use super::events::Events;
use super::maps::Maps;
use super::{Config, Error, mounts, offsets};

/// The object built from `agent-ebpf/programs`; `cargo xtask ebpf --check` proves that it is.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-ebpf/prebuilt/agent-ebpf.o"));

const BTF: &str = "/sys/kernel/btf/vmlinux";

const BPF_FS: u64 = 0xcafe_4a11;
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Exec ids below the counter's start that the seed may hand out: one millisecond of boot time.
pub(super) const SEED_IDS: u64 = 1_000_000;

/// The programs that run all the time, and what each is for.
const PROGRAMS: [(&str, &str); 10] = [
    ("sched_process_fork", "lineage"),
    ("sched_process_exec", "the identity of program images"),
    ("sched_process_exit", "ending credentials with their process"),
    ("inet_sock_set_state", "naming connections by address"),
    ("connect4", "binding IPv4 connections"),
    ("connect6", "binding IPv6 connections"),
    ("sendmsg4", "binding IPv4 datagrams"),
    ("sendmsg6", "binding IPv6 datagrams"),
    ("sock_release", "forgetting closed connections"),
    ("sock_create", "refusing sockets that governed trees may not have"),
];

/// Programs that not every kernel takes, each with its LSM hook. What they would do is done in another way where they are
/// not, and what is claimed of them rests on a self-test and not on their being here.
const OPTIONAL: [(&str, &str); 1] = [("image_check", "bprm_creds_from_file")];

/// The programs that put exec instances into sessions, and into governed trees and classes. Attached to nothing; the
/// daemon runs them.
const RUN: [(&str, &str); 2] = [("session_bind", "sessions"), ("egress_bind", "governed trees")];

/// One program that runs in the kernel.
#[derive(Debug)]
pub struct ProgramReport {
    /// The hook's name.
    pub name: &'static str,
    /// Whether an earlier daemon attached it.
    pub is_adopted: bool,
    info: ProgramInfo,
    pin: PathBuf,
    /// Keeps the program attached while the daemon runs, even if somebody removes its pin.
    _link: PinnedLink,
}

impl ProgramReport {
    /// How often it ran and for how many nanoseconds; zero unless the kernel keeps statistics.
    pub fn runs(&self) -> (u64, u64) {
        match ProgramInfo::from_pin(&self.pin) {
            Ok(info) => (info.run_count(), u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX)),
            Err(_) => (0, 0),
        }
    }

    /// Instructions the verifier looked at.
    pub fn verified_instructions(&self) -> u64 {
        self.info.verified_instruction_count().map_or(0, u64::from)
    }
}

pub(super) struct Loaded {
    pub(super) maps: Maps,
    pub(super) events: Events,
    pub(super) programs: Vec<ProgramReport>,
    pub(super) ebpf: Ebpf,
    /// Of the running kernel. Reading it takes tens of milliseconds, so it is done once.
    pub(super) btf: Btf,
    pub(super) cgroup_root: PathBuf,
    /// Where the counter of exec ids began; none when it was adopted.
    pub(super) exec_ids_from: Option<u64>,
    /// For a new setup, to be set when the table is seeded.
    pub(super) marker: Option<Marker>,
}

pub(super) fn open(config: &Config) -> Result<Loaded, Error> {
    mounts::ensure_bpffs(config.mount_bpffs)?;
    let cgroup_root = mounts::cgroup_root()?;
    let offsets = offsets::resolve(Path::new(BTF))?;
    let setup = setup_words(&offsets, config);
    let dir = &config.pin_dir;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::Io {
        operation: "create",
        path: dir.clone(),
        source,
    })?;
    let lock = lock(dir)?;
    let is_new = !is_adoptable(dir, setup);
    if is_new {
        clear(dir)?;
    }
    let btf = Btf::from_sys_fs().map_err(Error::KernelBtf)?;
    let mut ebpf = object(config, &offsets, &btf)?;
    let exec_ids_from = is_new.then(|| start_exec_ids(&mut ebpf)).transpose()?;
    let programs = match attach_or_adopt(&mut ebpf, &btf, dir, &cgroup_root, is_new) {
        Ok(programs) => programs,
        Err(error) => {
            // Nothing of half a setup may go on running.
            if is_new {
                clear(dir)?;
            }
            return Err(error);
        }
    };
    let marker = is_new.then(|| take_array(&mut ebpf, "SETUP")).transpose()?.map(|map| Marker { map, setup });
    let [sessions, governing] = RUN.map(|(name, _)| {
        let pin = program_pin(dir, name);
        RawTracePoint::from_pin(&pin).map_err(|source| Error::Pin { what: pin, source: Box::new(source) })
    });
    let maps = Maps::take(&mut ebpf, sessions?, governing?)?;
    let events = Events::take(&mut ebpf, lock)?;
    Ok(Loaded { maps, events, programs, ebpf, btf, cgroup_root, exec_ids_from, marker })
}

/// Marks a new setup as whole, so that the next start adopts it.
pub(super) struct Marker {
    map: Array<MapData, u64>,
    setup: [u64; 4],
}

impl Marker {
    pub(super) fn set(mut self) -> Result<(), Error> {
        for (index, word) in (0..).zip(self.setup) {
            let set = self.map.set(index, word, 0);
            set.map_err(|source| Error::Map { map: "SETUP", source: Box::new(source) })?;
        }
        Ok(())
    }
}

/// Takes down everything that is pinned in a directory of ours: programs are detached, bindings forgotten.
///
/// # Errors
/// When a daemon is running on it, or a pin cannot be removed.
pub fn unload(dir: &Path) -> Result<(), Error> {
    if !dir.exists() {
        return Ok(());
    }
    let _lock = lock(dir)?;
    clear(dir)?;
    fs::remove_dir(dir).map_err(|source| Error::Io { operation: "remove", path: dir.to_owned(), source })
}

/// Refuses a directory that is not on the BPF file system (what is in it would be removed), or into which or on
/// whose way somebody else could put something: our programs would be detached, or a stranger's maps be taken for
/// ours. The BPF file system is everybody's to write unless it was mounted with another mode.
fn check_pin_dir(dir: &Path) -> Result<(), Error> {
    let refused = |path: &Path, why: &str| {
        let source = io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
        Err(Error::Io { operation: "trust", path: path.to_owned(), source })
    };
    for (level, at) in dir.ancestors().enumerate() {
        let failed = |source| Error::Io { operation: "examine", path: at.to_owned(), source };
        let metadata = match fs::symlink_metadata(at) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(source)),
        };
        let system = rustix::fs::statfs(at).map_err(|errno| failed(errno.into()))?;
        if u64::try_from(system.f_type) != Ok(BPF_FS) {
            return if level == 0 { refused(at, "it is not on the BPF file system") } else { Ok(()) };
        }
        if !metadata.is_dir() {
            return refused(at, "it is not a directory");
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return refused(at, "it belongs to another user");
        }
        let is_sticky = level > 0 && metadata.mode() & STICKY != 0;
        if metadata.mode() & OTHERS_WRITE != 0 && !is_sticky {
            return refused(at, "others can write to it");
        }
    }
    Ok(())
}

/// One daemon a directory: two readers of one event buffer would each lose what the other takes.
fn lock(dir: &Path) -> Result<OwnedFd, Error> {
    check_pin_dir(dir)?;
    let failed = |operation, source| Error::Io { operation, path: dir.to_owned(), source };
    let file = fs::File::open(dir).map_err(|source| failed("open", source))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path: dir.to_owned() }),
        Err(error) => Err(failed("lock", error.into())),
    }
}

fn clear(dir: &Path) -> Result<(), Error> {
    let listed = |source| Error::Io { operation: "list", path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(listed)? {
        let path = entry.map_err(listed)?.path();
        fs::remove_file(&path).map_err(|source| Error::Io { operation: "remove", path, source })?;
    }
    Ok(())
}

fn object(config: &Config, offsets: &Offsets, btf: &Btf) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    loader.btf(Some(btf));
    loader.default_map_pin_directory(&config.pin_dir);
    loader.override_global("OFFSETS", offsets.as_bytes(), true);
    if let Some(entries) = config.max_processes {
        loader.map_max_entries("PROCESSES", entries);
    }
    if let Some(entries) = config.max_connections {
        loader.map_max_entries("CONNECTIONS", entries).map_max_entries("TUPLES", entries);
    }
    if let Some(bytes) = config.event_buffer_bytes {
        loader.map_max_entries("EVENTS", bytes);
    }
    loader.load(OBJECT).map_err(|source| Error::Load(Box::new(source)))
}

fn attach_or_adopt(
    ebpf: &mut Ebpf,
    btf: &Btf,
    dir: &Path,
    cgroup_root: &Path,
    is_new: bool,
) -> Result<Vec<ProgramReport>, Error> {
    if is_new {
        let cgroup = fs::File::open(cgroup_root).map_err(|source| Error::Io {
            operation: "open",
            path: cgroup_root.to_owned(),
            source,
        })?;
        for (name, guarantee) in PROGRAMS {
            let program = ebpf.program_mut(name).ok_or(Error::Bug("bug: a program is missing from the object"))?;
            let link = attach(program, name, btf, &cgroup).map_err(|source| Error::Program {
                program: name,
                guarantee,
                source,
            })?;
            pin(&link_pin(dir, name), |path| link.pin(path).map(drop))?;
            pin(&program_pin(dir, name), |path| program.pin(path))?;
        }
        for (name, hook) in OPTIONAL {
            let program = ebpf.program_mut(name).ok_or(Error::Bug("bug: a program is missing from the object"))?;
            match attach(program, hook, btf, &cgroup) {
                Ok(link) => {
                    pin(&link_pin(dir, name), |path| link.pin(path).map(drop))?;
                    pin(&program_pin(dir, name), |path| program.pin(path))?;
                }
                Err(error) => tracing::info!(%error, name, "this kernel does not take the program"),
            }
        }
        for (name, guarantee) in RUN {
            let program = ebpf.program_mut(name).ok_or(Error::Bug("bug: a program is missing from the object"))?;
            let loaded = <&mut RawTracePoint>::try_from(&mut *program).and_then(RawTracePoint::load);
            loaded.map_err(|source| Error::Program { program: name, guarantee, source: Box::new(source) })?;
            pin(&program_pin(dir, name), |path| program.pin(path))?;
        }
    }
    let optional = OPTIONAL.into_iter().filter(|(name, _)| link_pin(dir, name).exists());
    PROGRAMS
        .into_iter()
        .chain(optional)
        .map(|(name, _)| {
            let pin = program_pin(dir, name);
            let info = ProgramInfo::from_pin(&pin)
                .map_err(|source| Error::Pin { what: pin.clone(), source: Box::new(source) })?;
            let link_pin = link_pin(dir, name);
            let link = PinnedLink::from_pin(&link_pin)
                .map_err(|source| Error::Pin { what: link_pin.clone(), source: Box::new(source) })?;
            Ok(ProgramReport { name, is_adopted: !is_new, info, pin, _link: link })
        })
        .collect()
}

fn attach(
    program: &mut Program,
    name: &str,
    btf: &Btf,
    cgroup: &fs::File,
) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    match program {
        Program::BtfTracePoint(program) => {
            program.load(name, btf)?;
            let id = program.attach()?;
            Ok(program.take_link(id)?.into())
        }
        Program::CgroupSockAddr(program) => {
            program.load()?;
            // A bpf_link on a cgroup is multi-attach by nature; asking for that again is refused.
            let id = program.attach(cgroup, CgroupAttachMode::Single)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
        Program::CgroupSock(program) => {
            program.load()?;
            let id = program.attach(cgroup, CgroupAttachMode::Single)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
        Program::Lsm(program) => {
            program.load(name, btf)?;
            let id = program.attach()?;
            Ok(program.take_link(id)?.into())
        }
        _ => Err(Box::new(ProgramError::UnexpectedProgramType)),
    }
}

fn pin<E>(path: &Path, pin: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    pin(path).map_err(|source| Error::Pin { what: path.to_owned(), source: Box::new(source) })
}

fn link_pin(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("link_{name}"))
}

fn program_pin(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("program_{name}"))
}

/// ABI, object, offsets and bounds: whoever pinned these ran exactly our programs on exactly this kernel.
fn setup_words(offsets: &Offsets, config: &Config) -> [u64; 4] {
    let word = |bytes: &[u8]| {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let head = digest.as_ref().first_chunk::<8>().copied().unwrap_or_default();
        u64::from_le_bytes(head)
    };
    let bounds = [config.max_processes, config.max_connections, config.event_buffer_bytes];
    let bounds: Vec<u8> = bounds.iter().flat_map(|bound| bound.unwrap_or(0).to_le_bytes()).collect();
    [u64::from(ABI_VERSION), word(OBJECT), word(offsets.as_bytes()), word(&bounds)]
}

fn is_adoptable(dir: &Path, setup: [u64; 4]) -> bool {
    let read = || -> Option<[u64; 4]> {
        let data = MapData::from_pin(dir.join("SETUP")).ok()?;
        let map: Array<MapData, u64> = Map::Array(data).try_into().ok()?;
        Some([map.get(&0, 0).ok()?, map.get(&1, 0).ok()?, map.get(&2, 0).ok()?, map.get(&3, 0).ok()?])
    };
    let is_linked = |name: &str| -> Result<(), LinkError> { PinnedLink::from_pin(link_pin(dir, name)).map(drop) };
    let is_pinned = |name: &str| program_pin(dir, name).exists();
    read() == Some(setup)
        && RUN.iter().all(|(name, _)| is_pinned(name))
        && PROGRAMS.iter().all(|(name, _)| is_linked(name).is_ok() && is_pinned(name))
}

/// Exec ids start at the boot clock, which grows a thousand times faster than execs can: a table that is set
/// up anew within the same boot never hands out an id of an earlier one.
fn start_exec_ids(ebpf: &mut Ebpf) -> Result<u64, Error> {
    let start = boot_clock().saturating_add(SEED_IDS);
    array(ebpf, "NEXT_EXEC_ID")?
        .set(0, start, 0)
        .map_err(|source| Error::Map { map: "NEXT_EXEC_ID", source: Box::new(source) })?;
    Ok(start)
}

pub(super) fn boot_clock() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

fn take_array(ebpf: &mut Ebpf, name: &'static str) -> Result<Array<MapData, u64>, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Bug("bug: a map is missing from the object"))?;
    map.try_into().map_err(|source| Error::Map { map: name, source: Box::new(source) })
}

fn array<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<Array<&'a mut MapData, u64>, Error> {
    let map = ebpf.map_mut(name).ok_or(Error::Bug("bug: a map is missing from the object"))?;
    map.try_into().map_err(|source| Error::Map { map: name, source: Box::new(source) })
}
