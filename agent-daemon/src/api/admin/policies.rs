// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Policies: validate, test, list; and the reload of everything.

use agent_proto::admin::{
    ListPoliciesResponse, PolicyView, ReloadResponse, SourceFile, TestCase, TestPolicyRequest, TestPolicyResponse,
    ValidatePolicyRequest, ValidatePolicyResponse,
};
use tonic::Status;

use super::view;
use crate::diagnostic;
use crate::node::{Node, ReloadOutcome};
use crate::policy::{CaseResult, Policies};
use crate::snapshot::Snapshot;

/// Files of one request.
const MAX_FILES: usize = 1024;
/// Longest name of a file.
const MAX_NAME_BYTES: usize = 4096;

/// Whether policies are valid: those given, or those on disk now. Blocks.
pub(super) fn validate(node: &Node, asked: ValidatePolicyRequest) -> Result<ValidatePolicyResponse, Status> {
    let files = sources(asked.files)?;
    let files = match files.is_empty() {
        false => Ok(files),
        true => node.read_sources().map(|sources| sources.policies),
    };
    Ok(match files.and_then(|files| Policies::parse(&files)) {
        Ok(policies) => ValidatePolicyResponse {
            valid: true,
            generation: policies.generation().to_string(),
            diagnostics: policies.warnings().iter().map(view::diagnostic).collect(),
            policies: view::count(policies.len()),
        },
        Err(diagnostics) => ValidatePolicyResponse {
            valid: false,
            diagnostics: diagnostics.iter().map(view::diagnostic).collect(),
            ..ValidatePolicyResponse::default()
        },
    })
}

/// Runs cases through the production evaluator, with the loaded policies or those given. Blocks.
pub(super) fn test(snapshot: &Snapshot, asked: TestPolicyRequest) -> Result<TestPolicyResponse, Status> {
    let cases = asked.cases.ok_or_else(|| Status::invalid_argument("cases: a file of cases is needed"))?;
    let cases = source(cases)?;
    let files = sources(asked.files)?;
    let failed = |diagnostics: Vec<diagnostic::Diagnostic>| TestPolicyResponse {
        cases: Vec::new(),
        diagnostics: diagnostics.iter().map(view::diagnostic).collect(),
    };
    let given = match files.is_empty() {
        true => None,
        false => match Policies::parse(&files) {
            Ok(policies) => Some(policies),
            Err(diagnostics) => return Ok(failed(diagnostics)),
        },
    };
    let policies = given.as_ref().unwrap_or(&snapshot.policies);
    Ok(match policies.run_cases_with(&cases, &snapshot.policy_destinations()) {
        Ok(results) => TestPolicyResponse {
            cases: results.into_iter().map(case).collect(),
            diagnostics: policies.warnings().iter().map(view::diagnostic).collect(),
        },
        Err(diagnostics) => failed(diagnostics),
    })
}

fn case(result: CaseResult) -> TestCase {
    let mut actual = result.actual;
    if !result.errors.is_empty() {
        actual = format!("{actual}: {}", result.errors.join("; "));
    }
    TestCase {
        name: result.name,
        passed: result.passed,
        expected: result.expected,
        actual,
        policy_ids: result.policy_ids.iter().map(ToString::to_string).collect(),
        policy_near_misses: result.near_misses.into_iter().map(view::policy_near_miss).collect(),
    }
}

/// The loaded policies.
pub(super) fn list(snapshot: &Snapshot) -> ListPoliciesResponse {
    let policy = |policy: crate::policy::PolicyView<'_>| PolicyView {
        id: policy.id.to_owned(),
        effect: policy.effect.to_owned(),
        file: policy.file.to_owned(),
        text: policy.text.to_owned(),
    };
    ListPoliciesResponse {
        generation: snapshot.policies.generation().to_string(),
        policies: snapshot.policies.views().map(policy).collect(),
    }
}

