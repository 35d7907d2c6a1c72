// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `sched_process_exit(task, ..)`: called by `do_exit` for every thread, after the thread left
//! `signal->live`, so the count is zero exactly when the process has ended, whichever thread goes last. (The
//! argument `group_dead` says the same, but only since 6.16.) Two last threads may both see zero: removing
//! twice is harmless. Chosen over `sched_process_free`, which runs when the number may be in use again.

use agent_ebpf::{Counter, EventHeader, ExecRecord, ExitEvent, kind};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::programs::BtfTracePointContext;

use crate::maps::{EVENTS, PROCESSES, WATCHED, count, wake};
use crate::read::read;

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
    let tgid = ctx.tgid();
    if let Some(record) = PROCESSES.get_ptr(tgid) {
        // SAFETY: elements are not freed under RCU's read lock.
        notify(tgid, unsafe { &*record });
        let _ = PROCESSES.remove(tgid);
    }
}

#[inline(always)]
fn live_threads(task: *const u8) -> Result<i32, i64> {
    read!(read!(task, task_signal)?, signal_live, i32)
}

#[inline(always)]
fn notify(tgid: u32, ended: &ExecRecord) {
    let Some(mut event) = EVENTS.reserve::<ExitEvent>(0) else {
        count(Counter::EventsDropped);
        return;
    };
    // SAFETY: the entry is as large as the event and aligned to 8 bytes; every byte of it is written.
    unsafe {
        let event = event.as_mut_ptr();
        (*event).header = EventHeader { ktime_ns: bpf_ktime_get_boot_ns(), kind: kind::EXIT, tgid };
        core::ptr::copy_nonoverlapping(ended, &raw mut (*event).ended, 1);
    }
    // SAFETY: the key is on the stack.
    let watched = unsafe { WATCHED.get(ended.exec_id) }.is_some();
    event.submit(wake(watched));
}
