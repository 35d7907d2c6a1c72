// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl explain`: what would be decided now, told from the facts to the answer.

use agent_proto::admin::explain_request::Subject as Asked;
use agent_proto::admin::{Decision, ExplainRequest, ExplainResponse};

use super::story;
use crate::Verdict;
use crate::cli::ExplainArgs;
use crate::client::Client;
use crate::error::Error;
use crate::id::{ExecId, Subject, who};
use crate::json;
use crate::output::{Line, Output, Style};

const SCHEMA: &str = "agentctl.explain/v1";

pub(crate) async fn run(client: &Client, args: &ExplainArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let request = ExplainRequest {
        subject: Some(match args.subject {
            Subject::Process(tgid) => Asked::Tgid(tgid),
            Subject::Exec(ExecId(id)) => Asked::ExecId(id),
        }),
        destination: args.destination.clone(),
        cookie: args.cookie,
        binding: args.binding.clone(),
    };
    let response = client.answer(client.api().explain(request)).await?;
    // Without a decision there is nothing that could be called allowed.
    let decision = response.decision.as_ref().ok_or(Error::Incomplete("decision"))?;
    if output.is_json() {
        output.document(SCHEMA, &json::Explain::of(decision, &response))?;
    } else {
        render(decision, &response, output)?;
    }
    Ok(Verdict::ok_if(decision.allowed))
}

fn render(decision: &Decision, response: &ExplainResponse, output: &mut Output<'_>) -> Result<(), Error> {
    let (style, word) = story::verdict(decision);
    let who = who(decision.exec_id, decision.tgid, &decision.comm);
    output.line(
        &Line::painted(style, word).and(format!(": {} for {who} to {}", decision.action, decision.destination)),
    )?;
    output.text(format!("  {}: {}", decision.reason, decision.detail))?;
    for (name, value) in [("expected", &decision.expected), ("got     ", &decision.actual)] {
        if !value.is_empty() {
            output.text(format!("  {name} {value}"))?;
        }
    }
    output.blank()?;
    match &response.process {
        Some(process) => {
            story::process(process, output)?;
            output.blank()?;
            story::identity(process, output)?;
        }
        None => {
            output.line(&Line::painted(Style::Warn, "the process is gone: no facts are left"))?;
            story::near_misses(&decision.near_misses, output)?;
        }
    }
    output.blank()?;
    output.title("destination")?;
    let binding = if decision.binding.is_empty() { "no binding fits" } else { &decision.binding };
    output.text(format!("  {}, binding: {binding}", decision.destination))?;
    output.blank()?;
    story::policy(decision, output)?;
    output.blank()?;
    output.title("connections that fit")?;
    if response.connections.is_empty() {
        output.line(&Line::painted(Style::Dim, "  none seen from this exec instance to that destination"))?;
    }
    for connection in &response.connections {
        output.text(format!(
            "  cookie {}  {}  uid {} by {}",
            connection.cookie,
            story::route(connection),
            connection.uid,
            connection.hook
        ))?;
    }
    if !response.hints.is_empty() {
        output.blank()?;
        output.title("what to do next")?;
    }
    for hint in &response.hints {
        output.text(format!("  - {hint}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use agent_proto::admin::{Difference, NearMiss, PolicyNearMiss, Process};
    use agent_proto::v1::{Ancestor, Connection, ExecInstance, Provenance, Selector};

    use super::*;
    use crate::cli::Format;

    fn denied() -> ExplainResponse {
        ExplainResponse {
            decision: Some(Decision {
                action: "release".into(),
                exec_id: 42,
                tgid: 7,
                comm: "python3".into(),
                destination: "reports".into(),
                reason: "no_identity".into(),
                detail: "no registration entry matches".into(),
                policy_generation: "sha256:0011".into(),
                policy_near_misses: vec![PolicyNearMiss {
                    policy_id: "writers".into(),
                    condition: "context.evidence.uid\n== 1000".into(),
                }],
                ..Default::default()
            }),
            process: Some(Process {
                instance: Some(ExecInstance {
                    exec_id: 42,
                    tgid: 7,
                    comm: "python3".into(),
                    selectors: vec![Selector { value: "unix:uid:1000".into(), provenance: Provenance::Kernel.into() }],
                    lineage: vec![Ancestor { exec_id: 41, path: "/bin/sh\x1b[2J".into(), ..Default::default() }],
                    ..Default::default()
                }),
                script: "/opt/impostor.py".into(),
                near_misses: vec![NearMiss {
                    entry_id: "report-writer".into(),
                    spiffe_id: "spiffe://example.org/agent/writer".into(),
                    differences: vec![Difference {
                        expected: format!("script:sha256:{}", "a".repeat(64)),
                        ..Default::default()
                    }],
                }],
                ..Default::default()
            }),
            connections: vec![Connection {
                cookie: 9,
                protocol: "tcp".into(),
                remote_address: "::1".into(),
                remote_port: 443,
                hook: "connect6".into(),
                ..Default::default()
            }],
            hints: vec!["register the script".into()],
        }
    }

    fn rendered(response: &ExplainResponse, format: Format) -> String {
        let mut text = Vec::new();
        let mut output = Output::new(&mut text, format, false);
        let decision = response.decision.as_ref().unwrap();
        match format {
            Format::Json => output.document(SCHEMA, &json::Explain::of(decision, response)).unwrap(),
            _ => render(decision, response, &mut output).unwrap(),
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_denial_is_told_from_the_facts_to_what_to_do_next() {
        let text = rendered(&denied(), Format::Table);
        let mut from = 0;
        for expected in [
            "deny: release for x42 (pid 7, python3) to reports\n  no_identity: no registration entry matches\n",
            "script    /opt/impostor.py",
            "lineage   x41 /bin/sh\\u{1b}[2J (ended)",
            "kernel        unix:uid:1000",
            "none: no registration entry matches",
            "entry report-writer (spiffe://example.org/agent/writer): one fact differs",
            "    expected script:sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n    got      nothing of that kind",
            "binding: no binding fits",
            "generation sha256:0011",
            "writers would permit, but this does not hold:\n    context.evidence.uid\n    == 1000",
            "cookie 9  tcp → [::1]:443",
            "  - register the script",
        ] {
            let at =
                text[from..].find(expected).unwrap_or_else(|| panic!("no {expected:?} after byte {from} of\n{text}"));
            from += at + expected.len();
        }
    }

    #[test]
    fn an_audit_mode_allowance_does_not_look_like_permission() {
        let mut response = denied();
        if let Some(decision) = &mut response.decision {
            (decision.allowed, decision.audit_mode) = (true, true);
        }
        assert!(rendered(&response, Format::Table).starts_with("allow (audit mode: policy denies): "));
    }

    #[test]
    fn the_json_has_ids_that_no_reader_rounds() {
        let mut response = denied();
        if let Some(decision) = &mut response.decision {
            decision.exec_id = u64::MAX;
        }
        response.connections[0].cookie = u64::MAX;
        let value: serde_json::Value = serde_json::from_str(&rendered(&response, Format::Json)).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        assert_eq!(value["allowed"], false);
        assert_eq!(value["decision"]["exec_id"], "x18446744073709551615");
        assert_eq!(value["connections"][0]["cookie"], "18446744073709551615");
        assert_eq!(value["process"]["near_misses"][0]["differences"][0]["actual"], serde_json::Value::Null);
        assert_eq!(value["process"]["selectors"][0]["provenance"], "kernel");
    }
}
