// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether somebody in a governed tree may reach an address: what the daemon compiled from policy, decided here without
//! waiting for anybody.
//!
//! A tree is governed from the moment its root is put into it; fork and exec carry it along, and nothing takes it back.
//! What an exec instance may reach is its class's word on the group of destinations at the longest prefix of the address.
//! Both are of one half of the compiled maps, so nobody sees a part of one set of policies and a part of another.
//!
//! `egress_bind(tgid, exec_id, tree and class, ids)`: attached to nothing, the daemon runs it, as [`crate::session`] says.
//!
//! `cgroup/sock_create`: called by `inet_create` and `inet6_create` for every socket of these families that a program
//! asks for, before it has a cookie. The hooks of connections see TCP and UDP only.

use agent_ebpf::{
    Address, ConnectEvent, ConnectionRecord, Counter, EventHeader, ExecRecord, ToldKey, bound, class, ground, hook,
    kind, limits, place_word, tree, verdict,
};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_get_current_task_btf;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::{RawTracePointContext, SockContext};

use crate::maps::{
    ADDRESSES_1, ADDRESSES_2, CLASSES, EVENTS, GOVERNING, PROCESSES, TOLD, TREES, count, is_listening, wake,
};
use crate::read::{field, number, pointer};

const REFUSE: i32 = 0;
const LET: i32 = 1;

/// All bits of port, protocol and address.
const WHOLE: u32 = 32 + 128;
const VERDICT_MASK: u32 = 3;

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const TCP: u32 = 6;
const UDP: u32 = 17;

const ANY: u32 = 0;
const LOST: u32 = 1;

/// Writes what is decided of a connection into its record; returns what the hook returns.
#[inline(always)]
pub(crate) fn decide(process: &ExecRecord, connection: &mut ConnectionRecord) -> i32 {
    if process.tree == 0 {
        return LET;
    }
    let settings = settings(process.tree);
    let found = match classed(process, connection.euid, connection.egid) {
        // The kernel leads it to this machine, whatever range it is written in.
        _ if connection.remote_address.is_unspecified() => (verdict::DENY as u32, ground::UNDECLARED),
        None => (settings >> tree::PENDING_SHIFT & VERDICT_MASK, ground::PENDING),
        Some(class) => {
            connection.class = (class & class::PLACE) as u16;
            match group(class, connection) {
                None => (settings >> tree::UNDECLARED_SHIFT & VERDICT_MASK, ground::UNDECLARED),
                Some(group) => (word(class, group), ground::DESTINATION),
            }
        }
    };
    connection.ground = found.1;
    connection.verdict = softened(found.0, settings);
    if connection.verdict == verdict::DENY { REFUSE } else { LET }
}

/// Somebody without a record may be of a governed tree, if ever one was lost.
#[inline(always)]
pub(crate) fn without_record() -> i32 {
    if GOVERNING.get(LOST).is_some_and(|lost| *lost != 0) {
        count(Counter::EgressRefused);
        REFUSE
    } else {
        LET
    }
}

/// Notes that somebody of a governed tree has no record.
#[inline(always)]
pub(crate) fn lost(parent: &ExecRecord) {
    if parent.tree == 0 {
        return;
    }
    count(Counter::GovernedLost);
    if let Some(lost) = GOVERNING.get_ptr_mut(LOST) {
        // SAFETY: an element lives as long as its map, and everybody writes the same.
        unsafe { *lost = 1 };
    }
}

/// The tree of somebody who had no record.
#[inline(always)]
pub(crate) fn tree_of_unknown() -> u32 {
    if GOVERNING.get(LOST).is_some_and(|lost| *lost != 0) { tree::LOST } else { 0 }
}

/// Settings that are not there are the strictest.
#[inline(always)]
fn settings(tree: u32) -> u32 {
    TREES.get(tree).map_or(0, |tree| tree.settings)
}

/// What cannot be read as a verdict, or has no meaning yet, refuses.
#[inline(always)]
fn softened(found: u32, settings: u32) -> u8 {
    let found = found as u8;
    if found == verdict::ALLOW || found == verdict::AUDIT {
        found
    } else if settings & tree::AUDIT != 0 {
        verdict::AUDIT
    } else {
        verdict::DENY
    }
}

/// Its class, if it is still who was classified.
#[inline(always)]
fn classed(process: &ExecRecord, euid: u32, egid: u32) -> Option<u32> {
    // SAFETY: a field of a record in the map. Read once: the daemon may classify it anew in this moment.
    let class = unsafe { core::ptr::read_volatile(&raw const process.class) };
    let is_same = class & class::IS_KNOWN != 0 && process.class_euid == euid && process.class_egid == egid;
    is_same.then_some(class)
}

#[inline(always)]
fn group(class: u32, connection: &ConnectionRecord) -> Option<u32> {
    let Address { front, back } = connection.remote_address;
    let place = place_word(connection.protocol, connection.remote_port, connection.remote_address.is_mapped());
    let key = [WHOLE, place, front as u32, (front >> 32) as u32, back as u32, (back >> 32) as u32];
    // SAFETY: a key is a prefix length and the words, packed. An array of words is aligned as the stack asks for.
    let key = unsafe { &*(&raw const key).cast::<Key<agent_ebpf::PlaceWords>>() };
    if class & class::SECOND == 0 { ADDRESSES_1.get(key).copied() } else { ADDRESSES_2.get(key).copied() }
}

