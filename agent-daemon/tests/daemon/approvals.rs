// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that wait for a person.

use std::sync::Arc;
use std::time::Duration;

use agent_daemon::approval::Waiting;
use agent_daemon::audit::Caller;
use agent_daemon::node::{Answer, AnswerError, OnBehalf, OpenAsk, Refusal, Released};
use agent_daemon::session::Cause;
use agent_daemon::testing::{Setup, TestNode};
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::{denied, release};

const MAY: &str = r#"
    @id("word") @approval permit (principal in Group::"agents", action == Action::"release", resource);
    @id("act") permit (principal in Group::"agents", action == Action::"actFor", resource is User);
"#;

fn node_with(policies: &str, wait: Duration) -> Arc<TestNode> {
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    Arc::new(Setup { policies: policies.into(), catalog, approval_wait: wait, ..Setup::default() }.build())
}

fn node() -> Arc<TestNode> {
    node_with(MAY, Duration::from_secs(10))
}

type Asking = tokio::task::JoinHandle<Result<Released, Refusal>>;

/// Asks, and waits until that waits.
async fn asking(t: &Arc<TestNode>) -> (Asking, Arc<Waiting>) {
    let before: Vec<_> = t.node.approvals().waiting();
    let asker = Arc::clone(t);
    let task = TaskTracker::new().spawn(async move { asker.node.release(&asker.peer(), asker.ask()).await });
    loop {
        let new = t.node.approvals().waiting().into_iter().find(|one| !before.iter().any(|old| old.id == one.id));
        match new {
            Some(waiting) => return (task, waiting),
            None => {
                assert!(!task.is_finished(), "it does not wait: {:?}", task.await);
                tokio::task::yield_now().await;
            }
        }
    }
}

fn answer(t: &TestNode, waiting: &Waiting, is_allowed: bool, is_for_session: bool) -> Result<(), AnswerError> {
    let by = Caller { uid: 7, ..Caller::default() };
    let answer = Answer { is_allowed, is_for_session, reason: "seen".to_owned(), by };
    t.node.answer_approval(&waiting.id, &answer).map(drop)
}

async fn open(t: &TestNode) {
    open_for(t, None).await;
}

async fn open_for(t: &TestNode, purpose: Option<&str>) {
    let ask = OpenAsk {
        user: if t.node.sessions().active().is_empty() { OnBehalf::Local } else { OnBehalf::Inherited },
        agent: None,
        purpose: purpose.map(Into::into),
        scopes: None,
        lifetime: None,
        is_bound: true,
        parent: None,
        spiffe_id: None,
    };
    t.node.open_session(&t.peer(), ask).await.unwrap();
}

