// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What may be executed in governed trees: on the real kernel, by a hook before the image is there or by a signal before its
//! first instruction, whichever the kernel has.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, Setup, World, wait_for, wait_until, with_daemon};
use serde_json::{Value, json};

use crate::sessions::{install, run};

const EPERM: i64 = 1;
const SIGKILL: i64 = 9;

const ENTRIES: &str = r#"
[[entry]]
id = "launcher"
spiffe_id = "spiffe://example.org/launcher"
kind = "workload"
selectors = ["unix:uid:65534", "unix:path:@BIN@/agentctl"]
egress = { mode = "audit" }
exec = { mode = "@MODE@", programs = ["@BIN@/agentctl", "@BIN@/agent", "@BIN@/tool"@MORE@] }
"#;

const POLICIES: &str = r#"
@id("launcher-acts")
permit (principal == Workload::"spiffe://example.org/launcher", action == Action::"actFor", resource);
"#;

fn setup(mode: &str, more: &str) -> Setup {
    let entries = ENTRIES.replace("@MODE@", mode).replace("@MORE@", more);
    Setup::default().with_entries(&entries).with_policies(POLICIES)
}

/// An actor below `agentctl run`, and a program that nobody listed.
fn governed(world: &World) -> Result<(Actor, String)> {
    install(world)?;
    let loud = world.install_loud("bin/loud")?;
    // When the daemon looked last, they may not have been there.
    world.ctl(&["reload"])?;
    wait_until("the programs should be found", || {
        let reason = check(world, "exec.programs")?["reason"].clone();
        let lacks = |reason: &str| reason.contains("No such file");
        Ok(reason.as_str().is_some_and(|reason| reason.contains("may be executed") && !lacks(reason)))
    })?;
    let agent = run(world, &[], &world.program("agent"))?;
    Ok((agent, loud))
}

fn start(actor: &mut Actor, program: &str) -> Result<Value> {
    actor.act(&json!({"do": "run", "program": program}))
}

/// What `agentctl doctor` says under a name.
pub(crate) fn check(world: &World, id: &str) -> Result<Value> {
    let checks = world.ctl(&["doctor"])?.said["checks"].take();
    let found = checks.as_array().and_then(|checks| checks.iter().find(|check| check["id"] == id));
    found.cloned().with_context(|| format!("no check {id}: {checks}"))
}

/// It did not begin, or ended before it did anything.
fn is_refused(ran: &Value) -> bool {
    ran["output"] == "" && (ran["failed"] == EPERM || ran["signal"] == SIGKILL)
}

fn refused(actor: &mut Actor, program: &str) -> Result<()> {
    let ran = start(actor, program)?;
    ensure!(is_refused(&ran), "{program} should not begin: {ran}");
    Ok(())
}

/// What it says shows that it ran.
fn ran(actor: &mut Actor, program: &str) -> Result<()> {
    let ran = start(actor, program)?;
    ensure!(ran["output"] == "\u{7f}" && ran["code"] == 0, "{program} should run: {ran}");
    Ok(())
}

#[test]
fn a_governed_tree_executes_its_programs_and_nothing_else() -> Result<()> {
    with_daemon(setup("enforce", ", \"@BIN@/allowed\""), |world| {
        let allowed = world.install_loud("bin/allowed")?;
        let (mut agent, loud) = governed(world)?;
        wait_until("what is listed should run", || Ok(start(&mut agent, &allowed)?["code"] == 0))?;
        ran(&mut agent, &allowed)?;
        refused(&mut agent, &loud)?;
        // By the file and not by its name: a link leads to it, a copy is another.
        let open = |name: &str| world.text(&format!("open/{name}"));
        symlink(&allowed, open("link"))?;
        ran(&mut agent, &open("link"))?;
        fs::copy(&allowed, open("copy"))?;
        refused(&mut agent, &open("copy"))?;
        // A script is what interprets it.
        for (name, interpreter, may) in [("good", &allowed, true), ("bad", &loud, false)] {
            fs::write(open(name), format!("#!{interpreter}\n"))?;
            fs::set_permissions(open(name), fs::Permissions::from_mode(0o755))?;
            if may { ran(&mut agent, &open(name))? } else { refused(&mut agent, &open(name))? }
        }
        // Whoever is below it is of the same tree, also after another image of it.
        let mut child = agent.fork(None)?;
        refused(&mut child, &loud)?;
        child.exec(&world.program("tool"), &[])?;
        refused(&mut child, &loud)?;
        ran(&mut child, &allowed)?;
        // Another file under the same name, in a mount namespace of its own.
        let mut tricked = child.fork(None)?;
        tricked.act(&json!({"do": "own_mounts"}))?;
        tricked.act(&json!({"do": "bind", "from": loud, "over": allowed}))?;
        refused(&mut tricked, &allowed)?;
        // A race does not help: none of many says anything.
        for _ in 0..100 {
            refused(&mut child, &loud)?;
        }
        // Whoever is not governed is not touched.
        let mut free = world.agent()?;
        ran(&mut free, &loud)?;
        let of_loud = |record: &Value| {
            record["reason"] == "exec_unlisted"
                && record["detail"].as_str().is_some_and(|detail| detail.contains("bin/loud (inode"))
        };
        let found = wait_for("its record", || Ok(world.audit()?.into_iter().find(of_loud)))?;
        let seen = (&found["action"], &found["outcome"], &found["user"]);
        assert_eq!(seen, (&json!("exec"), &json!("deny"), &json!("uid:65534")), "{found}");
        ensure!(world.counter("images_refused")? >= 106);
        // The daemon says truly which way this kernel has.
        let ran = start(&mut child, &loud)?;
        match check(world, "tier.lsm")?["outcome"].as_str() {
            Some("pass") => assert_eq!(ran["failed"], EPERM, "it should not have begun"),
            _ => assert_eq!(ran["signal"], SIGKILL, "it should have been killed"),
        }
        Ok(())
    })
}

