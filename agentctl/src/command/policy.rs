// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl policy`: the daemon's own parser, validator and evaluator, on files or on what is loaded.

use std::path::PathBuf;

use agent_proto::admin::{
    Diagnostic, ListPoliciesRequest, ListPoliciesResponse, SourceFile, TestPolicyRequest, TestPolicyResponse,
    ValidatePolicyRequest, ValidatePolicyResponse,
};

use super::{source_file, story, suggest};
use crate::Verdict;
use crate::cli::PolicyCommand;
use crate::client::Client;
use crate::error::Error;
use crate::json;
use crate::output::{Line, Output, Style};
use crate::text::{count, escape_lines};

const SCHEMA_VALIDATE: &str = "agentctl.policy.validate/v1";
const SCHEMA_EXPLAIN: &str = "agentctl.policy.explain/v1";
const SCHEMA_TEST: &str = "agentctl.policy.test/v1";

pub(crate) async fn run(client: &Client, command: &PolicyCommand, output: &mut Output<'_>) -> Result<Verdict, Error> {
    match command {
        PolicyCommand::Validate { files } => validate(client, files, output).await,
        PolicyCommand::Explain => explain(client, output).await,
        PolicyCommand::Suggest(args) => suggest::run(client, args, output).await,
        PolicyCommand::Test { cases, files } => {
            let request = TestPolicyRequest { cases: Some(source_file(cases)?), files: source_files(files)? };
            let response = client.answer(client.api().test_policy(request)).await?;
            let passed = response.cases.iter().all(|case| case.passed)
                // A table without cases has tested nothing.
                && !response.cases.is_empty()
                && !has_errors(&response.diagnostics);
            if output.is_json() {
                output.document(SCHEMA_TEST, &json::PolicyTest::of(passed, &response))?;
            } else {
                render_test(passed, &response, output)?;
            }
            Ok(Verdict::ok_if(passed))
        }
    }
}

fn source_files(paths: &[PathBuf]) -> Result<Vec<SourceFile>, Error> {
    paths.iter().map(|path| source_file(path)).collect()
}

async fn validate(client: &Client, files: &[PathBuf], output: &mut Output<'_>) -> Result<Verdict, Error> {
    let request = ValidatePolicyRequest { files: source_files(files)? };
    let response = client.answer(client.api().validate_policy(request)).await?;
    if output.is_json() {
        output.document(SCHEMA_VALIDATE, &json::Validation::from(&response))?;
    } else {
        render_validation(&response, output)?;
    }
    Ok(Verdict::ok_if(response.valid))
}

fn render_validation(response: &ValidatePolicyResponse, output: &mut Output<'_>) -> Result<(), Error> {
    diagnostics(&response.diagnostics, output)?;
    if response.valid {
        let policies = count(response.policies, "policy", "policies");
        output
            .line(&Line::painted(Style::Good, "valid").and(format!(": {policies}, generation {}", response.generation)))
    } else {
        let errors = response.diagnostics.iter().filter(|diagnostic| diagnostic.severity == "error").count();
        let errors = count(u64::try_from(errors).unwrap_or(u64::MAX), "error", "errors");
        output.line(&Line::painted(Style::Bad, "invalid").and(format!(": {errors}")))
    }
}

async fn explain(client: &Client, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let response = client.answer(client.api().list_policies(ListPoliciesRequest {})).await?;
    if output.is_json() {
        output.document(SCHEMA_EXPLAIN, &json::PolicyList::from(&response))?;
    } else {
        render_list(&response, output)?;
    }
    Ok(Verdict::Ok)
}

fn render_list(response: &ListPoliciesResponse, output: &mut Output<'_>) -> Result<(), Error> {
    for policy in &response.policies {
        let style = if policy.effect == "forbid" { Style::Bad } else { Style::Good };
        output.line(
            &Line::painted(style, &policy.effect)
                .and(" ")
                .paint(Style::Title, &policy.id)
                .and(format!("  {}", policy.file)),
        )?;
        for line in escape_lines(&policy.text) {
            output.text(format!("    {line}"))?;
        }
        output.blank()?;
    }
    let number = u64::try_from(response.policies.len()).unwrap_or(u64::MAX);
    output.text(format!("{}, generation {}", count(number, "policy", "policies"), response.generation))
}

