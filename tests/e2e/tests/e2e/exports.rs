// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The audit log in the forms of others: held against the public schemas, and looked at in a real browser.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, OTHER, SOON, World, on_path, python_script, with_daemon};
use serde_json::{Value, json};

use crate::calls::{denied, refused, release_for, release_loose, released};
use crate::sessions::{install, run, setup};
use crate::steps::{begin, done, end};

/// What a page must not obey, and what has no place to break.
const HOSTILE: &str = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1>";
/// Chromium starts slowly on a loaded machine.
const BROWSER: Duration = Duration::from_secs(120);

/// An agent does a bit of everything.
fn busy(world: &World) -> Result<Actor> {
    install(world)?;
    let purpose = format!("the report {HOSTILE} {}", "x".repeat(100));
    let mut agent = run(world, &["--purpose", &purpose], &world.program("agent"))?;
    let about = json!({"kind": "reasoning", "content": format!("{HOSTILE} with password=hunter2")});
    done(&mut agent, &begin(1, None, &about))?;
    done(&mut agent, &begin(2, Some(1), &json!({"name": "search", "reference": "sha256:aa"})))?;
    let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
    released(&mut agent, &release_for(cookie))?;
    done(&mut agent, &end(2))?;
    refused(&mut agent, &end(2), "NotFound")?;
    let mut outside = world.spawn(&world.program("tool"), OTHER, &[])?;
    world.open_channel(&mut outside)?;
    denied(world, &mut outside, &release_loose(), "no_identity")?;
    // Nobody's session.
    let opening = json!({"do": "call", "call": "open_session", "on": "channel", "token": "no.token.atall"});
    refused(&mut agent, &opening, "PermissionDenied")?;
    Ok(agent)
}

fn with_content() -> e2e::Setup {
    setup().set("sessions.step_content_bytes", 1000)
}

#[test]
fn what_is_exported_is_what_the_public_schemas_say() -> Result<()> {
    with_daemon(with_content(), |world| {
        let agent = busy(world)?;
        world.ask(&["reload"])?;
        world.ctl(&["explain", &agent.pid().to_string(), "--destination", "api"])?;
        let listed = world.ask(&["sessions"])?;
        let session = listed["sessions"][0]["session_id"].as_str().context("a session")?.to_owned();
        world.ask(&["sessions", &session, "--end"])?;
        world.record("lease_ended", &[("/cause", "session_ended".into())])?;
        let records = world.audit()?;
        let checked = |form: &str| -> Result<Value> {
            let lines = world.printed(form, &["audit", "query"])?;
            ensure!(!lines.contains("hunter2"), "{lines}");
            world.write(&format!("open/{form}"), &lines)?;
            python_script(world, NOBODY, "schemas.py", &[form, &world.text(&format!("open/{form}"))])?.next(SOON)
        };
        let counted =
            |seen: &Value| -> u64 { seen.as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum() };
        let events = checked("ocsf")?;
        // Asking for the log adds nothing to it; a checkpoint may come in between.
        let fits = |seen: &Value| (records.len() as u64..records.len() as u64 + 3).contains(&counted(seen));
        ensure!(fits(&events), "{} records, {events}", records.len());
        // Start; a session opened and ended; a release that was permitted, and one that was not; what was explained.
        for kind in ["6002/3/0", "3002/1/1", "3002/2/0", "6003/1/1", "6003/1/2", "6003/4/0", "6003/99/2", "6003/2/1"] {
            ensure!(events[kind].is_u64(), "no {kind}: {events}");
        }
        let logs = checked("otlp")?;
        ensure!(fits(&logs), "{} records, {logs}", records.len());
        for record in &records {
            let name = format!("agent_daemon.{}", record["kind"].as_str().context("a kind")?);
            ensure!(logs[&name].is_u64(), "no {name}: {logs}");
        }
        let wrong = world.printed("ocsf", &["status"]).expect_err("status has no such form").to_string();
        ensure!(wrong.contains("audit query"), "{wrong}");
        Ok(())
    })
}

#[test]
fn a_trace_can_be_read_on_a_phone_and_obeys_nothing() -> Result<()> {
    with_daemon(with_content(), |world| {
        let agent = busy(world)?;
        let user = world.ask(&["sessions"])?["sessions"][0]["user"].as_str().context("a user")?.to_owned();
        world.write("open/trace.html", &world.printed("html", &["audit", "trace", &user])?)?;
        let folder = world.path("open/browser");
        fs::create_dir(&folder)?;
        std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY))?;
        let (page, folder) = (world.text("open/trace.html"), world.text("open/browser"));
        let [driver, chromium] = ["chromedriver", "chromium"].map(on_path);
        let (driver, chromium) = (driver?, chromium?);
        let arguments = [&*driver.to_string_lossy(), &chromium.to_string_lossy(), &page, &folder];
        let mut browser = python_script(world, NOBODY, "browser.py", &arguments)?;
        for width in [390, 320] {
            let seen = browser.next(BROWSER)?;
            let number = |name: &str| seen[name].as_f64().with_context(|| format!("no {name}: {seen}"));
            assert_eq!(seen["width"], width, "{seen}");
            // Nobody scrolls sideways, and nothing is too small to read or squeezed into a thread.
            ensure!(number("scroll")? <= f64::from(width) && seen["beyond"] == json!([]), "{seen}");
            ensure!(number("smallest")? >= 11.0 && number("narrowest")? >= 16.0, "{seen}");
            ensure!(seen["loaded"] == json!([]) && seen["obeyed"] == false, "{seen}");
            let folds = [seen["folds"][0].as_u64(), seen["folds"][1].as_u64()];
            ensure!(folds[1] < folds[0], "what is folded takes no room: {seen}");
            // From the user down to the decision, as it was.
            let text = seen["text"].as_str().context("a text")?;
            let mut rest = text;
            for part in [
                user.as_str(),
                "SESSION",
                "the report",
                "PROGRAM",
                "DECISION",
                "allow",
                "STEP",
                "search",
                "CONNECTION",
                "CREDENTIAL",
            ] {
                rest = rest.split_once(part).with_context(|| format!("no {part} after that: {text}"))?.1;
            }
            ensure!(text.contains(HOSTILE) && text.contains("password=[redacted]"), "{text}");
        }
        ensure!(browser.wait()?.success(), "the browser failed");
        drop(agent);
        Ok(())
    })
}
