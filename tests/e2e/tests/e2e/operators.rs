// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the operator is told, by `agentctl` alone.

use anyhow::{Context as _, Result, ensure};
use e2e::{NOBODY, Setup, wait_until, with_daemon};
use serde_json::json;

use crate::calls::{release_for, released};

#[test]
fn explain_answers_with_its_exit_code_and_issues_nothing() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let pid = agent.pid().to_string();
        let told = world.ctl(&["explain", &pid, "--destination", "api"])?;
        assert_eq!((told.code, &told.said["allowed"]), (0, &json!(true)), "{}", told.said);
        assert_eq!(told.said["connections"][0]["cookie"], cookie.to_string());
        let mut impostor = world.spawn(&world.program("other"), NOBODY, &[])?;
        impostor.connect("api", &world.api("127.0.0.1"))?;
        let told = world.ctl(&["explain", &impostor.pid().to_string(), "--destination", "api"])?;
        assert_eq!((told.code, &told.said["allowed"]), (1, &json!(false)), "{}", told.said);
        assert_eq!(told.said["decision"]["reason"], "no_identity");
        ensure!(told.said["hints"].as_array().is_some_and(|hints| !hints.is_empty()), "{}", told.said);
        world.record("explain", &[("/outcome", "deny".into()), ("/tgid", impostor.pid().into())])?;
        assert_eq!(world.ctl(&["explain", "4194000", "--destination", "api"])?.code, 2);
        assert_eq!(world.ask(&["leases"])?["leases"], json!([]));
        // And the connection is not used up.
        released(&mut agent, &release_for(cookie)).map(drop)
    })
}

#[test]
fn doctor_proves_the_hooks_by_trying_them_and_tells_the_truth_about_lsm() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let told = world.ctl(&["doctor"])?;
        let checks = told.said["checks"].as_array().with_context(|| format!("no checks: {}", told.complaint))?;
        let failed: Vec<_> = checks.iter().filter(|check| check["outcome"] == "fail").collect();
        ensure!(failed.is_empty() && told.code == 0, "exit {}: {failed:#?}", told.code);
        let outcome = |id: &str| checks.iter().find(|check| check["id"] == id).map(|check| check["outcome"].clone());
        for hook in ["connect4", "connect6", "sendmsg4", "sendmsg6"] {
            assert_eq!(outcome(&format!("hook.{hook}")), Some("pass".into()), "{checks:#?}");
        }
        let tiers = world.ask(&["status"])?["tiers"].clone();
        ensure!(tiers.to_string().contains("observe") && tiers.to_string().contains("egress"), "{tiers}");
        let lsm = checks.iter().find(|check| check["id"].as_str().is_some_and(|id| id.contains("lsm")));
        let lsm = lsm.context("nothing is said about LSM")?;
        assert_eq!(lsm["outcome"] == "pass", tiers.to_string().contains("lsm"), "{lsm}");
        ensure!(lsm["outcome"] == "pass" || lsm["guarantee"].as_str().is_some_and(|lost| !lost.is_empty()), "{lsm}");
        Ok(())
    })
}

#[test]
fn ps_connections_leases_and_decisions_show_what_happened() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let cookie = agent.connect("api", &world.api("::1"))?;
        let got = released(&mut agent, &release_for(cookie))?;
        let process = world.process(agent.pid())?;
        assert_eq!(process["exec_id"], format!("x{}", got.exec_id));
        assert_eq!((&process["entry_id"], &process["leases"]), (&json!("agent"), &json!(1)));
        assert_eq!(process["path"], world.program("agent"));
        let connections = world.ask(&["connections", &agent.pid().to_string()])?;
        assert_eq!(connections["connections"][0]["cookie"], cookie.to_string());
        assert_eq!(connections["connections"][0]["destinations"], json!(["api"]), "{connections}");
        assert_eq!(connections["connections"][0]["leases"], json!([got.lease]));
        let leases = world.ask(&["leases"])?;
        assert_eq!(
            (&leases["leases"][0]["lease_id"], &leases["leases"][0]["state"]),
            (&json!(got.lease), &json!("active"))
        );
        let decisions = world.ask(&["decisions", "-n", "1"])?;
        assert_eq!(decisions["decisions"][0]["decision_id"], got.decision);
        let audit = world.ask(&["audit", "query", "--decision", &got.decision])?;
        assert_eq!(audit["record"]["lease_id"], got.lease);
        ensure!(!world.ask(&["status"])?.to_string().contains(&got.token), "a token in the status");
        // One that is not there is a finding.
        agent.exit()?;
        assert_eq!(world.ctl(&["ps", &format!("x{}", got.exec_id)])?.code, 1);
        let ended = world.ask(&["leases", "--ended"])?;
        assert_eq!(ended["leases"][0]["state"], "exited", "{ended}");
        Ok(())
    })
}

#[test]
fn whoever_watches_sees_programs_begin_connect_and_end() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let watcher = world.watch(&world.install_tiny()?)?;
        let program = world.program("agent");
        let mut agent = world.spawn(&program, NOBODY, &[])?;
        let pid = agent.pid();
        let began = watcher.wait_for("an exec", |event| event["event"] == "exec" && event["tgid"] == pid)?;
        assert_eq!(began["path"], program.as_str(), "{began}");
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?.to_string();
        let connected = watcher.wait_for("a connect", |event| event["connection"]["cookie"] == cookie)?;
        assert_eq!(connected["connection"]["exec_id"], began["exec_id"], "{connected}");
        agent.exit()?;
        watcher.wait_for("an exit", |event| event["event"] == "exit" && event["exec_id"] == began["exec_id"])?;
        Ok(())
    })
}

#[test]
fn the_dead_are_named_where_somebody_asks_about_them_though_nobody_watched() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        // It only forks.
        let mut first = world.agent()?;
        let mut between = first.fork(None)?;
        let last = between.fork(None)?;
        between.exit()?;
        // It only connects, and its connection outlives it.
        let mut opener = world.spawn(&world.program("other"), NOBODY, &[])?;
        let cookie = opener.connect("api", &world.api("127.0.0.1"))?;
        let mut keeper = world.agent()?;
        let door = world.text("open/door");
        keeper.act(&json!({"do": "await_fd", "at": door, "as": "door"}))?;
        opener.act(&json!({"do": "pass", "socket": "api", "to": door}))?;
        keeper.act(&json!({"do": "take", "from": "door", "as": "api"}))?;
        opener.exit()?;
        wait_until("the dead ancestor should be named", || {
            let process = world.process(last.pid())?;
            let parent = &process["lineage"][0];
            Ok(parent["alive"] == false && parent["comm"] == "agent")
        })?;
        wait_until("the dead opener should be named", || {
            let shown = world.ask(&["connections", "--cookie", &cookie.to_string()])?;
            let opened = &shown["connections"][0];
            Ok(opened["opener_alive"] == false && opened["comm"] == "other")
        })
    })
}

#[test]
fn what_a_process_calls_itself_cannot_forge_the_operators_screen() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let name = "\u{1b}[2J\u{1b}[31mroot\n";
        let program = world.install(name)?;
        let forger = world.spawn(&program, NOBODY, &[])?;
        let mut command = std::process::Command::new(e2e::binaries()?.join("agentctl"));
        command.arg("--admin-socket").arg(world.path("sockets/admin.sock")).args(["ps", &forger.pid().to_string()]);
        let output = command.output()?;
        ensure!(
            !output.stdout.contains(&0x1b),
            "an escape reached the terminal: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    })
}
