// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `sched_process_exit(task, ..)`: called by `do_exit` for every thread, after the thread left
//! `signal->live`, so the count is zero exactly when the process has ended, whichever thread goes last. (The
//! argument `group_dead` says the same, but only since 6.16.) Two last threads may both see zero: removing
//! twice is harmless. Chosen over `sched_process_free`, which runs when the number may be in use again.

use agent_ebpf::{Counter, EndedExec, EventHeader, ExecRecord, ExitEvent, flags, kind};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps::{EVENTS, PROCESSES, count, is_listening, is_watched, keep_ended, wake};
use crate::read::{copy, field, number, pointer};

#[inline(always)]
pub(crate) fn exited(ctx: &BtfTracePointContext) {
    let task: *const u8 = ctx.arg(0);
    match live_threads(task) {
        Ok(0) => {}
        Ok(_) => return,
        Err(_) => {
            count(Counter::ExitReadFailed);
            return;
        }
    }
    let tgid = field!(task, task_tgid, u32);
    if let Some(record) = PROCESSES.get_ptr(tgid) {
        // SAFETY: elements are not freed under RCU's read lock.
        let record = unsafe { &*record };
        let is_urgent = is_watched(record.exec_id);
        if record.flags & flags::REFERRED != 0 {
            keep_ended(record);
        }
        if record.flags & flags::REFERRED != 0 || is_urgent || is_listening() {
            notify(tgid, record, is_urgent);
        }
        let _ = PROCESSES.remove(tgid);
    }
}

#[inline(always)]
fn live_threads(task: *const u8) -> Result<i32, i64> {
    let signal = pointer!(task, task_signal)?;
    // No threads left is taken at its word only if the structure could be read.
    number!(signal, signal_references, u32)?;
    Ok(field!(signal, signal_live, i32))
}

#[inline(always)]
fn notify(tgid: u32, ended: &ExecRecord, is_urgent: bool) {
    let Some(mut event) = EVENTS.reserve::<ExitEvent>(0) else {
        count(Counter::EventsDropped);
        return;
    };
    // SAFETY: the entry is as large as the event and aligned to 8 bytes; every byte of it is written.
    unsafe {
        let event = event.as_mut_ptr();
        (*event).header = EventHeader { ktime_ns: bpf_ktime_get_boot_ns(), kind: kind::EXIT, tgid };
        tell(ended, &raw mut (*event).ended);
    }
    event.submit(wake(is_urgent));
}

/// What an event says of an exec instance that ended.
///
/// # Safety
/// `told` may be written.
#[inline(always)]
pub(crate) unsafe fn tell(ended: &ExecRecord, told: *mut EndedExec) {
    // SAFETY: by the caller; every byte is written.
    unsafe {
        (*told).exec_id = ended.exec_id;
        (*told).ktime_ns = ended.ktime_ns;
        copy((&raw const ended.comm).cast(), &raw mut (*told).comm);
        (*told).filename_len = ended.filename_len as u32;
        (*told).padding = 0;
        copy((&raw const ended.filename).cast(), &raw mut (*told).filename);
    }
}
