// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who is on the other end: what a local gateway may ask, and in which network.

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, Setup, World, with_daemon};
use serde_json::{Value, json};

use crate::calls::{denied, refused};

const FROM: &str = "127.0.0.1:40123";

fn who(world: &World) -> Value {
    json!({"do": "call", "call": "attest_connection", "on": "channel", "local": FROM, "remote": world.api("127.0.0.1")})
}

fn gateway(world: &World) -> Result<Actor> {
    let mut gateway = world.spawn(&world.program("gateway"), NOBODY, &[])?;
    world.open_channel(&mut gateway)?;
    Ok(gateway)
}

/// An agent whose connection has exactly this 4-tuple.
fn connect_from(world: &World, agent: &mut Actor) -> Result<u64> {
    let opened = agent.act(&json!({"do": "connect", "as": "api", "from": FROM, "to": world.api("127.0.0.1")}))?;
    ensure!(opened["failed"].is_null(), "not opened: {opened}");
    opened["cookie"].as_u64().context("no cookie")
}

#[test]
fn a_gateway_learns_who_opened_a_connection_by_its_addresses_or_cookie() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent()?;
        let cookie = connect_from(world, &mut agent)?;
        let mut gateway = gateway(world)?;
        let by_cookie = json!({"do": "call", "call": "attest_connection", "on": "channel", "cookie": cookie});
        for call in [who(world), by_cookie.clone()] {
            let answer = gateway.act(&call)?;
            assert_eq!(answer["ok"]["opener"]["tgid"], agent.pid(), "{answer}");
            assert_eq!(answer["ok"]["opener"]["spiffe_ids"][0], "spiffe://example.org/agent/one");
            assert_eq!((&answer["ok"]["opener_alive"], &answer["ok"]["cookie"]), (&json!(true), &json!(cookie)));
        }
        world.record("decision", &[("/action", "attest_connection".into()), ("/outcome", "allow".into())])?;
        // The opener becomes another program and keeps the connection: it is not the opener any more.
        agent.exec(&world.program("other"), &["api"])?;
        let answer = gateway.act(&by_cookie)?;
        assert_eq!(answer["ok"]["opener_alive"], false, "{answer}");
        assert_eq!(answer["ok"]["opener"]["spiffe_ids"].as_array().map_or(0, Vec::len), 0, "{answer}");
        agent.exit()?;
        denied(world, &mut gateway, &by_cookie, "connection_unknown").map(drop)
    })
}

#[test]
fn only_whom_policy_permits_may_ask_about_others() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        connect_from(world, &mut agent)?;
        // Not even about its own connection.
        denied(world, &mut agent, &who(world), "policy_no_permit")?;
        let mut stranger = world.spawn(&world.program("other"), NOBODY, &[])?;
        world.open_channel(&mut stranger)?;
        denied(world, &mut stranger, &who(world), "no_identity")?;
        // And one who may learns no more about what is not there.
        let mut gateway = gateway(world)?;
        let mut nobody = who(world);
        nobody["local"] = "127.0.0.1:40124".into();
        denied(world, &mut gateway, &nobody, "connection_unknown")?;
        nobody["local"] = "::1".into();
        let answer = gateway.tell(&nobody)?;
        ensure!(answer["error"].is_string(), "{answer}");
        let none = json!({"do": "call", "call": "attest_connection", "on": "channel"});
        refused(&mut gateway, &none, "InvalidArgument").map(drop)
    })
}

/// A gateway and an agent in a network namespace of their own, with the same addresses as everywhere.
fn other_network(world: &World) -> Result<(Actor, Actor)> {
    let mut gateway = world.spawn(&world.program("gateway"), 0, &[])?;
    gateway.act(&json!({"do": "own_network"}))?;
    gateway.act(&json!({"do": "listen", "as": "listener", "to": world.api("127.0.0.1")}))?;
    gateway.act(&json!({"do": "set_uid", "uid": NOBODY}))?;
    gateway.exec(&world.program("gateway"), &["listener"])?;
    world.open_channel(&mut gateway)?;
    let mut agent = world.spawn(&world.program("agent"), 0, &[])?;
    agent.act(&json!({"do": "join_network", "of": format!("/proc/{}/ns/net", gateway.pid())}))?;
    agent.act(&json!({"do": "set_uid", "uid": NOBODY}))?;
    agent.exec(&world.program("agent"), &[])?;
    Ok((gateway, agent))
}

#[test]
fn the_same_addresses_in_two_networks_are_two_connections() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut here = (gateway(world)?, world.agent()?);
        let mut there = other_network(world)?;
        // Nobody here sees what is there.
        connect_from(world, &mut there.1)?;
        denied(world, &mut here.0, &who(world), "connection_unknown")?;
        connect_from(world, &mut here.1)?;
        for (gateway, agent) in [&mut here, &mut there] {
            let answer = gateway.act(&who(world))?;
            assert_eq!(answer["ok"]["opener"]["tgid"], agent.pid(), "{answer}");
        }
        // Nor can an agent here name a connection there by its addresses.
        world.open_channel(&mut there.1)?;
        let call = json!({"do": "call", "call": "release", "on": "channel", "destination": "api", "binding": "token",
            "local": FROM, "remote": world.api("127.0.0.1")});
        crate::calls::released(&mut there.1, &call)?;
        here.1.exit()?;
        let mut late = world.agent_with_channel()?;
        denied(world, &mut late, &call, "connection_unknown").map(drop)
    })
}

#[test]
fn a_gateway_that_moved_to_another_network_is_not_answered_about_the_old_one() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut here = world.agent()?;
        connect_from(world, &mut here)?;
        let (there_gateway, mut there) = other_network(world)?;
        connect_from(world, &mut there)?;
        let mut moved = world.spawn(&world.program("gateway"), 0, &[])?;
        moved.act(&json!({"do": "join_network", "of": format!("/proc/{}/ns/net", there_gateway.pid())}))?;
        moved.act(&json!({"do": "set_uid", "uid": NOBODY}))?;
        world.open_channel(&mut moved)?;
        let answer = moved.act(&who(world))?;
        ensure!(answer["ok"]["opener"]["tgid"] != here.pid(), "it was told about a network it is not in: {answer}");
        Ok(())
    })
}
