// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which policies can match a request at all.
//!
//! Cedar evaluates every policy it is given, so its cost follows the size of the set. The scope of a policy is an
//! exact test on the action and on the names of principal and resource; a policy whose scope fails is neither
//! satisfied nor in error. Leaving those out changes no decision.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint,
};

use super::{Error, schema::vocabulary};

/// Most slices kept. Their number is that of the combinations of names that policies mention and requests have.
pub const MAX_SLICES: usize = 1024;
/// Most policies in all slices kept together: what bounds their memory.
pub const MAX_SLICED_POLICIES: usize = 65_536;

/// The actions of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Release,
    Connect,
    Attest,
    ActFor,
}

/// Some names by number: those that a policy's scope mentions. Sorted.
type Mentions = Vec<u32>;

/// Policies that can match one class of requests.
pub(super) struct Slice {
    pub(super) set: PolicySet,
    /// Where they stand in the whole, in order.
    pub(super) places: Vec<usize>,
}

/// From what a scope names to policies, and the slices made so far.
#[derive(Default)]
pub(super) struct Index {
    // By Cedar's way of writing them: hashing a text is much cheaper than hashing an `EntityUid`.
    mentioned: HashMap<String, u32>,
    // Every policy stands under each of its actions and exactly one principal and resource (none: any).
    buckets: HashMap<(Verb, Option<u32>, Option<u32>), Vec<usize>>,
    cache: RwLock<Cache>,
}

#[derive(Default)]
struct Cache {
    slices: HashMap<(Verb, Mentions, Mentions), Arc<Slice>>,
    policies: usize,
}

impl Index {
    pub(super) fn new<'a>(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut index = Self::default();
        for (place, policy) in policies.enumerate() {
            let principal = match policy.principal_constraint() {
                PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
                PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
                    Some(index.mention(&uid))
                }
            };
            let mut resource_type = None;
            let resource = match policy.resource_constraint() {
                ResourceConstraint::Any => None,
                ResourceConstraint::Is(name) => {
                    resource_type = Some(name);
                    None
                }
                ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) => Some(index.mention(&uid)),
                ResourceConstraint::IsIn(name, uid) => {
                    resource_type = Some(name);
                    Some(index.mention(&uid))
                }
            };
            for verb in verbs(&policy.action_constraint(), resource_type.as_ref()) {
                index.buckets.entry((verb, principal, resource)).or_default().push(place);
            }
        }
        index
    }

    fn mention(&mut self, uid: &EntityUid) -> u32 {
        let next = u32::try_from(self.mentioned.len()).unwrap_or(u32::MAX);
        *self.mentioned.entry(uid.to_string()).or_insert(next)
    }

    fn mentions(&self, names: &[String]) -> Mentions {
        let mut mentions: Mentions = names.iter().filter_map(|name| self.mentioned.get(name)).copied().collect();
        mentions.sort_unstable();
        mentions
    }

    /// The slice for a request, made when it is asked for first.
    pub(super) fn slice(
        &self,
        verb: Verb,
        principal: &[String],
        resource: &[String],
        policies: impl Fn(usize) -> Option<Policy>,
    ) -> Result<Arc<Slice>, Error> {
        let key = (verb, self.mentions(principal), self.mentions(resource));
        if let Some(slice) = self.cache.read().unwrap_or_else(PoisonError::into_inner).slices.get(&key) {
            return Ok(Arc::clone(slice));
        }
        let slice = Arc::new(self.make(&key, policies)?);
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        let policies = cache.policies.saturating_add(slice.places.len());
        if cache.slices.len() >= MAX_SLICES || policies > MAX_SLICED_POLICIES {
            // Starting over is simpler than choosing a victim, and what is asked for again is soon there again.
            cache.slices.clear();
            cache.policies = 0;
        }
        if cache.slices.insert(key, Arc::clone(&slice)).is_none() {
            cache.policies = cache.policies.saturating_add(slice.places.len());
        }
        Ok(slice)
    }

    fn make(
        &self,
        (verb, principal, resource): &(Verb, Mentions, Mentions),
        policies: impl Fn(usize) -> Option<Policy>,
    ) -> Result<Slice, Error> {
        let any_or = |mentions: &Mentions| -> Vec<Option<u32>> {
            [None].into_iter().chain(mentions.iter().copied().map(Some)).collect()
        };
        let resources = any_or(resource);
        let mut places: Vec<usize> = Vec::new();
        for principal in any_or(principal) {
            for resource in &resources {
                places.extend(self.buckets.get(&(*verb, principal, *resource)).into_iter().flatten());
            }
        }
        places.sort_unstable();
        let set = PolicySet::from_policies(places.iter().filter_map(|place| policies(*place)))
            .map_err(|source| Error::Slice(Box::new(source)))?;
        Ok(Slice { set, places })
    }

    #[cfg(test)]
    pub(super) fn cached(&self) -> (usize, usize) {
        let cache = self.cache.read().unwrap();
        (cache.slices.len(), cache.policies)
    }
}

/// The actions that a policy can apply to. Too many do no harm, too few would.
fn verbs(action: &ActionConstraint, resource: Option<&EntityTypeName>) -> Vec<Verb> {
    let words = vocabulary();
    let applies = |verb: Verb| {
        let uid = match verb {
            Verb::Release => &words.release,
            Verb::Connect => &words.connect,
            Verb::Attest => &words.attest,
            Verb::ActFor => &words.act_for,
        };
        let by_action = match action {
            ActionConstraint::Any => true,
            ActionConstraint::In(uids) => uids.contains(uid),
            ActionConstraint::Eq(only) => only == uid,
        };
        let by_resource = resource.is_none_or(|name| match verb {
            Verb::Release | Verb::Connect => words.is_destination(name),
            Verb::Attest => *name == words.node_type,
            Verb::ActFor => words.is_user(name),
        });
        by_action && by_resource
    };
    [Verb::Release, Verb::Connect, Verb::Attest, Verb::ActFor].into_iter().filter(|verb| applies(*verb)).collect()
}
