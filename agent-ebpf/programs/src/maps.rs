// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The maps. All are bounded, and pinned by name so that a restart of the daemon loses no binding.
//!
//! `PROCESSES` allocates an element when it is needed (safe in tracing programs since 6.1): its bound is
//! generous and most hosts use a fraction of it. `CONNECTIONS` and `TUPLES` are on the connect path and
//! preallocated.

use agent_ebpf::{
    COUNTERS as COUNTER_COUNT, ClassRecord, ConnectionRecord, Counter, ExecRecord, ImageKey, ImageRecord, PlaceWords,
    ToldKey, TreeRecord, TupleKey, governing, limits,
};
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};

/// tgid → exec instance. The truth.
#[map]
pub(crate) static PROCESSES: HashMap<u32, ExecRecord> = HashMap::pinned(limits::PROCESSES, BPF_F_NO_PREALLOC);

/// Exec id → exec instance of a session that ended and may have descendants: as whom those act is asked of it. The daemon
/// removes what has none.
#[map]
pub(crate) static ENDED: HashMap<u64, ExecRecord> = HashMap::pinned(limits::ENDED, BPF_F_NO_PREALLOC);

/// Socket cookie → connection. The truth.
#[map]
pub(crate) static CONNECTIONS: HashMap<u64, ConnectionRecord> = HashMap::pinned(limits::CONNECTIONS, 0);

/// 4-tuple → socket cookie.
#[map]
pub(crate) static TUPLES: HashMap<TupleKey, u64> = HashMap::pinned(limits::CONNECTIONS, 0);

/// Keeps an exec instance that ends, if it is in a session.
#[inline(always)]
pub(crate) fn keep_ended(record: &ExecRecord) {
    if record.session_id != 0 && ENDED.insert(record.exec_id, record, 0).is_err() {
        count(Counter::EndedFull);
    }
}

/// One bit for each place, set where an exec instance that holds a lease has it: its end wakes the daemon at once.
/// Written by the daemon. Not a table by id: looking one up for every process that ends would miss the caches each time.
#[map]
pub(crate) static WATCHED: Array<u64> = Array::pinned(limits::WATCHED / u64::BITS, 0);

/// Settings of governed trees. Written by the daemon; element 0 is nobody's.
#[map]
pub(crate) static TREES: Array<TreeRecord> = Array::pinned(limits::TREES, 0);

/// What holds for all trees: see [`governing`]. Written by the daemon, but for `LOST`.
#[map]
pub(crate) static GOVERNING: Array<u64> = Array::pinned(governing::COUNT, 0);

/// What each class may reach, in two halves: the set that is in use, and the one before or after it. A class that
/// somebody is in is never changed but for groups that are new.
#[map]
pub(crate) static CLASSES: Array<ClassRecord> = Array::pinned(2 * limits::CLASSES, 0);

/// Port, protocol and address → group of destinations, for classes of the first half.
#[map]
pub(crate) static ADDRESSES_1: LpmTrie<PlaceWords, u32> = LpmTrie::pinned(limits::ADDRESSES, 0);

/// The same for classes of the second half.
#[map]
pub(crate) static ADDRESSES_2: LpmTrie<PlaceWords, u32> = LpmTrie::pinned(limits::ADDRESSES, 0);

/// The files that governed trees may execute. Written by the daemon.
#[map]
pub(crate) static IMAGES: HashMap<ImageKey, ImageRecord> = HashMap::pinned(limits::IMAGES, BPF_F_NO_PREALLOC);

/// When each refusal was told last.
#[map]
pub(crate) static TOLD: LruHashMap<ToldKey, u64> = LruHashMap::pinned(limits::TOLD, 0);

/// Element 0: whether somebody wants to hear of everything. Written by the daemon.
#[map]
pub(crate) static LISTENING: Array<u32> = Array::pinned(1, 0);

/// The next exec id, in element 0. The daemon sets where it starts.
#[map]
pub(crate) static NEXT_EXEC_ID: Array<u64> = Array::pinned(1, 0);

/// An empty record to insert where there was none; a record does not fit the stack.
#[map]
pub(crate) static EMPTY: Array<ExecRecord> = Array::pinned(1, 0);

/// Hints for the daemon.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::pinned(limits::EVENTS_BYTES, 0);

/// Failures and losses by site.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(COUNTER_COUNT, 0);

/// Which daemon set this up: ABI version, object, offsets; zero until all programs are attached. No program
/// reads it, the daemon does when it decides whether to adopt what is pinned.
#[map]
pub(crate) static SETUP: Array<u64> = Array::pinned(4, 0);

/// What [`crate::probe`] refuses: to this thread group its children's images, and a port. Only the self-test writes it.
#[map]
pub(crate) static PROBE: Array<u32> = Array::pinned(2, 0);

/// Counts a failure or loss.
#[inline(always)]
pub(crate) fn count(site: Counter) {
    if let Some(counter) = COUNTERS.get_ptr_mut(site as u32) {
        // SAFETY: a per-CPU element belongs to this CPU; a lost increment under preemption is harmless.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

/// Whether the end of this exec instance is urgent. Sometimes it is said of one that shares its place.
#[inline(always)]
pub(crate) fn is_watched(exec_id: u64) -> bool {
    let place = exec_id as u32 % limits::WATCHED;
    WATCHED.get(place / u64::BITS).is_some_and(|word| *word >> (place % u64::BITS) & 1 == 1)
}

/// Whether somebody wants to hear of everything: an operator who watches. Otherwise only what somebody will ask for is
/// told: an event that nobody reads was a quarter to two fifths of what its program cost.
#[inline(always)]
pub(crate) fn is_listening() -> bool {
    LISTENING.get(0).is_some_and(|listening| *listening != 0)
}

const WAKE_NEVER: u64 = 1; // BPF_RB_NO_WAKEUP
const WAKE_NOW: u64 = 2; // BPF_RB_FORCE_WAKEUP
const AVAILABLE: u64 = 0; // BPF_RB_AVAIL_DATA
const SIZE: u64 = 1; // BPF_RB_RING_SIZE

/// Waking the daemon costs more than all the rest of an event. It polls on a timer, so only what it must
/// know at once wakes it, and a buffer that fills up.
#[inline(always)]
pub(crate) fn wake(urgent: bool) -> u64 {
    let is_filling = || EVENTS.query(AVAILABLE) > EVENTS.query(SIZE) / limits::EVENTS_WAKE_SHARE;
    if urgent || is_filling() { WAKE_NOW } else { WAKE_NEVER }
}
