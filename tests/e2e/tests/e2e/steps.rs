// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Steps that an agent says it takes, and what the real kernel saw of them.

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, with_daemon};
use serde_json::{Value, json};

use crate::calls::{denied, refused, release_for, release_loose, released};
use crate::sessions::{install, run, setup};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

pub(crate) fn span(number: u8) -> String {
    format!("00000000000000{number:02x}")
}

pub(crate) fn begin(number: u8, parent: Option<u8>, further: &Value) -> Value {
    let mut call = json!({"do": "call", "call": "begin_step", "on": "channel", "kind": "tool_call",
        "traceparent": format!("00-{TRACE}-{}-01", span(number)), "parent": parent.map(span)});
    for (name, value) in further.as_object().into_iter().flatten() {
        call[name] = value.clone();
    }
    call
}

pub(crate) fn end(number: u8) -> Value {
    json!({"do": "call", "call": "end_step", "on": "channel", "traceparent": format!("00-{TRACE}-{}-01", span(number))})
}

pub(crate) fn done(actor: &mut Actor, call: &Value) -> Result<()> {
    let answer = actor.act(call)?;
    ensure!(answer["ok"].is_object(), "{call}: {answer}");
    Ok(())
}

#[test]
fn the_step_in_which_a_tool_was_started_stands_in_the_trace_of_its_credential() -> Result<()> {
    with_daemon(setup(), |world| {
        install(world)?;
        let mut agent = run(world, &["--purpose", "the report"], &world.program("agent"))?;
        let quietly = agent.connect("before", &world.api("127.0.0.1"))?;
        done(&mut agent, &begin(1, None, &json!({"kind": "reasoning"})))?;
        let search = json!({"name": "search", "reference": "sha256:aa", "on_thread": true});
        done(&mut agent, &begin(2, Some(1), &search))?;
        let cookie = agent.connect("api", &world.api("127.0.0.1"))?;
        let own = released(&mut agent, &release_for(cookie))?;
        let mut tool = agent.fork(None)?;
        tool.exec(&world.program("tool"), &[])?;
        done(&mut agent, &end(2))?;
        let status = refused(&mut agent, &end(2), "NotFound")?;
        ensure!(status.contains("no such step under way"), "{status}");
        world.record("caller_refused", &[("/reason", "step_not_under_way".into()), ("/action", "end_step".into())])?;
        world.open_channel(&mut tool)?;
        let of_tool = released(&mut tool, &release_loose())?;
        let before = released(&mut agent, &release_for(quietly))?;
        let trace = |lease: &str| -> Result<Value> {
            let found = world.ask(&["audit", "trace", lease])?;
            let mut program = &found["users"][0]["sessions"][0]["programs"][0];
            while program["decisions"].as_array().is_some_and(Vec::is_empty) {
                program = &program["programs"][0];
            }
            Ok(program["decisions"][0]["steps"].clone())
        };
        // By the kernel's word the very thread opened the connection while it took the step.
        let steps = trace(&own.lease)?;
        assert_eq!((&steps[0]["span_id"], &steps[0]["kind"]), (&json!(span(1)), &json!("reasoning")), "{steps}");
        assert_eq!((&steps[1]["span_id"], &steps[1]["joined_by"]), (&json!(span(2)), &json!("thread")), "{steps}");
        assert_eq!((&steps[1]["cause"], &steps[1]["trace_id"]), (&json!("done"), &json!(TRACE)));
        assert_eq!((&steps[1]["name"], &steps[1]["reference"]), (&json!("search"), &json!("sha256:aa")));
        // The tool was started in it, and nothing more is known.
        let steps = trace(&of_tool.lease)?;
        assert_eq!((&steps[1]["span_id"], &steps[1]["joined_by"]), (&json!(span(2)), &json!("time")), "{steps}");
        // What was opened before any step belongs to none.
        assert_eq!(trace(&before.lease)?, json!([]));
        let by_step = world.ask(&["audit", "query", "--where", &format!("step.span_id={}", span(2))])?;
        ensure!(by_step.to_string().contains(&own.lease), "{by_step}");
        // Nobody else takes or ends steps here, and nobody without a session.
        done(&mut tool, &begin(3, Some(1), &json!({})))?;
        refused(&mut agent, &end(3), "NotFound")?;
        refused(&mut agent, &begin(1, None, &json!({})), "AlreadyExists")?;
        refused(&mut agent, &begin(4, Some(9), &json!({})), "FailedPrecondition")?;
        refused(&mut agent, &begin(4, None, &json!({"traceparent": "00-0-0-0"})), "InvalidArgument")?;
        let mut outside = world.spawn(&world.program("tool"), NOBODY, &[])?;
        world.open_channel(&mut outside)?;
        refused(&mut outside, &begin(5, None, &json!({})), "FailedPrecondition")?;
        let stolen = json!({"handle": "0123456789abcdef0123456789abcdef0123456789a"});
        denied(world, &mut outside, &begin(5, None, &stolen), "session_ended")?;
        // Steps that nobody ends are over with their session.
        let listed = world.ask(&["sessions"])?;
        let session = listed["sessions"][0]["session_id"].as_str().context("a session")?.to_owned();
        world.ask(&["sessions", &session, "--end"])?;
        for number in [1, 3] {
            let of = [("/step/span_id", span(number).into()), ("/cause", "session_ended".into())];
            world.record("step_ended", &of)?;
        }
        Ok(())
    })
}
