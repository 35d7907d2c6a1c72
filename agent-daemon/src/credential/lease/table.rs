// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lease table and its indexes, which always agree. Plain data: no lock, no clock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Cause, Connection, Ended, Granted, Lease, LeaseId, State};
use crate::process::ExecId;

/// Heap entries whose lease is gone are swept out when they outnumber the live ones by this much.
const STALE_SLACK: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) active: BTreeMap<LeaseId, Arc<Lease>>,
    pub(super) by_exec: HashMap<ExecId, OfExec>,
    pub(super) by_cookie: HashMap<u64, OnCookie>,
    /// The active leases of what was exchanged for a token, by that token's.
    pub(super) by_subject: HashMap<LeaseId, BTreeSet<LeaseId>>,
    /// Every active lease is in it; entries of ended ones go lazily.
    pub(super) expiry: BinaryHeap<Reverse<(Timestamp, LeaseId)>>,
    /// Rooms kept for credentials that are being issued.
    pub(super) reserved: usize,
    pub(super) ended: VecDeque<Arc<Lease>>,
    pub(super) ended_by_id: HashMap<LeaseId, Arc<Lease>>,
}

/// What one exec instance has. Gone from the map when it has nothing.
#[derive(Debug, Default)]
pub(super) struct OfExec {
    pub(super) leases: Held,
    pub(super) reserved: usize,
    /// Ended while rooms were reserved: nothing may be granted any more.
    pub(super) over: bool,
}

/// Leases by binding, and of each binding by expiry, so that the one that would end first is found without a search.
#[derive(Debug, Default)]
pub(super) struct Held {
    by_binding: BTreeMap<Arc<str>, BTreeSet<(Timestamp, LeaseId)>>,
    count: usize,
}

impl Held {
    fn insert(&mut self, lease: &Lease) {
        let of_binding = self.by_binding.entry(Arc::clone(&lease.binding)).or_default();
        let is_new = of_binding.insert((lease.expires_at, lease.id.clone()));
        self.count = self.count.saturating_add(usize::from(is_new));
    }

    fn remove(&mut self, lease: &Lease) {
        let Some(of_binding) = self.by_binding.get_mut(&lease.binding) else { return };
        let was_there = of_binding.remove(&(lease.expires_at, lease.id.clone()));
        self.count = self.count.saturating_sub(usize::from(was_there));
        if of_binding.is_empty() {
            self.by_binding.remove(&lease.binding);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &LeaseId> {
        self.by_binding.values().flatten().map(|(_, id)| id)
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = (Arc<str>, Timestamp, LeaseId)> {
        let of = |(name, leases): (&Arc<str>, &BTreeSet<(Timestamp, LeaseId)>)| {
            leases.iter().map(|(at, id)| (Arc::clone(name), *at, id.clone())).collect::<Vec<_>>()
        };
        self.by_binding.iter().flat_map(of)
    }

    /// The one that would end first of those that are wanted, of each binding that is.
    pub(super) fn first(&self, binding: impl Fn(&str) -> bool, wanted: impl Fn(&LeaseId) -> bool) -> Option<&LeaseId> {
        let of_bindings = self.by_binding.iter().filter(|(name, _)| binding(name));
        let firsts = of_bindings.filter_map(|(_, leases)| leases.iter().find(|(_, id)| wanted(id)));
        firsts.min().map(|(_, id)| id)
    }
}

/// What was released on one connection. Gone from the map when there is nothing.
#[derive(Debug, Default)]
pub(super) struct OnCookie {
    pub(super) leases: BTreeSet<LeaseId>,
    pub(super) by_binding: BTreeMap<Arc<str>, Uses>,
}

/// Room for one lease.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) exec_id: ExecId,
    pub(super) connection: Option<Connection>,
}

#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) live: u32,
    pub(super) reserved: u32,
}

impl Table {
    pub(super) fn knows(&self, id: &LeaseId) -> bool {
        self.active.contains_key(id) || self.ended_by_id.contains_key(id)
    }

    pub(super) fn insert(&mut self, lease: Lease) -> Granted {
        let lease = Arc::new(lease);
        let of_exec = self.by_exec.entry(lease.exec_id).or_default();
        let first = of_exec.leases.is_empty();
        of_exec.leases.insert(&lease);
        if let Some(cookie) = lease.cookie {
            let on_cookie = self.by_cookie.entry(cookie).or_default();
            on_cookie.leases.insert(lease.id.clone());
            let uses = on_cookie.by_binding.entry(Arc::clone(&lease.binding)).or_default();
            uses.live = uses.live.saturating_add(1);
        }
        if let Some(subject) = &lease.subject {
            self.by_subject.entry(subject.clone()).or_default().insert(lease.id.clone());
        }
        self.expiry.push(Reverse((lease.expires_at, lease.id.clone())));
        self.active.insert(lease.id.clone(), Arc::clone(&lease));
        Granted { lease, first }
    }

