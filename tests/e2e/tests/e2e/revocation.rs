// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What was let through is closed when it is taken back.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, Setup, World, wait_until, with_daemon};
use serde_json::{Value, json};

use crate::calls::{refused, release_for, released};
use crate::egress::{EPERM, Vault, governed, settled, setup, tried};

/// Long after the budget of 50 ms, which `xtask bench` looks at: this machine may have other things to do.
const SOON: Duration = Duration::from_secs(2);

const PERMITS: &str = r#"
@id("agents-vault")
permit (principal in Group::"agents", action == Action::"connect", resource)
when { resource.name == "vault-tcp" || resource.name == "vault-udp" };
"#;

/// Opens a connection and gives the vault's end of it.
fn opened(vault: &Vault, agent: &mut Actor, name: &str, address: &str) -> Result<TcpStream> {
    let command = json!({"do": "connect", "as": name, "to": vault.at(address)});
    ensure!(tried(agent, &command)?.is_null(), "{address} should be reached");
    let mut accepted = None;
    wait_until("the vault should be connected to", || match vault.tcp.accept() {
        Ok((peer, _)) => {
            accepted = Some(peer);
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error.into()),
    })?;
    let peer = accepted.context("nobody came")?;
    peer.set_nonblocking(false)?;
    peer.set_read_timeout(Some(SOON))?;
    Ok(peer)
}

