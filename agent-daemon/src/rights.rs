// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the process may do, and what others may do to it.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};

/// No core dumps, and nobody of the same user reads our memory.
pub(crate) fn harden() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// What the daemon still needs: to look into other users' processes, to read executables that only their owners may read,
/// and to close connections that were taken back. Everything else goes, for this thread and all that it starts.
pub(crate) fn drop_rights(needed: &[Capability]) -> anyhow::Result<()> {
    let needed: CapsHashSet = needed.iter().copied().collect();
    let held = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = held.intersection(&needed).copied().collect();
    for missing in needed.difference(&kept) {
        tracing::warn!(capability = %missing, "not held: doctor says what is lost");
    }
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for capability in caps::read(None, CapSet::Bounding)? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// The usual soft limit of 1024 is fewer descriptors than the connections that are allowed need, and a daemon
/// without descriptors can neither look at callers nor at holders of leases.
pub(crate) fn raise_descriptor_limit(needed: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let held = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: held.maximum, maximum: held.maximum })?;
    if let Some(maximum) = held.maximum.filter(|maximum| *maximum < needed) {
        tracing::warn!(maximum, needed, "fewer files may be open than max_connections can take (LimitNOFILE=)");
    }
    Ok(())
}