    pub(super) fn end(&mut self, id: &LeaseId, cause: Cause, at: Timestamp, ended_kept: usize) -> Option<Ended> {
        let lease = self.active.remove(id)?;
        let mut last = true;
        self.leave_exec(lease.exec_id, |of_exec| {
            of_exec.leases.remove(&lease);
            last = of_exec.leases.is_empty();
        });
        if let Some(cookie) = lease.cookie {
            self.leave_cookie(cookie, &lease.binding, |on_cookie, uses| {
                on_cookie.remove(id);
                uses.live = uses.live.saturating_sub(1);
            });
        }
        if let Some(subject) = &lease.subject
            && let Entry::Occupied(mut of_subject) = self.by_subject.entry(subject.clone())
        {
            of_subject.get_mut().remove(id);
            if of_subject.get().is_empty() {
                of_subject.remove();
            }
        }
        if self.expiry.len() > self.active.len().saturating_mul(2).saturating_add(STALE_SLACK) {
            let active = &self.active;
            self.expiry.retain(|Reverse((_, id))| active.contains_key(id));
        }
        let lease = Arc::new(Lease { state: State::Ended { cause, at }, ..Arc::unwrap_or_clone(lease) });
        self.keep(Arc::clone(&lease), ended_kept);
        Some(Ended { lease, last })
    }

    pub(super) fn take_room(&mut self, room: &Room) {
        self.reserved = self.reserved.saturating_add(1);
        let of_exec = self.by_exec.entry(room.exec_id).or_default();
        of_exec.reserved = of_exec.reserved.saturating_add(1);
        if let Some(Connection { cookie, binding, .. }) = &room.connection {
            let on_cookie = self.by_cookie.entry(*cookie).or_default();
            let uses = on_cookie.by_binding.entry(Arc::clone(binding)).or_default();
            uses.reserved = uses.reserved.saturating_add(1);
        }
    }

    pub(super) fn give_back_room(&mut self, room: &Room) {
        self.reserved = self.reserved.saturating_sub(1);
        self.leave_exec(room.exec_id, |of_exec| of_exec.reserved = of_exec.reserved.saturating_sub(1));
        if let Some(Connection { cookie, binding, .. }) = &room.connection {
            self.leave_cookie(*cookie, binding, |_, uses| uses.reserved = uses.reserved.saturating_sub(1));
        }
    }

    /// Takes something from an exec instance and forgets it when nothing is left.
    fn leave_exec(&mut self, exec_id: ExecId, change: impl FnOnce(&mut OfExec)) {
        let Entry::Occupied(mut of_exec) = self.by_exec.entry(exec_id) else { return };
        change(of_exec.get_mut());
        if of_exec.get().leases.is_empty() && of_exec.get().reserved == 0 {
            of_exec.remove();
        }
    }

    /// Takes something from a connection and forgets whatever is empty then.
    fn leave_cookie(
        &mut self,
        cookie: u64,
        binding: &Arc<str>,
        change: impl FnOnce(&mut BTreeSet<LeaseId>, &mut Uses),
    ) {
        let Entry::Occupied(mut slot) = self.by_cookie.entry(cookie) else { return };
        let OnCookie { leases, by_binding } = slot.get_mut();
        if let Some(uses) = by_binding.get_mut(binding) {
            change(leases, uses);
            if uses.live == 0 && uses.reserved == 0 {
                by_binding.remove(binding);
            }
        }
        if leases.is_empty() && by_binding.is_empty() {
            slot.remove();
        }
    }

    /// The earliest expiry of an active lease.
    pub(super) fn next_expiry(&mut self) -> Option<(Timestamp, LeaseId)> {
        while let Some(Reverse((at, id))) = self.expiry.peek() {
            if self.active.contains_key(id) {
                return Some((*at, id.clone()));
            }
            self.expiry.pop();
        }
        None
    }

    fn keep(&mut self, lease: Arc<Lease>, ended_kept: usize) {
        self.ended_by_id.insert(lease.id.clone(), Arc::clone(&lease));
        self.ended.push_back(lease);
        while self.ended.len() > ended_kept {
            let Some(oldest) = self.ended.pop_front() else { break };
            self.ended_by_id.remove(&oldest.id);
        }
    }
}
