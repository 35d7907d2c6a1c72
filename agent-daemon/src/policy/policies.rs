// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A loaded set of policies and its decisions.

use std::{collections::HashSet, fmt, sync::Arc};

use cedar_policy::{Authorizer, PolicySet};

use super::{
    Action, Decision, Effect, Error, Generation, Reason, Request,
    load::{self, Loaded, Reads},
    prepared::Built,
    schema::vocabulary,
    slice::{Index, Slice, Verb},
};
use crate::diagnostic::{Diagnostic, SourceFile, with_sources};

/// An immutable set of policies, all of them valid by the schema.
pub struct Policies {
    pub(super) loaded: Vec<Loaded>,
    index: Index,
    generation: Generation,
    warnings: Vec<Diagnostic>,
    /// Those that permit only what a person approves.
    wants_approval: HashSet<Arc<str>>,
    /// What any of them reads.
    pub(super) reads: Reads,
    authorizer: Authorizer,
}

/// A policy for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyView<'a> {
    /// Unique in the set.
    pub id: &'a str,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// Where it was written.
    pub file: &'a str,
    /// As it was written.
    pub text: &'a str,
}

impl Policies {
    /// Reads policies from files that somebody else has read. A set without any policy is valid and denies all.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files, warnings included. Then there is no set at all.
    pub fn parse(files: &[SourceFile]) -> Result<Self, Vec<Diagnostic>> {
        let (loaded, warnings) = load::load(files)?;
        Ok(Self {
            reads: loaded.iter().map(|policy| policy.reads).fold(Reads::NOTHING, Reads::or),
            wants_approval: loaded.iter().filter(|one| one.wants_approval).map(|one| Arc::clone(&one.id)).collect(),
            index: Index::new(loaded.iter().map(|policy| &policy.policy)),
            loaded,
            generation: Generation::of(files),
            warnings,
            authorizer: Authorizer::new(),
        })
    }

    /// Names this set in decisions.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.loaded.len()
    }

    /// Whether everything is denied.
    pub fn is_empty(&self) -> bool {
        self.loaded.is_empty()
    }

    /// Each as it was written, in the order of the files.
    pub fn views(&self) -> impl Iterator<Item = PolicyView<'_>> {
        self.loaded.iter().map(Loaded::view)
    }

    /// What is suspicious but usable.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Decides. Pure and total: the same question has the same answer, and what cannot be evaluated is denied.
    pub fn evaluate(&self, request: &Request<'_>) -> Arc<Decision> {
        let answers = request.principal.answers();
        if let Some(known) = answers.find(request, &self.generation) {
            return known;
        }
        let (decision, reads) = self.evaluate_anew(request);
        let decision = Arc::new(decision);
        answers.keep(request, reads, &decision);
        decision
    }

    /// Decides without looking at what was decided before; says too on what the answer may depend.
    pub(super) fn evaluate_anew(&self, request: &Request<'_>) -> (Decision, Reads) {
        match self.ask(request) {
            Ok((slice, built)) => (self.decide(&slice.set, &built), self.reads_of(&slice)),
            Err(error) => (self.failed(Vec::new(), vec![with_sources(&error)]), Reads::ALL),
        }
    }

    fn reads_of(&self, slice: &Slice) -> Reads {
        let of = |place: &usize| self.loaded.get(*place).map_or(Reads::ALL, |loaded| loaded.reads);
        slice.places.iter().map(of).fold(Reads::NOTHING, Reads::or)
    }

    /// The policies that can match, and the request in Cedar's form.
    pub(super) fn ask(&self, request: &Request<'_>) -> Result<(Arc<Slice>, Built), Error> {
        let built = request.build()?;
        let (verb, resource) = match request.action {
            Action::Release { destination, .. } => (Verb::Release, destination.names()),
            Action::Connect { destination, .. } => (Verb::Connect, destination.names()),
            Action::ActFor { session, .. } => (Verb::ActFor, session.names()),
            Action::Attest => (Verb::Attest, std::slice::from_ref(&vocabulary().node_name)),
        };
        let policy = |place: usize| self.loaded.get(place).map(|loaded| loaded.policy.clone());
        let slice = self.index.slice(verb, request.principal.names(), resource, policy)?;
        Ok((slice, built))
    }

    pub(super) fn decide(&self, set: &PolicySet, built: &Built) -> Decision {
        let response = self.authorizer.is_authorized(&built.request, set, &built.entities);
        let diagnostics = response.diagnostics();
        let mut failed = Vec::new();
        let mut errors = Vec::new();
        for error in diagnostics.errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(evaluation) = error;
            failed.push(Arc::from(AsRef::<str>::as_ref(evaluation.policy_id())));
            errors.push(error.to_string());
        }
        if !errors.is_empty() {
            return self.failed(failed, errors);
        }
        let mut policy_ids: Vec<Arc<str>> =
            diagnostics.reason().map(|id| Arc::from(AsRef::<str>::as_ref(id))).collect();
        policy_ids.sort_unstable();
        let (effect, reason) = match response.decision() {
            cedar_policy::Decision::Allow if policy_ids.iter().all(|id| self.wants_approval.contains(id)) => {
                (Effect::Deny, Reason::NeedsApproval)
            }
            cedar_policy::Decision::Allow => (Effect::Allow, Reason::Permit),
            cedar_policy::Decision::Deny if policy_ids.is_empty() => (Effect::Deny, Reason::NoPermit),
            cedar_policy::Decision::Deny => (Effect::Deny, Reason::Forbid),
        };
        Decision { effect, reason, policy_ids, errors, generation: self.generation.clone() }
    }

    fn failed(&self, mut policy_ids: Vec<Arc<str>>, mut errors: Vec<String>) -> Decision {
        policy_ids.sort_unstable();
        errors.sort_unstable();
        Decision {
            effect: Effect::Deny,
            reason: Reason::Error,
            policy_ids,
            errors,
            generation: self.generation.clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn evaluate_whole(&self, request: &Request<'_>) -> Decision {
        let set = PolicySet::from_policies(self.loaded.iter().map(|loaded| loaded.policy.clone())).unwrap();
        self.decide(&set, &request.build().unwrap())
    }

    #[cfg(test)]
    pub(super) fn index(&self) -> &Index {
        &self.index
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies")
            .field("generation", &self.generation)
            .field("policies", &self.loaded.len())
            .finish_non_exhaustive()
    }
}
