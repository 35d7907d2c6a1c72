// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which destinations count at which address.
//!
//! At a declared range, those that declare exactly it: the most specific range decides, and where several declare the same
//! one, all of them have to be permitted. An address that was learned for a name counts for all names that it was learned
//! for, and for what declares the most specific range around it: whoever answers for a name cannot make somebody else's
//! addresses part of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_ebpf::limits;

use super::names::{Learned, is_usable};
use crate::credential::{Destination, Network};
use crate::process::{Protocol, Verdict};

/// Groups that declared ranges may make; the rest is for addresses that names share.
pub const MAX_DECLARED_GROUPS: usize = MAX_GROUPS / 2;
#[expect(clippy::as_conversions, reason = "a constant, and wider")]
pub(super) const MAX_GROUPS: usize = limits::GROUPS as usize;
#[expect(clippy::as_conversions, reason = "as above")]
const MAX_PLACES: usize = limits::ADDRESSES as usize;

/// Where something is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Transport.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// Address range.
    pub network: Network,
}

/// The destinations that count at an address, by their places in the catalog: ascending, each once, never none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(Vec<usize>);

impl Group {
    pub(super) fn of(destination: usize) -> Self {
        Self(vec![destination])
    }

    fn add(&mut self, destination: usize) {
        if let Err(at) = self.0.binary_search(&destination) {
            self.0.insert(at, destination);
        }
    }

    /// Which.
    pub fn destinations(&self) -> &[usize] {
        &self.0
    }

    /// The strictest of what is said of each.
    pub fn verdict(&self, of: &[Verdict]) -> Verdict {
        let each = self.0.iter().map(|destination| of.get(*destination).copied().unwrap_or_default());
        each.max().unwrap_or_default()
    }
}

/// What the tables have to say, apart from classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What counts where.
    pub places: BTreeMap<Place, Group>,
    /// Learned addresses for which there is no room. Only what is declared around them counts there.
    pub left_out: usize,
    /// Learned addresses that a name may not have.
    pub unusable: usize,
}

/// The declared ranges do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    /// Too many ranges with their ports.
    #[error("{0} address ranges, counted with each of their ports; the kernel's table holds {MAX_PLACES}")]
    Places(usize),
    /// Too many different sets of destinations.
    #[error("{0} destinations that have address ranges of their own; the kernel's table holds {MAX_DECLARED_GROUPS}")]
    Groups(usize),
}

/// Makes the plan.
///
/// # Errors
/// When what is declared does not fit: leaving a part of it out could permit what a narrower range forbids.
pub fn compile(destinations: &[Arc<Destination>], learned: &Learned) -> Result<Plan, TooMuch> {
    let mut declared: BTreeMap<Place, Group> = BTreeMap::new();
    for (number, destination) in destinations.iter().enumerate() {
        for network in &destination.networks {
            for port in &destination.ports {
                let place = Place { protocol: destination.protocol, port: *port, network: *network };
                declared.entry(place).and_modify(|group| group.add(number)).or_insert_with(|| Group::of(number));
            }
        }
    }
    if declared.len() > MAX_PLACES {
        return Err(TooMuch::Places(declared.len()));
    }
    let mut groups: std::collections::BTreeSet<Group> = declared.values().cloned().collect();
    if groups.len() > MAX_DECLARED_GROUPS {
        return Err(TooMuch::Groups(groups.len()));
    }
    let mut plan = Plan::default();
    let mut found: BTreeMap<Place, Group> = BTreeMap::new();
    for (number, destination) in destinations.iter().enumerate() {
        for host in &destination.hosts {
            for address in learned.of(host) {
                if !is_usable(host, address) && !destination.networks.iter().any(|network| network.contains(address)) {
                    plan.unusable = plan.unusable.saturating_add(1);
                    continue;
                }
                for port in &destination.ports {
                    let place = Place { protocol: destination.protocol, port: *port, network: Network::host(address) };
                    found.entry(place).and_modify(|group| group.add(number)).or_insert_with(|| Group::of(number));
                }
            }
        }
    }
    for (place, mut group) in found {
        for around in around(&declared, place).into_iter().flat_map(|around| around.0.iter()) {
            group.add(*around);
        }
        let fits = declared.len() < MAX_PLACES || declared.contains_key(&place);
        if fits && (groups.len() < MAX_GROUPS || groups.contains(&group)) {
            groups.insert(group.clone());
            // A host is the most specific range, so a learned one takes no declared one's place but its own.
            plan.places.insert(place, group);
        } else {
            plan.left_out = plan.left_out.saturating_add(1);
        }
        if plan.places.len().saturating_add(declared.len()) > MAX_PLACES {
            plan.places.remove(&place);
            plan.left_out = plan.left_out.saturating_add(1);
        }
    }
    for (place, group) in declared {
        plan.places.entry(place).or_insert(group);
    }
    Ok(plan)
}

/// What declares the most specific range around a host, itself included.
fn around(declared: &BTreeMap<Place, Group>, host: Place) -> Option<&Group> {
    let mut network = Some(host.network);
    while let Some(here) = network {
        if let Some(group) = declared.get(&Place { network: here, ..host }) {
            return Some(group);
        }
        network = here.wider();
    }
    None
}

