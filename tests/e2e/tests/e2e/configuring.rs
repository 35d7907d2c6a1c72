// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an operator wrote wrongly is said with its place, and nothing of it is applied.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::{Setup, World, with_daemon};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::calls::{denied, release_loose, released};

/// Runs the daemon until it ends by itself.
pub(crate) fn end_of(command: &mut Command) -> Result<(Option<i32>, String)> {
    let output = command.output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn a_configuration_with_an_error_is_refused_with_file_and_line() -> Result<()> {
    for (file, text, at, expected) in [
        ("config.toml", "trust_domain = \"example.org\"\nstate_dri = \"/x\"\n", ":2:1", "state_dri"),
        ("config.toml", "trust_domain = \"not a domain\"\n", ":1:16", "trust domain"),
        ("config.toml", "trust_domain = \n", ":1:", "TOML"),
        ("config.toml", "trust_domain = \"example.org\"\n\n[audit]\nsegment_bytes = 1\n", ":4:17", "segment_bytes"),
        (
            "entries.toml",
            "\n[[entry]]\nid = \"x\"\nspiffe_id = \"spiffe://else.org/x\"\nkind = \"agent\"\nselectors = [\"unix:uid:0\"]\n",
            ":4:",
            "trust domain",
        ),
        (
            "entries.toml",
            "[[entry]]\nid = \"x\"\nspiffe_id = \"spiffe://example.org/x\"\nkind = \"agent\"\nselectors = [\"unix:pid:1\"]\n",
            ":5:",
            "unix:pid",
        ),
        (
            "destinations.toml",
            "[[destination]]\nname = \"api\"\nports = [0]\ncidrs = [\"127.0.0.1/32\"]\naudience = \"x\"\n",
            ":3:",
            "port",
        ),
        (
            "destinations.toml",
            "[[binding]]\nname = \"b\"\ndestination = \"nowhere\"\nidentities = [\"spiffe://example.org/x\"]\nsource = \"s\"\n",
            ":3:",
            "nowhere",
        ),
        (
            "policies/e2e.cedar",
            "@id(\"x\")\npermit (principal, action, resource)\nwhen { context.nothing };\n",
            ":3:",
            "nothing",
        ),
        ("policies/e2e.cedar", "permit (principal, action, resource;\n", ":1:", "expected"),
    ] {
        let world = World::prepare(Setup::default())?;
        world.write(&format!("config/{file}"), text)?;
        for check in [false, true] {
            let mut command = world.daemon.command();
            if check {
                command.arg("--check-config");
            }
            let (code, said) = end_of(&mut command)?;
            ensure!(code == Some(64), "{file} {text:?}: exit {code:?}: {said}");
            ensure!(said.contains(&format!("{file}{at}")) && said.contains(expected), "{file} {text:?}: {said}");
        }
        for left in ["state", "sockets/agent.sock", "sockets/admin.sock"] {
            ensure!(!world.path(left).exists(), "{file}: {left} was made");
        }
    }
    Ok(())
}

#[test]
fn a_missing_file_and_wrong_usage_are_refused_too() -> Result<()> {
    let world = World::prepare(Setup::default())?;
    std::fs::remove_file(world.path("config/entries.toml"))?;
    let (code, said) = end_of(&mut world.daemon.command())?;
    ensure!(code == Some(64) && said.contains("entries.toml"), "{code:?}: {said}");
    let (code, said) = end_of(world.daemon.command().arg("--fly"))?;
    ensure!(code == Some(64), "{code:?}: {said}");
    Ok(())
}

#[test]
fn a_reload_with_an_error_changes_nothing_and_names_the_place() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        let mut agent = world.agent_with_channel()?;
        released(&mut agent, &release_loose())?;
        let before = world.ask(&["status"])?["policy_generation"].clone();
        // The entries would be right, and would take the agent its identity: not even they are taken.
        world.write("config/entries.toml", "")?;
        world.write(
            "config/policies/e2e.cedar",
            "@id(\"a\")\npermit (principal, action, resource);\n\npermit (nobody);\n",
        )?;
        let told = world.ctl(&["reload"])?;
        assert_eq!((told.code, &told.said["accepted"]), (1, &json!(false)), "{}", told.said);
        let finding = &told.said["diagnostics"][0];
        ensure!(finding["file"].as_str().is_some_and(|file| file.ends_with("e2e.cedar")), "{finding}");
        assert_eq!(finding["line"], 4, "{finding}");
        world.daemon.signal(Signal::HUP)?;
        world.record("reload", &[("/outcome", "deny".into()), ("/trigger", "sighup".into())])?;
        world.record("reload", &[("/outcome", "deny".into()), ("/trigger", "admin".into())])?;
        let status = world.ctl(&["status"])?.said;
        assert_eq!(status["policy_generation"], before);
        assert_eq!(status["state"], "degraded", "{status}");
        ensure!(status["last_reload_error"].as_str().is_some_and(|error| error.contains("e2e.cedar:4:")), "{status}");
        released(&mut agent, &release_loose())?;
        assert_eq!(world.ctl(&["policy", "validate"])?.code, 1);

        // Mended, it is taken as a whole.
        world.write("config/policies/e2e.cedar", "@id(\"none\")\nforbid (principal, action, resource);\n")?;
        world.write("config/entries.toml", &Setup::default().entries)?;
        assert_eq!(world.ask(&["reload"])?["accepted"], true);
        let record = denied(world, &mut agent, &release_loose(), "policy_forbid")?;
        assert_eq!(record["policy_ids"], json!(["none"]));
        assert_eq!(world.ask(&["status"])?["state"], "serving");
        Ok(())
    })
}

