// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Facts of a task that both fork and exec record.

use agent_ebpf::{ExecRecord, flags};
use aya_ebpf::helpers::bpf_get_current_cgroup_id;

use crate::maps::NEXT_EXEC_ID;
use crate::read::{at, offset, read};

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
    let cred = read!(task, task_cred)?;
    record.uid = read!(cred, cred_uid, u32)?;
    record.gid = read!(cred, cred_gid, u32)?;
    record.euid = read!(cred, cred_euid, u32)?;
    record.egid = read!(cred, cred_egid, u32)?;
    record.cap_effective = read!(cred, cred_cap_effective, u64)?;
    record.user_ns = read!(read!(cred, cred_user_ns)?, user_namespace_inum, u32)?;
    Ok(())
}

/// Namespaces and cgroup.
#[inline(always)]
pub(crate) fn surroundings(task: *const u8, record: &mut ExecRecord) -> Result<(), i64> {
    let nsproxy = read!(task, task_nsproxy)?;
    record.mnt_ns = read!(read!(nsproxy, nsproxy_mnt_ns)?, mnt_namespace_inum, u32)?;
    record.net_ns = read!(read!(nsproxy, nsproxy_net_ns)?, net_inum, u32)?;
    let pid = read!(task, task_thread_pid)?;
    let level = read!(pid, pid_level, u32)? as usize;
    let numbers = offset(|offsets| &offsets.pid_numbers) + (level & 31) * UPID_BYTES;
    let namespace = at::<*const u8>(pid, numbers + offset(|offsets| &offsets.upid_ns))?;
    record.pid_ns = read!(namespace, pid_namespace_inum, u32)?;
    // SAFETY: no arguments; reads the current task's cgroup, which a child shares until it is moved.
    record.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    Ok(())
}

/// Flags that depend on the task and not on the image.
#[inline(always)]
pub(crate) fn task_flags(task: *const u8) -> Result<u32, i64> {
    let mut found = 0;
    if read!(task, task_ptrace, u32)? != 0 {
        found |= flags::TRACED;
    }
    if read!(task, task_atomic_flags, u64)? & NO_NEW_PRIVS_BIT != 0 {
        found |= flags::NO_NEW_PRIVS;
    }
    Ok(found)
}
