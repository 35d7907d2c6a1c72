// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What stands in the kernel's tables: one set that is in use, built whole before anybody is moved to it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use agent_ebpf::limits;

use super::compile::MAX_GROUPS;
use super::{Class, Group, Half, Place, Plan, Tables};
use crate::process::{Error, Protocol, Verdict};

const NO_ROOM: Error = Error::Malformed { map: "CLASSES", what: "no room for one more group" };

/// How full it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Address ranges with their ports.
    pub places: usize,
    /// Groups of destinations.
    pub groups: usize,
    /// Classes.
    pub classes: usize,
    /// Learned addresses without room, or of which the kernel took none.
    pub left_out: usize,
    /// Learned addresses that a name may not have.
    pub unusable: usize,
    /// Exec instances that got the class of those who reach nothing, because there was no room for theirs.
    pub unclassed: u64,
}

/// One set of tables.
#[derive(Debug)]
pub struct Compiled {
    half: Half,
    plan: Plan,
    groups: HashMap<Group, u32>,
    // Those that groups have.
    numbers: HashSet<u32>,
    // By what is said of each destination. Place 0 is that of those who reach nothing.
    classes: HashMap<Arc<[Verdict]>, u32>,
    // The same by their places, from 1.
    said: Vec<Arc<[Verdict]>>,
    refused: usize,
    unclassed: u64,
}

impl Compiled {
    /// Builds a set of tables in which nobody is yet.
    ///
    /// # Errors
    /// When the kernel does not take what is declared; then nobody may be moved to it.
    pub fn build(tables: &dyn Tables, half: Half, plan: Plan) -> Result<Self, Error> {
        tables.clear(half)?;
        tables.set_class(Class::nothing(half), &[])?;
        let mut built = Self {
            half,
            plan: Plan { left_out: plan.left_out, unusable: plan.unusable, ..Plan::default() },
            groups: HashMap::new(),
            numbers: HashSet::new(),
            classes: HashMap::new(),
            said: Vec::new(),
            refused: 0,
            unclassed: 0,
        };
        for (place, group) in plan.places {
            let number = built.number(&group).or_else(|| built.take(&group));
            built.put(tables, place, group, number.ok_or(NO_ROOM)?)?;
        }
        Ok(built)
    }

    /// Its set.
    pub fn half(&self) -> Half {
        self.half
    }

    /// What counts where.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How full it is.
    pub fn counts(&self) -> Counts {
        Counts {
            places: self.plan.places.len(),
            groups: self.groups.len(),
            classes: self.classes.len(),
            left_out: self.plan.left_out.saturating_add(self.refused),
            unusable: self.plan.unusable,
            unclassed: self.unclassed,
        }
    }

