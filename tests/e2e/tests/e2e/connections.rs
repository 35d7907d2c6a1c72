// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every way to open a connection is seen and bound to the exec instance that did.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, Setup, World, with_daemon};
use serde_json::{Value, json};

use crate::calls::{denied, release_for, release_loose, released};

/// What the log says about the connection of a release.
fn connection(world: &World, actor: &mut Actor, call: &Value) -> Result<Value> {
    let got = released(actor, call)?;
    Ok(world.record("decision", &[("/decision_id", got.decision.as_str().into())])?["connection"].clone())
}

fn for_datagrams(cookie: u64) -> Value {
    let mut call = release_for(cookie);
    call["destination"] = "udp-api".into();
    call["binding"] = "datagram".into();
    call
}

fn cookie(opened: &Value) -> Result<u64> {
    ensure!(opened["failed"].is_null(), "not opened: {opened}");
    opened["cookie"].as_u64().context("no cookie")
}

#[test]
fn tcp_is_seen_over_ipv4_ipv6_and_v4_mapped_ipv6() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        for (to, address, hook) in [
            ("127.0.0.1", "127.0.0.1", "connect4"),
            ("::1", "::1", "connect6"),
            // The same destination as the first.
            ("::ffff:127.0.0.1", "127.0.0.1", "connect6"),
        ] {
            let mut agent = world.agent_with_channel()?;
            let opened = agent.act(&json!({"do": "connect", "as": "api", "to": world.api(to)}))?;
            let seen = connection(world, &mut agent, &release_for(cookie(&opened)?))?;
            assert_eq!(seen["remote_address"], address, "{seen}");
            // Before 6.6 the kernel gives v4-mapped connects to the IPv4 hook too; the address is what counts.
            assert_eq!(seen["hook"], hook, "{seen}");
            assert_eq!((&seen["protocol"], &seen["uid"]), (&json!("tcp"), &json!(NOBODY)));
            let local: std::net::SocketAddr = opened["local"].as_str().unwrap_or_default().parse()?;
            assert_eq!(seen["local_port"], local.port());
            assert_eq!(seen["local_address"], local.ip().to_canonical().to_string());
        }
        Ok(())
    })
}

#[test]
fn udp_is_seen_at_connect_and_at_each_first_send() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        for (to, what, hook) in [
            ("127.0.0.1", "connect", "connect4"),
            ("127.0.0.1", "send_to", "sendmsg4"),
            ("::1", "connect", "connect6"),
            ("::1", "send_to", "sendmsg6"),
        ] {
            let mut agent = world.agent_with_channel()?;
            let opened = agent.act(&json!({"do": what, "udp": true, "as": "api", "to": world.api(to)}))?;
            let cookie = cookie(&opened)?;
            // The right address and port by the wrong protocol.
            denied(world, &mut agent, &release_for(cookie), "connection_elsewhere")?;
            let seen = connection(world, &mut agent, &for_datagrams(cookie))?;
            assert_eq!((&seen["protocol"], &seen["hook"]), (&json!("udp"), &json!(hook)), "{seen}");
        }
        Ok(())
    })
}

#[test]
fn a_datagram_socket_counts_for_where_it_sent_last_and_for_who_sent() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let elsewhere = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut agent = world.agent_with_channel()?;
        let opened = agent.act(&json!({"do": "send_to", "as": "s", "to": world.api("127.0.0.1")}))?;
        let cookie = cookie(&opened)?;
        agent.act(&json!({"do": "send_to", "as": "s", "socket": "s", "to": elsewhere}))?;
        denied(world, &mut agent, &for_datagrams(cookie), "connection_elsewhere")?;
        // A child takes its parent's socket over by sending on it.
        agent.act(&json!({"do": "send_to", "as": "s", "socket": "s", "to": world.api("127.0.0.1")}))?;
        let mut child = agent.fork(None)?;
        child.act(&json!({"do": "send_to", "as": "s", "socket": "s", "to": world.api("127.0.0.1")}))?;
        denied(world, &mut agent, &for_datagrams(cookie), "connection_not_yours")?;
        child.act(&json!({"do": "channel", "as": "own", "to": world.socket()}))?;
        let mut call = for_datagrams(cookie);
        call["on"] = "own".into();
        released(&mut child, &call).map(drop)
    })
}

#[test]
fn tcp_fast_open_does_not_get_past_the_hooks() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        // In a network of its own, because the setting is the network namespace's.
        let mut agent = world.spawn(&world.program("agent"), 0, &[])?;
        agent.act(&json!({"do": "own_network"}))?;
        agent.act(&json!({"do": "put", "path": "/proc/sys/net/ipv4/tcp_fastopen", "text": "3"}))?;
        agent.act(&json!({"do": "listen", "as": "listener", "to": world.api("127.0.0.1")}))?;
        agent.act(&json!({"do": "set_uid", "uid": NOBODY}))?;
        // The first one asks for the server's cookie, the second one sends data with its first packet.
        for name in ["first", "second"] {
            world.open_channel(&mut agent)?;
            let opened = agent.act(&json!({"do": "fast_open", "as": name, "to": world.api("127.0.0.1")}))?;
            let seen = connection(world, &mut agent, &release_for(cookie(&opened)?))?;
            assert_eq!(seen["hook"], "connect4", "{seen}");
        }
        let netstat = fs::read_to_string(format!("/proc/{}/net/netstat", agent.pid()))?;
        ensure!(statistic(&netstat, "TCPFastOpenActive")? > 0, "no connection was really opened by TCP Fast Open");
        Ok(())
    })
}

