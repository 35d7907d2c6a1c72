// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tables of enforcement in memory, and what the kernel programs would say by them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{MutexGuard, PoisonError};

use super::{Call, FakeKernel};
use crate::credential::Network;
use crate::egress::{Changed, Class, Disconnect, Half, ImagePlace, Images, Place, Tables};
use crate::identity::TreeSettings;
use crate::process::{Bound, Classified, Connection, Error, ExecId, Governed, Protocol, Stamp, Verdict};

/// What the maps hold.
#[derive(Debug, Default)]
pub(super) struct State {
    trees: HashMap<u32, (u64, [TreeSettings; 2])>,
    is_second: bool,
    places: HashMap<bool, BTreeMap<Place, u32>>,
    classes: HashMap<u32, Vec<Verdict>>,
    oldest: [Stamp; 2],
    images: Images,
}

fn key(half: Half) -> bool {
    half == Half::Second
}

impl FakeKernel {
    fn egress(&self) -> MutexGuard<'_, State> {
        self.egress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn govern(&self, tgid: u32, exec_id: ExecId, change: impl FnOnce(&mut Governed)) -> Result<Bound, Error> {
        let mut state = self.lock();
        let Some(instance) = state.processes.get_mut(&tgid).filter(|instance| instance.id == exec_id) else {
            return Ok(Bound::Gone);
        };
        let mut governed = instance.governed.unwrap_or(Governed { tree: 0, class: None });
        change(&mut governed);
        instance.governed = (governed.tree != 0).then_some(governed);
        Ok(Bound::Done)
    }

    /// What the kernel programs would say to a connection.
    pub fn verdict(&self, tgid: u32, remote: SocketAddr) -> Verdict {
        let (governed, ids) = {
            let state = self.lock();
            let instance = state.processes.get(&tgid).expect("a record");
            (instance.governed, (instance.euid, instance.egid))
        };
        let Some(governed) = governed else { return Verdict::Allow };
        let state = self.egress();
        let settings = |half: Half| {
            state.trees.get(&governed.tree).map_or(TreeSettings::STRICTEST, |(_, settings)| *half.of(settings))
        };
        let holds =
            |word: &Classified| word.ids == ids && word.stamp >= *Class::of_record(word.place).half.of(&state.oldest);
        let in_use = if state.is_second { Half::Second } else { Half::First };
        let (said, settings) = match governed.class.filter(holds) {
            None => (settings(in_use).pending, settings(in_use)),
            Some(word) => {
                let class = Class::of_record(word.place);
                let settings = settings(class.half);
                let places = state.places.get(&key(class.half));
                let said = match places.and_then(|places| longest(places, remote.ip(), remote.port())) {
                    None => settings.undeclared,
                    Some(group) => {
                        let verdicts = state.classes.get(&word.place);
                        let verdict = usize::try_from(group).ok().and_then(|group| verdicts?.get(group).copied());
                        verdict.unwrap_or_default()
                    }
                };
                (said, settings)
            }
        };
        if said == Verdict::Deny && settings.is_audit { Verdict::Audit } else { said }
    }
}

fn longest(places: &BTreeMap<Place, u32>, address: IpAddr, port: u16) -> Option<u32> {
    let mut network = Some(Network::host(address));
    while let Some(here) = network {
        if let Some(group) = places.get(&Place { protocol: Protocol::TCP, port, network: here }) {
            return Some(*group);
        }
        network = here.wider();
    }
    None
}

impl Disconnect for FakeKernel {
    fn disconnect(&self, connection: &Connection, _holders: &[u32]) -> std::io::Result<bool> {
        self.enter(Call::Disconnect).map_err(std::io::Error::other)?;
        let is_there = self.lock().connections.contains_key(&connection.cookie);
        if is_there {
            self.change_connection(connection.cookie, |connection| {
                (connection.is_open, connection.is_closed) = (false, true);
            });
        }
        Ok(is_there)
    }
}

impl Tables for FakeKernel {
    fn trees(&self) -> Result<Vec<(u32, u64, [TreeSettings; 2])>, Error> {
        Ok(self.egress().trees.iter().map(|(place, (tag, settings))| (*place, *tag, *settings)).collect())
    }

    fn set_tree(&self, place: u32, tag: u64, settings: [TreeSettings; 2]) -> Result<(), Error> {
        self.egress().trees.insert(place, (tag, settings));
        Ok(())
    }

    fn is_anybody_lost(&self) -> Result<bool, Error> {
        Ok(false)
    }

    fn half(&self) -> Result<Half, Error> {
        Ok(if self.egress().is_second { Half::Second } else { Half::First })
    }

    fn use_half(&self, half: Half) -> Result<(), Error> {
        self.egress().is_second = key(half);
        Ok(())
    }

    fn void(&self, half: Half, before: Stamp) -> Result<(), Error> {
        *half.of_mut(&mut self.egress().oldest) = before;
        Ok(())
    }

    fn clear(&self, half: Half) -> Result<(), Error> {
        self.egress().places.remove(&key(half));
        Ok(())
    }

    fn put(&self, half: Half, place: &Place, group: u32) -> Result<(), Error> {
        self.enter(Call::Put)?;
        self.egress().places.entry(key(half)).or_default().insert(*place, group);
        Ok(())
    }

    fn remove(&self, half: Half, place: &Place) -> Result<(), Error> {
        if let Some(places) = self.egress().places.get_mut(&key(half)) {
            places.remove(place);
        }
        Ok(())
    }

    fn set_class(&self, class: Class, verdicts: &[Verdict]) -> Result<(), Error> {
        self.egress().classes.insert(class.in_record(), verdicts.to_vec());
        Ok(())
    }

    fn images(&self) -> Result<Images, Error> {
        Ok(self.egress().images.clone())
    }

    fn put_image(&self, place: ImagePlace, changed: Changed) -> Result<(), Error> {
        self.enter(Call::PutImage)?;
        self.egress().images.insert(place, changed);
        Ok(())
    }

    fn remove_image(&self, place: ImagePlace) -> Result<(), Error> {
        self.egress().images.remove(&place);
        Ok(())
    }

    fn plant(&self, tgid: u32, exec_id: ExecId, tree: u32) -> Result<Bound, Error> {
        self.govern(tgid, exec_id, |governed| governed.tree = tree)
    }

    fn classify(&self, tgid: u32, exec_id: ExecId, word: Classified) -> Result<Bound, Error> {
        self.enter(Call::Classify)?;
        self.govern(tgid, exec_id, |governed| {
            if governed.class.is_none_or(|held| held.stamp <= word.stamp) {
                governed.class = Some(word);
            }
        })
    }
}
