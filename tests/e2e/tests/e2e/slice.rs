// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The main job: connect, ask, get; and those that get nothing.

use anyhow::{Result, ensure};
use e2e::{AUDIENCE, NOBODY, OTHER, Setup, with_daemon};
use serde_json::json;

use crate::calls::{attest, denied, refused, release_for, release_loose, released};

#[test]
fn an_agent_that_connects_and_asks_gets_a_token_that_verifies_and_ends_with_it() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let got = released(&mut agent, &release_for(cookie))?;
        let claims = world.authority.verify(&got.token)?;
        assert_eq!(claims.sub, "spiffe://example.org/agent/one");
        assert_eq!(claims.jti, got.lease);
        assert!(world.authority.is_active(&got.token)?);
        let record = world.record("decision", &[("/decision_id", got.decision.as_str().into())])?;
        assert_eq!(record["outcome"], "allow");
        assert_eq!(record["connection"]["cookie"], cookie);
        assert_eq!(record["audience"], AUDIENCE);
        assert_eq!(record["exec"]["tgid"], agent.pid());
        assert!(!record.to_string().contains(&got.token));
        agent.exit()?;
        // At once, not when an event came through: introspection looks into the kernel's map.
        assert!(!world.authority.is_active(&got.token)?);
        let ended = world.record("lease_ended", &[("/lease_id", got.lease.as_str().into())])?;
        assert_eq!(ended["cause"], "exited");
        ensure!(!world.daemon.log()?.contains(&got.token), "the token stands in the log");
        Ok(())
    })
}

#[test]
fn another_program_of_the_same_user_with_the_same_request_gets_nothing() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut impostor = world.spawn(&world.program("other"), NOBODY, &[])?;
        world.open_channel(&mut impostor)?;
        let cookie = impostor.connect("api", &world.api("127.0.0.1"))?;
        let record = denied(world, &mut impostor, &release_for(cookie), "no_identity")?;
        // The operator sees which fact differs.
        assert_eq!(record["near_misses"][0]["entry_id"], "agent");
        assert!(record["expected"].as_str().unwrap_or_default().starts_with("unix:path:"), "{record}");
        Ok(())
    })
}

#[test]
fn the_same_program_of_another_user_gets_nothing() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.spawn(&world.program("agent"), OTHER, &[])?;
        world.open_channel(&mut agent)?;
        denied(world, &mut agent, &release_loose(), "no_identity").map(drop)
    })
}

#[test]
fn a_release_needs_a_connection_of_its_own_to_the_destination() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let elsewhere = std::net::TcpListener::bind("127.0.0.1:0")?;
        let elsewhere = agent.connect("elsewhere", &elsewhere.local_addr()?.to_string())?;
        denied(world, &mut agent, &release_for(elsewhere), "connection_elsewhere")?;
        denied(world, &mut agent, &release_for(u64::MAX), "connection_unknown")?;
        let none = json!({"do": "call", "call": "release", "on": "channel", "destination": "api", "binding": "token"});
        denied(world, &mut agent, &none, "connection_required")?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        released(&mut agent, &release_for(cookie))?;
        // Once for a connection.
        denied(world, &mut agent, &release_for(cookie), "connection_used")?;
        agent.act(&json!({"do": "close", "socket": "api"}))?;
        denied(world, &mut agent, &release_for(cookie), "connection_unknown").map(drop)
    })
}

#[test]
fn requests_that_are_malformed_or_too_large_are_refused_and_the_next_one_is_answered() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        for (member, value) in [("destination", ""), ("destination", "\u{1b}[2J"), ("binding", "no such binding\n")] {
            let mut call = release_loose();
            call[member] = value.into();
            let answer = agent.act(&call)?;
            ensure!(
                ["InvalidArgument", "PermissionDenied"].contains(&answer["status"].as_str().unwrap_or_default()),
                "{call}: {answer}"
            );
        }
        let mut traced = release_loose();
        traced["traceparent"] = "x".repeat(65).into();
        refused(&mut agent, &traced, "InvalidArgument")?;
        let mut large = release_loose();
        large["destination"] = "x".repeat(100_000).into();
        let answer = agent.act(&large)?;
        ensure!(
            ["OutOfRange", "ResourceExhausted"].contains(&answer["status"].as_str().unwrap_or_default()),
            "{answer}"
        );
        let answer = agent.act(&attest())?;
        assert_eq!(answer["ok"]["spiffe_ids"][0], "spiffe://example.org/agent/one");
        Ok(())
    })
}

#[test]
fn a_static_secret_reaches_the_agent_and_no_file_or_record() -> Result<()> {
    const SECRET: &str = "canary-5f1d7c0a9e";
    let mut setup = Setup::default();
    setup.destinations.push_str(
        "\n[[source]]\nname = \"key\"\ntype = \"static\"\nsecret = \"api-key\"\n\n[[binding]]\nname = \"key\"\n\
         destination = \"api\"\nidentities = [\"spiffe://example.org/*\"]\nsource = \"key\"\nttl = \"5m\"\n",
    );
    with_daemon(setup, |world| {
        let mut agent = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let mut call = release_for(cookie);
        call["binding"] = "key".into();
        // Declared, and not there yet.
        refused(&mut agent, &call, "Unavailable")?;
        world.write("config/secret", &format!("{SECRET}\n"))?;
        world.ask(&["secret", "set", "api-key", "--file", &world.text("config/secret")])?;
        std::fs::remove_file(world.path("config/secret"))?;
        let got = released(&mut agent, &call)?;
        assert_eq!(got.token, SECRET);
        // Another identity, another program: nothing.
        let mut impostor = world.spawn(&world.program("other"), NOBODY, &[])?;
        world.open_channel(&mut impostor)?;
        call["cookie"] = impostor.connect("api", &world.api("127.0.0.1"))?.into();
        denied(world, &mut impostor, &call, "no_identity")?;
        world.daemon.kill9()?;
        world.daemon.start()?;
        world.open_channel(&mut agent)?;
        call["cookie"] = agent.connect("api", &world.api("127.0.0.1"))?.into();
        assert_eq!(released(&mut agent, &call)?.token, SECRET, "it is sealed, not lost");
        let found = std::process::Command::new("grep").args(["-rlF", SECRET]).arg(world.path("")).output()?;
        ensure!(found.status.code() == Some(1), "the secret stands in {}", String::from_utf8_lossy(&found.stdout));
        Ok(())
    })
}