    /// The class of those of whom this is said, a verdict a destination.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn class(&mut self, tables: &dyn Tables, verdicts: &[Verdict]) -> Result<Class, Error> {
        if let Some(place) = self.classes.get(verdicts) {
            return Ok(Class { half: self.half, place: *place });
        }
        let next = u32::try_from(self.classes.len()).unwrap_or(u32::MAX).saturating_add(1);
        if next >= limits::CLASSES {
            self.unclassed = self.unclassed.saturating_add(1);
            return Ok(Class::nothing(self.half));
        }
        let class = Class { half: self.half, place: next };
        tables.set_class(class, &self.words(verdicts))?;
        let verdicts: Arc<[Verdict]> = verdicts.into();
        self.said.push(Arc::clone(&verdicts));
        self.classes.insert(verdicts, next);
        Ok(class)
    }

    /// What the kernel programs say to a connection of a class of these tables. None: no declared destination is there.
    pub fn verdict(&self, class: Class, protocol: Protocol, port: u16, address: IpAddr) -> Option<Verdict> {
        let group = self.plan.at(protocol, port, address)?;
        Some(self.said_of(class).map_or(Verdict::Deny, |said| group.verdict(said)))
    }

    /// Whether a class may reach something that has names, and so may be at other addresses than are known now.
    pub fn reaches_by_name(&self, class: Class, mut is_named: impl FnMut(usize) -> bool) -> bool {
        let said = self.said_of(class).into_iter().flat_map(|said| said.iter().enumerate());
        said.into_iter().any(|(destination, verdict)| *verdict != Verdict::Deny && is_named(destination))
    }

    /// Every class that somebody may be of.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        (1..).zip(&self.said).map(|(place, _)| Class { half: self.half, place })
    }

    fn said_of(&self, class: Class) -> Option<&Arc<[Verdict]>> {
        class.place.checked_sub(1).and_then(|at| usize::try_from(at).ok()).and_then(|at| self.said.get(at))
    }

    /// Takes in that names are at other addresses. Where the kernel takes nothing new, what stands there stays.
    ///
    /// # Errors
    /// When an address cannot be taken away.
    pub fn update(&mut self, tables: &dyn Tables, plan: Plan) -> Result<(), Error> {
        let Plan { places, left_out, unusable } = plan;
        (self.plan.left_out, self.plan.unusable, self.refused) = (left_out, unusable, 0);
        let gone: Vec<Place> = self.plan.places.keys().filter(|place| !places.contains_key(place)).copied().collect();
        for place in gone {
            tables.remove(self.half, &place)?;
            self.plan.places.remove(&place);
        }
        let changed: Vec<(Place, Group)> =
            places.into_iter().filter(|(place, group)| self.plan.places.get(place) != Some(group)).collect();
        self.make_room(tables, changed.iter().map(|(_, group)| group))?;
        for (place, group) in changed {
            let put = match self.number(&group) {
                Some(number) => self.put(tables, place, group, number),
                None => Err(NO_ROOM),
            };
            if let Err(error) = put {
                // What stands there stays: without it a wider range would decide.
                self.refused = self.refused.saturating_add(1);
                tracing::debug!(%error, ?place, "an address found no room");
            }
        }
        Ok(())
    }

    /// Numbers groups, as far as there is room. What each class says of them stands in the tables before an address leads
    /// to them.
    fn make_room<'a>(
        &mut self,
        tables: &dyn Tables,
        groups: impl Iterator<Item = &'a Group> + Clone,
    ) -> Result<(), Error> {
        let new: BTreeSet<&Group> = groups.filter(|group| !self.groups.contains_key(*group)).collect();
        if new.is_empty() {
            return Ok(());
        }
        if self.groups.len().saturating_add(new.len()) > MAX_GROUPS {
            // Those that no address leads to make room.
            let used: HashSet<&Group> = self.plan.places.values().collect();
            self.groups.retain(|group, _| used.contains(group));
            self.numbers = self.groups.values().copied().collect();
        }
        for group in new {
            if self.take(group).is_none() {
                break;
            }
        }
        for (verdicts, place) in &self.classes {
            tables.set_class(Class { half: self.half, place: *place }, &self.words(verdicts))?;
        }
        Ok(())
    }

    fn number(&self, group: &Group) -> Option<u32> {
        self.groups.get(group).copied()
    }

    /// Gives a new group a number that no other has.
    fn take(&mut self, group: &Group) -> Option<u32> {
        // As long as none was ever freed, the next one is free.
        let next = u32::try_from(self.groups.len()).ok()?;
        let is_free = |number: &u32| !self.numbers.contains(number);
        let number = if is_free(&next) && next < limits::GROUPS { next } else { (0..limits::GROUPS).find(is_free)? };
        self.numbers.insert(number);
        self.groups.insert(group.clone(), number);
        Some(number)
    }

    fn put(&mut self, tables: &dyn Tables, place: Place, group: Group, number: u32) -> Result<(), Error> {
        tables.put(self.half, &place, number)?;
        self.plan.places.insert(place, group);
        Ok(())
    }

    fn words(&self, verdicts: &[Verdict]) -> Vec<Verdict> {
        let mut words = vec![Verdict::Deny; MAX_GROUPS];
        for (group, number) in &self.groups {
            if let Some(word) = usize::try_from(*number).ok().and_then(|number| words.get_mut(number)) {
                *word = group.verdict(verdicts);
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::credential::Catalog;
    use crate::diagnostic::SourceFile;
    use crate::egress::{Learned, compile};
    use crate::testing::{FakeKernel, Sizes};

    fn catalog() -> Catalog {
        let one = |name: &str| {
            format!(
                "[[destination]]\nname = \"{name}\"\naudience = \"{name}\"\nports = [443]\nhosts = [\"{name}.example\"]\n"
            )
        };
        let file = SourceFile { name: "c.toml".to_owned(), text: ["a", "b", "c"].map(one).concat() };
        Catalog::parse(&[file], &"example.org".parse().unwrap()).unwrap()
    }

    fn learned(of: &[(&str, &[[u8; 4]])]) -> Learned {
        let mut learned = Learned::default();
        for (host, addresses) in of {
            let addresses: Vec<_> = addresses.iter().map(|octets| (*octets).into()).collect();
            learned.learn(host, &addresses, Instant::now());
        }
        learned
    }

    #[test]
    fn equal_verdicts_share_a_class_and_who_finds_none_reaches_nothing() {
        let kernel = FakeKernel::new(Sizes::default());
        let mut compiled = Compiled::build(&kernel, Half::Second, Plan::default()).unwrap();
        let number = |of: u32| (0..10).map(move |bit| if of >> bit & 1 == 1 { Verdict::Allow } else { Verdict::Deny });
        let class = |compiled: &mut Compiled, of| compiled.class(&kernel, &number(of).collect::<Vec<_>>()).unwrap();
        let classes: HashSet<u32> = (0..limits::CLASSES - 1).map(|of| class(&mut compiled, of).place).collect();
        assert_eq!((classes.len(), classes.contains(&0)), (1023, false));
        assert_eq!(class(&mut compiled, 7), class(&mut compiled, 7));
        assert_eq!(class(&mut compiled, limits::CLASSES - 1), Class::nothing(Half::Second));
        assert_eq!((compiled.counts().classes, compiled.counts().unclassed), (1023, 1));
    }

    #[test]
    fn groups_come_and_go_with_names_and_their_numbers_are_used_again() {
        let kernel = FakeKernel::new(Sizes::default());
        let catalog = catalog();
        let plan = |of: &[(&str, &[[u8; 4]])]| compile(catalog.destinations(), &learned(of)).unwrap();
        let mut compiled = Compiled::build(&kernel, Half::First, plan(&[("a.example", &[[192, 0, 2, 1]])])).unwrap();
        compiled.class(&kernel, &[Verdict::Allow, Verdict::Deny, Verdict::Audit]).unwrap();
        // An address that two names share is of a group of its own.
        let shared: &[(&str, &[[u8; 4]])] =
            &[("a.example", &[[192, 0, 2, 1], [192, 0, 2, 2]]), ("b.example", &[[192, 0, 2, 2]])];
        compiled.update(&kernel, plan(shared)).unwrap();
        assert_eq!((compiled.counts().places, compiled.counts().groups), (2, 2));
        let of = |compiled: &Compiled, group: &Group| {
            let number = usize::try_from(compiled.number(group).unwrap()).unwrap();
            compiled.words(&[Verdict::Allow, Verdict::Deny, Verdict::Audit])[number]
        };
        let groups: Vec<(Group, Verdict)> =
            compiled.plan().places.values().map(|group| (group.clone(), of(&compiled, group))).collect();
        assert_eq!(groups.iter().map(|(_, verdict)| *verdict).collect::<Vec<_>>(), [Verdict::Allow, Verdict::Deny]);
        compiled.update(&kernel, plan(&[])).unwrap();
        assert_eq!(compiled.counts().places, 0);
        // Freed when there is need, and only those that nothing leads to.
        compiled.numbers = (0..limits::GROUPS).collect();
        compiled.groups.extend((0..MAX_GROUPS).map(|number| (Group::of(number + 10), 0)));
        compiled.update(&kernel, plan(&[("c.example", &[[192, 0, 2, 3]])])).unwrap();
        assert_eq!((compiled.counts().places, compiled.counts().groups), (1, 1));
    }
}