fn is_closed(mut peer: &TcpStream) -> bool {
    match peer.read(&mut [0; 16]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn write(actor: &mut Actor, socket: &str) -> Result<Value> {
    actor.tell(&json!({"do": "write", "socket": socket, "bytes": "00"}))
}

fn works(actor: &mut Actor, socket: &str) -> Result<bool> {
    Ok(write(actor, socket)?.get("error").is_none())
}

fn passed(world: &World, from: &mut Actor, socket: &str, to: &mut Actor, name: &str) -> Result<()> {
    let door = world.text(&format!("open/{name}"));
    to.act(&json!({"do": "await_fd", "at": door, "as": "door"}))?;
    from.act(&json!({"do": "pass", "socket": socket, "to": door}))?;
    to.act(&json!({"do": "take", "from": "door", "as": name}))?;
    from.act(&json!({"do": "close", "socket": socket}))?;
    Ok(())
}

#[test]
fn what_is_open_is_closed_when_policy_takes_it_back() -> Result<()> {
    let vault = Vault::open()?;
    let without = setup("enforce", &vault);
    with_daemon(setup("enforce", &vault).with_policies(PERMITS), |world| {
        let mut agent = governed(world)?;
        let mut stranger = world.spawn(&world.program("agent"), NOBODY, &[])?;
        let mut peers = Vec::new();
        for (name, address) in [("v4", "127.0.0.1"), ("v6", "::1"), ("mapped", "::ffff:127.0.0.1")] {
            peers.push((name, opened(&vault, &mut agent, name, address)?));
        }
        let gone = opened(&vault, &mut agent, "away", "127.0.0.1")?;
        passed(world, &mut agent, "away", &mut stranger, "away")?;
        let mut child = agent.fork(None)?;
        let childs = opened(&vault, &mut child, "childs", "127.0.0.1")?;
        let datagrams = json!({"do": "connect", "udp": true, "as": "datagrams", "to": vault.at("127.0.0.1")});
        ensure!(tried(&mut agent, &datagrams)?.is_null());
        let api = json!({"do": "connect", "as": "api", "to": world.api("127.0.0.1")});
        ensure!(tried(&mut agent, &api)?.is_null());
        let free = opened(&vault, &mut stranger, "free", "127.0.0.1")?;

        world.write("config/policies/e2e.cedar", &without.policies)?;
        world.write_entries_and_reload(&without)?;
        for (name, peer) in &peers {
            ensure!(is_closed(peer), "{name} should be closed");
            ensure!(!works(&mut agent, name)?, "{name} should be closed for the agent");
        }
        ensure!(is_closed(&childs), "a child's connection should be closed");
        ensure!(is_closed(&gone), "a connection that was passed on should be closed");
        ensure!(!works(&mut stranger, "away")?, "also for whom it was passed on to");
        wait_until("a datagram socket should lead nowhere", || Ok(!works(&mut agent, "datagrams")?))?;
        for socket in peers.iter().map(|(name, _)| *name).chain(["datagrams"]) {
            let again = json!({"do": "reopen", "socket": socket, "to": vault.at("127.0.0.1")});
            ensure!(agent.tell(&again)?.get("error").is_some(), "{socket} should not lead there again");
        }
        // What is permitted still, and who is not governed, is not touched.
        ensure!(works(&mut agent, "api")?, "what is permitted should stay open");
        ensure!(works(&mut stranger, "free")?, "nobody else's should be closed");
        ensure!(!is_closed(&free));
        for destination in ["vault-tcp", "vault-udp"] {
            let members = [("/reason", "egress_withdrawn".into()), ("/destination", destination.into())];
            assert_eq!(world.record("decision", &members)?["outcome"], "deny", "{destination}");
        }
        wait_until("all should be counted", || Ok(world.counter("egress_closed")? >= 6))?;
        ensure!(world.counter("egress_unclosed")? == 0);
        Ok(())
    })
}

#[test]
fn what_is_open_is_closed_when_its_session_ends() -> Result<()> {
    let vault = Vault::open()?;
    with_daemon(setup("enforce", &vault).with_policies(PERMITS), |world| {
        let mut agent = governed(world)?;
        let one = opened(&vault, &mut agent, "one", "127.0.0.1")?;
        // Its opener is gone: who has it now is somebody else.
        let mut child = agent.fork(None)?;
        let inherited = opened(&vault, &mut child, "inherited", "::1")?;
        let mut heir = child.fork(None)?;
        child.exit()?;
        // Connected to where it is closed, and then sent from to elsewhere: what was seen last is the second.
        let datagrams = json!({"do": "connect", "udp": true, "as": "datagrams", "to": vault.at("127.0.0.1")});
        ensure!(tried(&mut agent, &datagrams)?.is_null());
        let api = world.api("127.0.0.1");
        let elsewhere = json!({"do": "send_message", "socket": "datagrams", "by": "sendmsg", "to": api});
        ensure!(tried(&mut agent, &elsewhere)?.is_null());
        ensure!(works(&mut agent, "datagrams")?);
        let session = world.process(agent.pid())?["session_id"].as_str().context("in no session")?.to_owned();
        let before = Instant::now();
        world.ask(&["sessions", &session, "--end"])?;
        ensure!(is_closed(&one) && is_closed(&inherited), "both should be closed");
        ensure!(before.elapsed() < SOON, "it took {:?}", before.elapsed());
        wait_until("the datagram socket should lead nowhere", || Ok(!works(&mut agent, "datagrams")?))?;
        ensure!(!works(&mut agent, "one")? && !works(&mut heir, "inherited")?);
        wait_until("nothing should be reached after the session", || {
            let connect = json!({"do": "connect", "as": "tried", "to": vault.at("127.0.0.1")});
            Ok(tried(&mut agent, &connect)? == EPERM)
        })?;
        let record = world.record("decision", &[("/reason", "egress_withdrawn".into())])?;
        assert_eq!(record["session_id"], session, "{record}");
        assert_eq!(record["user"], "uid:65534");
        ensure!(record["detail"].as_str().is_some_and(|detail| detail.contains("session is over")), "{record}");
        Ok(())
    })
}

#[test]
fn nothing_is_closed_by_a_reload_that_takes_nothing_back_and_none_where_a_tree_only_audits() -> Result<()> {
    let vault = Vault::open()?;
    let permitting = setup("enforce", &vault).with_policies(PERMITS);
    with_daemon(setup("enforce", &vault).with_policies(PERMITS), |world| {
        let mut agent = governed(world)?;
        let peer = opened(&vault, &mut agent, "one", "127.0.0.1")?;
        world.write_entries_and_reload(&permitting)?;
        settled(world, &mut agent)?;
        let auditing = setup("audit", &vault);
        world.write("config/policies/e2e.cedar", &auditing.policies)?;
        world.write_entries_and_reload(&auditing)?;
        wait_until("it should be audited", || {
            let connect = json!({"do": "connect", "as": "tried", "to": vault.at("127.0.0.1")});
            ensure!(tried(&mut agent, &connect)?.is_null(), "nothing is refused in a tree that only audits");
            Ok(world.audit()?.iter().any(|record| record["audit_mode"] == true))
        })?;
        ensure!(works(&mut agent, "one")?);
        ensure!(!is_closed(&peer));
        ensure!(world.counter("egress_closed")? == 0);
        Ok(())
    })
}

#[test]
fn what_was_released_ends_with_its_permit_and_takes_its_connections_with_it() -> Result<()> {
    let forbid = "\n@id(\"enough\")\nforbid (principal, action == Action::\"release\", resource);\n";
    let setup = Setup::default();
    with_daemon(setup.clone(), |world| {
        // Nobody here is in a governed tree.
        let mut agent = world.agent_with_channel()?;
        let (api, elsewhere) = (world.api("127.0.0.1"), world.api("127.0.0.2"));
        let cookie = agent.connect("used", &api)?;
        agent.connect("other", &api)?;
        agent.connect("elsewhere", &elsewhere)?;
        let got = released(&mut agent, &release_for(cookie))?;
        // A person takes it back.
        world.ask(&["revoke", "--lease", &got.lease])?;
        ensure!(!world.authority.is_active(&got.token)?);
        wait_until("both connections to it should be closed", || {
            Ok(!works(&mut agent, "used")? && !works(&mut agent, "other")?)
        })?;
        ensure!(works(&mut agent, "elsewhere")?, "it goes elsewhere");
        // Policy does.
        let cookie = agent.connect("again", &api)?;
        let got = released(&mut agent, &release_for(cookie))?;
        ensure!(works(&mut agent, "again")?, "what was revoked is not what is released anew");
        world.write_entries_and_reload(&setup)?;
        ensure!(world.authority.is_active(&got.token)? && works(&mut agent, "again")?, "nothing was taken back");
        world.write("config/policies/e2e.cedar", &[&setup.policies, forbid].concat())?;
        world.write_entries_and_reload(&setup)?;
        wait_until("the token should be good for nothing", || Ok(!world.authority.is_active(&got.token)?))?;
        wait_until("its connection should be closed", || Ok(!works(&mut agent, "again")?))?;
        ensure!(works(&mut agent, "elsewhere")?);
        let ended = world.record("lease_ended", &[("/lease_id", got.lease.as_str().into())])?;
        assert_eq!(
            (&ended["cause"], &ended["detail"]),
            (&json!("withdrawn"), &json!("policy_forbid: policy forbids: enough"))
        );
        let closed = [("/reason", "egress_withdrawn".into()), ("/lease_id", got.lease.as_str().into())];
        assert_eq!(world.record("decision", &closed)?["destination"], "api");
        refused(&mut agent, &release_for(cookie), "PermissionDenied").map(drop)
    })
}
