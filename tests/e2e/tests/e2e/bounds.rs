// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every bound at its edge: who has no room gets nothing, everybody else gets what is right, every loss is counted.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, ensure};
use e2e::{NOBODY, Setup, World, wait_for, wait_until, with_daemon};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::calls::{attest, denied, refused, release_for, release_loose, released};

const STORM: usize = 50_000;
/// What must not happen to any process of the storm.
const LOSSES: [&str; 5] =
    ["exec_record_missing", "fork_parent_missing", "processes_full", "exec_read_failed", "fork_read_failed"];

/// Runs a program again and again, on both cores.
fn storm(program: &str, times: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let half = |_| {
            scope.spawn(|| -> Result<()> {
                for _ in 0..times / 2 {
                    let status = Command::new(program).env_clear().stdin(Stdio::null()).status()?;
                    ensure!(status.success(), "{program} ended with {status}");
                }
                Ok(())
            })
        };
        let halves = [(); 2].map(half);
        halves.into_iter().try_for_each(|half| half.join().map_err(|_| anyhow::anyhow!("the storm panicked"))?)
    })
}

#[test]
fn a_storm_of_50000_forks_and_execs_loses_no_binding() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let tiny = world.install_tiny()?;
        let before: Vec<u64> = LOSSES.iter().map(|name| world.counter(name)).collect::<Result<_>>()?;
        let over = AtomicBool::new(false);
        let world = &*world;
        let agents = std::thread::scope(|scope| -> Result<u32> {
            let agents = scope.spawn(|| -> Result<u32> {
                let mut agents = 0;
                while !over.load(Ordering::Acquire) {
                    let mut agent = world.agent_with_channel()?;
                    let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
                    let got = released(&mut agent, &release_for(cookie))?;
                    let mut child = agent.fork(None)?;
                    world.open_channel(&mut child)?;
                    let child_id =
                        child.act(&attest())?["ok"]["exec_id"].as_u64().context("the child has no record")?;
                    ensure!(child_id > got.exec_id, "ids grow");
                    agent.exit()?;
                    ensure!(!world.authority.is_active(&got.token)?, "a token outlived its holder");
                    agents += 1;
                }
                Ok(agents)
            });
            let stormed = storm(&tiny, STORM);
            over.store(true, Ordering::Release);
            let agents = agents.join().map_err(|_| anyhow::anyhow!("the agents panicked"))?;
            stormed?;
            agents
        })?;
        ensure!(agents >= 20, "only {agents} agents lived through the storm");
        for (name, before) in LOSSES.iter().zip(before) {
            assert_eq!(world.counter(name)? - before, 0, "{name}");
        }
        // Nothing is left of what ended.
        let left = world.ask(&["ps", "--list"])?;
        let left = left["processes"].as_array().context("no processes")?;
        ensure!(!left.iter().any(|process| process["path"] == tiny.as_str()), "ended processes are still there");
        Ok(())
    })
}

#[test]
fn a_full_event_buffer_loses_events_and_no_answer() -> Result<()> {
    with_daemon(Setup::default().set("kernel.event_buffer_bytes", 65_536), |world| {
        let tiny = world.install_tiny()?;
        let mut agent = world.agent_with_channel()?;
        let got = released(&mut agent, &release_loose())?;
        let mut stays = world.agent_with_channel()?;
        let kept = released(&mut stays, &release_loose())?;
        // Where nobody watches, nothing is told of programs that nobody will ask for.
        world.daemon.signal(Signal::STOP)?;
        let stormed = storm(&tiny, 1000);
        world.daemon.signal(Signal::CONT)?;
        stormed?;
        assert_eq!(world.counter("events_dropped")?, 0);
        let watcher = world.watch(&tiny)?;
        // While it does not run, it reads nothing.
        world.daemon.signal(Signal::STOP)?;
        agent.exit()?;
        let stormed = storm(&tiny, 1000);
        let mut late = world.agent()?;
        let cookie = late.connect("api", &world.api("127.0.0.1"))?;
        world.daemon.signal(Signal::CONT)?;
        stormed?;
        ensure!(world.counter("events_dropped")? > 0, "the buffer did not overflow");
        drop(watcher);
        ensure!(!world.authority.is_active(&got.token)?, "the end of its holder was lost");
        assert!(world.authority.is_active(&kept.token)?);
        let ended = world.record("lease_ended", &[("/lease_id", got.lease.as_str().into())])?;
        assert_eq!(ended["cause"], "exited");
        // A connect whose event may be lost is as good as any.
        world.open_channel(&mut late)?;
        released(&mut late, &release_for(cookie)).map(drop)
    })
}

/// Processes on this machine, kernel threads included.
fn processes() -> Result<usize> {
    let names = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count())
}

