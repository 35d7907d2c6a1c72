// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a process runs, and how sure that is.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use e2e::{Actor, NOBODY, Setup, World, wait_until, with_daemon};
use serde_json::{Value, json};

use crate::calls::{denied, release_for, release_loose, released};

/// The same content anywhere, so that only what is wrong with the image stands in the way.
const ANYWHERE: &str = r#"
[[entry]]
id = "anywhere"
spiffe_id = "spiffe://example.org/agent/anywhere"
kind = "agent"
selectors = ["unix:uid:65534", "unix:sha256:@SHA256@"]
groups = ["agents"]
"#;

/// What the log says about the exec instance of a release.
fn facts(world: &World, actor: &mut Actor) -> Result<Value> {
    let got = released(actor, &release_loose())?;
    Ok(world.record("decision", &[("/decision_id", got.decision.as_str().into())])?["exec"].clone())
}

fn flags(facts: &Value) -> Vec<&str> {
    facts["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn a_setuid_program_is_flagged_and_is_who_it_became_not_who_started_it() -> Result<()> {
    let setup = Setup::default().with_entries(
        r#"
[[entry]]
id = "raised"
spiffe_id = "spiffe://example.org/agent/raised"
kind = "agent"
selectors = ["unix:uid:0", "unix:path:@BIN@/raised"]
groups = ["agents"]

[[entry]]
id = "as-started"
spiffe_id = "spiffe://example.org/agent/as-started"
kind = "agent"
selectors = ["unix:uid:65534", "unix:path:@BIN@/raised"]
groups = ["agents"]
"#,
    );
    with_daemon(setup, |world| {
        let program = world.install("raised")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755))?;
        let mut raised = world.spawn(&program, NOBODY, &[])?;
        world.open_channel(&mut raised)?;
        let cookie = raised.connect("api", &world.api("127.0.0.1"))?;
        let got = released(&mut raised, &release_for(cookie))?;
        assert_eq!(world.authority.verify(&got.token)?.sub, "spiffe://example.org/agent/raised");
        let record = world.record("decision", &[("/decision_id", got.decision.as_str().into())])?;
        assert!(flags(&record["exec"]).contains(&"setuid"), "{record}");
        assert_eq!((&record["exec"]["uid"], &record["connection"]["uid"]), (&json!(0), &json!(0)));
        // It gives its right up, and with it what it got.
        raised.act(&json!({"do": "set_uid", "uid": NOBODY}))?;
        assert!(!world.authority.is_active(&got.token)?);
        let ended = world.record("lease_ended", &[("/lease_id", got.lease.as_str().into())])?;
        assert_eq!(ended["cause"], "uid_changed");
        Ok(())
    })
}

/// A cgroup of our own; it goes when those in it have ended.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).context("cgroup v2 is not mounted")?;
        let root = mount.split(' ').nth(4).context("a mount without a place")?;
        let path = Path::new(root).join(format!("agent-e2e-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Who was in it may be a moment from being reaped.
        let gone = wait_until("the cgroup should be empty", || Ok(fs::remove_dir(&self.0).is_ok()));
        assert!(gone.is_ok() || std::thread::panicking(), "{} stays", self.0.display());
    }
}

#[test]
fn a_child_that_begins_in_another_cgroup_is_recorded_there() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let cgroup = Cgroup::new()?;
        let mut parent = world.spawn(&world.program("agent"), 0, &[])?;
        let moved = parent.fork_into(&cgroup.0)?;
        let stayed = parent.fork(None)?;
        let id = |pid| -> Result<Value> { Ok(world.process(pid)?["cgroup_id"].clone()) };
        assert_eq!(id(moved.pid())?, fs::metadata(&cgroup.0)?.ino().to_string());
        assert_eq!(id(stayed.pid())?, id(parent.pid())?);
        assert_ne!(id(stayed.pid())?, id(moved.pid())?);
        moved.exit()?;
        stayed.exit()
    })
}

