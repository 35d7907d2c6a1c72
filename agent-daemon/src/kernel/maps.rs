// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_ebpf::{ConnectionRecord, Counter, ExecRecord, TupleKey, bound, limits};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use aya::{Ebpf, Pod};
use rustix::time::{ClockId, clock_gettime};

use super::egress::EgressTables;
use super::watched::Watched;
use super::{Error, decode};
use crate::process::{
    self, BootTime, Bound, Capacity, Connection, Count, Current, ExecId, ExecInstance, Records, SessionId, Tuple,
};

/// A record as it lies in a map.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<T>(pub(super) T);

#[expect(unsafe_code, reason = "aya asks for it, and the records live in a crate without aya")]
// SAFETY: a `repr(C)` struct of integers with explicit padding; zerocopy checks the same at compile time.
unsafe impl Pod for Raw<ExecRecord> {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Pod for Raw<ConnectionRecord> {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Pod for Raw<TupleKey> {}

/// How often a record that is being written is read again. Writing takes well under a microsecond.
const ATTEMPTS: u32 = 64;
const NO_OVERWRITE: u64 = 1; // BPF_NOEXIST

/// The kernel's maps.
pub struct Maps {
    processes: HashMap<MapData, u32, Raw<ExecRecord>>,
    /// Of sessions. The programs add, the daemon removes.
    ended: Mutex<HashMap<MapData, u64, Raw<ExecRecord>>>,
    binder: RawTracePoint,
    connections: HashMap<MapData, u64, Raw<ConnectionRecord>>,
    tuples: HashMap<MapData, Raw<TupleKey>, u64>,
    counters: PerCpuArray<MapData, u64>,
    watched: Mutex<Watched>,
    listening: Mutex<Array<MapData, u32>>,
    /// The same map, for writing: only the seed does.
    seeded: Mutex<HashMap<MapData, u32, Raw<ExecRecord>>>,
    egress: EgressTables,
    bounds: Bounds,
}

#[derive(Debug)]
struct Bounds {
    processes: u64,
    connections: u64,
}

pub(super) fn take<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Bug("bug: a map is missing from the object"))?;
    T::try_from(map).map_err(|source| Error::Map { map: name, source: Box::new(source) })
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf, binder: RawTracePoint, governing: RawTracePoint) -> Result<Self, Error> {
        let bound = |ebpf: &Ebpf, name: &'static str| -> Result<u64, Error> {
            let info = match ebpf.map(name) {
                Some(Map::HashMap(data)) => data.info(),
                _ => return Err(Error::Bug("bug: a map is missing from the object")),
            };
            info.map(|info| u64::from(info.max_entries()))
                .map_err(|source| Error::Map { map: name, source: Box::new(source) })
        };
        let bounds = Bounds { processes: bound(ebpf, "PROCESSES")?, connections: bound(ebpf, "CONNECTIONS")? };
        let again = match ebpf.map("PROCESSES") {
            Some(Map::HashMap(data)) => data.fd().as_fd().try_clone_to_owned().map_err(|source| Error::Io {
                operation: "duplicate",
                path: "PROCESSES".into(),
                source,
            })?,
            _ => return Err(Error::Bug("bug: a map is missing from the object")),
        };
        let map_error = |source: MapError| Error::Map { map: "PROCESSES", source: Box::new(source) };
        let again = MapData::from_fd(again).map_err(map_error)?;
        Ok(Self {
            seeded: Mutex::new(HashMap::try_from(Map::HashMap(again)).map_err(map_error)?),
            processes: take(ebpf, "PROCESSES")?,
            ended: Mutex::new(take(ebpf, "ENDED")?),
            binder,
            connections: take(ebpf, "CONNECTIONS")?,
            tuples: take(ebpf, "TUPLES")?,
            counters: take(ebpf, "COUNTERS")?,
            watched: Mutex::new(Watched::new(take(ebpf, "WATCHED")?)?),
            listening: Mutex::new(quiet(take(ebpf, "LISTENING")?)?),
            egress: EgressTables::take(ebpf, governing)?,
            bounds,
        })
    }

    /// Adds a record the daemon made from `/proc`, unless the programs have made one by now.
    pub(super) fn seed(&self, tgid: u32, record: ExecRecord) -> Result<bool, process::Error> {
        let mut map = self.seeded.lock().unwrap_or_else(PoisonError::into_inner);
        match map.insert(tgid, Raw(record), NO_OVERWRITE) {
            Ok(()) => Ok(true),
            Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(failed("write", "PROCESSES", error)),
        }
    }

    pub(super) fn unseed(&self, tgid: u32) {
        // Failing means that it is gone already.
        let _gone = self.seeded.lock().unwrap_or_else(PoisonError::into_inner).remove(&tgid);
    }

    /// What the programs go by in governed trees.
    pub(super) fn egress(&self) -> &EgressTables {
        &self.egress
    }

    fn lock_ended(&self) -> MutexGuard<'_, HashMap<MapData, u64, Raw<ExecRecord>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn raw(&self, tgid: u32) -> Result<Option<ExecRecord>, process::Error> {
        for _ in 0..ATTEMPTS {
            match found(self.processes.get(&tgid, 0), "PROCESSES")? {
                None => return Ok(None),
                Some(Raw(record)) if decode::is_at_rest(&record, tgid) => return Ok(Some(record)),
                Some(_) => std::hint::spin_loop(),
            }
        }
        Err(process::Error::Unstable { tgid })
    }
}