#[test]
fn a_process_that_finds_no_room_in_the_table_gets_nothing() -> Result<()> {
    let room = processes()? + 60;
    with_daemon(Setup::default().set("kernel.max_processes", room), |world| {
        let mut agent = world.agent_with_channel()?;
        let mut others = Vec::new();
        let mut unbound = wait_for("the table should be full", || {
            let mut other = world.spawn(&world.program("agent"), NOBODY, &[])?;
            world.open_channel(&mut other)?;
            let answer = other.act(&attest())?;
            if answer["ok"].is_object() {
                others.push(other);
                return Ok(None);
            }
            ensure!(["CLOSED", "Unauthenticated"].contains(&answer["status"].as_str().unwrap_or_default()), "{answer}");
            Ok(Some(other))
        })?;
        world
            .record("caller_refused", &[("/reason", "unresolvable".into()), ("/caller/tgid", unbound.pid().into())])?;
        ensure!(world.counter("processes_full")? > 0, "not counted");
        let cookie = unbound.connect("api", &world.api("127.0.0.1"))?;
        let told = world.ctl(&["status"])?;
        assert_eq!((told.code, &told.said["state"]), (1, &json!("degraded")), "{}", told.said);
        // Who was bound is not disturbed, and cannot take what the unbound one opened.
        denied(world, &mut agent, &release_for(cookie), "connection_unknown")?;
        released(&mut agent, &release_loose())?;
        // With room again it is still unknown what it came from: not even a new image makes it somebody.
        drop(others);
        unbound.exec(&world.program("agent"), &[])?;
        world.open_channel(&mut unbound)?;
        let answer = unbound.act(&release_loose())?;
        ensure!(
            answer["ok"].is_null() && answer["status"] != "PermissionDenied",
            "decided without a lineage: {answer}"
        );
        let mut fresh = world.agent_with_channel()?;
        released(&mut fresh, &release_loose()).map(drop)
    })
}

#[test]
fn a_connection_that_finds_no_room_in_the_table_carries_nothing() -> Result<()> {
    with_daemon(Setup::default().set("kernel.max_connections", 64), |world| {
        let mut agent = world.agent_with_channel()?;
        let mut greedy = world.spawn(&world.program("other"), NOBODY, &[])?;
        let api = world.api("127.0.0.1");
        for number in 0..80 {
            greedy.connect(&format!("c{number}"), &api)?;
        }
        let cookie = agent.connect("api", &api)?;
        denied(world, &mut agent, &release_for(cookie), "connection_unknown")?;
        ensure!(world.counter("connections_full")? > 0, "not counted");
        greedy.exit()?;
        let cookie = agent.connect("again", &api)?;
        released(&mut agent, &release_for(cookie)).map(drop)
    })
}

#[test]
fn one_process_cannot_ask_for_all_and_does_not_slow_the_others() -> Result<()> {
    let setup = Setup::default().set("api.rate_burst", 5).set("api.rate_refill", "\"10m\"");
    with_daemon(setup, |world| {
        let mut greedy = world.agent_with_channel()?;
        for _ in 0..5 {
            assert!(greedy.act(&attest())?["ok"].is_object());
        }
        refused(&mut greedy, &attest(), "ResourceExhausted")?;
        let mut second = world.agent_with_channel()?;
        assert!(second.act(&attest())?["ok"].is_object());
        ensure!(world.counter("requests_rate_limited")? > 0, "not counted");
        // A new image has its own allowance, a new connection of the same one has not.
        world.open_channel(&mut greedy)?;
        refused(&mut greedy, &attest(), "ResourceExhausted").map(drop)
    })
}

#[test]
fn one_process_cannot_hold_all_leases() -> Result<()> {
    let setup = Setup::default().set("credentials.max_leases", 3).set("credentials.max_leases_per_process", 2);
    with_daemon(setup, |world| {
        let mut greedy = world.agent_with_channel()?;
        let first = released(&mut greedy, &release_loose())?;
        released(&mut greedy, &release_loose())?;
        refused(&mut greedy, &release_loose(), "ResourceExhausted")?;
        let mut second = world.agent_with_channel()?;
        released(&mut second, &release_loose())?;
        refused(&mut second, &release_loose(), "ResourceExhausted")?;
        // What is given back can be had again.
        let give_back = json!({"do": "call", "call": "give_back", "on": "channel", "lease": first.lease});
        assert!(greedy.act(&give_back)?["ok"].is_object());
        released(&mut second, &release_loose()).map(drop)
    })
}

/// Status names the capacity of everything that is bounded.
fn capacity(world: &World, name: &str) -> Result<Value> {
    let status = world.ask(&["status"])?;
    let all = status["capacity"].as_array().context("no capacity")?;
    Ok(all.iter().find(|gauge| gauge["name"] == name).with_context(|| format!("no {name} in {all:?}"))?.clone())
}

#[test]
fn the_bounds_that_were_set_are_the_bounds_that_are_shown() -> Result<()> {
    let setup = Setup::default().set("kernel.max_connections", 4096).set("credentials.max_leases", 77);
    let setup = setup.set("credentials.max_leases_per_process", 7);
    with_daemon(setup, |world| {
        let mut agent = world.agent_with_channel()?;
        released(&mut agent, &release_loose())?;
        assert_eq!(capacity(world, "connections")?["limit"], 4096);
        let leases = capacity(world, "leases")?;
        assert_eq!((&leases["limit"], &leases["used"]), (&json!(77), &json!(1)));
        agent.exit()?;
        wait_until("no lease", || Ok(capacity(world, "leases")?["used"] == 0))
    })
}
