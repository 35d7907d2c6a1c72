// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From texts to policies: ids, strict validation, and everything that is wrong.

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use cedar_policy::{
    ActionConstraint, Effect, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint,
    ValidationMode, Validator,
};

use super::{explain::Conjunct, nesting, policies::PolicyView, schema::vocabulary};
use crate::{
    diagnostic::{Diagnostic, Severity, SourceFile, position},
    identity::{MAX_NAME_BYTES, is_name},
};

/// Most policies in a set.
pub const MAX_POLICIES: usize = 10_000;
/// Most text in a set, in bytes.
pub const MAX_POLICY_BYTES: usize = 8 * 1024 * 1024;

/// What annotations mean something; and one for people.
const ANNOTATIONS: [&str; 3] = ["id", "approval", "description"];

/// One policy of the set.
pub(super) struct Loaded {
    pub(super) id: Arc<str>,
    pub(super) policy: Policy,
    pub(super) reads: Reads,
    /// A person has to approve what it permits.
    pub(super) wants_approval: bool,
    file: Arc<str>,
    text: String,
    /// Made when a denial is explained first.
    pub(super) conjuncts: OnceLock<Vec<Conjunct>>,
}

/// What is another thing in every request, and whether the answer of a policy can depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reads {
    pub(super) clock: bool,
    pub(super) audiences: bool,
}

impl Reads {
    pub(super) const NOTHING: Self = Self { clock: false, audiences: false };
    pub(super) const ALL: Self = Self { clock: true, audiences: true };

    /// To get at a value a policy has to spell its name, even in a record that it is compared within, or to hide the name
    /// behind an escape sequence. More may be found here than the policy does depend on, never less.
    fn of(text: &str) -> Self {
        let names = |name| text.contains(name) || text.contains('\\');
        Self { clock: names("now"), audiences: names("audiences") }
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { clock: self.clock || other.clock, audiences: self.audiences || other.audiences }
    }
}

impl Loaded {
    pub(super) fn view(&self) -> PolicyView<'_> {
        let effect = match self.policy.effect() {
            Effect::Permit => "permit",
            Effect::Forbid => "forbid",
        };
        PolicyView { id: &self.id, effect, file: &self.file, text: &self.text }
    }
}

/// Policies in the order of the files, and warnings.
pub(super) fn load(files: &[SourceFile]) -> Result<(Vec<Loaded>, Vec<Diagnostic>), Vec<Diagnostic>> {
    let mut loader = Loader {
        validator: Validator::new(vocabulary().schema.clone()),
        loaded: Vec::new(),
        seen: HashMap::new(),
        diagnostics: Vec::new(),
    };
    let bytes = files.iter().map(|file| file.text.len()).sum::<usize>();
    if let (Some(file), true) = (files.first(), bytes > MAX_POLICY_BYTES) {
        let message = format!("{bytes} bytes of policies are too many, at most {MAX_POLICY_BYTES} are read");
        return Err(vec![Diagnostic::error_at(file, 0, message)]);
    }
    for file in files {
        let reported = loader.diagnostics.len();
        loader.file(file);
        if let Some(of_this_file) = loader.diagnostics.get_mut(reported..) {
            of_this_file.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        }
    }
    if loader.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(loader.diagnostics);
    }
    Ok((loader.loaded, loader.diagnostics))
}

struct Loader<'a> {
    validator: Validator,
    loaded: Vec<Loaded>,
    // Where an id was first used.
    seen: HashMap<Arc<str>, (&'a SourceFile, usize)>,
    diagnostics: Vec<Diagnostic>,
}

