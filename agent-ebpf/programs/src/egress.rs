// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether somebody in a governed tree may reach an address: what the daemon compiled from policy, decided here without
//! waiting for anybody.
//!
//! A tree is governed from the moment its root is put into it; fork and exec carry it along, and nothing takes it back.
//! What an exec instance may reach is its class's word on the group of destinations at the longest prefix of the address.
//! Both are of one half of the compiled maps, so nobody sees a part of one set of policies and a part of another.
//!
//! `egress_bind(tgid, exec_id, tree, class, ids)`: attached to nothing, the daemon runs it, as [`crate::session`] says.
//!
//! `cgroup/sock_create`: called by `inet_create` and `inet6_create` for every socket of these families that a program
//! asks for, before it has a cookie. The hooks of connections see TCP and UDP only.

use agent_ebpf::{
    Address, ConnectEvent, ConnectionRecord, Counter, EventHeader, ExecRecord, ToldKey, bound, class, governing,
    ground, hook, kind, limits, place_word, tree, verdict,
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

/// Writes what is decided of a connection into its record; returns what the hook returns.
///
/// # Safety
/// `process` is in the map.
#[inline(always)]
pub(crate) unsafe fn decide(process: *mut ExecRecord, connection: &mut ConnectionRecord) -> i32 {
    // SAFETY: by the caller; so with all reads of it.
    let tree = unsafe { (*process).tree };
    if tree == 0 {
        return LET;
    }
    // SAFETY: as above. The class is read once: the daemon may write it in this moment.
    let (class, ids) = unsafe { (barrier(process), core::ptr::read_volatile(&raw const (*process).class_ids)) };
    let is_same = ids == pair(connection.euid, connection.egid);
    let mut said = None;
    if class != 0 && is_same {
        let settings = settings(tree, (class & class::SECOND != 0) as usize);
        said = Some(match group(class, connection) {
            None => (settings >> tree::UNDECLARED_SHIFT & VERDICT_MASK, ground::UNDECLARED, settings),
            Some(group) => (word(class, group), ground::DESTINATION, settings),
        });
        // ORDER: what was read between two looks at the class is of one set of policies and of one word on this exec
        // instance if the class is the same and holds after it. Each look is a barrier.
        // SAFETY: by the caller.
        let now = unsafe { barrier(process) };
        if now != class || class >> class::STAMP_SHIFT < oldest(class) {
            said = None;
        }
    }
    let (mut found, ground, settings) = said.unwrap_or_else(|| {
        let settings = settings_in_use(tree);
        (settings >> tree::PENDING_SHIFT & VERDICT_MASK, ground::PENDING, settings)
    });
    connection.ground = ground;
    if connection.remote_address.is_unspecified() {
        // The kernel leads it to this machine, whatever range it is written in.
        (found, connection.ground) = (verdict::DENY as u32, ground::UNDECLARED);
    }
    connection.verdict = softened(found, settings);
    if connection.verdict == verdict::DENY { REFUSE } else { LET }
}

/// The oldest stamp that a class of the same half may have.
#[inline(always)]
fn oldest(class: u64) -> u64 {
    let half = (class & class::SECOND != 0) as u32;
    // SAFETY: an element lives as long as its map.
    let oldest = GOVERNING.get_ptr(governing::OLDEST + half).map(|oldest| unsafe { core::ptr::read_volatile(oldest) });
    oldest.unwrap_or(u64::MAX)
}

/// All memory accesses above come before all below. Returns the class.
///
/// # Safety
/// `process` is in the map.
#[inline(always)]
pub(crate) unsafe fn barrier(process: *mut ExecRecord) -> u64 {
    let zero = 0;
    // SAFETY: a local variable: what is added is nothing, but the compiler must not know. The class by the caller; it is
    // aligned to 8 bytes.
    // ORDER: an atomic operation that returns what was there is a full barrier in the kernel's memory model.
    unsafe {
        let zero: u64 = core::ptr::read_volatile(&raw const zero);
        let class = &raw mut (*process).class;
        core::intrinsics::atomic_xadd::<u64, u64, { core::intrinsics::AtomicOrdering::AcqRel }>(class, zero)
    }
}

/// Gives a child its parent's class as a whole: the daemon may have written the parent's while the record was copied.
///
/// # Safety
/// Both are in the map, and nobody knows the child yet.
#[inline(always)]
pub(crate) unsafe fn inherit(parent: *mut ExecRecord, child: &mut ExecRecord) {
    // SAFETY: by the caller.
    unsafe {
        let before = barrier(parent);
        child.class_ids = core::ptr::read_volatile(&raw const (*parent).class_ids);
        // Every word on somebody has a stamp of its own, so equal ones are the same word.
        let is_same = barrier(parent) == before;
        child.class = if is_same { before } else { 0 };
    }
}

#[inline(always)]
fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// Somebody without a record may be of a governed tree, if ever one was lost.
#[inline(always)]
pub(crate) fn without_record() -> i32 {
    if GOVERNING.get(governing::LOST).is_some_and(|lost| *lost != 0) {
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
    if let Some(lost) = GOVERNING.get_ptr_mut(governing::LOST) {
        // SAFETY: an element lives as long as its map, and everybody writes the same.
        unsafe { *lost = 1 };
    }
}

/// The tree of somebody who had no record.
#[inline(always)]
pub(crate) fn tree_of_unknown() -> u32 {
    if GOVERNING.get(governing::LOST).is_some_and(|lost| *lost != 0) { tree::LOST } else { 0 }
}

/// Settings that are not there are the strictest.
#[inline(always)]
fn settings(tree: u32, half: usize) -> u32 {
    TREES.get(tree).map_or(0, |tree| if half == 0 { tree.settings[0] } else { tree.settings[1] })
}

/// Of whoever is in no class.
#[inline(always)]
pub(crate) fn settings_in_use(tree: u32) -> u32 {
    let is_second = GOVERNING.get(governing::HALF).is_some_and(|half| *half != 0);
    settings(tree, is_second as usize)
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

#[inline(always)]
fn group(class: u64, connection: &ConnectionRecord) -> Option<u32> {
    let Address { front, back } = connection.remote_address;
    let place = place_word(connection.protocol, connection.remote_port, connection.remote_address.is_mapped());
    let key = [WHOLE, place, front as u32, (front >> 32) as u32, back as u32, (back >> 32) as u32];
    // SAFETY: a key is a prefix length and the words, packed. An array of words is aligned as the stack asks for.
    let key = unsafe { &*(&raw const key).cast::<Key<agent_ebpf::PlaceWords>>() };
    if class & class::SECOND == 0 { ADDRESSES_1.get(key).copied() } else { ADDRESSES_2.get(key).copied() }
}

#[inline(always)]
fn word(class: u64, group: u32) -> u32 {
    let Some(record) = CLASSES.get_ptr((class & class::PLACE) as u32) else { return 0 };
    let group = group & (limits::GROUPS - 1);
    // SAFETY: an element lives as long as its map, and the place is within it. Read once, as the daemon adds groups.
    let word =
        unsafe { core::ptr::read_volatile((&raw const (*record).verdicts).cast::<u64>().add(group as usize / 32)) };
    (word >> (group % 32 * 2)) as u32 & VERDICT_MASK
}

/// Whether a refusal was told a moment ago; from now on it was.
#[inline(always)]
pub(crate) fn is_told(key: &ToldKey, now: u64) -> bool {
    // SAFETY: elements are not freed under RCU's read lock.
    let is_told = unsafe { TOLD.get(key) }.is_some_and(|at| now.wrapping_sub(*at) < limits::TOLD_AGAIN_NS);
    if is_told && !is_listening() {
        return true;
    }
    let _ = TOLD.insert(key, now, 0);
    false
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
    if is_told(&key, now) {
        return;
    }
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
    if GOVERNING.get(governing::ANY).is_none_or(|any| *any == 0) {
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
    let verdict = softened(0, settings_in_use(process.tree));
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
        tree: process.tree as u16,
    });
    if verdict == verdict::DENY { REFUSE } else { LET }
}

/// Puts an exec instance into a tree (unless zero), and into a class (unless zero) as long as it has these ids. A class
/// that is older than the one it has does nothing.
#[inline(always)]
pub(crate) fn bind(ctx: &RawTracePointContext) -> u32 {
    let arguments = ctx.as_ptr().cast::<u64>();
    // SAFETY: the daemon hands over five words, and the verifier sees that no more are read.
    let (tgid, exec_id, tree, class, ids) =
        unsafe { (*arguments, *arguments.add(1), *arguments.add(2), *arguments.add(3), *arguments.add(4)) };
    let Some(record) = PROCESSES.get_ptr_mut(tgid as u32) else { return bound::GONE };
    // SAFETY: elements are not freed under RCU's read lock, under which this program runs.
    unsafe {
        if !is(record, exec_id) || (*record).exec_id_check != exec_id {
            return bound::GONE;
        }
        if tree != 0 {
            (*record).tree = tree as u32;
        }
        if class == 0 || core::ptr::read_volatile(&raw const (*record).class) > class {
            return bound::DONE;
        }
        // ORDER: whoever reads the ids between two looks at the same class reads those of that class. An exec meanwhile
        // changes the id and then, after as much as here, the class: one of the two sees the other.
        if core::ptr::read_volatile(&raw const (*record).class_ids) != ids {
            core::ptr::write_volatile(&raw mut (*record).class, 0);
            barrier(record);
            core::ptr::write_volatile(&raw mut (*record).class_ids, ids);
            barrier(record);
        }
        core::ptr::write_volatile(&raw mut (*record).class, class);
        barrier(record);
        if !is(record, exec_id) {
            core::ptr::write_volatile(&raw mut (*record).class, 0);
            return bound::GONE;
        }
    }
    bound::DONE
}

#[inline(always)]
unsafe fn is(record: *const ExecRecord, exec_id: u64) -> bool {
    // SAFETY: by the caller, a record in the map. Volatile, as it may change from one look to the next.
    unsafe { core::ptr::read_volatile(&raw const (*record).exec_id) == exec_id }
}