/// What became of a reload.
pub(super) fn reloaded(outcome: &ReloadOutcome) -> ReloadResponse {
    let snapshot = &outcome.snapshot;
    ReloadResponse {
        changed: outcome.is_changed,
        policy_generation: snapshot.policies.generation().to_string(),
        policies: view::count(snapshot.policies.len()),
        entries: view::count(snapshot.entries.len()),
        destinations: view::count(snapshot.catalog.destinations().len()),
        bindings: view::count(snapshot.catalog.bindings().len()),
        diagnostics: outcome.diagnostics.iter().map(view::diagnostic).collect(),
    }
}

fn sources(files: Vec<SourceFile>) -> Result<Vec<diagnostic::SourceFile>, Status> {
    if files.len() > MAX_FILES {
        return Err(Status::invalid_argument(format!("files: at most {MAX_FILES}")));
    }
    files.into_iter().map(source).collect()
}

fn source(file: SourceFile) -> Result<diagnostic::SourceFile, Status> {
    if file.name.len() > MAX_NAME_BYTES {
        return Err(Status::invalid_argument("name: a file's name is too long"));
    }
    Ok(diagnostic::SourceFile { name: file.name, text: file.text })
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::identity::TrustDomain;
    use crate::snapshot::Sources;

    fn file(name: &str, text: &str) -> SourceFile {
        SourceFile { name: name.into(), text: text.into() }
    }

    fn snapshot(policies: &str) -> Snapshot {
        let policies = vec![diagnostic::SourceFile { name: "p.cedar".into(), text: policies.into() }];
        let domain: TrustDomain = "example.org".parse().unwrap();
        Snapshot::parse(1, &Sources { policies, ..Sources::default() }, &domain).unwrap()
    }

    const PERMIT: &str = "@id(\"all\")\npermit (principal, action == Action::\"release\", resource);\n";
    const CASES: &str = "[[case]]\nname = \"one\"\nprincipal = \"spiffe://example.org/a\"\nkind = \"agent\"\n\
                         action = \"release\"\nresource = \"reports\"\nexpect = \"allow\"\n";

    #[test]
    fn cases_run_against_the_loaded_policies_or_those_given() {
        let asked = |files| TestPolicyRequest { cases: Some(file("c.toml", CASES)), files };
        let answer = test(&snapshot(PERMIT), asked(Vec::new())).unwrap();
        assert!(answer.cases[0].passed, "{answer:?}");
        assert_eq!(answer.cases[0].policy_ids, ["all"]);
        let answer = test(&snapshot(""), asked(Vec::new())).unwrap();
        assert!(!answer.cases[0].passed, "nothing permits");
        let answer = test(&snapshot(""), asked(vec![file("g.cedar", PERMIT)])).unwrap();
        assert!(answer.cases[0].passed, "{answer:?}");
        let answer = test(&snapshot(PERMIT), asked(vec![file("g.cedar", "permit (")])).unwrap();
        assert!(answer.cases.is_empty());
        assert_eq!(
            (answer.diagnostics[0].file.as_str(), answer.diagnostics[0].severity.as_str()),
            ("g.cedar", "error")
        );
    }

    #[test]
    fn a_test_without_cases_is_refused() {
        let asked = TestPolicyRequest { cases: None, files: Vec::new() };
        assert_eq!(test(&snapshot(""), asked).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn the_number_and_names_of_files_are_bounded() {
        assert!(sources(vec![file("a", ""); MAX_FILES]).is_ok());
        assert!(sources(vec![file("a", ""); MAX_FILES + 1]).is_err());
        assert!(source(file(&"x".repeat(MAX_NAME_BYTES + 1), "")).is_err());
    }

    #[test]
    fn the_loaded_policies_are_listed_as_they_were_written() {
        let listed = list(&snapshot(PERMIT));
        assert_eq!(listed.policies.len(), 1);
        let policy = &listed.policies[0];
        assert_eq!((policy.id.as_str(), policy.effect.as_str(), policy.file.as_str()), ("all", "permit", "p.cedar"));
        assert!(policy.text.contains("permit (principal"));
        assert!(listed.generation.starts_with("sha256:"));
    }
}
