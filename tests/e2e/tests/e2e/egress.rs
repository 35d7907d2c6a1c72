// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Governed trees on the real kernel: what policy does not permit cannot be reached.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e::{Actor, NOBODY, Setup, World, wait_for, wait_until, with_daemon};
use serde_json::{Value, json};

use crate::sessions::{install, run};

pub(crate) const EPERM: i64 = 1;

/// `agentctl run` governs what it starts.
const ENTRIES: &str = r#"
[[entry]]
id = "launcher"
spiffe_id = "spiffe://example.org/launcher"
kind = "workload"
selectors = ["unix:uid:65534", "unix:path:@BIN@/agentctl"]
egress = { mode = "@MODE@" }

[[entry]]
id = "tool"
spiffe_id = "spiffe://example.org/tool"
kind = "tool"
selectors = ["unix:uid:65534", "unix:path:@BIN@/tool"]
"#;

const POLICIES: &str = r#"
@id("launcher-acts")
permit (principal == Workload::"spiffe://example.org/launcher", action == Action::"actFor", resource);

@id("launcher-bounds-nobody")
permit (principal == Workload::"spiffe://example.org/launcher", action == Action::"connect", resource);

@id("agents-connect")
permit (principal in Group::"agents", action == Action::"connect", resource)
when { resource.name == "api" || resource.name == "udp-api" };

@id("tools-connect")
permit (principal == Workload::"spiffe://example.org/tool", action == Action::"connect", resource == Destination::"udp-api");
"#;

/// What nobody may reach: it counts whoever comes.
pub(crate) struct Vault {
    pub(crate) tcp: TcpListener,
    udp: UdpSocket,
    port: u16,
}

impl Vault {
    pub(crate) fn open() -> Result<Self> {
        let tcp = TcpListener::bind("[::]:0")?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind(("::", port))?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        Ok(Self { tcp, udp, port })
    }

    pub(crate) fn at(&self, address: &str) -> String {
        if address.contains(':') { format!("[{address}]:{}", self.port) } else { format!("{address}:{}", self.port) }
    }

    fn destination(&self) -> String {
        let port = self.port;
        ["tcp", "udp"]
            .map(|protocol| {
                format!(
                    "\n[[destination]]\nname = \"vault-{protocol}\"\ncidrs = [\"127.0.0.0/8\", \"::1/128\"]\n\
                     ports = [{port}]\nprotocol = \"{protocol}\"\naudience = \"vault\"\n"
                )
            })
            .concat()
    }

