// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Every attach point of the kernel half on one screen; each calls one function in its file.
//!
//! Outside governed trees the programs observe: none of them blocks the host, whatever fails is counted by site.
#![no_std]
#![no_main]
// The BPF target has atomic addition but no compare-and-swap, so `core` gives it no `fetch_add`.
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "see above; the build sets RUSTC_BOOTSTRAP for build-std already")]

mod connection;
mod egress;
mod exec;
mod exit;
mod fork;
mod image;
mod maps;
mod probe;
mod read;
mod session;
mod state;
mod task;

use agent_ebpf::hook;
use aya_ebpf::macros::{btf_tracepoint, cgroup_sock, cgroup_sock_addr, lsm, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, LsmContext, RawTracePointContext, SockAddrContext, SockContext};

#[btf_tracepoint(function = "sched_process_fork")]
pub(crate) fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    fork::forked(&ctx);
    0
}

#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    exec::execed(&ctx);
    0
}

#[btf_tracepoint(function = "sched_process_exit")]
pub(crate) fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    exit::exited(&ctx);
    0
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    state::changed(&ctx);
    0
}

// The cgroup programs return 1, which lets the call go on, or 0: it fails with EPERM.

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connection::opened(&ctx, hook::CONNECT4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connection::opened(&ctx, hook::CONNECT6)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    connection::opened(&ctx, hook::SENDMSG4)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    connection::opened(&ctx, hook::SENDMSG6)
}

#[cgroup_sock(sock_release)]
pub(crate) fn sock_release(ctx: SockContext) -> i32 {
    connection::released(&ctx)
}

#[cgroup_sock(sock_create)]
pub(crate) fn sock_create(ctx: SockContext) -> i32 {
    egress::created(&ctx)
}

// Only where the kernel takes LSM programs: returns 0 or an error, with which exec fails.

#[lsm(hook = "bprm_creds_from_file")]
pub(crate) fn image_check(ctx: LsmContext) -> i32 {
    image::check(&ctx)
}

// Attached to nothing: the daemon runs them.

#[raw_tracepoint]
pub(crate) fn egress_bind(ctx: RawTracePointContext) -> i32 {
    egress::bind(&ctx) as i32
}

#[raw_tracepoint]
pub(crate) fn session_bind(ctx: RawTracePointContext) -> i32 {
    session::bind(&ctx) as i32
}

// Loaded for a moment by the self-test, never left attached.

#[cgroup_sock_addr(connect4)]
pub(crate) fn probe_deny4(ctx: SockAddrContext) -> i32 {
    probe::deny(&ctx)
}

#[lsm(hook = "bprm_creds_from_file")]
pub(crate) fn probe_lsm(_ctx: LsmContext) -> i32 {
    probe::deny_image()
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
