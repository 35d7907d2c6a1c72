// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who comes in: bounds on connections, in all and of one user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Bounds on connections to one socket.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// At once, in all.
    pub connections: usize,
    /// At once, of one user id.
    pub connections_per_uid: usize,
}

/// Counts open connections.
#[derive(Debug, Clone)]
pub(super) struct Door {
    limits: Limits,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_uid: HashMap<u32, usize>,
}

/// A place for one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    uid: u32,
    open: Arc<Mutex<Open>>,
}

impl Door {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// A place, or the bound that is reached.
    pub(super) fn enter(&self, uid: u32) -> Result<Place, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_uid = open.by_uid.get(&uid).copied().unwrap_or_default();
        if open.total >= self.limits.connections {
            return Err(format!("{} connections are open, as many as there may be", open.total));
        }
        if of_uid >= self.limits.connections_per_uid {
            return Err(format!("user {uid} has {of_uid} connections open, as many as one user may have"));
        }
        open.total += 1;
        open.by_uid.insert(uid, of_uid + 1);
        Ok(Place { uid, open: Arc::clone(&self.open) })
    }

    /// How many are open, and how many can be.
    pub(super) fn usage(&self) -> (usize, usize) {
        (self.open.lock().unwrap_or_else(PoisonError::into_inner).total, self.limits.connections)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        if let Some(of_uid) = open.by_uid.get_mut(&self.uid) {
            *of_uid = of_uid.saturating_sub(1);
            if *of_uid == 0 {
                open.by_uid.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_all_places_and_places_come_back() {
        let door = Door::new(Limits { connections: 3, connections_per_uid: 2 });
        let first = door.enter(1).unwrap();
        let _second = door.enter(1).unwrap();
        assert!(door.enter(1).unwrap_err().contains("user 1"));
        let _third = door.enter(2).unwrap();
        assert!(door.enter(3).unwrap_err().starts_with("3 connections"));
        drop(first);
        let _again = door.enter(1).unwrap();
    }
}
