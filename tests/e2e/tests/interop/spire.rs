// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A real SPIRE as the authority above: what it permits, and that what is below both trusts each other.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    CLIENT, CLIENT_ID, OTHER, SERVER, SERVER_ID, SOON, Spire, SpireSetup, World, two_workloads, wait_for, wait_until,
};
use serde_json::{Value, json};

use super::client;

const DOMAIN: &str = "example.org";
/// An identity that SPIRE gives.
const THEIRS: &str = "spiffe://example.org/elsewhere/workload";

fn start_spire(world: &World) -> Result<Spire> {
    let bin = std::env::var_os("AGENT_TEST_SPIRE").context("AGENT_TEST_SPIRE is not set: use xtask interop")?;
    Spire::start(&PathBuf::from(bin), world.path("spire"), DOMAIN, SpireSetup::AsItComes)
}

fn authority_records(world: &World) -> Result<Vec<Value>> {
    Ok(world.audit()?.into_iter().filter(|record| record["kind"] == "authority").collect())
}

fn bundle_keys(world: &World, usage: &str) -> Result<Vec<Value>> {
    let bundle = world.get("/bundle.json")?;
    let keys = bundle["keys"].as_array().context("no keys")?;
    Ok(keys.iter().filter(|key| key["use"] == usage).cloned().collect())
}

/// What a go-spiffe program says first, with SVIDs of the daemon or of SPIRE's agent.
fn said(world: &World, socket: &str, uid: u32, arguments: &[&str]) -> Result<Value> {
    world.talk_over(socket, &client(world)?, uid, arguments)?.next(SOON)
}

#[test]
fn spire_signs_the_ca_of_a_downstream_entry_and_both_sides_trust_each_other() -> Result<()> {
    const OURS: &str = "sockets/spiffe.sock";
    const SPIRES: &str = "spire/agent/api.sock";
    let mut world = World::prepare(two_workloads())?;
    let mut spire = start_spire(&world)?;
    spire.entry("/elsewhere/workload", OTHER, &[])?;
    let entry = spire.entry("/agent-daemon", 0, &[])?;
    let entry = entry.lines().find_map(|line| line.strip_prefix("Entry ID")).context("no entry id")?;
    let entry = entry.trim_start_matches([' ', ':']).trim().to_owned();
    spire.wait_for_identity()?;
    world.rewrite(
        two_workloads()
            .set("authority.upstream", json!("spire"))
            .set("spire.agent_socket", json!(spire.socket))
            .set("spire.server", json!(format!("127.0.0.1:{}", spire.port))),
    )?;
    // SPIRE permits a CA to downstream entries alone.
    world.daemon.start()?;
    let refused = wait_for("the refusal", || Ok(authority_records(&world)?.into_iter().next()))?;
    assert_eq!((&refused["outcome"], &refused["upstream"]), (&json!("deny"), &json!("spire")), "{refused}");
    let words = refused["error"].as_str().context("no error")?;
    ensure!(words.contains("has to be a downstream one"), "{words}");
    spire.server(&["entry", "delete", "-entryID", &entry])?;
    spire.entry("/agent-daemon", 0, &["-downstream"])?;
    let is_allowed = |record: &Value| record["outcome"] == "allow";
    wait_until("SPIRE signs the CA", || Ok(authority_records(&world)?.iter().any(is_allowed)))?;

    // Below our CA, below SPIRE's own, and across.
    let server = world.talk(&client(&world)?, SERVER, &["serve", CLIENT_ID])?;
    let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
    assert_eq!(said(&world, OURS, CLIENT, &["call", &port, SERVER_ID])?["answer"], "echo:hello");
    let server = world.talk(&client(&world)?, SERVER, &["serve", THEIRS])?;
    let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
    assert_eq!(said(&world, SPIRES, OTHER, &["call", &port, SERVER_ID])?["answer"], "echo:hello");
    let server = world.talk_over(SPIRES, &client(&world)?, OTHER, &["serve", CLIENT_ID])?;
    let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
    assert_eq!(said(&world, OURS, CLIENT, &["call", &port, THEIRS])?["answer"], "echo:hello");

    // Tokens too: our key is in SPIRE's bundle, and SPIRE's keys are in ours.
    wait_until("SPIRE's key is in our bundle", || Ok(bundle_keys(&world, "jwt-svid")?.len() >= 2))?;
    let token = said(&world, OURS, CLIENT, &["token", e2e::AUDIENCE])?;
    let token = token["token"].as_str().context("no token")?.to_owned();
    wait_until("SPIRE's agent knows our key", || {
        let told = said(&world, SPIRES, OTHER, &["validate", &token, e2e::AUDIENCE])?;
        Ok(told["offline"] == CLIENT_ID && told["online"] == CLIENT_ID)
    })?;
    let token = said(&world, SPIRES, OTHER, &["token", e2e::AUDIENCE])?;
    let token = token["token"].as_str().context("no token")?.to_owned();
    let told = said(&world, OURS, CLIENT, &["validate", &token, e2e::AUDIENCE])?;
    assert_eq!((&told["offline"], &told["online"]), (&json!(THEIRS), &json!(THEIRS)), "{told}");

    // An authority that SPIRE prepares is trusted here before it signs anything.
    let before = bundle_keys(&world, "x509-svid")?.len();
    spire.server(&["localauthority", "x509", "prepare"])?;
    world.ctl(&["reload"])?;
    wait_until("the prepared authority is known", || Ok(bundle_keys(&world, "x509-svid")?.len() > before))?;

    // Without SPIRE all that goes on, over a restart too.
    spire.stop();
    world.daemon.stop()?;
    world.daemon.start()?;
    let server = world.talk(&client(&world)?, SERVER, &["serve", CLIENT_ID])?;
    let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
    assert_eq!(said(&world, OURS, CLIENT, &["call", &port, SERVER_ID])?["answer"], "echo:hello");
    let told = said(&world, OURS, CLIENT, &["validate", &token, e2e::AUDIENCE])?;
    assert_eq!(told["online"], THEIRS, "{told}");
    Ok(())
}
