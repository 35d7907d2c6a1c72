// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `cgroup/connect4`, `connect6`, `sendmsg4`, `sendmsg6` at the root of cgroup v2: called from
//! `proto->pre_connect` and from the datagram send path in the caller's context, before any packet leaves.
//! They sit below the system call, so io_uring and TCP Fast Open pass them too. `connect6` sees v4-mapped
//! addresses. A send on a connected datagram socket is not seen again: its connect was.
//!
//! `cgroup/sock_release`: called from `inet_release` when the last reference from a file is gone.

use agent_ebpf::{CloseEvent, ConnectEvent, ConnectionRecord, Counter, EventHeader, TupleKey, hook, kind};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::helpers::{bpf_get_current_task, bpf_ktime_get_boot_ns};
use aya_ebpf::programs::{SockAddrContext, SockContext};

use crate::maps::{CONNECTIONS, EVENTS, PROCESSES, TUPLES, count, wake};
use crate::read::read;

const ALLOW: i32 = 1;

#[inline(always)]
pub(crate) fn opened(ctx: &SockAddrContext, hook: u8) -> i32 {
    // SAFETY: the context of a sock_addr program is what the helper asks for.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let tgid = ctx.tgid();
    // SAFETY: elements are not freed under RCU's read lock.
    let Some(process) = (unsafe { PROCESSES.get(tgid) }) else {
        count(Counter::ConnectRecordMissing);
        forget(cookie);
        return ALLOW;
    };
    if record(ctx, hook, cookie, process.exec_id, process.session_id).is_err() {
        count(Counter::ConnectReadFailed);
        forget(cookie);
    }
    ALLOW
}

/// An opener that cannot be named must not inherit what an earlier one left on the socket.
#[inline(always)]
fn forget(cookie: u64) {
    let _ = CONNECTIONS.remove(cookie);
}

#[inline(always)]
fn record(ctx: &SockAddrContext, hook: u8, cookie: u64, exec_id: u64, session_id: u64) -> Result<(), i64> {
    let address = ctx.sock_addr;
    // SAFETY: no arguments.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let cred = read!(task, task_cred)?;
    let mut connection = ConnectionRecord {
        cookie,
        exec_id,
        session_id,
        ktime_ns: 0,
        netns_cookie: 0,
        cap_effective: read!(cred, cred_cap_effective, u64)?,
        remote_address: [0; 16],
        local_address: [0; 16],
        tgid: ctx.tgid(),
        tid: ctx.pid(),
        euid: read!(cred, cred_euid, u32)?,
        egid: read!(cred, cred_egid, u32)?,
        net_ns: 0,
        remote_port: 0,
        local_port: 0,
        protocol: 0,
        hook,
        verdict: 1,
        state: 0,
        padding: [0; 3],
    };
    // SAFETY: reads of fields that the verifier allows for these attach types, in their own widths.
    unsafe {
        connection.remote_port = u16::from_be((*address).user_port as u16);
        connection.protocol = (*address).protocol as u16;
        connection.remote_address = if hook == hook::CONNECT4 || hook == hook::SENDMSG4 {
            mapped((*address).user_ip4)
        } else {
            words((*address).user_ip6[0], (*address).user_ip6[1], (*address).user_ip6[2], (*address).user_ip6[3])
        };
    }
    if (hook == hook::SENDMSG4 || hook == hook::SENDMSG6) && is_known(&connection) {
        return Ok(());
    }
    // SAFETY: no arguments, and the context of a sock_addr program.
    unsafe {
        connection.ktime_ns = bpf_ktime_get_boot_ns();
        connection.netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
    }
    if CONNECTIONS.insert(cookie, &connection, 0).is_err() {
        count(Counter::ConnectionsFull);
        forget(cookie);
        return Ok(());
    }
    match EVENTS.reserve::<ConnectEvent>(0) {
        Some(mut event) => {
            let header = EventHeader { ktime_ns: connection.ktime_ns, kind: kind::CONNECT, tgid: connection.tgid };
            event.write(ConnectEvent { header, connection });
            event.submit(wake(false));
        }
        None => count(Counter::EventsDropped),
    }
    Ok(())
}

/// A datagram socket that sends again and again to one place is recorded once.
#[inline(always)]
fn is_known(connection: &ConnectionRecord) -> bool {
    // SAFETY: elements are not freed under RCU's read lock.
    let Some(known) = (unsafe { CONNECTIONS.get(connection.cookie) }) else { return false };
    known.exec_id == connection.exec_id
        && known.session_id == connection.session_id
        && known.euid == connection.euid
        && known.remote_port == connection.remote_port
        && known.remote_address == connection.remote_address
}

#[inline(always)]
pub(crate) fn released(ctx: &SockContext) -> i32 {
    // SAFETY: the context of a cgroup sock program is what the helper asks for.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: elements are not freed under RCU's read lock.
    if let Some(connection) = unsafe { CONNECTIONS.get(cookie) } {
        remove_tuple(connection);
        match EVENTS.reserve::<CloseEvent>(0) {
            Some(mut event) => {
                // SAFETY: no arguments.
                let ktime_ns = unsafe { bpf_ktime_get_boot_ns() };
                let header = EventHeader { ktime_ns, kind: kind::CLOSE, tgid: connection.tgid };
                event.write(CloseEvent { header, cookie, exec_id: connection.exec_id });
                event.submit(wake(false));
            }
            None => count(Counter::EventsDropped),
        }
        let _ = CONNECTIONS.remove(cookie);
    }
    ALLOW
}

/// Removes the 4-tuple of a connection, if it has one and it is still its own.
#[inline(always)]
pub(crate) fn remove_tuple(connection: &ConnectionRecord) {
    if connection.local_port == 0 {
        return;
    }
    let key = TupleKey {
        local_address: connection.local_address,
        remote_address: connection.remote_address,
        net_ns: connection.net_ns,
        local_port: connection.local_port,
        remote_port: connection.remote_port,
        protocol: connection.protocol,
        padding: [0; 6],
    };
    // SAFETY: elements are not freed under RCU's read lock.
    if unsafe { TUPLES.get(key) }.is_some_and(|cookie| *cookie == connection.cookie) {
        let _ = TUPLES.remove(key);
    }
}

/// An IPv4 address as it lies in memory, in v4-mapped form.
#[inline(always)]
pub(crate) fn mapped(address: u32) -> [u8; 16] {
    words(0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), address)
}

#[inline(always)]
fn words(a: u32, b: u32, c: u32, d: u32) -> [u8; 16] {
    let mut address = [0; 16];
    address[0..4].copy_from_slice(&a.to_ne_bytes());
    address[4..8].copy_from_slice(&b.to_ne_bytes());
    address[8..12].copy_from_slice(&c.to_ne_bytes());
    address[12..16].copy_from_slice(&d.to_ne_bytes());
    address
}