#[inline(always)]
fn word(class: u32, group: u32) -> u32 {
    let Some(record) = CLASSES.get_ptr(class & class::PLACE) else { return 0 };
    let group = group & (limits::GROUPS - 1);
    // SAFETY: an element lives as long as its map, and the place is within it. Read once, as the daemon adds groups.
    let word =
        unsafe { core::ptr::read_volatile((&raw const (*record).verdicts).cast::<u64>().add(group as usize / 32)) };
    (word >> (group % 32 * 2)) as u32 & VERDICT_MASK
}

/// Counts and tells what was not simply let through, the same thing no more than once a second.
#[inline(always)]
pub(crate) fn tell(connection: &ConnectionRecord) {
    count(if connection.verdict == verdict::DENY { Counter::EgressRefused } else { Counter::EgressAudited });
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let key = ToldKey {
        exec_id: connection.exec_id,
        address: connection.remote_address,
        place: place_word(connection.protocol, connection.remote_port, true),
        hook: connection.hook as u32,
    };
    // SAFETY: elements are not freed under RCU's read lock.
    let is_told = unsafe { TOLD.get(key) }.is_some_and(|at| now.wrapping_sub(*at) < limits::TOLD_AGAIN_NS);
    if is_told && !is_listening() {
        return;
    }
    let _ = TOLD.insert(key, now, 0);
    let Some(mut event) = EVENTS.reserve::<ConnectEvent>(0) else {
        count(Counter::EventsDropped);
        return;
    };
    let header = EventHeader { ktime_ns: now, kind: kind::CONNECT, tgid: connection.tgid };
    event.write(ConnectEvent { header, connection: *connection });
    event.submit(wake(false));
}

#[inline(always)]
pub(crate) fn created(ctx: &SockContext) -> i32 {
    if GOVERNING.get(ANY).is_none_or(|any| *any == 0) {
        return LET;
    }
    let sock: *const bpf_sock = ctx.as_ptr().cast();
    // SAFETY: reads of fields that the verifier allows for this attach type.
    let (socket, protocol) = unsafe { ((*sock).type_, (*sock).protocol) };
    // Told apart before anybody is looked up: nearly all sockets are these.
    if socket == SOCK_STREAM && protocol == TCP || socket == SOCK_DGRAM && protocol == UDP {
        return LET;
    }
    // SAFETY: no arguments; the caller, whose context this is.
    let task = unsafe { bpf_get_current_task_btf() } as *const u8;
    let Some(process) = PROCESSES.get_ptr(field!(task, task_tgid, u32)) else { return without_record() };
    // SAFETY: elements are not freed under RCU's read lock.
    let process = unsafe { &*process };
    if process.tree == 0 {
        return LET;
    }
    let verdict = softened(0, settings(process.tree));
    let cred = pointer!(task, task_cred).unwrap_or(core::ptr::null());
    let (euid, egid) = if cred.is_null() {
        (process.euid, process.egid)
    } else {
        (field!(cred, cred_euid, u32), field!(cred, cred_egid, u32))
    };
    // SAFETY: no arguments.
    let ktime_ns = unsafe { bpf_ktime_get_boot_ns() };
    tell(&ConnectionRecord {
        cookie: 0,
        exec_id: process.exec_id,
        session_id: process.session_id,
        ktime_ns,
        netns_cookie: 0,
        cap_effective: 0,
        remote_address: crate::connection::zero(),
        local_address: crate::connection::zero(),
        tgid: process.tgid,
        tid: number!(task, task_pid, u32).unwrap_or(0),
        euid,
        egid,
        net_ns: 0,
        remote_port: 0,
        local_port: 0,
        protocol: protocol as u16,
        hook: hook::SOCK_CREATE,
        verdict,
        state: 0,
        ground: ground::SOCKET,
        class: 0,
    });
    if verdict == verdict::DENY { REFUSE } else { LET }
}

/// Puts an exec instance into a tree (unless zero), and into a class (unless zero) as long as it has these ids.
#[inline(always)]
pub(crate) fn bind(ctx: &RawTracePointContext) -> u32 {
    let arguments = ctx.as_ptr().cast::<u64>();
    // SAFETY: the daemon hands over four words, and the verifier sees that no more are read.
    let (tgid, exec_id, what, ids) = unsafe { (*arguments, *arguments.add(1), *arguments.add(2), *arguments.add(3)) };
    let Some(record) = PROCESSES.get_ptr_mut(tgid as u32) else { return bound::GONE };
    // SAFETY: elements are not freed under RCU's read lock, under which this program runs.
    let record = unsafe { &mut *record };
    if record.exec_id != exec_id || record.exec_id_check != exec_id {
        return bound::GONE;
    }
    let (tree, class) = ((what >> 32) as u32, what as u32);
    if tree != 0 {
        record.tree = tree;
    }
    if class != 0 {
        let (euid, egid) = ((ids >> 32) as u32, ids as u32);
        // ORDER: a connection that is decided meanwhile sees the old class with the old ids, none, or the new one with
        // the new ids. An exec meanwhile clears the class before it changes the id, and the look below finds that.
        // SAFETY: fields of a record in the map.
        unsafe {
            if record.class_euid != euid || record.class_egid != egid {
                core::ptr::write_volatile(&raw mut record.class, 0);
                core::ptr::write_volatile(&raw mut record.class_euid, euid);
                core::ptr::write_volatile(&raw mut record.class_egid, egid);
            }
            core::ptr::write_volatile(&raw mut record.class, class);
            if core::ptr::read_volatile(&raw const record.exec_id) != exec_id {
                core::ptr::write_volatile(&raw mut record.class, 0);
                return bound::GONE;
            }
        }
    }
    bound::DONE
}
