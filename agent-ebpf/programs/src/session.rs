// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `session_bind(tgid, exec_id, from, to)`: attached to nothing; the daemon runs it (`BPF_PROG_TEST_RUN`, since 5.10 for
//! this kind of program) to put an exec instance into a session. Chosen over a write of the record from user space, which
//! replaces the whole of it and would undo an exec that happens meanwhile. Here one word is written where it stands, which
//! no other program writes: fork copies it, exec leaves it alone.
//!
//! Should the process end between the look and the write and its element be another's at once, that one is in a session of
//! which its lineage knows nothing, and the daemon gives it nothing: the daemon never believes a session without its root.

use agent_ebpf::bound;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::RawTracePointContext;

use crate::maps::PROCESSES;

#[inline(always)]
pub(crate) fn bind(ctx: &RawTracePointContext) -> u32 {
    let arguments = ctx.as_ptr().cast::<u64>();
    // SAFETY: the daemon hands over four words, and the verifier sees that no more are read.
    let (tgid, exec_id, from, to) = unsafe { (*arguments, *arguments.add(1), *arguments.add(2), *arguments.add(3)) };
    let Some(record) = PROCESSES.get_ptr_mut(tgid as u32) else { return bound::GONE };
    // SAFETY: elements are not freed under RCU's read lock, under which this program runs.
    let record = unsafe { &mut *record };
    if record.exec_id != exec_id || record.exec_id_check != exec_id {
        return bound::GONE;
    }
    if record.session_id != from {
        return bound::ELSEWHERE;
    }
    record.session_id = to;
    bound::DONE
}