fn render_test(passed: bool, response: &TestPolicyResponse, output: &mut Output<'_>) -> Result<(), Error> {
    diagnostics(&response.diagnostics, output)?;
    for case in &response.cases {
        let by = if case.policy_ids.is_empty() { "no policy".to_owned() } else { case.policy_ids.join(", ") };
        if case.passed {
            output
                .line(&Line::painted(Style::Good, "pass  ").and(format!("{}: {} by {by}", case.name, case.actual)))?;
            continue;
        }
        let line = format!("{}: expected {}, got {} by {by}", case.name, case.expected, case.actual);
        output.line(&Line::painted(Style::Bad, "fail  ").and(line))?;
        story::policy_near_misses(&case.policy_near_misses, "      ", output)?;
    }
    let good = response.cases.iter().filter(|case| case.passed).count();
    let style = if passed { Style::Good } else { Style::Bad };
    output.line(&Line::painted(style, format!("{good} of {} cases passed", response.cases.len())))
}

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity != "warning")
}

/// `file:line:column: severity: message`, which editors can follow.
pub(super) fn diagnostics(diagnostics: &[Diagnostic], output: &mut Output<'_>) -> Result<(), Error> {
    for diagnostic in diagnostics {
        let mut place = diagnostic.file.clone();
        for number in [diagnostic.line, diagnostic.column] {
            if number != 0 {
                place.push_str(&format!(":{number}"));
            }
        }
        if !place.is_empty() {
            place.push_str(": ");
        }
        let style = if diagnostic.severity == "warning" { Style::Warn } else { Style::Bad };
        let mut message = escape_lines(&diagnostic.message);
        let first = message.next().unwrap_or_default();
        output.line(&Line::new(place).paint(style, &diagnostic.severity).and(format!(": {first}")))?;
        for line in message {
            output.text(format!("  {line}"))?;
        }
        for (at, line) in escape_lines(&diagnostic.help).enumerate() {
            output.text(format!("  {} {line}", if at == 0 { "help:" } else { "     " }))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_proto::admin::TestCase;

    use super::*;
    use crate::cli::Format;

    fn printed(render: impl FnOnce(&mut Output<'_>) -> Result<(), Error>) -> String {
        let mut text = Vec::new();
        render(&mut Output::new(&mut text, Format::Table, false)).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_diagnostic_has_a_place_that_editors_can_follow() {
        let finding = |line, column, help: &str| Diagnostic {
            file: "a.cedar".into(),
            line,
            column,
            severity: "error".into(),
            message: "unknown attribute".into(),
            help: help.into(),
        };
        for (given, expected) in [
            (finding(3, 7, "did you mean uid?"), "a.cedar:3:7: error: unknown attribute\n  help: did you mean uid?\n"),
            (finding(3, 0, ""), "a.cedar:3: error: unknown attribute\n"),
            (finding(0, 0, "a\nb"), "a.cedar: error: unknown attribute\n  help: a\n        b\n"),
        ] {
            assert_eq!(printed(|output| diagnostics(&[given], output)), expected);
        }
    }

    #[test]
    fn a_failed_case_says_what_was_expected() {
        let case = |name: &str, passed| TestCase {
            name: name.into(),
            passed,
            expected: "deny".into(),
            actual: "allow".into(),
            policy_ids: vec!["p".into()],
            ..Default::default()
        };
        let response = TestPolicyResponse { cases: vec![case("one", true), case("two", false)], diagnostics: vec![] };
        assert_eq!(
            printed(|output| render_test(false, &response, output)),
            "pass  one: allow by p\nfail  two: expected deny, got allow by p\n1 of 2 cases passed\n"
        );
    }
}