impl Records for Maps {
    fn now(&self) -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let rest = u64::try_from(now.tv_nsec).unwrap_or_default();
        BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
    }

    fn process(&self, tgid: u32) -> Result<Option<ExecInstance>, process::Error> {
        // A record is written where it stands. Two equal readings with matching ends saw no writer between.
        let mut last = self.raw(tgid)?;
        for _ in 0..ATTEMPTS {
            let next = self.raw(tgid)?;
            if next == last {
                return match next {
                    None => Ok(None),
                    Some(record) => decode::instance(&record).map(Some).map_err(|what| malformed("PROCESSES", what)),
                };
            }
            last = next;
        }
        Err(process::Error::Unstable { tgid })
    }

    fn current(&self, tgid: u32) -> Result<Option<Current>, process::Error> {
        Ok(self.raw(tgid)?.map(|record| Current {
            id: ExecId(record.exec_id),
            start: BootTime(record.start_boottime_ns),
            session_id: SessionId::new(record.session_id),
        }))
    }

    fn ended(&self, exec_id: ExecId) -> Result<Option<ExecInstance>, process::Error> {
        let kept = found(self.lock_ended().get(&exec_id.0, 0), "ENDED")?;
        // Written whole by the map, and never changed after that.
        kept.map(|Raw(record)| decode::instance(&record)).transpose().map_err(|what| malformed("ENDED", what))
    }

    fn all_ended(&self) -> Result<Vec<ExecId>, process::Error> {
        let keys = self.lock_ended().keys().map(|key| key.map(ExecId)).collect::<Result<_, _>>();
        keys.map_err(|error| failed("walk", "ENDED", error))
    }

    fn forget_ended(&self, exec_id: ExecId) {
        // Failing means that it is gone already.
        let _gone = self.lock_ended().remove(&exec_id.0);
    }

    fn bind_session(
        &self,
        tgid: u32,
        exec_id: ExecId,
        from: Option<SessionId>,
        to: Option<SessionId>,
    ) -> Result<Bound, process::Error> {
        let number = |id: Option<SessionId>| id.map_or(0, SessionId::number);
        let mut options = RawTracePointRunOptions::new();
        let [first, second, third, fourth, ..] = &mut options.args;
        (*first, *second, *third, *fourth) = (u64::from(tgid), exec_id.0, number(from), number(to));
        let failed =
            |source| process::Error::Map { operation: "write", map: "PROCESSES", source: io::Error::other(source) };
        answer(self.binder.test_run(options).map_err(failed)?.return_value)
    }

    fn processes(&self, visit: &mut dyn FnMut(ExecInstance)) -> Result<(), process::Error> {
        for entry in self.processes.iter() {
            let (tgid, Raw(record)) = match entry {
                Ok(entry) => entry,
                // It ended between its key and its value.
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(failed("walk", "PROCESSES", error)),
            };
            if decode::is_at_rest(&record, tgid) {
                visit(decode::instance(&record).map_err(|what| malformed("PROCESSES", what))?);
            }
        }
        Ok(())
    }

    fn connection(&self, cookie: u64) -> Result<Option<Connection>, process::Error> {
        found(self.connections.get(&cookie, 0), "CONNECTIONS")?
            .map(|Raw(record)| decode::connection(&record))
            .transpose()
            .map_err(|what| malformed("CONNECTIONS", what))
    }

    fn cookie(&self, tuple: &Tuple) -> Result<Option<u64>, process::Error> {
        let address = |address: SocketAddr| match address.ip().to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let key = TupleKey {
            local_address: address(tuple.local).into(),
            remote_address: address(tuple.remote).into(),
            net_ns: tuple.net_ns,
            local_port: tuple.local.port(),
            remote_port: tuple.remote.port(),
            protocol: process::Protocol::TCP.0.into(),
            padding: 0,
        };
        found(self.tuples.get(&Raw(key), 0), "TUPLES")
    }

    fn connections(&self, visit: &mut dyn FnMut(Connection)) -> Result<(), process::Error> {
        for entry in self.connections.iter() {
            match entry {
                Ok((_, Raw(record))) => {
                    visit(decode::connection(&record).map_err(|what| malformed("CONNECTIONS", what))?);
                }
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(failed("walk", "CONNECTIONS", error)),
            }
        }
        Ok(())
    }

    fn watch(&self, exec_id: ExecId) -> Result<(), process::Error> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.watch(exec_id).map_err(|error| failed("write", "WATCHED", error))
    }

    fn unwatch(&self, exec_id: ExecId) {
        let unwatched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).unwatch(exec_id);
        if let Err(error) = unwatched {
            // It costs a needless wake-up when it ends, and nothing else.
            tracing::warn!(%error, %exec_id, "an exec instance stays watched");
        }
    }

    fn listen(&self, everything: bool) -> Result<(), process::Error> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        listening.set(0, u32::from(everything), 0).map_err(|error| failed("write", "LISTENING", error))
    }

    fn counts(&self) -> Vec<Count> {
        let value = |index: u32| {
            let values = self.counters.get(&index, 0).ok()?;
            Some(values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value)))
        };
        (0u32..)
            .zip(Counter::ALL)
            .map(|(index, counter)| Count { name: counter.name(), value: value(index).unwrap_or_default() })
            .collect()
    }

    fn capacities(&self) -> Vec<Capacity> {
        let count = |keys: usize| u64::try_from(keys).unwrap_or(u64::MAX);
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner).places();
        vec![
            Capacity { name: "processes", used: count(self.processes.keys().count()), limit: self.bounds.processes },
            Capacity {
                name: "connections",
                used: count(self.connections.keys().count()),
                limit: self.bounds.connections,
            },
            Capacity { name: "ended", used: count(self.lock_ended().keys().count()), limit: u64::from(limits::ENDED) },
            Capacity { name: "tuples", used: count(self.tuples.keys().count()), limit: self.bounds.connections },
            Capacity { name: "watched", used: count(watched), limit: u64::from(limits::WATCHED) },
        ]
    }
}

/// What a program that binds says.
pub(super) fn answer(value: u32) -> Result<Bound, process::Error> {
    match value {
        bound::DONE => Ok(Bound::Done),
        bound::GONE => Ok(Bound::Gone),
        bound::ELSEWHERE => Ok(Bound::Elsewhere),
        _ => Err(process::Error::Malformed { map: "PROCESSES", what: "an answer that the program does not give" }),
    }
}

/// Nobody listens, whatever an earlier daemon left.
fn quiet(mut listening: Array<MapData, u32>) -> Result<Array<MapData, u32>, Error> {
    let set = listening.set(0, 0, 0);
    set.map_err(|source| Error::Map { map: "LISTENING", source: Box::new(source) })?;
    Ok(listening)
}

fn found<T>(result: Result<T, MapError>, map: &'static str) -> Result<Option<T>, process::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(failed("read", map, error)),
    }
}

pub(super) fn failed(operation: &'static str, map: &'static str, error: MapError) -> process::Error {
    process::Error::Map { operation, map, source: io::Error::other(error) }
}

fn malformed(map: &'static str, what: decode::Malformed) -> process::Error {
    process::Error::Malformed { map, what: what.0 }
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
