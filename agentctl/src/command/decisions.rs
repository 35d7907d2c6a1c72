// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl decisions`.

use agent_proto::admin::{Decision, DecisionsRequest};
use serde::Serialize;

use super::story;
use crate::Verdict;
use crate::cli::DecisionsArgs;
use crate::client::Client;
use crate::error::Error;
use crate::id::ExecId;
use crate::output::Output;
use crate::table::{Cell, Column, Table};
use crate::text::near_miss;
use crate::{json, time};

const SCHEMA: &str = "agentctl.decisions/v1";
const COLUMNS: &[Column] = &[
    Column::Left("TIME"),
    Column::Left("DECISION"),
    Column::Left("RESULT"),
    Column::Left("ACTION"),
    Column::Left("EXEC"),
    Column::Right("PID"),
    Column::Left("COMM"),
    Column::Left("IDENTITY"),
    Column::Left("DESTINATION"),
    Column::Left("WHY"),
];

#[derive(Serialize)]
struct Document<'a> {
    decisions: Vec<json::Decision<'a>>,
}

pub(crate) async fn run(client: &Client, args: &DecisionsArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let request = DecisionsRequest { limit: args.limit, denied_only: args.denied };
    let response = client.answer(client.api().decisions(request)).await?;
    if output.is_json() {
        let decisions = response.decisions.iter().map(json::Decision::from).collect();
        output.document(SCHEMA, &Document { decisions })?;
        return Ok(Verdict::Ok);
    }
    let mut table = Table::new(COLUMNS);
    table.page(response.decisions.iter().map(row).collect(), output)?;
    table.finish(
        "no decisions in memory; the audit log has all of them: agentctl audit query --kind decision",
        output,
    )?;
    Ok(Verdict::Ok)
}

fn row(decision: &Decision) -> Vec<Cell> {
    let (style, _) = story::verdict(decision);
    let result = match (decision.allowed, decision.audit_mode) {
        (true, true) => "allow*",
        (true, false) => "allow",
        (false, _) => "deny",
    };
    vec![
        Cell::new(time::stamp(decision.time.as_ref())),
        Cell::new(&decision.decision_id),
        Cell::painted(style, result),
        Cell::new(&decision.action),
        // Before a caller is attested there is no exec instance.
        Cell::new(if decision.exec_id == 0 { String::new() } else { ExecId(decision.exec_id).to_string() }),
        Cell::new(if decision.tgid == 0 { String::new() } else { decision.tgid.to_string() }),
        Cell::new(&decision.comm),
        Cell::new(&decision.spiffe_id),
        Cell::new(&decision.destination),
        Cell::new(why(decision)),
    ]
}

/// The shortest reason that names a fact: the policies, the nearest entry, the unmet condition, or the sentence.
pub(super) fn why(decision: &Decision) -> String {
    let mut why = decision.reason.clone();
    if decision.allowed && !decision.audit_mode {
        if !decision.policy_ids.is_empty() {
            why.push_str(&format!(" by {}", decision.policy_ids.join(",")));
        }
        return why;
    }
    let fact = near_miss(&decision.near_misses)
        .or_else(|| {
            let miss = decision.policy_near_misses.first()?;
            Some(format!("{} needs {}", miss.policy_id, miss.condition))
        })
        .or_else(|| {
            let differs = !decision.expected.is_empty();
            differs.then(|| format!("expected {} got {}", decision.expected, crate::text::dash(&decision.actual)))
        })
        .unwrap_or_else(|| decision.detail.clone());
    if !fact.is_empty() {
        why.push_str(&format!(": {fact}"));
    }
    why
}

#[cfg(test)]
mod tests {
    use agent_proto::admin::{NearMiss, PolicyNearMiss};

    use super::*;

    #[test]
    fn why_names_the_nearest_fact() {
        let decision = |allowed| Decision {
            allowed,
            reason: "r".into(),
            detail: "a sentence".into(),
            policy_ids: vec!["p".into()],
            ..Default::default()
        };
        assert_eq!(why(&decision(true)), "r by p");
        assert_eq!(why(&decision(false)), "r: a sentence");
        assert_eq!(why(&Decision { audit_mode: true, ..decision(true) }), "r: a sentence");
        let fact = Decision { expected: "tcp".into(), ..decision(false) };
        assert_eq!(why(&fact), "r: expected tcp got -");
        let policy = PolicyNearMiss { policy_id: "p2".into(), condition: "x == 1".into() };
        let policy = Decision { policy_near_misses: vec![policy], ..fact };
        assert_eq!(why(&policy), "r: p2 needs x == 1");
        let entry = NearMiss { entry_id: "writer".into(), ..Default::default() };
        assert_eq!(why(&Decision { near_misses: vec![entry], ..policy }), "r: writer");
    }
}