#[test]
fn an_image_in_memory_and_one_without_a_name_are_flagged_and_denied_by_policy() -> Result<()> {
    with_daemon(Setup::default().with_entries(ANYWHERE), |world| {
        let doomed = world.text("open/doomed");
        fs::copy(world.program("agent"), &doomed)?;
        fs::set_permissions(world.path("open"), fs::Permissions::from_mode(0o777))?;
        for (how, expected) in [
            (json!({"memfd": true, "program": world.program("agent")}), "memfd"),
            (json!({"unlink": true, "program": doomed}), "deleted"),
        ] {
            let mut agent = world.agent()?;
            let mut exec = how.clone();
            exec["do"] = "exec".into();
            agent.become_image(&exec)?;
            world.open_channel(&mut agent)?;
            let record = denied(world, &mut agent, &release_loose(), "policy_forbid")?;
            assert_eq!(record["policy_ids"], json!(["no-doubtful-images"]));
            assert_eq!(record["spiffe_id"], "spiffe://example.org/agent/anywhere");
            assert!(flags(&record["exec"]).contains(&expected), "{record}");
            // A child has the image of its parent.
            let mut child = agent.fork(None)?;
            world.open_channel(&mut child)?;
            denied(world, &mut child, &release_loose(), "policy_forbid")?;
        }
        Ok(())
    })
}

#[test]
fn a_program_whose_file_was_deleted_or_replaced_since_is_nobody() -> Result<()> {
    with_daemon(Setup::default().with_entries(ANYWHERE), |world| {
        for replaced in [false, true] {
            let program = world.install("passing")?;
            let mut agent = world.spawn(&program, NOBODY, &[])?;
            if replaced {
                fs::copy(&program, world.path("bin/new"))?;
                fs::rename(world.path("bin/new"), &program)?;
            } else {
                fs::remove_file(&program)?;
            }
            world.open_channel(&mut agent)?;
            let record = denied(world, &mut agent, &release_loose(), "no_identity")?;
            assert!(record["exec"].get("sha256").is_none(), "{record}");
        }
        Ok(())
    })
}

const SCRIPTS: &str = r#"
[[entry]]
id = "script"
spiffe_id = "spiffe://example.org/agent/script"
kind = "agent"
selectors = ["unix:uid:65534", "unix:path:@BIN@/interpreter", "script:path:@BIN@/work.agent", "script:sha256:@SCRIPT@"]
groups = ["agents"]
"#;

const BELIEVED: &str = r#"
[[entry]]
id = "believed"
spiffe_id = "spiffe://example.org/agent/believed"
kind = "agent"
selectors = ["unix:uid:65534", "script:sha256:@SCRIPT@"]
groups = ["agents"]
accept_claimed = true
"#;

/// A script under `#!`, and the entries that name it.
fn install_scripts(world: &World, entries: &str) -> Result<()> {
    let interpreter = world.install("interpreter")?;
    world.install("python3")?;
    // Everybody's: whoever runs a script here could have put another one at its name.
    fs::create_dir(world.path("loose"))?;
    fs::set_permissions(world.path("loose"), fs::Permissions::from_mode(0o777))?;
    let work = format!("#!{interpreter}\n# the work\n");
    for (name, text) in
        [("bin/work.agent", &work), ("loose/work.agent", &work), ("bin/idle.agent", &format!("{work}\n"))]
    {
        fs::write(world.path(name), text)?;
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o755))?;
    }
    let output = std::process::Command::new("sha256sum").arg(world.path("bin/work.agent")).output()?;
    let digest = String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned();
    let setup = Setup::default().with_entries(&entries.replace("@SCRIPT@", &digest));
    world.write_entries_and_reload(&setup)
}

#[test]
fn a_script_that_only_root_could_have_changed_is_measured() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        install_scripts(world, SCRIPTS)?;
        let mut script = world.spawn(&world.program("work.agent"), NOBODY, &[])?;
        world.open_channel(&mut script)?;
        let facts = facts(world, &mut script)?;
        assert_eq!(facts["path"], world.program("interpreter"));
        assert_eq!(facts["script"], world.program("work.agent"));
        assert_eq!(facts["script_provenance"], "measured");
        Ok(())
    })
}

#[test]
fn the_interpreter_alone_is_nobody_whatever_else_it_runs() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        install_scripts(world, SCRIPTS)?;
        let (work, idle) = (world.program("work.agent"), world.program("idle.agent"));
        for (program, arguments) in [
            // Another script.
            (idle.clone(), vec![]),
            // The same one, named by the arguments only.
            (world.program("interpreter"), vec![work.as_str()]),
            // The same content where its user could have changed it.
            (world.text("loose/work.agent"), vec![]),
        ] {
            let mut script = world.spawn(&program, NOBODY, &arguments)?;
            world.open_channel(&mut script)?;
            denied(world, &mut script, &release_loose(), "no_identity")?;
        }
        Ok(())
    })
}

