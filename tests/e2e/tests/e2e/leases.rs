// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every end of a lease is seen by whoever asks, and recorded with its cause.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Actor, NOBODY, OTHER, Setup, World, wait_until, with_daemon};
use serde_json::json;

use crate::calls::{Released, cut_off, denied, refused, release_as, release_loose, released};

/// So many that luck does not look like being told.
const HOLDERS: u32 = 8;

fn recorded(world: &World, got: &Released, cause: &str) -> Result<()> {
    let record = world.record("lease_ended", &[("/lease_id", got.lease.as_str().into())])?;
    assert_eq!(record["cause"], cause, "{record}");
    assert_eq!(record["decision_id"], got.decision, "{record}");
    Ok(())
}

/// Dead at the moment of asking, whatever was told or not told since.
fn dead_at_once(world: &World, got: &Released) -> Result<()> {
    assert!(!world.authority.is_active(&got.token)?, "the token is still good");
    Ok(())
}

fn give_back(lease: &str) -> serde_json::Value {
    json!({"do": "call", "call": "give_back", "on": "channel", "lease": lease})
}

#[test]
fn the_end_of_a_holder_is_told_and_not_only_found() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut took = Duration::ZERO;
        for _ in 0..HOLDERS {
            // It neither forks nor connects, so that only its lease makes its end worth telling.
            let mut agent = world.agent_with_channel()?;
            let got = released(&mut agent, &release_loose())?;
            agent.exit()?;
            let ended = Instant::now();
            recorded(world, &got, "exited")?;
            took += ended.elapsed();
        }
        // The sweep, once a second, would find them after half a second each.
        ensure!(took < HOLDERS * Duration::from_millis(250), "{HOLDERS} ends were recorded after {took:?} in all");
        Ok(())
    })
}

#[test]
fn a_lease_ends_when_another_image_takes_over() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        for image in ["other", "agent"] {
            let mut agent = world.agent_with_channel()?;
            let got = released(&mut agent, &release_loose())?;
            agent.exec(&world.program(image), &[])?;
            dead_at_once(world, &got)?;
            recorded(world, &got, "exec")?;
        }
        Ok(())
    })
}

#[test]
fn a_lease_ends_when_its_holder_becomes_another_user() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let setup = Setup::default().with_entries(
            "\n[[entry]]\nid = \"root\"\nspiffe_id = \"spiffe://example.org/agent/root\"\nkind = \"agent\"\n\
             selectors = [\"unix:uid:0\", \"unix:path:@BIN@/agent\"]\ngroups = [\"agents\"]\n",
        );
        world.write_entries_and_reload(&setup)?;
        let mut agent = world.spawn(&world.program("agent"), 0, &[])?;
        world.open_channel(&mut agent)?;
        let got = released(&mut agent, &release_loose())?;
        agent.act(&json!({"do": "set_uid", "uid": NOBODY}))?;
        dead_at_once(world, &got)?;
        recorded(world, &got, "uid_changed")?;
        // And it does not speak as it did on the channel that it had.
        cut_off(&mut agent, &release_loose())
    })
}

#[test]
fn a_lease_ends_when_it_expires() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let got = released(&mut agent, &release_as("short"))?;
        assert!(world.authority.is_active(&got.token)?);
        recorded(world, &got, "expired")?;
        dead_at_once(world, &got)?;
        assert!(world.authority.verify(&got.token).is_err(), "a verifier that does not ask sees it too");
        let renew = json!({"do": "call", "call": "renew", "on": "channel", "lease": got.lease});
        denied(world, &mut agent, &renew, "lease_not_yours").map(drop)
    })
}

