// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Facts of a task that both fork and exec record.

use agent_ebpf::{ExecRecord, flags, limits};

use crate::maps::NEXT_EXEC_ID;
use crate::read::{at, field, number, offset, pointer};

/// `struct upid` has two members and no padding on 64-bit kernels: number, namespace.
const UPID_BYTES: usize = 16;
const NO_NEW_PRIVS_BIT: u64 = 1;

/// A number that no other exec instance of this boot has.
#[inline(always)]
pub(crate) fn next_exec_id() -> Option<u64> {
    let next = NEXT_EXEC_ID.get_ptr_mut(0)?;
    // SAFETY: the element lives as long as the map and is aligned to 8 bytes; every writer in the kernel is
    // this one instruction.
    // ORDER: only uniqueness matters, but for relaxed ordering LLVM emits the form that returns nothing.
    Some(unsafe { core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::AcqRel }>(next, 1) })
}

/// Credentials, namespaces and flags. `task` is the current task, or a child that has not run yet.
#[inline(always)]
pub(crate) fn credentials(task: *const u8, record: &mut ExecRecord) -> Result<(), i64> {
    let cred = pointer!(task, task_cred)?;
    record.uid = field!(cred, cred_uid, u32);
    record.gid = field!(cred, cred_gid, u32);
    record.euid = field!(cred, cred_euid, u32);
    record.egid = field!(cred, cred_egid, u32);
    record.cap_effective = field!(cred, cred_cap_effective, u64);
    record.cap_permitted = field!(cred, cred_cap_permitted, u64);
    record.user_ns = number!(pointer!(cred, cred_user_ns)?, user_namespace_inum, u32)?;
    Ok(())
}

/// Namespaces and cgroup.
#[inline(always)]
pub(crate) fn surroundings(task: *const u8, record: &mut ExecRecord) -> Result<(), i64> {
    let nsproxy = pointer!(task, task_nsproxy)?;
    record.mnt_ns = number!(pointer!(nsproxy, nsproxy_mnt_ns)?, mnt_namespace_inum, u32)?;
    record.net_ns = number!(pointer!(nsproxy, nsproxy_net_ns)?, net_inum, u32)?;
    record.pid_ns = pid_namespace(pointer!(task, task_thread_pid)?)?;
    // Not the helper for the current task's cgroup: a child may be started in another one (`CLONE_INTO_CGROUP`).
    let cgroup = pointer!(pointer!(task, task_cgroups)?, css_set_cgroup)?;
    record.cgroup_id = number!(pointer!(cgroup, cgroup_node)?, node_id, u64)?;
    Ok(())
}

#[inline(always)]
fn pid_namespace(pid: *const u8) -> Result<u32, i64> {
    // A depth of zero is taken at its word only if the structure could be read.
    number!(pid, pid_references, u32)?;
    let level = field!(pid, pid_level, u32) as usize;
    if level == 0 {
        return Ok(limits::INITIAL_PID_NAMESPACE);
    }
    // The last element of an array without a length, which a plain load cannot reach.
    let numbers = offset(|offsets| &offsets.pid_numbers) + (level & 31) * UPID_BYTES;
    let namespace = at::<*const u8>(pid, numbers + offset(|offsets| &offsets.upid_ns))?;
    at(namespace, offset(|offsets| &offsets.pid_namespace_inum))
}

/// Flags that depend on the task and not on the image.
#[inline(always)]
pub(crate) fn task_flags(task: *const u8) -> u32 {
    let mut found = 0;
    if field!(task, task_ptrace, u32) != 0 {
        found |= flags::TRACED;
    }
    if field!(task, task_atomic_flags, u64) & NO_NEW_PRIVS_BIT != 0 {
        found |= flags::NO_NEW_PRIVS;
    }
    found
}
