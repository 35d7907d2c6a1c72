// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `sched_process_fork(parent, child)`: called by `kernel_clone` in the parent's context, after the child
//! is complete and before it is woken, so its record exists before it runs. Fires for threads too, which
//! share their process's record. Since 2.6; chosen over `task_newtask` because it runs later, when the
//! child's namespaces and credentials are final.

use agent_ebpf::{Counter, ExecRecord, flags};
use aya_ebpf::programs::BtfTracePointContext;

use crate::egress;
use crate::maps::{PROCESSES, count};
use crate::read::{field, number};
use crate::task;

const KEPT: u32 = flags::SEEDED
    | flags::INCOMPLETE
    | flags::SCRIPT
    | flags::MEMFD
    | flags::DELETED
    | flags::SETUID
    | flags::LINEAGE_TRUNCATED
    | flags::FILENAME_TRUNCATED
    | flags::KERNEL_THREAD
    | flags::USER_MOUNTED;

#[inline(always)]
pub(crate) fn forked(ctx: &BtfTracePointContext) {
    if inherit(ctx.arg(0), ctx.arg(1)).is_err() {
        count(Counter::ForkReadFailed);
    }
}

#[inline(always)]
fn inherit(parent: *const u8, child: *const u8) -> Result<(), i64> {
    let tgid = number!(child, task_tgid, u32)?;
    if field!(child, task_pid, u32) != tgid {
        return Ok(());
    }
    let parent_tgid = field!(parent, task_tgid, u32);
    let Some(parent) = PROCESSES.get_ptr_mut(parent_tgid) else {
        count(Counter::ForkParentMissing);
        // Nothing may be left of an earlier process with this number.
        let _ = PROCESSES.remove(tgid);
        return Ok(());
    };
    // The whole record is copied by the map itself and then changed where it stands. Until that is done its
    // `tgid` is the parent's, by which a reader knows that it is not finished.
    // SAFETY: the map outlives the program, and elements are not freed under RCU's read lock.
    if PROCESSES.insert(tgid, unsafe { &*parent }, 0).is_err() {
        count(Counter::ProcessesFull);
        // SAFETY: as above.
        egress::lost(unsafe { &*parent });
        let _ = PROCESSES.remove(tgid);
        return Ok(());
    }
    // SAFETY: as above. Other threads of the parent may set this bit in the same moment, and none any other.
    unsafe { refer(parent) };
    let Some(record) = PROCESSES.get_ptr_mut(tgid) else { return Ok(()) };
    // SAFETY: the child has not run, so nothing else writes its record.
    let record = unsafe { &mut *record };
    let parent_exec_id = record.exec_id;
    record.exec_id_check = 0;
    let Some(exec_id) = task::next_exec_id() else { return Ok(()) };
    record.exec_id = exec_id;
    record.push_ancestor(parent_exec_id, parent_tgid);
    record.parent_exec_id = parent_exec_id;
    record.forked_in = record.session_id;
    if record.tree != 0 {
        // SAFETY: the parent's record, as above, and the child's.
        unsafe { egress::inherit(parent, record) };
    }
    record.parent_tgid = parent_tgid;
    record.flags = record.flags & KEPT | flags::FORK;
    let read = fill(child, record);
    if read.is_err() {
        record.flags |= flags::INCOMPLETE;
    }
    record.tgid = tgid;
    record.exec_id_check = exec_id;
    read
}

#[inline(always)]
fn fill(child: *const u8, record: &mut ExecRecord) -> Result<(), i64> {
    record.start_boottime_ns = number!(child, task_start_boottime, u64)?;
    record.ktime_ns = record.start_boottime_ns;
    record.flags |= task::task_flags(child);
    task::credentials(child, record)?;
    task::surroundings(child, record)
}

/// Notes that somebody may ask who this was when it is gone. Written once in its life: the line it is in is every
/// thread's.
///
/// # Safety
/// The record is in the map, and no other bit of its flags is written meanwhile.
#[inline(always)]
pub(crate) unsafe fn refer(record: *mut ExecRecord) {
    // SAFETY: by the caller.
    unsafe {
        if (*record).flags & flags::REFERRED == 0 {
            (*record).flags |= flags::REFERRED;
        }
    }
}