/// The daemon in a mount namespace of its own, from which something was taken away.
fn without(world: &World, mount: &Path) -> Result<(Option<i32>, String)> {
    let daemon = world.daemon.command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "umount --lazy \"$0\" && exec \"$@\""]).arg(mount);
    end_of(command.arg(daemon.get_program()).args(daemon.get_args()))
}

fn mount_point(kind: &str) -> Result<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(kind));
    let line = line.and_then(|line| line.split(' ').nth(1));
    line.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("{kind} is not mounted"))
}

#[test]
fn a_kernel_that_lacks_something_is_refused_with_the_guarantee_that_is_lost() -> Result<()> {
    let world = World::prepare(Setup::default().set("kernel.mount_bpffs", false))?;
    for (kind, expected) in
        [("cgroup2", "connections cannot be witnessed"), ("bpf", "bindings would not survive a restart")]
    {
        let (code, said) = without(&world, Path::new(&mount_point(kind)?))?;
        ensure!(code == Some(69) && said.contains(expected), "without {kind}: exit {code:?}: {said}");
    }
    let elsewhere = World::prepare(Setup::default().set("kernel.pin_dir", "\"/var/lib/agent-e2e-pins\""))?;
    let (code, said) = end_of(&mut elsewhere.daemon.command())?;
    drop(std::fs::remove_dir("/var/lib/agent-e2e-pins"));
    ensure!(code == Some(69) || code == Some(64), "pins outside bpffs: exit {code:?}: {said}");
    Ok(())
}

#[test]
fn a_daemon_whose_clock_is_not_the_kernels_does_not_start() -> Result<()> {
    let world = World::prepare(Setup::default())?;
    let daemon = world.daemon.command();
    let mut elsewhere = Command::new("unshare");
    elsewhere.args(["--time", "--boottime", "1000", "--fork", "--"]).arg(daemon.get_program()).args(daemon.get_args());
    let (code, said) = end_of(&mut elsewhere)?;
    ensure!(code == Some(69) && said.contains("in a time namespace of its own"), "exit {code:?}: {said}");
    Ok(())
}

#[test]
fn names_that_the_daemon_would_refuse_are_left_out_of_an_import_and_listed() -> Result<()> {
    let names: Vec<String> = (0..20).map(|number| format!("n{number}.example")).collect();
    let domains: Vec<String> = (0..40).map(|number| format!("spiffe://d{number}.example")).collect();
    let long = "a".repeat(64);
    let strange = ["*.example", "Web.example", "end.", "", "-a", "a.1", "a b", &long];
    let entry = |id: &str, path: &str, key: &str, value: Value| {
        let selectors = json!([{"type": "unix", "value": "uid:1"}]);
        let id_there = json!({"trust_domain": "example.org", "path": path});
        let mut entry = json!({"id": id, "spiffe_id": id_there, "selectors": selectors});
        entry[key] = value;
        entry
    };
    let parent = json!({"trust_domain": "example.org", "path": "/host"});
    let shown = json!({"entries": [
        entry("names", "/a", "dns_names", json!(names)),
        entry("domains", "/b", "federates_with", json!(domains)),
        entry("strange", "/c", "dns_names", json!(strange)),
        entry("own", "/d", "federates_with", json!(["spiffe://example.org", "one.example"])),
        entry("hint", "/e", "hint", json!("x".repeat(129))),
        entry("control", "/f", "hint", json!("a\u{7}b")),
        entry("parent", "/g", "parent_id", parent),
        entry("parent", "/h", "hint", json!("")),
        entry(&"i".repeat(200), "/i", "hint", json!("")),
        entry("reserved", "/agent-daemon/x", "hint", json!("")),
        entry("root", "", "hint", json!("")),
    ]});
    with_daemon(Setup::default(), |world| {
        world.write("spire.json", &shown.to_string())?;
        let imported = world.ctl(&["spiffe", "import", &world.text("spire.json")])?;
        assert_eq!((imported.code, &imported.said["entries"]), (1, &json!(9)), "{}", imported.complaint);
        let left = imported.said["left_out"].as_array().context("nothing is left out")?;
        let lost = |id: &str| left.iter().filter(|left| left["entry"] == id).count();
        let ids = ["names", "domains", "strange", "own", "hint", "control", "parent", "reserved", "root"];
        // What is carried over lacks its parent, too.
        assert_eq!(ids.map(lost), [5, 9, 9, 2, 2, 2, 2, 1, 1]);
        world.write("config/entries.toml", imported.said["toml"].as_str().context("no entries")?)?;
        let reloaded = world.ctl(&["reload"])?;
        assert_eq!((reloaded.code, &reloaded.said["entries"]), (0, &json!(9)), "{}", reloaded.said);
        let picked =
            world.ctl(&["spiffe", "import", "--parent", "spiffe://example.org/host", &world.text("spire.json")])?;
        assert_eq!(picked.said["entries"], 1, "{}", picked.said);
        Ok(())
    })
}
