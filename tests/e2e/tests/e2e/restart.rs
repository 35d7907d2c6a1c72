// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon ends, by force or in order, and comes back: no binding is lost and nothing dead comes to life.

use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{Setup, with_daemon};
use serde_json::json;

use crate::calls::{attest, denied, release_for, release_loose, released};

#[test]
fn bindings_and_leases_outlive_a_daemon_that_is_killed() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let api = world.api("127.0.0.1");
        let mut before = world.agent_with_channel()?;
        let cookie_before = before.connect("api", &api)?;
        let unused = before.connect("unused", &api)?;
        let kept = released(&mut before, &release_for(cookie_before))?;
        let id_before = before.act(&attest())?["ok"]["exec_id"].clone();
        let mut leaving = world.agent_with_channel()?;
        let lost = released(&mut leaving, &release_loose())?;
        let mut changing = world.agent_with_channel()?;
        let changed = released(&mut changing, &release_loose())?;

        world.daemon.kill9()?;
        // Everything of this happens while nobody listens but the kernel's own programs.
        leaving.exit()?;
        changing.exec(&world.program("agent"), &[])?;
        let mut meanwhile = world.agent()?;
        let cookie_meanwhile = meanwhile.connect("api", &api)?;
        let mut child = meanwhile.fork(None)?;
        let mut impostor = world.spawn(&world.program("other"), e2e::NOBODY, &[])?;
        let cookie_impostor = impostor.connect("api", &api)?;
        world.daemon.start()?;

        // The tokens: signed by the same key, good exactly where the holder is what it was.
        assert_eq!(world.authority.verify(&kept.token)?.jti, kept.lease);
        assert!(world.authority.is_active(&kept.token)?, "a live holder's token died with the daemon");
        assert!(!world.authority.is_active(&lost.token)?, "the holder ended while the daemon was down");
        assert!(!world.authority.is_active(&changed.token)?, "the holder was replaced while the daemon was down");
        for (got, cause) in [(&lost, "exited"), (&changed, "exec")] {
            let ended = world.record("lease_ended", &[("/lease_id", got.lease.as_str().into())])?;
            assert_eq!(ended["cause"], cause);
        }
        // The bindings: from before, and from meanwhile.
        world.open_channel(&mut before)?;
        assert_eq!(before.act(&attest())?["ok"]["exec_id"], id_before);
        denied(world, &mut before, &release_for(cookie_before), "connection_used")?;
        released(&mut before, &release_for(unused))?;
        world.open_channel(&mut meanwhile)?;
        world.open_channel(&mut child)?;
        denied(world, &mut child, &release_for(cookie_meanwhile), "connection_not_yours")?;
        released(&mut meanwhile, &release_for(cookie_meanwhile))?;
        world.open_channel(&mut impostor)?;
        denied(world, &mut impostor, &release_for(cookie_impostor), "no_identity")?;
        denied(world, &mut before, &release_for(cookie_impostor), "connection_not_yours")?;
        // A lease that was taken up ends like any other.
        before.exit()?;
        assert!(!world.authority.is_active(&kept.token)?);
        let ended = world.record("lease_ended", &[("/lease_id", kept.lease.as_str().into())])?;
        assert_eq!(ended["cause"], "exited");
        Ok(())
    })
}

#[test]
fn a_daemon_that_is_asked_to_stop_ends_in_order_and_takes_up_its_leases_again() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let got = released(&mut agent, &release_loose())?;
        let status = world.daemon.stop()?;
        assert_eq!(status.code(), Some(0));
        world.record("stop", &[])?;
        for socket in ["agent.sock", "admin.sock"] {
            assert!(!world.path("sockets").join(socket).exists(), "{socket} was left behind");
        }
        world.daemon.start()?;
        assert!(world.authority.is_active(&got.token)?);
        Ok(())
    })
}

#[test]
fn what_was_bound_before_the_programs_were_taken_out_is_forgotten() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let got = released(&mut agent, &release_loose())?;
        world.daemon.stop()?;
        let mut unload: Command = world.daemon.command();
        ensure!(unload.arg("--unload").status()?.success(), "cannot unload");
        world.daemon.start()?;
        // The process is seeded anew: another exec instance as far as anybody can prove.
        assert!(!world.authority.is_active(&got.token)?);
        world.open_channel(&mut agent)?;
        denied(world, &mut agent, &release_for(cookie), "connection_unknown")?;
        let attested = agent.act(&attest())?;
        assert!(attested["ok"]["exec_id"].as_u64().is_some_and(|id| id != got.exec_id), "{attested}");
        let record = released(&mut agent, &release_loose())?;
        let record = world.record("decision", &[("/decision_id", record.decision.as_str().into())])?;
        assert!(record["exec"]["flags"].to_string().contains("seeded"), "{record}");
        Ok(())
    })
}

#[test]
fn a_second_daemon_on_the_same_sockets_does_not_start() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let output = world.daemon.command().output()?;
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        // And does the first one no harm.
        released(&mut agent, &release_loose())?;
        let status = agent.act(&json!({"do": "channel", "as": "again", "to": world.socket()}));
        status.map(drop)
    })
}
