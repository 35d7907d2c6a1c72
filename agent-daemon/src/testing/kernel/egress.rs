// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tables of enforcement in memory, and what the kernel programs would say by them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{MutexGuard, PoisonError};

use super::FakeKernel;
use crate::credential::Network;
use crate::egress::{Class, Half, Place, Tables};
use crate::identity::TreeSettings;
use crate::process::{Bound, Error, ExecId, Governed, Protocol, Verdict};

/// What the maps hold.
#[derive(Debug, Default)]
pub(super) struct State {
    trees: HashMap<u32, (u64, TreeSettings)>,
    is_second: bool,
    places: HashMap<bool, BTreeMap<Place, u32>>,
    classes: HashMap<u32, Vec<Verdict>>,
}

fn key(half: Half) -> bool {
    half == Half::Second
}

fn index(class: Class) -> u32 {
    class.place.saturating_add(if key(class.half) { agent_ebpf::limits::CLASSES } else { 0 })
}

impl FakeKernel {
    fn egress(&self) -> MutexGuard<'_, State> {
        self.egress.lock().unwrap_or_else(PoisonError::into_inner)
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
        let settings = state.trees.get(&governed.tree).map_or(TreeSettings::STRICTEST, |(_, settings)| *settings);
        let said = match governed.class.filter(|(_, of)| *of == ids) {
            None => settings.pending,
            Some((class, _)) => {
                let class = Class::of_record(class);
                let places = state.places.get(&key(class.half));
                match places.and_then(|places| longest(places, remote.ip(), remote.port())) {
                    None => settings.undeclared,
                    Some(group) => {
                        let verdicts = state.classes.get(&index(class));
                        let verdict = usize::try_from(group).ok().and_then(|group| verdicts?.get(group).copied());
                        verdict.unwrap_or_default()
                    }
                }
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

impl Tables for FakeKernel {
    fn trees(&self) -> Result<Vec<(u32, u64, TreeSettings)>, Error> {
        Ok(self.egress().trees.iter().map(|(place, (tag, settings))| (*place, *tag, *settings)).collect())
    }

    fn set_tree(&self, place: u32, tag: u64, settings: TreeSettings) -> Result<(), Error> {
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

    fn clear(&self, half: Half) -> Result<(), Error> {
        self.egress().places.remove(&key(half));
        Ok(())
    }

    fn put(&self, half: Half, place: &Place, group: u32) -> Result<(), Error> {
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
        self.egress().classes.insert(index(class), verdicts.to_vec());
        Ok(())
    }

    fn bind(
        &self,
        tgid: u32,
        exec_id: ExecId,
        tree: Option<u32>,
        class: Option<(Class, (u32, u32))>,
    ) -> Result<Bound, Error> {
        let mut state = self.lock();
        let Some(instance) = state.processes.get_mut(&tgid).filter(|instance| instance.id == exec_id) else {
            return Ok(Bound::Gone);
        };
        let before = instance.governed;
        let tree = tree.or(before.map(|governed| governed.tree)).unwrap_or_default();
        let class = class.map(|(class, ids)| (index(class), ids)).or(before.and_then(|governed| governed.class));
        instance.governed = (tree != 0).then_some(Governed { tree, class });
        Ok(Bound::Done)
    }
}
