// SPDX-License-Identifier: Apache-2.0 OR MIT

//! No record, no credential; and a record that was changed is found.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use e2e::{NOBODY, Setup, World, wait_until, with_daemon};
use serde_json::json;

use crate::calls::{denied, refused, release_for, release_loose, released};

/// A small file system of its own. It goes with this guard.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Result<Self> {
        fs::create_dir(at)?;
        let flags = rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
        rustix::mount::mount("e2e", at, "tmpfs", flags, Some(c"size=1m,mode=0700")).context("cannot mount a tmpfs")?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It is empty or goes with the machine.
        let _gone = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn fill(path: &Path) -> Result<()> {
    let mut size = 1 << 20;
    let mut content = Vec::new();
    while size > 0 {
        content.resize(content.len() + size, 0_u8);
        if fs::write(path, &content).is_err() {
            content.truncate(content.len() - size);
            size /= 2;
        }
    }
    // The last write that failed took what there was.
    Ok(())
}

#[test]
fn nothing_is_released_while_the_audit_log_has_no_room_and_all_works_when_it_has() -> Result<()> {
    let disk = tempfile::Builder::new().prefix("agent-e2e-disk-").tempdir_in("/var/lib")?;
    let at = disk.path().join("audit");
    let mount = SmallDisk::mount(&at)?;
    let setup = Setup::default().set("audit.dir", format!("{:?}", at.join("log")));
    with_daemon(setup, |world| {
        let mut agent = world.agent_with_channel()?;
        let got = released(&mut agent, &release_loose())?;
        fill(&at.join("filler"))?;
        // The page that the log is in may have some room left.
        wait_until("the log should be full", || Ok(agent.act(&release_loose())?["ok"].is_null()))?;
        for _ in 0..3 {
            refused(&mut agent, &release_loose(), "Unavailable")?;
        }
        // A denial that cannot be recorded is none either: the same answer.
        let mut impostor = world.spawn(&world.program("other"), NOBODY, &[])?;
        world.open_channel(&mut impostor)?;
        refused(&mut impostor, &release_loose(), "Unavailable")?;
        let told = world.ctl(&["status"])?;
        assert_eq!((told.code, &told.said["state"]), (1, &json!("degraded")), "{}", told.said);
        assert_eq!(told.said["audit"]["writable"], false, "{}", told.said);
        // Ending a lease needs no room.
        assert!(world.authority.is_active(&got.token)?);
        world.ctl(&["revoke", "--lease", &got.lease])?;
        assert!(!world.authority.is_active(&got.token)?, "a lease could not be revoked because the disk is full");

        fs::remove_file(at.join("filler"))?;
        released(&mut agent, &release_loose())?;
        denied(world, &mut impostor, &release_loose(), "no_identity")?;
        assert_eq!(world.ask(&["status"])?["state"], "serving");
        let verified = world.ask(&["audit", "verify"])?;
        assert_eq!(verified["valid"], true, "{verified}");
        world.record("recovered", &[("/cause", "write_failed".into())]).map(drop)
    })?;
    drop(mount);
    Ok(())
}

#[test]
fn whatever_is_changed_in_the_log_is_found() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        for _ in 0..5 {
            let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
            released(&mut agent, &release_for(cookie))?;
        }
        let verified = world.ask(&["audit", "verify"])?;
        assert_eq!(verified["valid"], true, "{verified}");
        let segment = world.segments()?.pop().context("no segment")?;
        let original = fs::read_to_string(&segment)?;
        let lines: Vec<&str> = original.lines().collect();
        let at = lines.iter().position(|line| line.contains(r#""kind":"decision""#)).context("no decision")?;
        let with = |change: &dyn Fn(&mut Vec<String>)| {
            let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            change(&mut lines);
            lines.iter().map(|line| format!("{line}\n")).collect::<String>()
        };
        let changes: [(&str, String); 6] = [
            ("one letter", with(&|lines| lines[at] = lines[at].replacen("allow", "deny ", 1))),
            ("one bit", with(&|lines| lines[at] = lines[at].replacen("\"tgid\":", "\"tgie\":", 1))),
            ("a line less", with(&|lines| drop(lines.remove(at)))),
            ("a line twice", with(&|lines| lines.insert(at, lines[at].clone()))),
            ("two lines the other way round", with(&|lines| lines.swap(at, at + 1))),
            ("the end cut off", with(&|lines| lines.truncate(at + 1))),
        ];
        for (what, text) in changes {
            ensure!(text != original, "{what}: nothing was changed");
            overwrite(&segment, &text)?;
            let told = world.ctl(&["audit", "verify"])?;
            ensure!(told.code == 1 && told.said["valid"] == false, "{what} was not found: {}", told.said);
            ensure!(told.said["problem"].is_string(), "{what}: {}", told.said);
        }
        overwrite(&segment, &original)?;
        assert_eq!(world.ctl(&["audit", "verify"])?.code, 0, "as it was");
        Ok(())
    })
}

/// In place: the daemon has the file open.
fn overwrite(path: &Path, text: &str) -> Result<()> {
    Ok(fs::write(path, text)?)
}

#[test]
fn the_log_outlives_kills_and_says_what_it_lost() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        for round in 0..3 {
            let mut agent = world.agent_with_channel()?;
            let got = released(&mut agent, &release_loose())?;
            world.daemon.kill9()?;
            // Handed to the kernel before the answer: a kill does not take it.
            ensure!(is_recorded(world, &got.lease)?, "round {round}: a release without a record");
            let segment = world.segments()?.pop().context("no segment")?;
            if round == 1 {
                // As a loss of power leaves it.
                let mut text = fs::read(&segment)?;
                text.extend_from_slice(br#"{"seq":999,"prev":"torn"#);
                fs::write(&segment, text)?;
            }
            world.daemon.start()?;
            if round == 1 {
                world.record("recovered", &[("/cause", "torn_tail".into())])?;
            }
            let verified = world.ask(&["audit", "verify"])?;
            assert_eq!(verified["valid"], true, "{verified}");
        }
        Ok(())
    })
}

fn is_recorded(world: &World, lease: &str) -> Result<bool> {
    Ok(world.audit()?.iter().any(|record| record["lease_id"] == lease))
}