/// What the log says of approvals.
fn states(t: &TestNode) -> Vec<String> {
    t.records_of("approval").iter().map(|record| record["state"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_word_is_for_one_request_and_stands_in_its_record() {
    let t = node();
    let (task, waiting) = asking(&t).await;
    assert!(t.node.leases.is_empty() && t.records_of("decision").is_empty());
    answer(&t, &waiting, true, false).unwrap();
    let released = task.await.unwrap().unwrap();
    let record = t.last("decision");
    assert_eq!(record["lease_id"], released.lease.id.as_str());
    let approval = json!({"approval_id": &*waiting.id, "scope": "once", "by_uid": 7});
    assert_eq!((&record["approval"], &record["reason"]), (&approval, &json!("allowed")));
    assert_eq!(states(&t), ["requested", "allowed"]);
    let said = t.last("approval");
    assert_eq!(
        (&said["reason"], &said["by"]["uid"], &said["policy_ids"]),
        (&json!("seen"), &json!(7), &json!(["word"]))
    );
    assert!(matches!(answer(&t, &waiting, true, false), Err(AnswerError::NotWaiting)));
    // The next one waits again.
    let (task, waiting) = asking(&t).await;
    answer(&t, &waiting, false, false).unwrap();
    let refused = task.await.unwrap();
    assert!(matches!(refused, Err(Refusal::Denied { .. })), "{refused:?}");
    assert_eq!(t.last("decision")["reason"], "approval_denied");
    assert_eq!(t.node.leases.len(), 1);
}

#[tokio::test]
async fn a_word_for_a_session_holds_until_its_end_and_there_is_none_without_a_session() {
    let t = node();
    let (task, waiting) = asking(&t).await;
    assert!(matches!(answer(&t, &waiting, true, true), Err(AnswerError::NoSession)));
    answer(&t, &waiting, false, false).unwrap();
    assert_eq!(denied(&t, task.await.unwrap()), "approval_denied");
    open(&t).await;
    let (task, waiting) = asking(&t).await;
    answer(&t, &waiting, true, true).unwrap();
    task.await.unwrap().unwrap();
    let again = release(&t).await;
    let record = t.last("decision");
    assert_eq!(
        (&record["lease_id"], &record["approval"]["scope"]),
        (&json!(again.lease.id.as_str()), &json!("session"))
    );
    assert_eq!(states(&t), ["requested", "denied", "requested", "allowed"]);
    // It ends with its session.
    let session = waiting.record.session_id.clone().unwrap();
    t.node.end_session(session.parse().unwrap(), Cause::Revoked, None);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "session_ended");
    assert_eq!(t.node.approvals().remembered(&waiting.key), None, "it outlives its session");
}

#[tokio::test]
async fn a_refusal_for_a_session_is_not_asked_about_again() {
    let t = node();
    open(&t).await;
    let (task, waiting) = asking(&t).await;
    answer(&t, &waiting, false, true).unwrap();
    assert_eq!(denied(&t, task.await.unwrap()), "approval_denied");
    let again = t.node.release(&t.peer(), t.ask()).await;
    assert_eq!(denied(&t, again), "approval_denied");
    assert_eq!(states(&t), ["requested", "denied"]);
}

#[tokio::test]
async fn nobody_waits_for_ever_and_whoever_hangs_up_does_not_wait_any_more() {
    let t = node_with(MAY, Duration::from_millis(50));
    let result = t.node.release(&t.peer(), t.ask()).await;
    assert_eq!(denied(&t, result), "approval_expired");
    assert_eq!(states(&t), ["requested", "expired"]);
    let t = node();
    let (task, waiting) = asking(&t).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(states(&t), ["requested", "abandoned"]);
    assert!(matches!(answer(&t, &waiting, true, false), Err(AnswerError::NotWaiting)));
    assert!(t.node.leases.is_empty());
}

#[tokio::test]
async fn there_is_a_bound_on_those_that_wait() {
    let t = node();
    let (_first, _) = asking(&t).await;
    let (_second, _) = asking(&t).await;
    let third = t.node.release(&t.peer(), t.ask()).await;
    assert!(matches!(third, Err(Refusal::Unavailable { .. })), "{third:?}");
    assert_eq!(t.last("decision")["reason"], "approval_limit");
    assert_eq!(t.node.approvals().usage(), (2, 8));
}

#[tokio::test]
async fn what_is_decided_after_the_word_is_what_counts() {
    let t = node();
    let (task, waiting) = asking(&t).await;
    let no = "@id(\"no\") forbid (principal, action == Action::\"release\", resource);";
    t.sources.write_policies(&format!("{MAY}{no}"));
    t.node.reload("test", None).unwrap();
    answer(&t, &waiting, true, false).unwrap();
    assert_eq!(denied(&t, task.await.unwrap()), "policy_forbid");
}

#[tokio::test]
async fn a_caller_that_became_another_image_gets_nothing_by_a_word_for_the_old_one() {
    let t = node();
    let (task, waiting) = asking(&t).await;
    let _event = t.kernel.exec(t.tgid, |_| {});
    answer(&t, &waiting, true, false).unwrap();
    let refused = task.await.unwrap();
    assert!(matches!(refused, Err(Refusal::Caller(_))), "{refused:?}");
    assert!(t.node.leases.is_empty());
}

#[tokio::test]
async fn a_destination_that_only_observes_waits_for_nobody() {
    let catalog = Setup::catalog("audit", "optional", "jwt");
    let t = Setup { policies: MAY.into(), catalog, ..Setup::default() }.build();
    release(&t).await;
    let record = t.last("decision");
    assert_eq!((&record["reason"], &record["audit_mode"]), (&json!("approval_required"), &json!(true)));
    assert!(states(&t).is_empty());
}

#[tokio::test]
async fn a_word_that_an_outer_session_wants_is_for_one_request_too() {
    let policies = format!(
        "{MAY} @id(\"summaries\") permit (principal in Group::\"agents\", action == Action::\"release\", resource)
         when {{ context has session && context.session has purpose && context.session.purpose == \"summary\" }};"
    );
    let t = node_with(&policies, Duration::from_secs(10));
    open(&t).await;
    open_for(&t, Some("summary")).await;
    for _ in 0..2 {
        let (task, waiting) = asking(&t).await;
        assert_eq!(waiting.record.approval_policy_ids, ["word"]);
        answer(&t, &waiting, true, false).unwrap();
        task.await.unwrap().unwrap();
        assert_eq!(t.last("decision")["approval"]["approval_id"], *waiting.id);
    }
}

/// A launcher whose permit wants a word, and the tool that it becomes, whose permit does not.
fn launched(further: &str) -> Arc<TestNode> {
    let entries = [
        Setup::entry("launcher", "agent/launcher", ", \"exec:setuid\""),
        Setup::entry("tool", "agent/tool", ", \"exec:no-new-privs\""),
    ];
    let policies = format!(
        "@id(\"tools\") permit (principal == Workload::\"spiffe://example.org/agent/tool\", action, resource);
         @id(\"act\") permit (principal, action == Action::\"actFor\", resource);
         @id(\"word\") @approval permit (principal == Workload::\"spiffe://example.org/agent/launcher\",
             action == Action::\"release\", resource); {further}"
    );
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let t = Setup { entries: entries.concat(), policies, catalog, ..Setup::default() }.build();
    t.kernel.change(t.tgid, |instance| instance.flags.0 = agent_ebpf::flags::SETUID);
    Arc::new(t)
}

#[tokio::test]
async fn what_an_ancestor_may_have_by_a_word_only_waits_for_it_and_says_who_acts() {
    let t = launched("");
    open(&t).await;
    let _event = t.kernel.exec(t.tgid, |instance| instance.flags.0 = agent_ebpf::flags::NO_NEW_PRIVS);
    let (task, waiting) = asking(&t).await;
    let actors = ["tool", "launcher"].map(|name| format!("spiffe://example.org/agent/{name}"));
    assert_eq!(
        (&*waiting.record.actors, &*waiting.record.approval_policy_ids),
        (&actors[..], &["word".to_owned()][..])
    );
    assert_eq!(t.last("approval")["actors"], json!(actors));
    answer(&t, &waiting, true, false).unwrap();
    task.await.unwrap().unwrap();
    // Once was once, also for the ancestor.
    let (task, waiting) = asking(&t).await;
    answer(&t, &waiting, false, false).unwrap();
    assert!(task.await.unwrap().is_err());
    let record = t.last("decision");
    assert_eq!(
        (&record["reason"], &record["decision_id"]),
        (&json!("approval_denied"), &json!(waiting.record.decision_id))
    );
}

#[tokio::test]
async fn nobody_is_asked_for_what_is_refused_all_the_same() {
    let no = "@id(\"no\") forbid (principal == Workload::\"spiffe://example.org/agent/launcher\",
              action == Action::\"release\", resource);";
    let t = launched(no);
    open(&t).await;
    let _event = t.kernel.exec(t.tgid, |instance| instance.flags.0 = agent_ebpf::flags::NO_NEW_PRIVS);
    let result = t.node.release(&t.peer(), t.ask()).await;
    assert_eq!(denied(&t, result), "ancestor_not_permitted");
    assert!(states(&t).is_empty());
}

#[tokio::test]
async fn a_word_for_a_session_answers_all_that_wait_for_the_same() {
    let t = node();
    open(&t).await;
    let (first, waiting) = asking(&t).await;
    let (second, _) = asking(&t).await;
    answer(&t, &waiting, true, true).unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(states(&t), ["requested", "requested", "allowed", "allowed"]);
}