    /// Whether anything came since the last look.
    pub(crate) fn was_reached(&self) -> Result<bool> {
        // Loopback delivers before the call that sent returns, but the handshake's end may be a moment later.
        std::thread::sleep(Duration::from_millis(2));
        let accepted = self.tcp.accept().map(|_| ());
        let received = self.udp.recv(&mut [0; 64]).map(|_| ());
        let mut reached = false;
        for came in [accepted, received] {
            match came {
                Ok(()) => reached = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(reached)
    }
}

pub(crate) fn setup(mode: &str, vault: &Vault) -> Setup {
    Setup::default()
        .with_entries(&ENTRIES.replace("@MODE@", mode))
        .with_policies(POLICIES)
        .with_destinations(&vault.destination())
}

/// Until it is known who it is.
pub(crate) fn settled(world: &World, actor: &mut Actor) -> Result<()> {
    let api = world.api("127.0.0.1");
    wait_until("a governed agent should reach what it may", || {
        let tried = actor.act(&json!({"do": "connect", "as": "settled", "to": api}))?;
        Ok(tried["failed"].is_null())
    })
}

pub(crate) fn governed(world: &World) -> Result<Actor> {
    install(world)?;
    let mut agent = run(world, &[], &world.program("agent"))?;
    settled(world, &mut agent)?;
    Ok(agent)
}

/// What the kernel said to a connection: an errno, or null.
pub(crate) fn tried(actor: &mut Actor, command: &Value) -> Result<Value> {
    Ok(actor.act(command)?["failed"].clone())
}

fn connect(to: &str) -> Value {
    json!({"do": "connect", "as": "tried", "to": to})
}

#[test]
fn a_governed_agent_reaches_what_policy_permits_and_nothing_else() -> Result<()> {
    let vault = Vault::open()?;
    with_daemon(setup("enforce", &vault), |world| {
        let mut agent = governed(world)?;
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let api = world.api(address);
            for way in ["connect", "send_to"] {
                assert_eq!(tried(&mut agent, &json!({"do": way, "as": "api", "to": api}))?, Value::Null, "{way} {api}");
            }
            for way in ["connect", "send_to"] {
                let to = vault.at(address);
                assert_eq!(tried(&mut agent, &json!({"do": way, "as": "vault", "to": to}))?, EPERM, "{way} {to}");
                ensure!(!vault.was_reached()?, "{way} {to} got through");
            }
        }
        let record =
            world.record("decision", &[("/action", "connect".into()), ("/destination", "vault-tcp".into())])?;
        assert_eq!((&record["outcome"], &record["reason"]), (&json!("deny"), &json!("policy_no_permit")), "{record}");
        assert_eq!(record["spiffe_id"], "spiffe://example.org/agent/one");
        assert_eq!(record["user"], "uid:65534");
        assert_eq!(record["connection"]["remote_port"], vault.port);
        // Where nothing is declared.
        let elsewhere = TcpListener::bind("127.0.0.1:0")?;
        assert_eq!(tried(&mut agent, &connect(&elsewhere.local_addr()?.to_string()))?, EPERM);
        world.record("decision", &[("/action", "connect".into()), ("/reason", "egress_undeclared".into())])?;
        // Whoever is not governed is not touched.
        let mut free = world.agent()?;
        assert_eq!(tried(&mut free, &connect(&vault.at("127.0.0.1")))?, Value::Null);
        ensure!(vault.was_reached()?, "the vault should be there for others");
        ensure!(world.counter("egress_refused")? >= 7, "refusals are counted");
        Ok(())
    })
}

#[test]
fn a_tool_never_reaches_more_than_policy_permits_it_and_what_started_it() -> Result<()> {
    let vault = Vault::open()?;
    // The tool may reach the vault by itself, and its agent may not.
    let setup = setup("enforce", &vault).with_policies(
        r#"
        @id("tools-vault")
        permit (principal == Workload::"spiffe://example.org/tool", action == Action::"connect",
                resource == Destination::"vault-tcp");
        "#,
    );
    with_daemon(setup, |world| {
        let mut agent = governed(world)?;
        let mut tool = agent.fork(None)?;
        // A fork is the same program until it execs.
        assert_eq!(tried(&mut tool, &connect(&world.api("127.0.0.1")))?, Value::Null);
        assert_eq!(tried(&mut tool, &connect(&vault.at("127.0.0.1")))?, EPERM);
        tool.exec(&world.program("tool"), &[])?;
        let udp = world.api("127.0.0.1");
        wait_until("the tool should reach what it and its agent may", || {
            Ok(tried(&mut tool, &json!({"do": "send_to", "as": "udp", "to": udp}))?.is_null())
        })?;
        assert_eq!(tried(&mut tool, &connect(&world.api("127.0.0.1")))?, EPERM, "only its agent may");
        assert_eq!(tried(&mut tool, &connect(&vault.at("127.0.0.1")))?, EPERM, "only it may");
        ensure!(!vault.was_reached()?);
        // A program that is nobody reaches nothing at all.
        tool.exec(&world.program("other"), &[])?;
        for _ in 0..50 {
            assert_eq!(tried(&mut tool, &json!({"do": "send_to", "as": "udp", "to": udp}))?, EPERM);
        }
        wait_until("it should be said that it is nobody", || {
            assert_eq!(tried(&mut tool, &json!({"do": "send_to", "as": "udp", "to": udp}))?, EPERM);
            Ok(world.audit()?.iter().any(|record| record["action"] == "connect" && record["reason"] == "no_identity"))
        })?;
        Ok(())
    })
}

#[test]
fn a_new_image_reaches_nothing_until_it_is_known_also_while_the_daemon_is_down() -> Result<()> {
    let vault = Vault::open()?;
    with_daemon(setup("enforce", &vault), |world| {
        let mut agent = governed(world)?;
        world.daemon.kill9()?;
        // Who was known goes on as before.
        assert_eq!(tried(&mut agent, &connect(&world.api("127.0.0.1")))?, Value::Null);
        assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.1")))?, EPERM);
        let mut child = agent.fork(None)?;
        assert_eq!(tried(&mut child, &connect(&world.api("127.0.0.1")))?, Value::Null);
        child.exec(&world.program("agent"), &[])?;
        for to in [world.api("127.0.0.1"), vault.at("::1")] {
            assert_eq!(tried(&mut child, &connect(&to))?, EPERM, "{to}");
        }
        world.daemon.start()?;
        settled(world, &mut child)?;
        settled(world, &mut agent)?;
        assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.1")))?, EPERM);
        assert_eq!(tried(&mut child, &connect(&vault.at("127.0.0.1")))?, EPERM);
        ensure!(!vault.was_reached()?);
        Ok(())
    })
}

#[test]
fn in_audit_mode_nothing_is_refused_and_everything_recorded_until_it_is_enforced() -> Result<()> {
    let vault = Vault::open()?;
    let auditing = setup("audit", &vault);
    with_daemon(auditing, |world| {
        let mut agent = governed(world)?;
        assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.1")))?, Value::Null);
        ensure!(vault.was_reached()?);
        let record =
            world.record("decision", &[("/action", "connect".into()), ("/destination", "vault-tcp".into())])?;
        assert_eq!((&record["outcome"], &record["audit_mode"]), (&json!("allow"), &json!(true)), "{record}");
        // From what was seen to a policy that the daemon takes.
        let drafted = world.ask(&["policy", "suggest"])?;
        let permits = drafted["permits"].as_array().context("no permits")?;
        ensure!(permits.iter().any(|permit| permit["destination"] == "vault-tcp"), "{drafted}");
        std::fs::write(world.path("config/draft.cedar"), drafted["cedar"].as_str().context("no draft")?)?;
        world.ask(&["policy", "validate", &world.text("config/draft.cedar")])?;
        // The same tree, from the next connection on.
        world.write_entries_and_reload(&setup("enforce", &vault))?;
        wait_until(
            "the tree should be enforced",
            || Ok(tried(&mut agent, &connect(&vault.at("127.0.0.1")))? == EPERM),
        )?;
        while vault.was_reached()? {}
        assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.1")))?, EPERM);
        settled(world, &mut agent)?;
        // Whoever is governed stays so, also when nothing says it any more.
        let ungoverned = ENTRIES.replace("egress = { mode = \"@MODE@\" }", "");
        world.write_entries_and_reload(&Setup::default().with_entries(&ungoverned))?;
        for _ in 0..20 {
            assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.1")))?, EPERM);
            std::thread::sleep(Duration::from_millis(10));
        }
        ensure!(!vault.was_reached()?);
        Ok(())
    })
}

#[test]
fn a_session_that_ends_takes_the_way_out_with_it() -> Result<()> {
    let vault = Vault::open()?;
    with_daemon(setup("enforce", &vault), |world| {
        let mut agent = governed(world)?;
        let session = world.process(agent.pid())?["session_id"].as_str().context("in no session")?.to_owned();
        world.ask(&["sessions", &session, "--end"])?;
        let api = world.api("127.0.0.1");
        wait_until("nothing should be reached after the session", || Ok(tried(&mut agent, &connect(&api))? == EPERM))
    })
}

/// Every way onto the network that a program has, each tried for real against what it may not reach.
#[test]
fn no_way_onto_the_network_reaches_what_is_forbidden() -> Result<()> {
    let vault = Vault::open()?;
    with_daemon(setup("enforce", &vault), |world| {
        let mut agent = governed(world)?;
        let mut attempts: Vec<(String, Value)> = Vec::new();
        let addresses = ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"];
        for address in addresses {
            let to = vault.at(address);
            for (name, command) in [
                ("TCP connect", json!({"do": "connect", "to": to})),
                ("UDP connect", json!({"do": "connect", "udp": true, "to": to})),
                ("UDP send", json!({"do": "send_to", "to": to})),
                ("TCP Fast Open", json!({"do": "fast_open", "to": to})),
                ("MPTCP", json!({"do": "connect", "mptcp": true, "to": to})),
                ("io_uring connect", json!({"do": "uring", "by": "submitter", "to": to})),
                ("io_uring connect of a worker", json!({"do": "uring", "by": "worker", "to": to})),
                ("io_uring connect of a poller", json!({"do": "uring", "by": "poller", "to": to})),
            ] {
                attempts.push((format!("{name} to {address}"), command));
            }
        }
        for (name, mut command) in attempts {
            command["as"] = "attempt".into();
            let answer = agent.tell(&command)?;
            let refused = answer["failed"] == EPERM
                || answer["error"]
                    .as_str()
                    .is_some_and(|error| error.contains("EPERM") || error.contains("not permitted"));
            ensure!(refused, "{name} should be refused: {answer}");
            ensure!(!vault.was_reached()?, "{name} got through");
        }
        // A datagram socket that is connected to where it may, and then sends elsewhere.
        for (first, message) in [
            ("connect", "sendmsg"),
            ("connect", "sendmmsg"),
            ("connect", "uring"),
            ("send_to", "sendmsg"),
            ("send_to", "uring"),
        ] {
            let mut open = json!({"do": first, "as": "datagrams", "to": world.api("127.0.0.1")});
            open["udp"] = true.into();
            ensure!(tried(&mut agent, &open)?.is_null(), "the socket should be good for where it may lead");
            for address in ["127.0.0.1", "127.0.0.3"] {
                let send = json!({"do": "send_message", "socket": "datagrams", "by": message, "to": vault.at(address)});
                let answer = agent.tell(&send)?;
                ensure!(answer["failed"] == EPERM, "{message} after {first} to {address}: {answer}");
                ensure!(!vault.was_reached()?, "{message} after {first} to {address} got through");
            }
            // And connecting it anew.
            let anew = json!({"do": "reopen", "socket": "datagrams", "to": vault.at("127.0.0.1")});
            ensure!(agent.tell(&anew)?.get("error").is_some(), "connected anew");
        }
        // Sockets of which the hooks of connections see nothing. Numbers of socket(2): family, type, protocol.
        for (name, family, kind, protocol) in [
            ("raw ICMP", 2, 3, 1),
            ("raw", 2, 3, 255),
            ("raw IPv6", 10, 3, 58),
            ("ICMP echo", 2, 2, 1),
            ("ICMPv6 echo", 10, 2, 58),
            ("UDP-Lite", 2, 2, 136),
            ("SCTP", 2, 1, 132),
            ("SCTP, one to many", 2, 5, 132),
            ("DCCP", 2, 6, 33),
            ("MPTCP", 2, 1, 262),
            ("MPTCP over IPv6", 10, 1, 262),
            ("packet", 17, 3, 0),
        ] {
            let socket = json!({"do": "socket", "as": "odd", "family": family, "type": kind, "protocol": protocol});
            let answer = agent.act(&socket)?;
            ensure!(!answer["failed"].is_null(), "a {name} socket should be refused");
        }
        world.record("decision", &[("/action", "connect".into()), ("/reason", "egress_socket".into())])?;
        // Every kind of descendant.
        let mut child = agent.fork(None)?;
        ensure!(tried(&mut child, &connect(&vault.at("127.0.0.1")))? == EPERM, "a child");
        let mut grandchild = child.fork(None)?;
        ensure!(tried(&mut grandchild, &connect(&vault.at("::1")))? == EPERM, "a grandchild");
        child.act(&json!({"do": "exit"}))?;
        ensure!(tried(&mut grandchild, &connect(&vault.at("::1")))? == EPERM, "an orphan");
        grandchild.exec(&world.program("gateway"), &[])?;
        ensure!(tried(&mut grandchild, &connect(&vault.at("127.0.0.1")))? == EPERM, "another image");
        // A network of its own, in a user namespace of its own, where it is root.
        let isolated = grandchild.tell(&json!({"do": "own_mounts"}))?;
        ensure!(isolated.get("error").is_none(), "no user namespace: {isolated}");
        for kind in [("raw, as root of a namespace", 2, 3, 255), ("ICMP, as root of a namespace", 2, 3, 1)] {
            let socket = json!({"do": "socket", "as": "odd", "family": kind.1, "type": kind.2, "protocol": kind.3});
            ensure!(!grandchild.act(&socket)?["failed"].is_null(), "{}", kind.0);
        }
        ensure!(tried(&mut grandchild, &connect(&vault.at("127.0.0.1")))? == EPERM, "root of a user namespace");
        ensure!(!vault.was_reached()?, "something got through");
        // The vault was there all the time.
        let mut free = world.spawn(&world.program("agent"), NOBODY, &[])?;
        ensure!(tried(&mut free, &connect(&vault.at("127.0.0.1")))?.is_null(), "the vault is gone");
        ensure!(vault.was_reached()?, "the vault cannot be reached by anybody");
        Ok(())
    })
}

#[test]
fn a_process_of_a_governed_tree_without_a_record_reaches_nothing() -> Result<()> {
    let vault = Vault::open()?;
    let setup = setup("enforce", &vault).set("kernel.max_processes", 1024);
    with_daemon(setup, |world| {
        let mut agent = governed(world)?;
        let mut children = Vec::new();
        wait_for("the table of processes should be full", || {
            for _ in 0..64 {
                children.push(agent.fork(None)?);
            }
            Ok((world.counter("governed_lost")? > 0).then_some(()))
        })?;
        let Some(mut last) = children.pop() else { bail!("no child") };
        assert_eq!(tried(&mut last, &connect(&vault.at("127.0.0.1")))?, EPERM);
        assert_eq!(tried(&mut last, &connect(&world.api("127.0.0.1")))?, EPERM);
        // Also when there is room again, and as another image.
        children.clear();
        last.exec(&world.program("agent"), &[])?;
        assert_eq!(tried(&mut last, &connect(&vault.at("127.0.0.1")))?, EPERM);
        ensure!(!vault.was_reached()?);
        // Who has a record is who it was.
        settled(world, &mut agent)
    })
}

#[test]
fn a_destination_is_reached_where_the_daemon_finds_its_name() -> Result<()> {
    let vault = Vault::open()?;
    let named = format!(
        "\n[[destination]]\nname = \"local\"\nhosts = [\"localhost\"]\nports = [{}]\naudience = \"l\"\n",
        vault.port
    );
    let setup = Setup::default()
        .with_entries(&ENTRIES.replace("@MODE@", "enforce"))
        .with_policies(&POLICIES.replace("resource.name == \"api\"", "resource.name != \"vault\""))
        .with_destinations(&named);
    with_daemon(setup, |world| {
        let mut agent = governed(world)?;
        let to = vault.at("127.0.0.1");
        wait_until("localhost should be reached", || Ok(tried(&mut agent, &connect(&to))?.is_null()))?;
        assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.2")))?, EPERM);
        Ok(())
    })
}

#[test]
fn a_thread_that_is_another_user_is_not_who_was_classified() -> Result<()> {
    let vault = Vault::open()?;
    // Root can be anybody.
    let entries = "\n[[entry]]\nid = \"root\"\nspiffe_id = \"spiffe://example.org/agent/root\"\nkind = \"agent\"\n\
                   selectors = [\"unix:uid:0\", \"unix:path:@BIN@/other\"]\ngroups = [\"agents\"]\n\
                   egress = { mode = \"enforce\" }\n";
    with_daemon(setup("enforce", &vault).with_entries(entries), |world| {
        let mut agent = world.spawn(&world.program("other"), 0, &[])?;
        let api = world.api("127.0.0.1");
        assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.1")))?, Value::Null, "nobody knows of it yet");
        // From its first question on.
        world.open_channel(&mut agent)?;
        agent.act(&crate::calls::attest())?;
        settled(world, &mut agent)?;
        while vault.was_reached()? {}
        assert_eq!(tried(&mut agent, &connect(&vault.at("127.0.0.1")))?, EPERM);
        let other = json!({"do": "connect", "as": "tried", "to": api, "thread_euid": NOBODY});
        assert_eq!(tried(&mut agent, &other)?, EPERM);
        assert_eq!(tried(&mut agent, &connect(&api))?, Value::Null, "the others are who they were");
        ensure!(!vault.was_reached()?);
        Ok(())
    })
}

#[test]
fn a_wide_range_holds_no_address_of_another_family_and_none_that_means_this_machine() -> Result<()> {
    let vault = Vault::open()?;
    let range = |name: &str, cidrs: &str| {
        format!(
            "\n[[destination]]\nname = \"{name}\"\ncidrs = {cidrs}\nports = [{}]\naudience = \"{name}\"\n",
            vault.port
        )
    };
    // All of IPv6 is the agent's; of IPv4, all but this machine.
    let wide = range("all-v6", "[\"::/1\", \"8000::/1\"]");
    let setup = setup("enforce", &vault).with_destinations(&wide).with_policies(
        "@id(\"wide\") permit (principal, action == Action::\"connect\", resource)\
         when { [\"all-v6\", \"all-v4\"].contains(resource.name) };",
    );
    let setup = setup.with_destinations(&range("all-v4", "[\"0.0.0.0/1\", \"128.0.0.0/1\"]"));
    with_daemon(setup, |world| {
        let mut agent = governed(world)?;
        for address in ["127.0.0.1", "127.0.0.2", "::ffff:127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:0.0.0.0"] {
            for way in ["connect", "send_to"] {
                let to = vault.at(address);
                assert_eq!(tried(&mut agent, &json!({"do": way, "as": "wide", "to": to}))?, EPERM, "{way} {to}");
                ensure!(!vault.was_reached()?, "{way} {to} got through");
            }
        }
        Ok(())
    })
}

/// A line of processes that forks faster than the daemon looks at them.
struct Line<'a>(&'a World, &'static str);

impl<'a> Line<'a> {
    fn start(world: &'a World, agent: &mut Actor, folder: &'static str, to: &str) -> Result<Self> {
        let path = world.path(folder);
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        agent.act(&json!({"do": "chain", "to": to, "folder": path}))?;
        let line = Self(world, folder);
        wait_until("the line should reach what it may", || Ok(line.last("reached")? > 0))?;
        Ok(line)
    }

