// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Attacks by the agent's own user, who may make user namespaces and rule over the mounts in them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, Setup, World, with_daemon};
use serde_json::Value;

/// A shell in a user and mount namespace of its own, as nobody; it is to become an actor.
fn in_a_namespace_of_its_own(world: &World, script: &str) -> Result<Actor> {
    world.spawn("/usr/bin/unshare", NOBODY, &["--user", "--map-root-user", "--mount", "/bin/sh", "-ec", script])
}

/// The facts of one kind, with their provenance.
fn facts(process: &Value, kind: &str) -> Result<Vec<(String, String)>> {
    let selectors = process["selectors"].as_array().with_context(|| format!("no selectors: {process}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = selectors.iter().map(|selector| (text(&selector["value"]), text(&selector["provenance"])));
    Ok(all.filter(|(value, _)| value.starts_with(kind)).collect())
}

fn ensure_only_claimed(process: &Value, kind: &str) -> Result<()> {
    let facts = facts(process, kind)?;
    ensure!(!facts.is_empty(), "no {kind}: {process}");
    for (value, provenance) in facts {
        ensure!(provenance == "claimed", "{value} is {provenance}: {process}");
    }
    Ok(())
}

#[test]
fn a_script_is_not_measured_where_its_user_can_mount_something_over_it() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let tools = world.text("tools");
        let genuine = format!("#!{}\n# the genuine one\n", world.program("other"));
        fs::create_dir(&tools)?;
        fs::write(format!("{tools}/report"), &genuine)?;
        fs::set_permissions(format!("{tools}/report"), fs::Permissions::from_mode(0o755))?;
        let honest = world.spawn(&format!("{tools}/report"), NOBODY, &[])?;
        let of_honest = facts(&world.process(honest.pid())?, "script:sha256:")?;
        ensure!(of_honest.iter().all(|(_, provenance)| provenance == "measured"), "not measured: {of_honest:?}");
        ensure!(!of_honest.is_empty(), "the honest script has no hash");

        // Its own script under the name at exec, the genuine one when the daemon looks.
        let (other, open) = (world.program("other"), world.text("open"));
        let impostor = in_a_namespace_of_its_own(
            world,
            &format!(
                "mount -t tmpfs none {tools}
                 printf '#!{other}\\n# the evil one\\n' > {tools}/report
                 chmod 755 {tools}/report
                 mkfifo {open}/swap {open}/swapped
                 (read go < {open}/swap; umount -l {tools}; echo > {open}/swapped) &
                 exec {tools}/report"
            ),
        )?;
        // Without the flag for making files, which is refused on somebody else's pipe here.
        fs::OpenOptions::new().write(true).open(world.path("open/swap"))?.write_all(b"go\n")?;
        fs::read(world.path("open/swapped"))?;
        let process = world.process(impostor.pid())?;
        ensure!(process["flags"].as_array().is_some_and(|flags| flags.contains(&"script".into())), "{process}");
        ensure_only_claimed(&process, "script:")
    })
}

#[test]
fn an_executable_is_not_measured_on_a_file_system_that_its_user_mounted() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let agent = world.program("agent");
        let bin = world.text("bin");
        // The very same content at the very same path, on a file system that can change without a trace.
        let impostor = in_a_namespace_of_its_own(
            world,
            &format!(
                "cp {agent} /dev/shm/agent-$$
                 mount -t tmpfs none {bin}
                 mv /dev/shm/agent-$$ {agent}
                 exec {agent}"
            ),
        )?;
        let process = world.process(impostor.pid())?;
        ensure!(process["flags"].as_array().is_some_and(|flags| flags.contains(&"user-mounted".into())), "{process}");
        ensure!(process["spiffe_ids"].as_array().is_none_or(Vec::is_empty), "it has an identity: {process}");
        ensure_only_claimed(&process, "unix:sha256:")?;
        ensure_only_claimed(&process, "unix:path:")
    })
}

#[test]
fn a_path_is_only_claimed_where_its_user_can_bind_another_file_to_it() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let (agent, other) = (world.program("agent"), world.program("other"));
        let impostor = in_a_namespace_of_its_own(world, &format!("mount --bind {other} {agent}; exec {agent}"))?;
        let process = world.process(impostor.pid())?;
        ensure_only_claimed(&process, "unix:path:")?;
        // The inode is the one that was executed, on a file system that its user has no power over.
        let measured = facts(&process, "unix:sha256:")?;
        ensure!(measured.iter().any(|(_, provenance)| provenance == "measured"), "not measured: {process}");
        Ok(())
    })
}
