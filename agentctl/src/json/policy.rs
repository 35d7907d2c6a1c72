// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Policies: loaded, validated, tested, reloaded.

use agent_proto::admin;
use serde::Serialize;

use super::decision::PolicyNearMiss;
use super::{each, filled};

#[derive(Serialize)]
struct Diagnostic<'a> {
    file: &'a str,
    line: Option<u32>,
    column: Option<u32>,
    severity: &'a str,
    message: &'a str,
    help: Option<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct Validation<'a> {
    valid: bool,
    generation: Option<&'a str>,
    policies: u32,
    diagnostics: Vec<Diagnostic<'a>>,
}

#[derive(Serialize)]
pub(crate) struct PolicyTest<'a> {
    passed: bool,
    cases: Vec<TestCase<'a>>,
    diagnostics: Vec<Diagnostic<'a>>,
}

#[derive(Serialize)]
struct TestCase<'a> {
    name: &'a str,
    passed: bool,
    expected: &'a str,
    actual: &'a str,
    policy_ids: &'a [String],
    policy_near_misses: Vec<PolicyNearMiss<'a>>,
}

#[derive(Serialize)]
pub(crate) struct PolicyList<'a> {
    generation: &'a str,
    policies: Vec<Policy<'a>>,
}

#[derive(Serialize)]
struct Policy<'a> {
    id: &'a str,
    effect: &'a str,
    file: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Reload<'a> {
    accepted: bool,
    changed: bool,
    policy_generation: &'a str,
    policies: u32,
    entries: u32,
    destinations: u32,
    bindings: u32,
    diagnostics: Vec<Diagnostic<'a>>,
}

impl<'a> From<&'a admin::Diagnostic> for Diagnostic<'a> {
    fn from(diagnostic: &'a admin::Diagnostic) -> Self {
        let known = |number: u32| Some(number).filter(|number| *number != 0);
        Self {
            file: &diagnostic.file,
            line: known(diagnostic.line),
            column: known(diagnostic.column),
            severity: &diagnostic.severity,
            message: &diagnostic.message,
            help: filled(&diagnostic.help),
        }
    }
}

impl<'a> From<&'a admin::ValidatePolicyResponse> for Validation<'a> {
    fn from(response: &'a admin::ValidatePolicyResponse) -> Self {
        Self {
            valid: response.valid,
            generation: filled(&response.generation),
            policies: response.policies,
            diagnostics: each(&response.diagnostics),
        }
    }
}

impl<'a> PolicyTest<'a> {
    pub(crate) fn of(passed: bool, response: &'a admin::TestPolicyResponse) -> Self {
        Self { passed, cases: each(&response.cases), diagnostics: each(&response.diagnostics) }
    }
}

impl<'a> From<&'a admin::TestCase> for TestCase<'a> {
    fn from(case: &'a admin::TestCase) -> Self {
        Self {
            name: &case.name,
            passed: case.passed,
            expected: &case.expected,
            actual: &case.actual,
            policy_ids: &case.policy_ids,
            policy_near_misses: each(&case.policy_near_misses),
        }
    }
}

impl<'a> From<&'a admin::ListPoliciesResponse> for PolicyList<'a> {
    fn from(response: &'a admin::ListPoliciesResponse) -> Self {
        Self { generation: &response.generation, policies: each(&response.policies) }
    }
}

impl<'a> From<&'a admin::PolicyView> for Policy<'a> {
    fn from(policy: &'a admin::PolicyView) -> Self {
        Self { id: &policy.id, effect: &policy.effect, file: &policy.file, text: &policy.text }
    }
}

impl<'a> Reload<'a> {
    pub(crate) fn of(accepted: bool, response: &'a admin::ReloadResponse) -> Self {
        Self {
            accepted,
            changed: response.changed,
            policy_generation: &response.policy_generation,
            policies: response.policies,
            entries: response.entries,
            destinations: response.destinations,
            bindings: response.bindings,
            diagnostics: each(&response.diagnostics),
        }
    }
}