/// One number of `/proc/net/netstat`: lines of names, each followed by a line of values.
fn statistic(netstat: &str, name: &str) -> Result<u64> {
    let lines: Vec<&str> = netstat.lines().collect();
    for pair in lines.chunks_exact(2) {
        let mut values = pair[0].split_whitespace().zip(pair[1].split_whitespace());
        if let Some((_, value)) = values.find(|(known, _)| *known == name) {
            return Ok(value.parse()?);
        }
    }
    anyhow::bail!("the kernel does not count {name}")
}

#[test]
fn io_uring_connects_are_the_submitting_programs_whichever_thread_makes_them() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        for by in ["submitter", "worker", "poller"] {
            let mut agent = world.agent_with_channel()?;
            let opened = agent.act(&json!({"do": "uring", "by": by, "as": "api", "to": world.api("127.0.0.1")}))?;
            let seen = connection(world, &mut agent, &release_for(cookie(&opened)?)).context(by)?;
            assert_eq!((&seen["hook"], &seen["uid"]), (&json!("connect4"), &json!(NOBODY)), "{by}: {seen}");
        }
        Ok(())
    })
}

#[test]
fn a_connection_carries_the_user_of_the_thread_that_opened_it() -> Result<()> {
    let setup = Setup::default().with_entries(
        r#"
[[entry]]
id = "root"
spiffe_id = "spiffe://example.org/agent/root"
kind = "agent"
selectors = ["unix:uid:0", "unix:path:@BIN@/agent"]
groups = ["agents"]
"#,
    );
    with_daemon(setup, |world| {
        let mut agent = world.spawn(&world.program("agent"), 0, &[])?;
        world.open_channel(&mut agent)?;
        let open = json!({"do": "connect", "as": "api", "to": world.api("127.0.0.1"), "thread_euid": e2e::OTHER});
        let opened = agent.act(&open)?;
        let seen = connection(world, &mut agent, &release_for(cookie(&opened)?))?;
        assert_eq!(seen["uid"], e2e::OTHER, "{seen}");
        Ok(())
    })
}

#[test]
fn a_connection_that_was_refused_or_reset_is_none() -> Result<()> {
    let mut setup = Setup::default();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    setup.destinations = setup.destinations.replace("[@PORT@]", &format!("[@PORT@, {}]", closed.port()));
    with_daemon(setup, |world| {
        let mut agent = world.agent_with_channel()?;
        let opened = agent.act(&json!({"do": "connect", "as": "api", "to": closed.to_string()}))?;
        assert_eq!(opened["failed"], libc::ECONNREFUSED);
        let cookie = opened["cookie"].as_u64().context("no cookie")?;
        let answer = agent.act(&release_for(cookie))?;
        ensure!(answer["status"] == "PermissionDenied", "released on a connection that was refused: {answer}");
        // The same socket is good once it is connected.
        let listener = std::net::TcpListener::bind(closed)?;
        agent.act(&json!({"do": "reopen", "socket": "api", "to": closed.to_string()}))?;
        released(&mut agent, &release_for(cookie))?;
        drop(listener);
        Ok(())
    })
}

#[test]
fn a_socket_that_is_connected_anew_by_a_child_is_the_childs() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let mut child = agent.fork(None)?;
        // Already connected: the kernel says no, and nothing changes hands.
        let again = child.tell(&json!({"do": "reopen", "socket": "api", "to": world.api("127.0.0.1")}))?;
        assert_eq!(again["errno"], libc::EISCONN, "{again}");
        released(&mut agent, &release_for(cookie))?;
        released(&mut agent, &release_loose()).map(drop)
    })
}

#[test]
fn many_datagrams_to_one_place_are_one_record_of_the_first() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let send = |known: bool| {
            let mut send = json!({"do": "send_to", "as": "s", "to": world.api("127.0.0.1")});
            if known {
                send["socket"] = "s".into();
            }
            send
        };
        let cookie = cookie(&agent.act(&send(false))?)?;
        let shown = || -> Result<Value> {
            let shown = world.ask(&["connections", "--cookie", &cookie.to_string()])?;
            Ok(shown["connections"][0]["ktime_ns"].clone())
        };
        let first = shown()?;
        for _ in 0..100 {
            agent.act(&send(true))?;
        }
        ensure!(first.is_string() && shown()? == first, "recorded anew: {first}");
        released(&mut agent, &for_datagrams(cookie)).map(drop)
    })
}

#[test]
fn a_multipath_connection_carries_nothing() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let open = json!({"do": "connect", "mptcp": true, "as": "api", "to": world.api("127.0.0.1")});
        // What the kernel connects is a subflow, a socket of its own; the one that the program holds was not seen.
        let cookie = cookie(&agent.act(&open)?)?;
        denied(world, &mut agent, &release_for(cookie), "connection_unknown").map(drop)
    })
}