#[test]
fn a_lease_ends_when_it_is_given_back_and_only_its_holder_can() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let mut twin = world.agent_with_channel()?;
        let got = released(&mut agent, &release_loose())?;
        // Says nothing about whose it is.
        assert!(twin.act(&give_back(&got.lease))?["ok"].is_object());
        assert!(world.authority.is_active(&got.token)?);
        let renew = json!({"do": "call", "call": "renew", "on": "channel", "lease": got.lease});
        denied(world, &mut twin, &renew, "lease_not_yours")?;
        for _ in 0..2 {
            assert!(agent.act(&give_back(&got.lease))?["ok"].is_object());
            dead_at_once(world, &got)?;
        }
        recorded(world, &got, "given_back")?;
        let many = world.audit()?.iter().filter(|record| record["kind"] == "lease_ended").count();
        assert_eq!(many, 1, "one lease ends once");
        refused(&mut agent, &give_back("\u{7f}"), "InvalidArgument").map(drop)
    })
}

#[test]
fn a_renewed_lease_takes_the_place_of_the_old_one() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let got = released(&mut agent, &release_loose())?;
        let renew = json!({"do": "call", "call": "renew", "on": "channel", "lease": got.lease});
        let renewed = released(&mut agent, &renew)?;
        dead_at_once(world, &got)?;
        recorded(world, &got, "renewed")?;
        assert!(world.authority.is_active(&renewed.token)?);
        denied(world, &mut agent, &renew, "lease_not_yours").map(drop)
    })
}

#[test]
fn an_operator_ends_leases_by_any_of_their_names() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut bystander = world.agent_with_channel()?;
        let kept = released(&mut bystander, &release_loose())?;
        for name in ["lease", "exec", "pid"] {
            let mut agent = world.agent_with_channel()?;
            let got = released(&mut agent, &release_loose())?;
            let value = match name {
                "lease" => got.lease.clone(),
                "exec" => format!("x{}", got.exec_id),
                _ => agent.pid().to_string(),
            };
            let told = world.ask(&["revoke", &format!("--{name}"), &value, "--reason", "a test"])?;
            assert_eq!(told["lease_ids"], json!([got.lease]), "{told}");
            dead_at_once(world, &got)?;
            recorded(world, &got, "revoked")?;
        }
        assert!(world.authority.is_active(&kept.token)?, "a bystander's lease ended");
        world.record("revoke", &[("/reason", "a test".into()), ("/revoked", 1.into())])?;
        world.ask(&["revoke", "--identity", "spiffe://example.org/agent/one"])?;
        dead_at_once(world, &kept)?;
        // Nothing left to end is a finding.
        assert_eq!(world.ctl(&["revoke", "--destination", "api"])?.code, 1);
        Ok(())
    })
}

#[test]
fn a_holder_killed_in_the_midst_of_others_ends_its_own_leases_only() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let agents: Vec<(Actor, Released)> = (0..8)
            .map(|_| {
                let mut agent = world.agent_with_channel()?;
                let got = released(&mut agent, &release_loose())?;
                Ok((agent, got))
            })
            .collect::<Result<_>>()?;
        let mut killed = Vec::new();
        let mut left = Vec::new();
        for (number, (agent, got)) in agents.into_iter().enumerate() {
            if number % 2 == 0 {
                // Dropped: killed by a signal it cannot catch.
                drop(agent);
                killed.push(got);
            } else {
                left.push((agent, got));
            }
        }
        for got in &killed {
            dead_at_once(world, got)?;
            recorded(world, got, "exited")?;
        }
        for (_, got) in &left {
            assert!(world.authority.is_active(&got.token)?);
        }
        Ok(())
    })
}

#[test]
fn a_thread_that_changes_its_user_does_not_get_the_leaders_credential() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        // The program of the agent, by root: one thread becomes the agent's user, the process does not.
        let mut agent = world.spawn(&world.program("agent"), 0, &[])?;
        let opened =
            agent.act(&json!({"do": "connect", "as": "api", "to": world.api("127.0.0.1"), "thread_euid": NOBODY}))?;
        assert!(opened["failed"].is_null());
        world.open_channel(&mut agent)?;
        denied(world, &mut agent, &release_loose(), "no_identity")?;
        agent.act(&json!({"do": "set_uid", "uid": OTHER}))?;
        wait_until("another user is nobody", || Ok(agent.act(&release_loose())?["ok"].is_null()))
    })
}
