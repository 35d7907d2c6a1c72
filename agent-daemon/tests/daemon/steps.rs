// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What agents say that they do, and what is joined to it.

use agent_daemon::node::{OnBehalf, OpenAsk, Opened, Refusal, StepAsk};
use agent_daemon::session::{Cause, HandleDigest};
use agent_daemon::step::{Error, Keep, Kind, Pattern, TraceContext};
use agent_daemon::testing::{Setup, TestNode};
use serde_json::{Value, json};

const ACT: &str = r#"
    @id("act") permit (principal in Group::"agents", action == Action::"actFor", resource is User);
"#;

fn setup() -> Setup {
    Setup { policies: format!("{}{ACT}", Setup::PERMIT), ..Setup::default() }
}

async fn open(t: &TestNode, is_bound: bool) -> Opened {
    let ask = OpenAsk {
        user: OnBehalf::Local,
        agent: None,
        purpose: None,
        scopes: None,
        lifetime: None,
        is_bound,
        parent: None,
        spiffe_id: None,
    };
    t.node.open_session(&t.peer(), ask).await.unwrap()
}

fn traceparent(span: u8) -> String {
    format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000{span:02x}-01")
}

fn context(span: u8) -> TraceContext {
    traceparent(span).parse().unwrap()
}

fn step(span: u8, parent: Option<u8>) -> StepAsk {
    StepAsk {
        context: context(span),
        parent: parent.map(|span| context(span).span_id()),
        kind: Kind::ToolCall,
        name: Some("search".into()),
        reference: Some("sha256:aa".into()),
        tid: None,
        session: None,
        content: Box::default(),
    }
}

async fn begin(t: &TestNode, ask: StepAsk) {
    t.node.begin_step(&t.peer(), ask).await.unwrap();
}

#[track_caller]
fn refused<T: std::fmt::Debug>(t: &TestNode, result: Result<T, Refusal>) -> Error {
    let Err(Refusal::Steps(error)) = result else { panic!("not refused: {result:?}") };
    let record = t.last("caller_refused");
    assert_eq!(record["reason"], error.as_str(), "{record}");
    error
}

/// The span that a release belongs to, and by what.
async fn joined(t: &TestNode, ask: agent_daemon::node::Ask) -> Value {
    t.node.release(&t.peer(), ask).await.unwrap();
    let step = &t.last("decision")["step"];
    json!([step["span_id"], step["joined_by"]])
}

#[tokio::test]
async fn what_a_step_is_about_is_kept_only_where_the_operator_wants_it_and_without_secrets() {
    let about = || StepAsk { content: "mail ada, password=hunter2\nand then wait".into(), ..step(1, None) };
    let t = setup().build();
    open(&t, true).await;
    begin(&t, about()).await;
    assert_eq!(t.last("step")["content"], Value::Null);
    let keep = Keep { bytes: 36, redact: vec![Pattern::parse(r"\bada\b").unwrap()] };
    let t = Setup { keep, ..setup() }.build();
    open(&t, true).await;
    begin(&t, about()).await;
    let kept = json!({"text": "mail [redacted], password=[redacted]", "redacted": 2, "is_cut": true});
    assert_eq!(t.last("step")["content"], kept);
    // Nor does anything else have it.
    t.node.release(&t.peer(), t.ask()).await.unwrap();
    t.node.end_step(&t.peer(), context(1), false, None).await.unwrap();
    assert!(!format!("{}{}", t.last("decision"), t.last("step_ended")).contains("mail ["));
}

#[tokio::test]
async fn a_decision_belongs_to_the_step_in_which_its_connection_was_opened() {
    let t = setup().build();
    let opened = open(&t, true).await;
    assert_eq!(joined(&t, t.ask()).await, json!([null, null]), "there is none");
    begin(&t, StepAsk { kind: Kind::Reasoning, name: None, reference: None, ..step(1, None) }).await;
    begin(&t, StepAsk { tid: Some(t.tgid), ..step(2, Some(1)) }).await;
    let record = t.last("step");
    assert_eq!(record["session_id"], opened.session.id.to_string());
    let expected = json!({
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "0000000000000002",
        "parent_span_id": "0000000000000001",
        "kind": "tool_call",
        "name": "search",
        "reference": "sha256:aa",
        "exec_id": t.kernel.instance(t.tgid).id.0,
        "tid": t.tgid,
    });
    assert_eq!(record["step"], expected);
    let in_second = t.ask();
    assert_eq!(joined(&t, in_second.clone()).await, json!(["0000000000000002", "thread"]));
    let named = agent_daemon::node::Ask { traceparent: Some(traceparent(1)), ..t.ask() };
    assert_eq!(joined(&t, named).await, json!(["0000000000000001", "trace"]));
    // Asked for later, and still the step in which it was opened.
    let late = t.ask();
    t.node.end_step(&t.peer(), context(2), true, None).await.unwrap();
    assert_eq!(t.last("step_ended")["cause"], "failed");
    assert_eq!(joined(&t, late).await, json!(["0000000000000002", "thread"]));
    assert_eq!(joined(&t, t.ask()).await, json!(["0000000000000001", "exec"]));
    // Started in it: joined by time alone.
    let _event = t.kernel.exec(t.tgid, |_| {});
    assert_eq!(joined(&t, t.ask()).await, json!(["0000000000000001", "time"]));
}

