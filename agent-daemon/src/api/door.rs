// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who comes in: bounds on connections, in all and of one user or one network.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Bounds on connections to one socket.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// At once, in all.
    pub connections: usize,
    /// At once, of one user or one network.
    pub connections_of_one: usize,
}

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// Of this machine.
    User(u32),
    /// An IPv4 address, or 64 bits of an IPv6 address: whoever has one of those has them all.
    Network(IpAddr),
}

impl Who {
    pub(super) fn from_address(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Network(address) => address.fmt(f),
        }
    }
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
    by_one: HashMap<Who, usize>,
}

/// A place for one connection; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    who: Who,
    open: Arc<Mutex<Open>>,
}

impl Door {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, open: Arc::default() }
    }

    /// A place, or the bound that is reached.
    pub(super) fn enter(&self, who: Who) -> Result<Place, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = open.by_one.get(&who).copied().unwrap_or_default();
        if open.total >= self.limits.connections {
            return Err(format!("{} connections are open, as many as there may be", open.total));
        }
        if of_one >= self.limits.connections_of_one {
            return Err(format!("{who} has {of_one} connections open, as many as one may have"));
        }
        open.total += 1;
        open.by_one.insert(who, of_one + 1);
        Ok(Place { who, open: Arc::clone(&self.open) })
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
        if let Some(of_one) = open.by_one.get_mut(&self.who) {
            *of_one = of_one.saturating_sub(1);
            if *of_one == 0 {
                open.by_one.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_all_places_and_places_come_back() {
        let door = Door::new(Limits { connections: 3, connections_of_one: 2 });
        let first = door.enter(Who::User(1)).unwrap();
        let _second = door.enter(Who::User(1)).unwrap();
        assert!(door.enter(Who::User(1)).unwrap_err().contains("user 1"));
        let _third = door.enter(Who::User(2)).unwrap();
        assert!(door.enter(Who::User(3)).unwrap_err().starts_with("3 connections"));
        drop(first);
        let _again = door.enter(Who::User(1)).unwrap();
    }

    #[test]
    fn addresses_that_one_has_together_are_one() {
        let who = |address: &str| Who::from_address(address.parse().unwrap());
        assert_eq!(who("2001:db8::1"), who("2001:db8::ffff:1:2"));
        assert_ne!(who("2001:db8::1"), who("2001:db8:0:1::1"));
        assert_eq!(who("::ffff:192.0.2.1"), who("192.0.2.1"));
        assert_ne!(who("192.0.2.1"), who("192.0.2.2"));
    }
}