    /// When somebody of it was reached or refused last; zero: never.
    fn last(&self, what: &str) -> Result<u64> {
        match std::fs::read_to_string(self.0.path(self.1).join(what)) {
            Ok(at) => Ok(at.parse()?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// It goes on, and is refused: for so long that hundreds of it come and go.
    fn is_refused(&self) -> Result<()> {
        wait_until("the line should be refused", || Ok(self.last("refused")? > self.last("reached")?))?;
        let (reached, refused) = (self.last("reached")?, self.last("refused")?);
        std::thread::sleep(Duration::from_millis(300));
        let (reached_now, refused_now) = (self.last("reached")?, self.last("refused")?);
        let failed = std::fs::read_to_string(self.0.path(self.1).join("failed"));
        ensure!(refused_now > refused + 100_000, "the line ended: {refused} {refused_now} {failed:?}");
        ensure!(reached_now == reached, "one of the line got through: {reached} {reached_now}");
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        // What cannot be told to stop does so in a while.
        drop(std::fs::write(self.0.path(self.1).join("stop"), ""));
    }
}

#[test]
fn a_line_of_forks_outruns_neither_new_policies_nor_the_end_of_its_session() -> Result<()> {
    let vault = Vault::open()?;
    let permits = r#"
        @id("agents-vault")
        permit (principal in Group::"agents", action == Action::"connect", resource == Destination::"vault-udp");
        "#;
    let without = setup("enforce", &vault);
    with_daemon(setup("enforce", &vault).with_policies(permits), |world| {
        let mut agent = governed(world)?;
        let to = vault.at("127.0.0.1");
        let line = Line::start(world, &mut agent, "line-1", &to)?;
        world.write("config/policies/e2e.cedar", &without.policies)?;
        // Also when the classes that it had are others': after the third, each set of tables was filled anew.
        for _ in 0..3 {
            world.write_entries_and_reload(&without)?;
            line.is_refused()?;
        }
        drop(line);
        settled(world, &mut agent)?;
        let line = Line::start(world, &mut agent, "line-2", &world.api("127.0.0.1"))?;
        let session = world.process(agent.pid())?["session_id"].as_str().context("in no session")?.to_owned();
        world.ask(&["sessions", &session, "--end"])?;
        line.is_refused()?;
        ensure!(!vault.was_reached()?);
        Ok(())
    })
}
