// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `cgroup/connect4`, `connect6`, `sendmsg4`, `sendmsg6` at the root of cgroup v2: called from
//! `proto->pre_connect` and from the datagram send path in the caller's context, before any packet leaves.
//! They sit below the system call, so io_uring and TCP Fast Open pass them too. `connect6` sees v4-mapped
//! addresses. A send on a connected datagram socket is not seen again: its connect was.
//!
//! `cgroup/sock_release`: called from `inet_release` when the last reference from a file is gone.

use agent_ebpf::{
    Address, CloseEvent, ConnectEvent, ConnectionRecord, Counter, EventHeader, ExecRecord, TupleKey, ground, hook,
    kind, verdict,
};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::{SockAddrContext, SockContext};

use crate::egress;
use crate::fork::refer;
use crate::maps::{CONNECTIONS, EVENTS, PROCESSES, TUPLES, count, is_listening, wake};
use crate::read::{field, number, pointer};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

#[inline(always)]
pub(crate) fn opened(ctx: &SockAddrContext, hook: u8) -> i32 {
    // SAFETY: the context of a sock_addr program is what the helper asks for.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: no arguments; the caller, whose context this is.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let Some(process) = PROCESSES.get_ptr_mut(field!(task, task_tgid, u32)) else {
        count(Counter::ConnectRecordMissing);
        forget(cookie);
        return egress::without_record();
    };
    // SAFETY: elements are not freed under RCU's read lock; other threads may set this bit in the same moment, and none
    // any other.
    unsafe { refer(process) };
    match record(ctx, task, hook, cookie, process) {
        Ok(verdict) => verdict,
        Err(_) => {
            count(Counter::ConnectReadFailed);
            forget(cookie);
            // SAFETY: as above.
            unrecorded(unsafe { &*process })
        }
    }
}

/// Nobody could take back later what is let through to a governed program without a record.
#[inline(always)]
fn unrecorded(process: &ExecRecord) -> i32 {
    if process.tree == 0 {
        return ALLOW;
    }
    count(Counter::EgressRefused);
    REFUSE
}

/// An opener that cannot be named must not inherit what an earlier one left on the socket.
#[inline(always)]
fn forget(cookie: u64) {
    let _ = CONNECTIONS.remove(cookie);
}

#[inline(always)]
fn record(ctx: &SockAddrContext, task: *const u8, hook: u8, cookie: u64, record: *mut ExecRecord) -> Result<i32, i64> {
    // SAFETY: elements are not freed under RCU's read lock.
    let process = unsafe { &*record };
    let address = ctx.sock_addr;
    let cred = pointer!(task, task_cred)?;
    // Not recorded here; it shows that the credentials were readable.
    pointer!(cred, cred_user_ns)?;
    let mut connection = ConnectionRecord {
        cookie,
        exec_id: process.exec_id,
        session_id: process.session_id,
        ktime_ns: 0,
        netns_cookie: 0,
        cap_effective: field!(cred, cred_cap_effective, u64),
        remote_address: Address::ZERO,
        local_address: zero(),
        tgid: process.tgid,
        tid: number!(task, task_pid, u32)?,
        euid: field!(cred, cred_euid, u32),
        egid: field!(cred, cred_egid, u32),
        net_ns: 0,
        remote_port: 0,
        local_port: 0,
        protocol: 0,
        hook,
        verdict: verdict::ALLOW,
        state: 0,
        ground: ground::UNGOVERNED,
        tree: process.tree as u16,
    };
    // SAFETY: reads of fields that the verifier allows for these attach types, in their own widths.
    unsafe {
        connection.remote_port = u16::from_be((*address).user_port as u16);
        connection.protocol = (*address).protocol as u16;
        connection.remote_address = if hook == hook::CONNECT4 || hook == hook::SENDMSG4 {
            Address::mapped((*address).user_ip4)
        } else {
            let words = &(*address).user_ip6;
            Address::of_words(words[0], words[1], words[2], words[3])
        };
    }
    // SAFETY: it is in the map.
    let decided = unsafe { egress::decide(record, &mut connection) };
    if connection.verdict == verdict::DENY {
        // The socket leads where it led before, if anywhere.
        egress::tell(&connection);
        return Ok(decided);
    }
    if (hook == hook::SENDMSG4 || hook == hook::SENDMSG6) && is_known(&connection) {
        return Ok(decided);
    }
    // SAFETY: no arguments, and the context of a sock_addr program.
    unsafe {
        connection.ktime_ns = bpf_ktime_get_boot_ns();
        connection.netns_cookie = bpf_get_netns_cookie(ctx.as_ptr());
    }
    if CONNECTIONS.insert(cookie, &connection, 0).is_err() {
        count(Counter::ConnectionsFull);
        forget(cookie);
        return Ok(unrecorded(process));
    }
    if connection.verdict != verdict::ALLOW {
        egress::tell(&connection);
        return Ok(decided);
    }
    if !is_listening() {
        return Ok(decided);
    }
    match EVENTS.reserve::<ConnectEvent>(0) {
        Some(mut event) => {
            let header = EventHeader { ktime_ns: connection.ktime_ns, kind: kind::CONNECT, tgid: connection.tgid };
            event.write(ConnectEvent { header, connection });
            event.submit(wake(false));
        }
        None => count(Counter::EventsDropped),
    }
    Ok(decided)
}

/// An address of zeros that the compiler does not know to be: it would call a function to clear the bytes one by one.
#[inline(always)]
pub(crate) fn zero() -> Address {
    let zero = 0;
    // SAFETY: a local variable.
    let zero: u64 = unsafe { core::ptr::read_volatile(&raw const zero) };
    Address { front: zero, back: zero }
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
        && known.verdict == connection.verdict
}

#[inline(always)]
pub(crate) fn released(ctx: &SockContext) -> i32 {
    // SAFETY: the context of a cgroup sock program is what the helper asks for.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: elements are not freed under RCU's read lock.
    if let Some(connection) = unsafe { CONNECTIONS.get(cookie) } {
        remove_tuple(connection);
        if is_listening() {
            tell_closed(connection);
        }
        let _ = CONNECTIONS.remove(cookie);
    }
    ALLOW
}

#[inline(always)]
fn tell_closed(connection: &ConnectionRecord) {
    let Some(mut event) = EVENTS.reserve::<CloseEvent>(0) else {
        count(Counter::EventsDropped);
        return;
    };
    // SAFETY: no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_boot_ns() };
    let header = EventHeader { ktime_ns, kind: kind::CLOSE, tgid: connection.tgid };
    event.write(CloseEvent { header, cookie: connection.cookie, exec_id: connection.exec_id });
    event.submit(wake(false));
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
        protocol: connection.protocol as u32,
        padding: 0,
    };
    // SAFETY: elements are not freed under RCU's read lock.
    if unsafe { TUPLES.get(key) }.is_some_and(|cookie| *cookie == connection.cookie) {
        let _ = TUPLES.remove(key);
    }
}