#[test]
fn a_file_counts_as_what_it_was_and_again_when_root_replaced_it() -> Result<()> {
    with_daemon(setup("enforce", ", \"@BIN@/allowed\""), |world| {
        let allowed = world.install_loud("bin/allowed")?;
        let (mut agent, _) = governed(world)?;
        wait_until("what is listed should run", || Ok(start(&mut agent, &allowed)?["code"] == 0))?;
        // An upgrade: another file under the name. It is looked at again because it was refused.
        world.install_loud("bin/next")?;
        fs::rename(world.path("bin/next"), &allowed)?;
        refused(&mut agent, &allowed)?;
        wait_until("what root put there should run", || Ok(start(&mut agent, &allowed)?["code"] == 0))?;
        ran(&mut agent, &allowed)?;
        // Not so what somebody else may write to.
        chown(&allowed, Some(NOBODY), None)?;
        refused(&mut agent, &allowed)?;
        wait_until("it should be said", || {
            let reason = check(world, "exec.programs")?["reason"].clone();
            Ok(reason.as_str().is_some_and(|reason| reason.contains("others than root may change")))
        })?;
        refused(&mut agent, &allowed)
    })
}

#[test]
fn a_hash_is_asked_for_beside_all_else_and_nothing_of_others_counts_whatever_it_holds() -> Result<()> {
    let bytes = World::loud();
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let more = r#", { path = "@BIN@/pinned", sha256 = "@PIN@" }, { path = "@DIR@/open/own", sha256 = "@PIN@" }, "@DIR@/open/link""#;
    let more = more.replace("@PIN@", &digest);
    with_daemon(setup("enforce", &more), |world| {
        let pinned = world.install_loud("bin/pinned")?;
        // Its own, with the very content; and a name of its own that leads to what is root's.
        let own = world.install_loud("open/own")?;
        chown(&own, Some(NOBODY), None)?;
        let link = world.text("open/link");
        symlink(world.text("bin/loud"), &link)?;
        lchown(&link, Some(NOBODY), None)?;
        let (mut agent, loud) = governed(world)?;
        wait_until("what was measured should run", || Ok(start(&mut agent, &pinned)?["code"] == 0))?;
        for refused_one in [&own, &link, &loud] {
            refused(&mut agent, refused_one)?;
        }
        let reason = check(world, "exec.programs")?["reason"].to_string();
        ensure!(reason.matches("others than root may change").count() == 2, "{reason}");
        // Root's, and another content.
        fs::write(world.path("bin/next"), [&bytes[..], b"!"].concat())?;
        fs::set_permissions(world.path("bin/next"), fs::Permissions::from_mode(0o755))?;
        fs::rename(world.path("bin/next"), &pinned)?;
        refused(&mut agent, &pinned)?;
        wait_until("it should be said", || {
            let reason = check(world, "exec.programs")?["reason"].clone();
            Ok(reason.as_str().is_some_and(|reason| reason.contains("its content is another")))
        })?;
        for refused_one in [&pinned, &own, &link] {
            refused(&mut agent, refused_one)?;
        }
        Ok(())
    })
}

#[test]
fn in_audit_mode_everything_runs_and_is_recorded_and_a_reload_enforces() -> Result<()> {
    let enforcing = setup("enforce", "");
    with_daemon(setup("audit", ""), |world| {
        let (mut agent, loud) = governed(world)?;
        ran(&mut agent, &loud)?;
        let record = world.record("decision", &[("/action", "exec".into()), ("/reason", "exec_unlisted".into())])?;
        assert_eq!((&record["outcome"], &record["audit_mode"]), (&json!("allow"), &json!(true)), "{record}");
        world.write_entries_and_reload(&enforcing)?;
        wait_until("it should be refused", || Ok(is_refused(&start(&mut agent, &loud)?)))?;
        // A list that is wrong is not taken.
        world.write("config/entries.toml", &enforcing.entries.replace("@BIN@/tool", "tool"))?;
        let told = world.ctl(&["reload"])?;
        ensure!(told.code == 1 && told.said.to_string().contains("is not an absolute path"), "{}", told.said);
        refused(&mut agent, &loud)
    })
}
