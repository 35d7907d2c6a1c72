// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl doctor`: each assumption with what was seen, what is lost without it, and what to do.

use agent_proto::admin::{Check, DoctorRequest, DoctorResponse};

use crate::Verdict;
use crate::client::Client;
use crate::error::Error;
use crate::json::{self, outcome};
use crate::output::{Line, Output, Style};

const SCHEMA: &str = "agentctl.doctor/v1";

pub(crate) async fn run(client: &Client, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let response = client.answer(client.api().doctor(DoctorRequest {})).await?;
    if output.is_json() {
        output.document(SCHEMA, &json::Doctor::from(&response))?;
    } else {
        render(&response, output)?;
    }
    // A doctor that examined nothing has found nothing out.
    let healthy = !response.checks.is_empty() && response.checks.iter().all(|check| outcome(check.outcome) != "fail");
    Ok(Verdict::ok_if(healthy))
}

fn render(response: &DoctorResponse, output: &mut Output<'_>) -> Result<(), Error> {
    let mut counts = [0_usize; 3];
    for check in &response.checks {
        let [passed, warned, failed] = &mut counts;
        match outcome(check.outcome) {
            "pass" => *passed += 1,
            "warn" => *warned += 1,
            _ => *failed += 1,
        }
        render_check(check, output)?;
    }
    let [passed, warned, failed] = counts;
    let style = |number: usize, style| if number > 0 { style } else { Style::Plain };
    output.blank()?;
    output.line(
        &Line::painted(style(passed, Style::Good), format!("{passed} passed"))
            .and(", ")
            .paint(style(warned, Style::Warn), format!("{warned} warned"))
            .and(", ")
            .paint(style(failed, Style::Bad), format!("{failed} failed")),
    )
}

fn render_check(check: &Check, output: &mut Output<'_>) -> Result<(), Error> {
    let word = outcome(check.outcome);
    let style = match word {
        "pass" => Style::Good,
        "warn" => Style::Warn,
        _ => Style::Bad,
    };
    let line =
        Line::painted(style, format!("{word:<6}")).and(&check.title).paint(Style::Dim, format!("  [{}]", check.id));
    output.line(&line)?;
    for (name, text) in [("", &check.reason), ("lost: ", &check.guarantee), ("fix:  ", &check.fix)] {
        if !text.is_empty() {
            output.text(format!("      {name}{text}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_proto::admin::Outcome;

    use super::*;
    use crate::cli::Format;

    #[test]
    fn a_failure_says_what_is_lost_and_how_to_mend_it() {
        let check = |outcome: Outcome, fix: &str| Check {
            id: "lsm.active".into(),
            title: "LSM programs".into(),
            outcome: outcome.into(),
            reason: "bpf is not among the active LSMs".into(),
            fix: fix.into(),
            guarantee: fix.into(),
        };
        let response = DoctorResponse {
            checks: vec![check(Outcome::Pass, ""), check(Outcome::Fail, "x"), check(Outcome::Unspecified, "y")],
        };
        let mut text = Vec::new();
        render(&response, &mut Output::new(&mut text, Format::Table, false)).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("fail  LSM programs  [lsm.active]\n      bpf is not among the active LSMs\n      lost: x\n      fix:  x\n"), "{text}");
        assert!(text.ends_with("1 passed, 0 warned, 2 failed\n"), "{text}");
    }
}
