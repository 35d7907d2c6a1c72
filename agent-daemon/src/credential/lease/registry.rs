// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The registry of leases, shared by everything that grants and ends them.

use std::{
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::{
    Cause, Ended, Granted, Lease, LeaseId, State,
    table::{Room, Table},
};
use crate::{credential::Error, process::ExecId};

/// How many leases there may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// On the node, those being issued included.
    pub total: usize,
    /// Of one exec instance, those being issued included.
    pub per_exec: usize,
    /// Ended ones that can still be looked at.
    pub ended_kept: usize,
}

/// The observed connection a release is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The socket.
    pub cookie: u64,
    /// The binding's name.
    pub binding: Arc<str>,
    /// How many live releases of the binding the connection may carry.
    pub limit: u32,
}

/// All leases. Clones share them.
#[derive(Debug, Clone)]
pub struct Leases {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    table: Mutex<Table>,
}

impl Shared {
    /// A panic while the lock is held would be a bug in plain map code; ending leases must go on even then.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one lease, taken before anything is issued. Dropping it gives the room back.
#[derive(Debug)]
#[must_use = "the room is given back when this is dropped"]
pub struct Reservation {
    shared: Arc<Shared>,
    /// [`None`] once a lease is in it.
    room: Option<Room>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.shared.table().give_back_room(&room);
        }
    }
}

