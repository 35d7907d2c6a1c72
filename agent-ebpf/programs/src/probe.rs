// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The self-tests of what refuses: one port to one process, and images to its children, for the moment in which the daemon
//! tries whether a refusal in this hook really refuses.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use aya_ebpf::programs::SockAddrContext;

use crate::maps::{PROBE, PROCESSES};
use crate::read::field;

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;
const EPERM: i32 = -1;

#[inline(always)]
pub(crate) fn deny(ctx: &SockAddrContext) -> i32 {
    // SAFETY: a read of a field that the verifier allows for this attach type.
    let port = u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16);
    let refused =
        PROBE.get(0).is_some_and(|tgid| *tgid == ctx.tgid()) && PROBE.get(1).is_some_and(|p| *p == u32::from(port));
    if refused { REFUSE } else { ALLOW }
}

#[inline(always)]
pub(crate) fn deny_image() -> i32 {
    // SAFETY: no arguments; the caller, whose exec this is.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let Some(process) = PROCESSES.get_ptr(field!(task, task_tgid, u32)) else { return 0 };
    // SAFETY: elements are not freed under RCU's read lock.
    let parent = unsafe { (*process).parent_tgid };
    if PROBE.get(0).is_some_and(|tgid| *tgid == parent) { EPERM } else { 0 }
}
