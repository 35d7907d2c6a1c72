// SPDX-License-Identifier: Apache-2.0 OR MIT

//! ADAPTER, the only user of aya. Loads or adopts the kernel programs, reads their maps and events.
//!
//! Programs, links and maps are pinned in the BPF file system: they go on witnessing while the daemon is
//! down, and a restarted daemon adopts them as they are, so a restart loses no binding. What another version
//! left is taken down and set up anew.

mod btf;
mod decode;
mod disconnect;
mod egress;
mod events;
mod load;
mod maps;
mod mounts;
mod offsets;
mod proc_seed;
mod selftest;
mod view;
mod watched;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use disconnect::Disconnector;
pub use events::Events;
pub use load::{ProgramReport, unload};
pub use maps::Maps;
pub use selftest::{CHILD_ARGUMENT, Proof, Tier, prove};
pub use view::{Assumption, KernelView, LiveKernel, ProgramView};

/// Where and how the kernel half is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory in the BPF file system for our pins.
    pub pin_dir: PathBuf,
    /// Mount the BPF file system when it is not mounted.
    pub mount_bpffs: bool,
    /// Bound of the process table; none: the built-in one.
    pub max_processes: Option<u32>,
    /// Bound of the connection table; none: the built-in one.
    pub max_connections: Option<u32>,
    /// Bytes of the event buffer; none: the built-in one.
    pub event_buffer_bytes: Option<u32>,
}

/// The kernel half cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {operation} {path}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No cgroup v2 hierarchy: the egress hooks have nowhere to be attached.
    #[error("no cgroup v2 hierarchy is mounted; connections cannot be witnessed")]
    NoCgroup,
    /// No BPF file system, and mounting it was not allowed.
    #[error("the BPF file system is not mounted; bindings would not survive a restart")]
    NoBpffs,
    /// Another daemon runs on the same pins.
    #[error("another daemon uses the pins in {path}", path = path.display())]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// The kernel's structures could not be read.
    #[error("cannot read the kernel's type information")]
    Btf(#[from] btf::Error),
    /// The kernel's BTF could not be loaded for attaching.
    #[error("cannot load the kernel's BTF")]
    KernelBtf(#[source] aya::BtfError),
    /// The object with our programs was refused.
    #[error("the kernel refused our maps or object")]
    Load(#[source] Box<aya::EbpfError>),
    /// One program was refused.
    #[error("the kernel refused program {program}: {guarantee} is lost{}", locked_down())]
    Program {
        /// Its hook's name.
        program: &'static str,
        /// What it is for.
        guarantee: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pin could not be made or read.
    #[error("cannot pin or open {what}", what = what.display())]
    Pin {
        /// The pin.
        what: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map is missing or of the wrong kind.
    #[error("map {map} cannot be used")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// An invariant of ours is broken.
    #[error("{0}")]
    Bug(&'static str),
}

/// The kernel half, running.
#[derive(Debug)]
pub struct Kernel {
    /// The records.
    pub maps: Arc<Maps>,
    /// The event buffer's reading end.
    pub events: Events,
    /// What runs, and since when.
    pub programs: Vec<ProgramReport>,
    /// What was tried on this kernel, and what came of it.
    pub proofs: Vec<Proof>,
}

/// Said where a program is refused: a kernel that hides its memory refuses every program that reads it.
fn locked_down() -> &'static str {
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        " (the kernel was told lockdown=confidentiality, so nobody may read its memory; lockdown=integrity is enough)"
    } else {
        ""
    }
}

/// Sets the kernel half up, seeds the table of processes when it is new, and tests every hook.
///
/// # Errors
/// When this kernel cannot carry the programs.
pub fn open(config: &Config) -> Result<Kernel, Error> {
    let loaded = load::open(config)?;
    let maps = Arc::new(loaded.maps);
    if let Some(start) = loaded.exec_ids_from {
        proc_seed::seed(&maps, &loaded.cgroup_root, start)?;
    }
    if let Some(marker) = loaded.marker {
        marker.set()?;
    }
    let proofs = selftest::prove_with(&maps, loaded.ebpf, &loaded.btf, &loaded.cgroup_root);
    drop(loaded.btf);
    release_memory();
    Ok(Kernel { maps, events: loaded.events, programs: loaded.programs, proofs })
}

/// Loading takes tens of megabytes for a moment; the allocator would keep them.
#[expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]
fn release_memory() {
    // SAFETY: malloc_trim takes a padding and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}