impl Leases {
    /// None yet.
    pub fn new(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared { limits, table: Mutex::default() }) }
    }

    /// Takes room for one lease; with a connection also its place on that connection, so that two requests at once
    /// cannot both find it free.
    ///
    /// # Errors
    /// One of the limits is reached, or the exec instance has ended.
    pub fn reserve(&self, exec_id: ExecId, connection: Option<Connection>) -> Result<Reservation, Error> {
        let limits = self.shared.limits;
        let mut table = self.shared.table();
        if table.active.len().saturating_add(table.reserved) >= limits.total {
            return Err(Error::TooManyLeases { limit: limits.total });
        }
        if let Some(of_exec) = table.by_exec.get(&exec_id) {
            if of_exec.over {
                return Err(Error::ExecEnded { exec_id });
            }
            if of_exec.leases.len().saturating_add(of_exec.reserved) >= limits.per_exec {
                return Err(Error::TooManyLeasesOfExec { exec_id, limit: limits.per_exec });
            }
        } else if limits.per_exec == 0 {
            return Err(Error::TooManyLeasesOfExec { exec_id, limit: 0 });
        }
        if let Some(Connection { cookie, binding, limit }) = &connection {
            let uses = table.by_cookie.get(cookie).and_then(|on_cookie| on_cookie.by_binding.get(binding));
            if uses.map_or(0, |uses| uses.live.saturating_add(uses.reserved)) >= *limit {
                return Err(Error::ConnectionUsed { cookie: *cookie, binding: Arc::clone(binding), limit: *limit });
            }
        }
        let room = Room { exec_id, connection };
        table.take_room(&room);
        Ok(Reservation { shared: Arc::clone(&self.shared), room: Some(room) })
    }

    /// Puts a lease into its room.
    ///
    /// # Errors
    /// The exec instance ended in the meantime; or the lease is not what the room was taken for.
    pub fn grant(&self, reservation: Reservation, lease: Lease) -> Result<Granted, Error> {
        self.fill(reservation, lease, |table, lease| Ok(table.insert(lease)))
    }

    /// Puts a lease into its room and ends the one it replaces, at once. The caller checks that both are alike.
    ///
    /// # Errors
    /// As [`Self::grant`]; or the old one is over or another exec instance's, and then nothing changes.
    pub fn renew(
        &self,
        reservation: Reservation,
        lease: Lease,
        old: &LeaseId,
        now: Timestamp,
    ) -> Result<(Granted, Ended), Error> {
        let ended_kept = self.shared.limits.ended_kept;
        self.fill(reservation, lease, |table, lease| {
            let over = || Error::LeaseNotActive { lease: old.clone() };
            let held = table.active.get(old).filter(|held| held.exec_id == lease.exec_id && held.is_live(now));
            held.ok_or_else(over)?;
            // In this order the exec instance is never without a lease, so neither is its first or last.
            let granted = table.insert(lease);
            let ended = table.end(old, Cause::Renewed, now, ended_kept).ok_or_else(over)?;
            Ok((granted, ended))
        })
    }

    /// The room is given back under the same lock under which the lease comes in: nobody counts both.
    fn fill<T>(
        &self,
        mut reservation: Reservation,
        lease: Lease,
        put: impl FnOnce(&mut Table, Lease) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if !Arc::ptr_eq(&reservation.shared, &self.shared) {
            return Err(Error::ReservationMismatch { lease: lease.id, what: "registry" });
        }
        let Some(room) = reservation.room.take() else {
            return Err(Error::ReservationMismatch { lease: lease.id, what: "room" });
        };
        let mut table = self.shared.table();
        let filled = admit(&table, &room, &lease).and_then(|()| put(&mut table, lease));
        table.give_back_room(&room);
        filled
    }

    /// Puts back a lease that an earlier daemon granted, as the audit log tells; end what is over with
    /// [`Self::expire`] and [`Self::end_exec`] afterwards. Only the total limit holds: it was granted already.
    ///
    /// # Errors
    /// No room, known already, or not an active lease.
    pub fn restore(&self, lease: Lease) -> Result<Granted, Error> {
        let limits = self.shared.limits;
        let mut table = self.shared.table();
        if lease.state != State::Active {
            return Err(Error::LeaseNotActive { lease: lease.id });
        }
        if table.knows(&lease.id) {
            return Err(Error::DuplicateLease { lease: lease.id });
        }
        if table.active.len().saturating_add(table.reserved) >= limits.total {
            return Err(Error::TooManyLeases { limit: limits.total });
        }
        Ok(table.insert(lease))
    }

    /// Ends one lease. [`None`] when it is not active, so every lease ends once.
    pub fn end(&self, id: &LeaseId, cause: Cause, now: Timestamp) -> Option<Ended> {
        self.shared.table().end(id, cause, now, self.shared.limits.ended_kept)
    }

    /// Ends all leases of an exec instance, and keeps those being issued from being granted.
    pub fn end_exec(&self, exec_id: ExecId, cause: Cause, now: Timestamp) -> Vec<Ended> {
        let mut table = self.shared.table();
        let Some(of_exec) = table.by_exec.get_mut(&exec_id) else { return Vec::new() };
        of_exec.over = of_exec.reserved > 0;
        let ids: Vec<_> = of_exec.leases.ids().cloned().collect();
        let kept = self.shared.limits.ended_kept;
        ids.iter().filter_map(|id| table.end(id, cause, now, kept)).collect()
    }

    /// Ends all leases that `doomed` says yes to. It runs under the lock and looks at every active lease.
    pub fn end_where(&self, cause: Cause, now: Timestamp, doomed: impl Fn(&Lease) -> bool) -> Vec<Ended> {
        let mut table = self.shared.table();
        let ids: Vec<_> = table.active.values().filter(|lease| doomed(lease)).map(|lease| lease.id.clone()).collect();
        let kept = self.shared.limits.ended_kept;
        ids.iter().filter_map(|id| table.end(id, cause, now, kept)).collect()
    }

    /// Ends what was exchanged for the token of a lease that is over, but not what was exchanged for that in turn.
    pub fn end_exchanged(&self, subject: &LeaseId, now: Timestamp) -> Vec<Ended> {
        let mut table = self.shared.table();
        let ids: Vec<_> = table.by_subject.get(subject).into_iter().flatten().cloned().collect();
        let kept = self.shared.limits.ended_kept;
        ids.iter().filter_map(|id| table.end(id, Cause::SubjectEnded, now, kept)).collect()
    }

    /// Ends what has expired, each at its own expiry.
    pub fn expire(&self, now: Timestamp) -> Vec<Ended> {
        let mut table = self.shared.table();
        let mut expired = Vec::new();
        while let Some((at, id)) = table.next_expiry().filter(|(at, _)| *at <= now) {
            expired.extend(table.end(&id, Cause::Expired, at, self.shared.limits.ended_kept));
        }
        expired
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.shared.table().next_expiry().map(|(at, _)| at)
    }

    /// An active lease, or one that ended lately.
    pub fn lease(&self, id: &LeaseId) -> Option<Arc<Lease>> {
        let table = self.shared.table();
        table.active.get(id).or_else(|| table.ended_by_id.get(id)).cloned()
    }

    /// How many live releases of a binding a connection carries.
    pub fn released_on(&self, cookie: u64, binding: &str) -> u32 {
        let table = self.shared.table();
        table.by_cookie.get(&cookie).and_then(|slot| slot.by_binding.get(binding)).map_or(0, |uses| uses.live)
    }

    /// The active leases released on a connection.
    pub fn on_connection(&self, cookie: u64) -> Vec<Arc<Lease>> {
        let table = self.shared.table();
        let ids = table.by_cookie.get(&cookie).into_iter().flat_map(|slot| &slot.leases);
        ids.filter_map(|id| table.active.get(id).cloned()).collect()
    }

    /// The active leases of an exec instance.
    pub fn of_exec(&self, exec_id: ExecId) -> Vec<Arc<Lease>> {
        let table = self.shared.table();
        let ids = table.by_exec.get(&exec_id).into_iter().flat_map(|of_exec| of_exec.leases.ids());
        ids.filter_map(|id| table.active.get(id).cloned()).collect()
    }

    /// The active lease of an exec instance that would end first, of those of wanted bindings that are wanted. Costs as
    /// much as the bindings and the leases that are not wanted, however many leases there are.
    pub fn first_to_end(
        &self,
        exec_id: ExecId,
        binding: impl Fn(&str) -> bool,
        wanted: impl Fn(&LeaseId) -> bool,
    ) -> Option<LeaseId> {
        self.shared.table().by_exec.get(&exec_id)?.leases.first(binding, wanted).cloned()
    }

    /// Whether an exec instance has an active lease.
    ///
    /// Two threads may see a last lease end and a first one come, and act on it in the other order. Whoever stops
    /// watching an exec instance asks this again after it stopped.
    pub fn is_holder(&self, exec_id: ExecId) -> bool {
        self.shared.table().by_exec.get(&exec_id).is_some_and(|of_exec| !of_exec.leases.is_empty())
    }

    /// The exec instances with active leases.
    pub fn holders(&self) -> Vec<ExecId> {
        let table = self.shared.table();
        table.by_exec.iter().filter(|(_, of_exec)| !of_exec.leases.is_empty()).map(|(exec_id, _)| *exec_id).collect()
    }

    /// Active leases by id, at most `limit` after the given one: pages for display, so that the lock is never held for
    /// long.
    pub fn page(&self, after: Option<&LeaseId>, limit: usize) -> Vec<Arc<Lease>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.shared.table();
        table
            .active
            .range::<LeaseId, _>((from, Bound::Unbounded))
            .take(limit)
            .map(|(_, lease)| Arc::clone(lease))
            .collect()
    }

    /// Ended leases still held, newest first.
    pub fn ended(&self, limit: usize) -> Vec<Arc<Lease>> {
        self.shared.table().ended.iter().rev().take(limit).cloned().collect()
    }

    /// Active leases; for the gauge.
    pub fn len(&self) -> usize {
        self.shared.table().active.len()
    }

    /// True when no lease is active.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it was made with.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    #[cfg(test)]
    pub(super) fn with_table<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.shared.table())
    }
}

/// Whether the lease is what the room was taken for, and may still come in.
fn admit(table: &Table, room: &Room, lease: &Lease) -> Result<(), Error> {
    let mismatch = |what| Err(Error::ReservationMismatch { lease: lease.id.clone(), what });
    if room.exec_id != lease.exec_id {
        return mismatch("exec_id");
    }
    if let Some(connection) = &room.connection {
        if lease.cookie != Some(connection.cookie) {
            return mismatch("cookie");
        }
        if lease.binding != connection.binding {
            return mismatch("binding");
        }
    } else if lease.cookie.is_some() {
        return mismatch("cookie");
    }
    if lease.state != State::Active {
        return mismatch("state");
    }
    if table.knows(&lease.id) {
        return Err(Error::DuplicateLease { lease: lease.id.clone() });
    }
    if table.by_exec.get(&lease.exec_id).is_none_or(|of_exec| of_exec.over) {
        return Err(Error::ExecEnded { exec_id: lease.exec_id });
    }
    Ok(())
}
