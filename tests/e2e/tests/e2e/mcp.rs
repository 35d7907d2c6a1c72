// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A real agent of many processes for two users at once: an orchestrator, MCP servers, and what their shells start.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::{OTHER, SOON, beside, sdk_script, with_daemon};
use serde_json::{Value, json};

use crate::issuer::Issuer;
use crate::sessions::{install, setup};

/// Each part is an identity of its own, by its script; what stands in the arguments of an interpreter is its own word.
const PARTS: &str = r#"
[[entry]]
id = "orchestrator"
spiffe_id = "spiffe://example.org/agent/orchestrator"
kind = "agent"
selectors = ["unix:uid:65533", "script:path:@BIN@/mcp_agent.py"]
accept_claimed = true
groups = ["agents"]

[[entry]]
id = "tools"
spiffe_id = "spiffe://example.org/tool/server"
kind = "tool"
selectors = ["unix:uid:65533", "script:path:@BIN@/mcp_server.py"]
accept_claimed = true
groups = ["agents"]

[[entry]]
id = "fetch"
spiffe_id = "spiffe://example.org/tool/fetch"
kind = "tool"
selectors = ["unix:uid:65533", "script:path:@BIN@/mcp_tool.py", "lineage:spiffe_id:spiffe://example.org/tool/server"]
accept_claimed = true
groups = ["agents"]
"#;

const POLICY: &str = r#"
@id("orchestrator-acts")
permit (principal == Workload::"spiffe://example.org/agent/orchestrator", action == Action::"actFor", resource);
"#;

/// The programs on the way down to the one that decided something, each with its identity.
fn way(program: &Value) -> Vec<(String, String)> {
    let text = |name: &str| program[name].as_str().unwrap_or_default().to_owned();
    let mut way = vec![(text("script"), text("spiffe_id"))];
    if let Some([below]) = program["programs"].as_array().map(Vec::as_slice) {
        way.extend(self::way(below));
    }
    way
}

fn decisions<'a>(program: &'a Value, found: &mut Vec<&'a Value>) {
    found.extend(program["decisions"].as_array().into_iter().flatten());
    program["programs"].as_array().into_iter().flatten().for_each(|below| decisions(below, found));
}

#[test]
fn the_trace_of_one_credential_of_a_tool_is_the_chain_of_one_user() -> Result<()> {
    let setup = setup().with_entries(PARTS).with_policies(POLICY);
    with_daemon(setup.clone(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup)?;
        beside(world, &["mcp_server.py", "mcp_tool.py"])?;
        let (folder, api) = (world.path("open"), world.api("127.0.0.1"));
        let tokens = [issuer.token("sub=ada")?, issuer.token("sub=bob")?];
        let arguments = [api.as_str(), &folder.to_string_lossy(), &tokens[0], &tokens[1]];
        let mut agent = sdk_script(world, OTHER, "mcp_agent.py", &arguments)?;
        let did = [agent.next(SOON)?, agent.next(SOON)?];
        let parts =
            ["agent/orchestrator", "tool/server", "tool/fetch"].map(|name| format!("spiffe://example.org/{name}"));
        for (own, other) in [(&did[0], &did[1]), (&did[1], &did[0])] {
            let text = |of: &Value, name: &str| {
                of[name].as_str().map(str::to_owned).with_context(|| format!("no {name}: {of}"))
            };
            let got: Value = serde_json::from_str(&text(own, "tool")?).with_context(|| format!("{own}"))?;
            assert_eq!(got["identity"], parts[2], "{own}");
            let lease = text(&got, "lease")?;
            let told = world.ask(&["audit", "trace", &lease])?;
            let users = told["users"].as_array().context("no users")?;
            assert_eq!((users.len(), &users[0]["user"]), (1, &own["user"]), "{told}");
            let session = &users[0]["sessions"][0];
            assert_eq!((&session["session_id"], &session["purpose"]), (&own["session"], &json!("the report")));
            assert_eq!(session["opened_by"], parts[0]);
            let [opener] = session["programs"].as_array().context("no programs")?.as_slice() else {
                anyhow::bail!("more than one opener: {told}")
            };
            let named: Vec<String> = way(opener).into_iter().map(|(_, id)| id).filter(|id| !id.is_empty()).collect();
            assert_eq!(named, parts, "{told}");
            let mut all = Vec::new();
            decisions(opener, &mut all);
            let [decision] = all.as_slice() else { anyhow::bail!("more than one decision: {told}") };
            assert_eq!(decision["credential"]["lease_id"], lease);
            assert_eq!(decision["connection"]["remote_port"].as_str(), api.rsplit(':').next());
            ensure!(decision["policy_ids"] == json!(["agents-release"]), "{decision}");
            let steps: Vec<_> = decision["steps"].as_array().into_iter().flatten().collect();
            let words: Vec<_> = steps.iter().map(|step| (&step["kind"], &step["name"])).collect();
            let (instruction, call) = (json!("instruction"), json!("tool_call"));
            let (what, fetch) = (json!("write the report"), json!("fetch"));
            assert_eq!(words, [(&instruction, &what), (&call, &fetch)], "{decision}");
            ensure!(
                steps[1]["reference"].as_str().is_some_and(|reference| reference.starts_with("sha256:")),
                "{decision}"
            );
            let whole = told.to_string();
            for foreign in [
                text(other, "user")?,
                text(other, "session")?,
                text(&serde_json::from_str(&text(other, "tool")?)?, "lease")?,
            ] {
                ensure!(!whole.contains(&foreign), "{foreign} is in {whole}");
            }
        }
        for one in &did {
            fs::write(folder.join(one["session"].as_str().context("no session")?), "")?;
        }
        ensure!(agent.wait()?.success(), "the agent failed");
        Ok(())
    })
}