impl Plan {
    /// The destinations that count at an address, as the kernel finds them.
    pub fn at(&self, protocol: Protocol, port: u16, address: IpAddr) -> Option<&Group> {
        around(&self.places, Place { protocol, port, network: Network::host(address) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Catalog;
    use crate::diagnostic::SourceFile;

    fn catalog(text: &str) -> Catalog {
        let file = SourceFile { name: "c.toml".to_owned(), text: text.to_owned() };
        Catalog::parse(&[file], &"example.org".parse().unwrap()).unwrap()
    }

    fn destination(name: &str, more: &str) -> String {
        format!("[[destination]]\nname = \"{name}\"\naudience = \"{name}\"\nports = [443]\n{more}\n")
    }

    fn at(plan: &Plan, address: &str) -> Vec<usize> {
        let group = plan.at(Protocol::TCP, 443, address.parse().unwrap());
        group.map(|group| group.destinations().to_vec()).unwrap_or_default()
    }

    #[test]
    fn the_most_specific_range_decides_and_equal_ones_all_count() {
        let catalog = catalog(
            &[
                destination("wide", "cidrs = [\"10.0.0.0/8\"]"),
                destination("narrow", "cidrs = [\"10.1.0.0/16\"]"),
                destination("same", "cidrs = [\"10.1.0.0/16\", \"2001:db8::/32\"]"),
            ]
            .concat(),
        );
        let plan = compile(catalog.destinations(), &Learned::default()).unwrap();
        for (address, expected) in [
            ("10.2.0.1", &[0][..]),
            ("::ffff:10.2.0.1", &[0]),
            ("10.1.2.3", &[1, 2]),
            ("2001:db8::1", &[2]),
            ("2001:db9::1", &[]),
            ("11.0.0.1", &[]),
            ("0.0.0.0", &[]),
        ] {
            assert_eq!(at(&plan, address), expected, "{address}");
        }
        assert!(plan.at(Protocol::UDP, 443, "10.2.0.1".parse().unwrap()).is_none());
        assert!(plan.at(Protocol::TCP, 444, "10.2.0.1".parse().unwrap()).is_none());
    }

    #[test]
    fn a_learned_address_is_never_more_than_what_is_declared_around_it() {
        let catalog = catalog(
            &[
                destination("wide", "cidrs = [\"10.0.0.0/8\"]"),
                destination("name", "hosts = [\"a.example\"]"),
                destination("other", "hosts = [\"b.example\"]"),
                destination("both", "hosts = [\"c.example\"]\ncidrs = [\"127.0.0.9/32\"]"),
            ]
            .concat(),
        );
        let mut learned = Learned::default();
        let now = std::time::Instant::now();
        let addresses = |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|one| one.parse().unwrap()).collect() };
        learned.learn(
            "a.example",
            &addresses(&["192.0.2.1", "192.0.2.2", "10.9.9.9", "127.0.0.1", "169.254.169.254"]),
            now,
        );
        learned.learn("b.example", &addresses(&["192.0.2.2"]), now);
        learned.learn("c.example", &addresses(&["127.0.0.9", "127.0.0.1"]), now);
        let plan = compile(catalog.destinations(), &learned).unwrap();
        for (address, expected) in [
            ("192.0.2.1", &[1][..]),
            ("192.0.2.2", &[1, 2]),
            // Whoever answers for the name says that it is at somebody else's address.
            ("10.9.9.9", &[0, 1]),
            ("127.0.0.1", &[]),
            ("169.254.169.254", &[]),
            ("127.0.0.9", &[3]),
        ] {
            assert_eq!(at(&plan, address), expected, "{address}");
        }
        assert_eq!((plan.unusable, plan.left_out), (3, 0));
    }

    #[test]
    fn the_strictest_of_a_group_is_its_verdict_and_what_is_not_known_is_refused() {
        use Verdict::{Allow, Audit, Deny};
        let group = Group(vec![0, 2]);
        for (of, expected) in [
            (&[Allow, Deny, Allow][..], Allow),
            (&[Allow, Allow, Audit], Audit),
            (&[Audit, Allow, Deny], Deny),
            (&[Allow], Deny),
            (&[], Deny),
        ] {
            assert_eq!(group.verdict(of), expected, "{of:?}");
        }
    }

    #[test]
    fn more_declared_groups_than_fit_are_refused() {
        let many = |count: usize, of: &dyn Fn(usize) -> String| -> String {
            (0..count).map(|number| destination(&format!("d{number}"), &of(number))).collect()
        };
        let range = |number: usize| format!("cidrs = [\"10.{}.{}.0/24\"]", number / 256, number % 256);
        let fits = catalog(&many(MAX_DECLARED_GROUPS, &range));
        assert!(compile(fits.destinations(), &Learned::default()).is_ok());
        let too_many = catalog(&many(MAX_DECLARED_GROUPS + 1, &range));
        let refused = compile(too_many.destinations(), &Learned::default());
        assert_eq!(refused, Err(TooMuch::Groups(MAX_DECLARED_GROUPS + 1)));
    }
}