impl<'a> Loader<'a> {
    fn file(&mut self, file: &'a SourceFile) {
        if let Some(offset) = nesting::too_deep(&file.text) {
            let advice = "use a set and contains(), or several policies";
            self.diagnostics.push(Diagnostic::error_at(file, offset, "nested too deeply").with_help(advice));
            return;
        }
        let parsed = match PolicySet::from_str(&file.text) {
            Ok(parsed) => parsed,
            Err(errors) => {
                self.diagnostics.extend(errors.iter().map(|error| from_cedar(file, error, 0, Severity::Error)));
                return;
            }
        };
        for template in parsed.templates() {
            let offset = file.text.find(&template.to_cedar()).unwrap_or(0);
            let advice = "name a principal or resource in place of ?principal and ?resource";
            self.diagnostics.push(Diagnostic::error_at(file, offset, "templates are not supported").with_help(advice));
        }
        // Cedar numbers the policies of a text in order, from zero, templates included.
        let mut policies: Vec<(usize, &Policy)> =
            parsed.policies().filter_map(|policy| Some((number(policy.id())?, policy))).collect();
        policies.sort_unstable_by_key(|(number, _)| *number);
        let mut offset: usize = 0;
        let mut offsets: HashMap<Arc<str>, usize> = HashMap::new();
        let mut of_this_file = PolicySet::new();
        for (number, policy) in policies {
            let text = policy.to_cedar();
            let reads = text.as_deref().map_or(Reads::ALL, Reads::of);
            let text = text.unwrap_or_default();
            let rest = file.text.get(offset..).unwrap_or_default();
            let start = offset.saturating_add(rest.find(&text).unwrap_or(0));
            offset = start.saturating_add(text.len());
            if self.loaded.len() == MAX_POLICIES {
                let message = format!("more than {MAX_POLICIES} policies");
                self.diagnostics.push(Diagnostic::error_at(file, start, message));
                return;
            }
            let Some(id) = self.id(file, start, policy, number) else { continue };
            let policy = policy.new_id(PolicyId::new(&*id));
            let wants_approval = policy.annotation("approval").is_some();
            if let Some(message) = wants_approval.then(|| not_to_be_approved(&policy)).flatten() {
                self.diagnostics.push(
                    Diagnostic::error_at(file, start, message)
                        .with_help("write @approval above a permit with action == Action::\"release\""),
                );
            }
            for (name, _) in policy.annotations().filter(|(name, _)| !ANNOTATIONS.contains(name)) {
                self.diagnostics.push(
                    warning_at(file, start, format!("policy {id}: nothing is done by @{name}"))
                        .with_help("@id names a policy, @approval has a person approve what it permits"),
                );
            }
            if is_unconditional_permit(&policy) {
                self.diagnostics.push(
                    warning_at(file, start, format!("policy {id} permits everything to everybody"))
                        .with_help("name a principal, an action, a resource or a condition"),
                );
            }
            offsets.insert(Arc::clone(&id), start);
            if let Err(error) = of_this_file.add(policy.clone()) {
                self.diagnostics.push(Diagnostic::error_at(file, start, error.to_string()));
            }
            let file = file.name.as_str().into();
            self.loaded.push(Loaded { id, policy, reads, wants_approval, file, text, conjuncts: OnceLock::new() });
        }
        let result = self.validator.validate(&of_this_file, ValidationMode::Strict);
        let start = |id: &PolicyId| offsets.get(AsRef::<str>::as_ref(id)).copied().unwrap_or(0);
        let errors = result.validation_errors().map(|e| from_cedar(file, e, start(e.policy_id()), Severity::Error));
        self.diagnostics.extend(errors);
        let warnings =
            result.validation_warnings().map(|w| from_cedar(file, w, start(w.policy_id()), Severity::Warning));
        self.diagnostics.extend(warnings);
    }

    /// From the `@id` annotation, else the file's name and the policy's number in it, from 1.
    fn id(&mut self, file: &'a SourceFile, offset: usize, policy: &Policy, number: usize) -> Option<Arc<str>> {
        let id: Arc<str> = match policy.annotation("id") {
            None => format!("{}#{}", file.name, number.saturating_add(1)).into(),
            Some(id) if is_name(id) => id.into(),
            Some(id) => {
                let advice = format!("use 1 to {MAX_NAME_BYTES} letters, digits and . _ - / # :");
                let message = format!("{id:?} is not an id");
                self.diagnostics.push(Diagnostic::error_at(file, offset, message).with_help(advice));
                return None;
            }
        };
        if let Some((first, at)) = self.seen.get(&id) {
            let (line, _) = position(&first.text, *at);
            let advice = format!("it is used first in {}:{line}; ids are unique across all files", first.name);
            let message = format!("duplicate id {id:?}");
            self.diagnostics.push(Diagnostic::error_at(file, offset, message).with_help(advice));
            return None;
        }
        self.seen.insert(Arc::clone(&id), (file, offset));
        Some(id)
    }
}

fn number(id: &PolicyId) -> Option<usize> {
    AsRef::<str>::as_ref(id).strip_prefix("policy")?.parse().ok()
}

/// Why nobody could approve what a policy decides.
fn not_to_be_approved(policy: &Policy) -> Option<&'static str> {
    if policy.effect() == Effect::Forbid {
        return Some("what a policy forbids is not for anybody to approve");
    }
    let is_release = |action: &EntityUid| action.id().escaped() == "release";
    match policy.action_constraint() {
        ActionConstraint::Eq(action) if is_release(&action) => None,
        ActionConstraint::In(actions) if actions.iter().all(is_release) => None,
        ActionConstraint::Any | ActionConstraint::Eq(_) | ActionConstraint::In(_) => {
            Some("only a release can wait for an approval")
        }
    }
}

fn is_unconditional_permit(policy: &Policy) -> bool {
    policy.effect() == Effect::Permit
        && !policy.has_non_scope_constraint()
        && policy.principal_constraint() == PrincipalConstraint::Any
        && policy.action_constraint() == ActionConstraint::Any
        && policy.resource_constraint() == ResourceConstraint::Any
}

fn warning_at(file: &SourceFile, offset: usize, message: String) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, ..Diagnostic::error_at(file, offset, message) }
}

/// Cedar's own words; the place is that of its first label.
fn from_cedar(file: &SourceFile, found: &dyn miette::Diagnostic, fallback: usize, severity: Severity) -> Diagnostic {
    let offset = found.labels().and_then(|mut labels| labels.next()).map_or(fallback, |label| label.offset());
    let diagnostic = Diagnostic { severity, ..Diagnostic::error_at(file, offset, found.to_string()) };
    match found.help() {
        Some(help) => diagnostic.with_help(help.to_string()),
        None => diagnostic,
    }
}