#[test]
fn a_claimed_script_counts_only_for_an_entry_that_accepts_claims() -> Result<()> {
    for (entries, accepted) in [(BELIEVED, true), (&*BELIEVED.replace("accept_claimed = true\n", ""), false)] {
        with_daemon(Setup::default(), |world| {
            install_scripts(world, entries)?;
            let work = world.program("work.agent");
            // `python file`, and a script where its user could have changed it.
            for (program, arguments) in
                [(world.program("python3"), vec![work.as_str()]), (world.text("loose/work.agent"), vec![])]
            {
                let mut script = world.spawn(&program, NOBODY, &arguments)?;
                world.open_channel(&mut script)?;
                if accepted {
                    let facts = facts(world, &mut script)?;
                    assert_eq!(facts["script_provenance"], "claimed", "{facts}");
                } else {
                    let record = denied(world, &mut script, &release_loose(), "no_identity")?;
                    let notes = record["near_misses"].to_string();
                    assert!(notes.contains("note"), "the operator should see why: {record}");
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_script_that_was_only_mounted_over_the_right_one_is_not_taken_for_it() -> Result<()> {
    let by_content = SCRIPTS.replace(r#""script:path:@BIN@/work.agent", "#, "");
    for entries in [SCRIPTS, &by_content] {
        with_daemon(Setup::default(), |world| {
            install_scripts(world, entries)?;
            let (work, idle) = (world.program("work.agent"), world.program("idle.agent"));
            let mut agent = world.spawn(&world.program("other"), NOBODY, &[])?;
            agent.act(&json!({"do": "own_mounts"}))?;
            agent.act(&json!({"do": "bind", "from": idle, "over": work}))?;
            agent.exec(&work, &[])?;
            // It runs; now it shows the right one at its name.
            agent.act(&json!({"do": "unbind", "at": work}))?;
            world.open_channel(&mut agent)?;
            let record = denied(world, &mut agent, &release_loose(), "no_identity")?;
            assert_eq!(record["exec"]["uid"], NOBODY, "{record}");
            assert_eq!(record["exec"]["script_provenance"], "claimed", "{record}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_script_whose_name_is_mounted_over_after_exec_is_not_taken_for_another() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        install_scripts(world, &SCRIPTS.replace(r#""script:path:@BIN@/work.agent", "#, ""))?;
        // Under the same last name, so that a folder of root's can be mounted over the one it was run in.
        let bad = fs::read(world.path("bin/idle.agent"))?;
        fs::write(world.path("loose/work.agent"), bad)?;
        let mut agent = world.spawn(&world.text("loose/work.agent"), NOBODY, &[])?;
        agent.act(&json!({"do": "own_mounts"}))?;
        agent.act(&json!({"do": "bind", "from": world.text("bin"), "over": world.text("loose")}))?;
        world.open_channel(&mut agent)?;
        let record = denied(world, &mut agent, &release_loose(), "no_identity")?;
        assert_eq!(record["exec"]["script_provenance"], "claimed", "{record}");
        Ok(())
    })
}

#[test]
fn a_process_does_not_shed_its_ancestors_by_exec_nor_by_their_death() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        let first = released(&mut agent, &release_loose())?;
        // Two forks and an exec away from it, the one in between gone, and at last the agent itself another image.
        let mut between = agent.fork(None)?;
        let mut tool = between.fork(None)?;
        between.exit()?;
        tool.exec(&world.program("other"), &[])?;
        agent.exec(&world.program("other"), &[])?;
        world.open_channel(&mut tool)?;
        let record = denied(world, &mut tool, &release_loose(), "no_identity")?;
        let lineage = record["lineage"].as_array().cloned().unwrap_or_default();
        let ancestor = lineage.iter().find(|ancestor| ancestor["exec_id"] == first.exec_id);
        let ancestor = ancestor.with_context(|| format!("the agent is not in the lineage: {record}"))?;
        assert_eq!(ancestor["spiffe_id"], "spiffe://example.org/agent/one", "it was known while it lived");
        Ok(())
    })
}
