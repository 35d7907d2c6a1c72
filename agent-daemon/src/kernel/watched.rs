// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The exec instances whose end wakes the daemon at once, as bits in a map.

use std::collections::BTreeSet;

use agent_ebpf::limits;
use aya::maps::{Array, MapData, MapError};

use crate::process::ExecId;

/// The map, and who has which place in it. Only the daemon writes it.
pub(super) struct Watched {
    map: Array<MapData, u64>,
    bits: Bits,
}

impl Watched {
    /// Nobody is watched, whatever an earlier daemon left: its leases are taken up again one by one.
    pub(super) fn new(map: Array<MapData, u64>) -> Result<Self, super::Error> {
        let mut watched = Self { map, bits: Bits::default() };
        watched.clear().map_err(|source| super::Error::Map { map: "WATCHED", source: Box::new(source) })?;
        Ok(watched)
    }

    fn clear(&mut self) -> Result<(), MapError> {
        for index in 0..self.map.len() {
            if self.map.get(&index, 0)? != 0 {
                self.map.set(index, 0, 0)?;
            }
        }
        Ok(())
    }

    pub(super) fn watch(&mut self, exec_id: ExecId) -> Result<(), MapError> {
        let is_new = !self.bits.holds(exec_id);
        let (index, word) = self.bits.insert(exec_id);
        let set = self.map.set(index, word, 0);
        if set.is_err() && is_new {
            self.bits.remove(exec_id);
        }
        set
    }

    pub(super) fn unwatch(&mut self, exec_id: ExecId) -> Result<(), MapError> {
        match self.bits.remove(exec_id) {
            Some((index, word)) => self.map.set(index, word, 0),
            None => Ok(()),
        }
    }

    /// How many places are taken.
    pub(super) fn places(&self) -> usize {
        self.bits.places()
    }
}

/// By place, then by id.
#[derive(Debug, Default)]
struct Bits(BTreeSet<(u32, ExecId)>);

impl Bits {
    /// The word that its bit is in, as it has to be now.
    fn insert(&mut self, exec_id: ExecId) -> (u32, u64) {
        let place = place(exec_id);
        self.0.insert((place, exec_id));
        self.word(place)
    }

    fn holds(&self, exec_id: ExecId) -> bool {
        self.0.contains(&(place(exec_id), exec_id))
    }

    /// None when it was not watched.
    fn remove(&mut self, exec_id: ExecId) -> Option<(u32, u64)> {
        let place = place(exec_id);
        self.0.remove(&(place, exec_id)).then(|| self.word(place))
    }

    fn word(&self, place: u32) -> (u32, u64) {
        let index = place / u64::BITS;
        let first = index.saturating_mul(u64::BITS);
        let taken = self.0.range((first, ExecId(0))..(first.saturating_add(u64::BITS), ExecId(0)));
        (index, taken.fold(0, |word, (place, _)| word | 1 << (place % u64::BITS)))
    }

    fn places(&self) -> usize {
        let mut last = None;
        self.0.iter().filter(|(place, _)| last.replace(*place) != Some(*place)).count()
    }
}

/// As the programs reckon.
fn place(exec_id: ExecId) -> u32 {
    u32::try_from(exec_id.0 % u64::from(limits::WATCHED)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_the_last_of_those_who_share_it_is_gone() {
        let (first, second) = (ExecId(70), ExecId(70 + u64::from(limits::WATCHED)));
        let mut bits = Bits::default();
        assert_eq!(bits.insert(first), (1, 1 << 6));
        assert_eq!(bits.insert(first), (1, 1 << 6));
        assert_eq!(bits.insert(second), (1, 1 << 6));
        assert_eq!(bits.insert(ExecId(64)), (1, 1 << 6 | 1));
        assert_eq!(bits.places(), 2);
        assert_eq!(bits.remove(first), Some((1, 1 << 6 | 1)));
        assert_eq!(bits.remove(first), None);
        assert_eq!(bits.remove(second), Some((1, 1)));
        assert_eq!(bits.remove(ExecId(64)), Some((1, 0)));
        assert_eq!(bits.places(), 0);
    }

    #[test]
    fn the_last_place_is_in_the_last_word() {
        let last = ExecId(u64::from(limits::WATCHED) - 1);
        assert_eq!(Bits::default().insert(last), (limits::WATCHED / u64::BITS - 1, 1 << 63));
    }
}
