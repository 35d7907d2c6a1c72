// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The self-test of the egress tier: refuses one port to one process, for the moment in which the daemon
//! tries whether a refusal in this hook really refuses.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::SockAddrContext;

use crate::maps::PROBE;

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;

#[inline(always)]
pub(crate) fn deny(ctx: &SockAddrContext) -> i32 {
    // SAFETY: a read of a field that the verifier allows for this attach type.
    let port = u16::from_be(unsafe { (*ctx.sock_addr).user_port } as u16);
    let refused =
        PROBE.get(0).is_some_and(|tgid| *tgid == ctx.tgid()) && PROBE.get(1).is_some_and(|p| *p == u32::from(port));
    if refused { REFUSE } else { ALLOW }
}