#[tokio::test]
async fn steps_without_a_session_twice_too_deep_or_of_another_thread_are_refused_and_recorded() {
    let t = setup().build();
    assert_eq!(refused(&t, t.node.begin_step(&t.peer(), step(1, None)).await), Error::NoSession);
    open(&t, true).await;
    begin(&t, step(1, None)).await;
    assert_eq!(refused(&t, t.node.begin_step(&t.peer(), step(1, None)).await), Error::Known);
    assert_eq!(refused(&t, t.node.begin_step(&t.peer(), step(3, Some(2))).await), Error::NoParent);
    begin(&t, step(2, Some(1))).await;
    begin(&t, step(3, Some(2))).await;
    let deep = t.node.begin_step(&t.peer(), step(4, Some(3))).await;
    assert_eq!(refused(&t, deep), Error::TooDeep { limit: 3 });
    let other = t.node.begin_step(&t.peer(), StepAsk { tid: Some(1), ..step(5, None) }).await;
    assert_eq!(refused(&t, other), Error::NoThread);
    t.node.end_step(&t.peer(), context(3), false, None).await.unwrap();
    assert_eq!(refused(&t, t.node.end_step(&t.peer(), context(3), false, None).await), Error::NotUnderWay);
    // What it was before it replaced its image took these steps, and it did not.
    let _event = t.kernel.exec(t.tgid, |_| {});
    assert_eq!(refused(&t, t.node.end_step(&t.peer(), context(2), false, None).await), Error::NotUnderWay);
    let unknown = Some(HandleDigest::of("nobody's"));
    let denied = t.node.begin_step(&t.peer(), StepAsk { session: unknown, ..step(6, None) }).await;
    assert!(matches!(denied, Err(Refusal::Denied { .. })), "{denied:?}");
    let record = t.last("decision");
    assert_eq!((&record["action"], &record["reason"]), (&json!("begin_step"), &json!("session_ended")));
}

#[tokio::test]
async fn a_step_that_nobody_ends_is_over_in_time_or_with_its_session() {
    let t = setup().build();
    let opened = open(&t, true).await;
    begin(&t, step(1, None)).await;
    t.clock.advance(std::time::Duration::from_secs(599));
    t.node.expire_steps();
    assert_eq!(t.node.steps().len(), 1);
    begin(&t, step(2, None)).await;
    t.clock.advance(std::time::Duration::from_secs(1));
    t.node.expire_steps();
    let record = t.last("step_ended");
    assert_eq!((&record["cause"], &record["step"]["span_id"]), (&json!("expired"), &json!("0000000000000001")));
    t.node.end_session(opened.session.id, Cause::Revoked, None);
    let record = t.last("step_ended");
    assert_eq!((&record["cause"], &record["step"]["span_id"]), (&json!("session_ended"), &json!("0000000000000002")));
    assert!(t.node.steps().is_empty());
    // Nothing is begun in it any more.
    let late = t.node.begin_step(&t.peer(), step(3, None)).await;
    assert!(matches!(late, Err(Refusal::Denied { .. })), "{late:?}");
}

#[tokio::test]
async fn the_steps_of_one_session_are_nothing_to_another() {
    let t = setup().build();
    let (first, second) = (open(&t, false).await, open(&t, false).await);
    let (first, second) = (HandleDigest::of(first.handle.reveal()), HandleDigest::of(second.handle.reveal()));
    begin(&t, StepAsk { session: Some(first), ..step(1, None) }).await;
    assert_eq!(refused(&t, t.node.end_step(&t.peer(), context(1), false, Some(second)).await), Error::NotUnderWay);
    let ask =
        |session| agent_daemon::node::Ask { session: Some(session), traceparent: Some(traceparent(1)), ..t.ask() };
    assert_eq!(joined(&t, ask(second)).await, json!([null, null]));
    assert_eq!(joined(&t, ask(first)).await, json!(["0000000000000001", "trace"]));
}
