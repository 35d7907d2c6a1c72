// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which entries a set of facts satisfies, and by how little the others miss.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use super::{AnyOf, Entries, Entry, Fact, Provenance, SEEDED_SELECTOR};

/// An entry that does not match, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The entry.
    pub entry: Arc<Entry>,
    /// What differs; never empty.
    pub differences: Vec<Difference>,
}

/// One unmet condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the entry asks for.
    pub expected: String,
    /// What the process has of the same kind; empty when it has none.
    pub actual: String,
    /// Set when the fact is there but does not count.
    pub note: String,
}

impl Entries {
    /// The entries that all facts together satisfy: most selectors first, then by id.
    ///
    /// Cost follows the entries that share their rarest selector with the facts, not the size of the set.
    pub fn matching(&self, facts: &[Fact]) -> Vec<&Arc<Entry>> {
        let known = Known::new(facts);
        let mut places: Vec<usize> =
            facts.iter().filter_map(|fact| self.index.get(&fact.selector)).flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        places.into_iter().filter_map(|place| self.sorted.get(place)).filter(|entry| known.satisfies(entry)).collect()
    }

    /// The entries that somebody may have satisfied of whom not all is known: `is_known` says of which kinds the facts are
    /// all that there can have been for an entry; any other may have held anything. Looks at every entry.
    pub fn possible(&self, facts: &[Fact], is_known: impl Fn(&Entry, &str) -> bool) -> Vec<&Arc<Entry>> {
        let known = Known::new(facts);
        let may_hold = |entry: &Entry, any: &AnyOf| {
            let is_open = any.0.iter().any(|selector| !is_known(entry, selector.kind()));
            is_open || matches!(known.standing(any, entry.accept_claimed), Standing::Met | Standing::MetByClaim)
        };
        let possible = |entry: &&Arc<Entry>| {
            !known.refused_as_seeded(entry) && entry.selectors.iter().all(|any| may_hold(entry, any))
        };
        self.sorted.iter().filter(possible).collect()
    }

    /// The entries that come closest without matching: fewest differences first, then most selectors met, then by id.
    ///
    /// Entries with nothing in common are left out unless there are no others. Looks at every entry: for the path
    /// of a denial, whose result the caller keeps per exec instance.
    pub fn near_misses(&self, facts: &[Fact], limit: usize) -> Vec<NearMiss> {
        let known = Known::new(facts);
        let mut ranked: Vec<(usize, Reverse<usize>, &Arc<Entry>)> = Vec::new();
        for entry in &self.sorted {
            let (met, unmet) = known.tally(entry);
            if unmet > 0 {
                ranked.push((unmet, Reverse(met), entry));
            }
        }
        if ranked.iter().any(|(_, Reverse(met), _)| *met > 0) {
            ranked.retain(|(_, Reverse(met), _)| *met > 0);
        }
        ranked.sort_by(|a, b| (a.0, a.1, &a.2.id).cmp(&(b.0, b.1, &b.2.id)));
        ranked
            .into_iter()
            .take(limit)
            .map(|(_, _, entry)| NearMiss { entry: Arc::clone(entry), differences: known.differences(entry) })
            .collect()
    }
}

/// The facts by selector, each with its strongest provenance.
struct Known<'a> {
    facts: &'a [Fact],
    strongest: HashMap<&'a str, Provenance>,
}

/// How an [`AnyOf`] stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Met,
    MetByClaim,
    OnlyClaimed,
    Unmet,
}

impl<'a> Known<'a> {
    fn new(facts: &'a [Fact]) -> Self {
        let mut strongest: HashMap<&str, Provenance> = HashMap::with_capacity(facts.len());
        for fact in facts {
            strongest
                .entry(fact.selector.as_str())
                .and_modify(|known| *known = (*known).min(fact.provenance))
                .or_insert(fact.provenance);
        }
        Self { facts, strongest }
    }

    fn standing(&self, any: &AnyOf, accept_claimed: bool) -> Standing {
        match any.0.iter().filter_map(|selector| self.strongest.get(selector.as_str())).min() {
            None => Standing::Unmet,
            Some(Provenance::Claimed) if accept_claimed => Standing::MetByClaim,
            Some(Provenance::Claimed) => Standing::OnlyClaimed,
            Some(Provenance::Kernel | Provenance::Measured | Provenance::Orchestrator) => Standing::Met,
        }
    }

    fn refused_as_seeded(&self, entry: &Entry) -> bool {
        !entry.seeded && self.strongest.contains_key(SEEDED_SELECTOR)
    }

    fn satisfies(&self, entry: &Entry) -> bool {
        self.tally(entry).1 == 0
    }

    /// How many conditions are met and how many are not.
    fn tally(&self, entry: &Entry) -> (usize, usize) {
        let mut met: usize = 0;
        let mut firmly: usize = 0;
        for any in &entry.selectors {
            match self.standing(any, entry.accept_claimed) {
                Standing::Met => {
                    met = met.saturating_add(1);
                    firmly = firmly.saturating_add(1);
                }
                Standing::MetByClaim => met = met.saturating_add(1),
                Standing::OnlyClaimed | Standing::Unmet => {}
            }
        }
        let mut unmet = entry.selectors.len().saturating_sub(met);
        if unmet == 0 && firmly == 0 {
            unmet = 1;
        }
        (met, unmet.saturating_add(usize::from(self.refused_as_seeded(entry))))
    }

    fn differences(&self, entry: &Entry) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut firmly = false;
        for any in &entry.selectors {
            let note = match self.standing(any, entry.accept_claimed) {
                Standing::Met => {
                    firmly = true;
                    continue;
                }
                Standing::MetByClaim => continue,
                Standing::OnlyClaimed => "known only as claimed; the entry does not accept that",
                Standing::Unmet => "",
            };
            differences.push(Difference { expected: any.to_string(), actual: self.same_kind(any), note: note.into() });
        }
        if differences.is_empty() && !firmly {
            differences.push(Difference {
                expected: "at least one selector that is not only claimed".into(),
                actual: entry.selectors.iter().map(|any| self.same_kind(any)).collect::<Vec<_>>().join(", "),
                note: "everything that matches is claimed by the process itself".into(),
            });
        }
        if self.refused_as_seeded(entry) {
            differences.push(Difference {
                expected: "a process started after the kernel programs were attached".into(),
                actual: SEEDED_SELECTOR.into(),
                note: "the entry has seeded = false; restart the process".into(),
            });
        }
        differences
    }

    /// What is known of the kinds that `any` asks for, in the order of the facts.
    fn same_kind(&self, any: &AnyOf) -> String {
        let mut seen: Vec<&str> = Vec::new();
        for fact in self.facts {
            let text = fact.selector.as_str();
            if any.0.iter().any(|wanted| wanted.kind() == fact.selector.kind()) && !seen.contains(&text) {
                seen.push(text);
            }
        }
        seen.join(", ")
    }
}
