// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which policies would have permitted, and the first condition that was not met.
//!
//! Only for people: a decision never rests on what is done here.

use std::{cmp::Reverse, sync::Arc};

use cedar_policy::{Effect, Policy, PolicyId, PolicySet};
use serde_json::{Value, json};

use super::{Policies, Request, load::Loaded};

/// Most near misses of one answer.
pub const MAX_NEAR_MISSES: usize = 8;
/// Most policies looked at for one answer.
const MAX_EXAMINED: usize = 256;

/// A policy that applies to the request but for one of its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyNearMiss {
    /// The policy.
    pub policy_id: Arc<str>,
    /// The first of its conditions that is false or cannot be evaluated, in Cedar.
    pub condition: String,
}

/// A part of a policy's conditions: all of them together are the policy's.
pub(super) struct Conjunct {
    /// The policy's scope and this condition alone.
    set: PolicySet,
    /// Empty for the scope without any condition, which comes first.
    text: String,
}

impl Policies {
    /// The permits that apply to the request but for a condition: those with the fewest conditions left first.
    ///
    /// For denials that no `forbid` explains. At most [`MAX_NEAR_MISSES`].
    pub fn near_misses(&self, request: &Request<'_>) -> Vec<PolicyNearMiss> {
        let Ok((slice, built)) = self.ask(request) else {
            return Vec::new();
        };
        let permits = slice
            .places
            .iter()
            .filter_map(|place| self.loaded.get(*place))
            .filter(|loaded| loaded.policy.effect() == Effect::Permit)
            .take(MAX_EXAMINED);
        let mut found = Vec::new();
        for loaded in permits {
            let conjuncts = loaded.conjuncts.get_or_init(|| split(loaded));
            let met = |conjunct: &Conjunct| self.decide(&conjunct.set, &built).is_allow();
            let Some(unmet) = conjuncts.iter().position(|conjunct| !met(conjunct)) else { continue };
            let Some(conjunct) = conjuncts.get(unmet) else { continue };
            // The first one is the scope: the policy is not about this request at all.
            if unmet > 0 {
                let left = conjuncts.len().saturating_sub(unmet);
                let near = PolicyNearMiss { policy_id: Arc::clone(&loaded.id), condition: conjunct.text.clone() };
                found.push((left, Reverse(unmet), near));
            }
        }
        found.sort_by_key(|(left, met, _)| (*left, *met));
        found.into_iter().map(|(_, _, near)| near).take(MAX_NEAR_MISSES).collect()
    }
}

/// The scope, then each condition joined by `&&` in the order of evaluation.
fn split(loaded: &Loaded) -> Vec<Conjunct> {
    let Ok(Value::Object(mut policy)) = loaded.policy.to_json() else {
        return Vec::new();
    };
    let conditions = match policy.remove("conditions") {
        Some(Value::Array(conditions)) => conditions,
        _ => Vec::new(),
    };
    let mut bodies = Vec::new();
    for condition in conditions {
        let Some(body) = condition.get("body") else { continue };
        if condition.get("kind").and_then(Value::as_str) == Some("unless") {
            negated(body, &mut bodies);
        } else {
            flatten(body, &mut bodies);
        }
    }
    policy.insert("conditions".into(), json!([]));
    let scope = Value::Object(policy);
    let Some(first) = conjunct(scope.clone(), None) else {
        return Vec::new();
    };
    let mut conjuncts = vec![first];
    for body in bodies {
        // A part that cannot be put back together is left out: the explanation then names a later one.
        conjuncts.extend(conjunct(scope.clone(), Some(body)));
    }
    conjuncts
}

fn flatten(body: &Value, into: &mut Vec<Value>) {
    match body.get("&&").and_then(|and| Some((and.get("left")?, and.get("right")?))) {
        Some((left, right)) => {
            flatten(left, into);
            flatten(right, into);
        }
        None => into.push(body.clone()),
    }
}

/// `unless { a || b }` is `when { !a && !b }`.
fn negated(body: &Value, into: &mut Vec<Value>) {
    match body.get("||").and_then(|or| Some((or.get("left")?, or.get("right")?))) {
        Some((left, right)) => {
            negated(left, into);
            negated(right, into);
        }
        None => into.push(json!({ "!": { "arg": body } })),
    }
}

fn conjunct(mut policy: Value, body: Option<Value>) -> Option<Conjunct> {
    let mut text = String::new();
    if let Some(body) = body {
        let conditions = json!([{ "kind": "when", "body": body }]);
        let bare = json!({
            "effect": "permit",
            "principal": { "op": "All" },
            "action": { "op": "All" },
            "resource": { "op": "All" },
            "conditions": conditions,
        });
        text = condition_text(&Policy::from_json(None, bare).ok()?.to_string())?;
        policy.as_object_mut()?.insert("conditions".into(), conditions);
    }
    let policy = Policy::from_json(Some(PolicyId::new("condition")), policy).ok()?;
    Some(Conjunct { set: PolicySet::from_policies([policy]).ok()?, text })
}

fn condition_text(policy: &str) -> Option<String> {
    let (_, rest) = policy.split_once('{')?;
    let (condition, _) = rest.rsplit_once('}')?;
    Some(condition.split_whitespace().collect::<Vec<_>>().join(" "))
}
