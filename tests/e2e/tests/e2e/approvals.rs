// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A request waits for a person, who answers with `agentctl`.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, World, wait_until, with_daemon};
use serde_json::{Value, json};

use crate::calls::{Released, denied, release_loose, released};
use crate::sessions::{decision, install, run, setup};

/// The agent's own permit wants a word; the launcher's, which bounds it, does not.
const POLICY: &str = r#"
@id("a-person-reads-along")
@approval("a person has to see what goes to the API")
permit (principal == Workload::"spiffe://example.org/tool", action == Action::"release", resource == Destination::"api");
"#;

/// What waits, once something does.
fn waiting(world: &World) -> Result<Value> {
    let mut found = Value::Null;
    wait_until("a request should wait for an approval", || {
        found = world.ask(&["approvals"])?["approvals"][0].clone();
        Ok(found.is_object())
    })?;
    Ok(found)
}

/// Asks on a thread of its own, and meanwhile answers.
fn asked(world: &World, tool: &mut Actor, answer: &[&str]) -> Result<(Result<Released>, Value)> {
    thread::scope(|scope| {
        let asking = scope.spawn(|| released(tool, &release_loose()));
        let waits = waiting(world)?;
        let id = waits["approval_id"].as_str().context("no id")?;
        let [verb, further @ ..] = answer else { anyhow::bail!("no verb") };
        world.ask(&[&["approvals", *verb, id], further].concat())?;
        let got = asking.join().ok().context("the asker panicked")?;
        Ok((got, waits))
    })
}

#[test]
fn what_policy_leaves_to_a_person_waits_for_agentctl() -> Result<()> {
    let mut setup = setup().with_policies(POLICY);
    // The tool has no permit of its own but the one that wants a word.
    setup.entries = setup.entries.replace(
        "selectors = [\"unix:uid:65534\", \"unix:path:@BIN@/tool\"]\ngroups = [\"agents\"]",
        "selectors = [\"unix:uid:65534\", \"unix:path:@BIN@/tool\"]",
    );
    with_daemon(setup.set("approvals.wait", "\"5s\""), |world| {
        install(world)?;
        let mut tool = run(world, &["--purpose", "the report"], &world.program("tool"))?;
        let (got, waits) = asked(world, &mut tool, &["allow", "--reason", "looked at it"])?;
        for (name, expected) in [
            ("user", json!("uid:65534")),
            ("spiffe_id", json!("spiffe://example.org/tool")),
            ("destination", json!("api")),
            ("action", json!("release")),
            ("policy_ids", json!(["a-person-reads-along"])),
            ("actors", json!(["spiffe://example.org/tool", "spiffe://example.org/launcher"])),
            ("tgid", json!(tool.pid())),
        ] {
            assert_eq!(waits[name], expected, "{name}: {waits}");
        }
        let got = got?;
        assert!(world.authority.is_active(&got.token)?);
        let record = decision(world, &got.decision)?;
        assert_eq!(
            (&record["approval"]["approval_id"], &record["approval"]["scope"]),
            (&waits["approval_id"], &json!("once"))
        );
        let said = world.record("approval", &[("/state", "allowed".into())])?;
        assert_eq!((&said["reason"], &said["by"]["uid"]), (&json!("looked at it"), &json!(0)));
        // Once was once.
        let (refused, _) = asked(world, &mut tool, &["deny"])?;
        ensure!(refused.is_err(), "released although a person refused it");
        world.record("decision", &[("/reason", "approval_denied".into())])?;
        let (got, _) = asked(world, &mut tool, &["allow", "--session"])?;
        got?;
        released(&mut tool, &release_loose())?;
        ensure!(world.ask(&["approvals"])?["approvals"] == json!([]), "something waits");
        // That was for this session; another one asks again, and nobody answers.
        let mut other = run(world, &[], &world.program("tool"))?;
        denied(world, &mut other, &release_loose(), "approval_expired")?;
        assert_eq!(world.ctl(&["approvals", "allow", "0000"])?.code, 1);
        Ok(())
    })
}
