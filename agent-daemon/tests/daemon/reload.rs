// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What operators wrote is swapped whole or not at all.

use std::sync::Arc;

use agent_daemon::node::Refusal;
use agent_daemon::testing::{Setup, TestNode};

use super::release;

fn generation(t: &TestNode) -> String {
    t.node.snapshot().policies.generation().as_str().to_owned()
}

#[tokio::test]
async fn a_good_reload_is_in_force_at_once_and_recorded() {
    let t = Setup::default().build();
    let before = generation(&t);
    release(&t).await;
    t.sources.write_policies("");
    let outcome = t.node.reload("sighup", None).unwrap();
    assert!(outcome.is_changed && outcome.diagnostics.is_empty());
    assert_ne!(generation(&t), before);
    let record = t.last("reload");
    assert_eq!((&record["outcome"], &record["trigger"]), (&"allow".into(), &"sighup".into()));
    assert_eq!(record["previous_policy_generation"], before);
    assert_eq!(record["policy_generation"], generation(&t));
    assert!(matches!(t.node.release(&t.peer(), t.ask()).await, Err(Refusal::Denied { .. })));
}

#[tokio::test]
async fn an_identity_that_was_taken_away_is_gone_from_the_cache_too() {
    let t = Setup::default().build();
    release(&t).await;
    t.sources.write_entries("");
    assert!(t.node.reload("test", None).unwrap().is_changed);
    assert!(t.node.release(&t.peer(), t.ask()).await.is_err());
    assert_eq!(t.last("decision")["reason"], "no_identity");
}

#[tokio::test]
async fn one_bad_file_keeps_the_whole_old_set() {
    let spoil: [fn(&TestNode); 5] = [
        |t| t.sources.write_entries("[[entry]]\nid = 1"),
        |t| t.sources.write_catalog("[[destination]]\nname = \"reports\"\nports = []"),
        |t| t.sources.write_policies("permit (principal, action, resource"),
        |t| t.sources.write_policies("permit (principal, action, resource) when { context.nothing };"),
        |t| t.sources.make_unreadable(),
    ];
    for (case, spoil) in spoil.into_iter().enumerate() {
        let t = Setup::default().build();
        let before = t.node.snapshot();
        // Good changes in the other files must not come in either.
        t.sources.write_policies(r#"@id("new") permit (principal, action == Action::"attest", resource);"#);
        t.sources.write_entries(&Setup::entry("agent", "agent/renamed", ""));
        spoil(&t);
        let outcome = t.node.reload("test", None).unwrap();
        assert!(!outcome.is_changed && !outcome.diagnostics.is_empty(), "case {case}");
        assert!(Arc::ptr_eq(&before, &t.node.snapshot()), "case {case}");
        let released = release(&t).await;
        assert_eq!(released.lease.spiffe_id.as_str(), "spiffe://example.org/agent/a", "case {case}");
        let record = t.last("reload");
        assert_eq!(record["outcome"], "deny", "case {case}");
        assert!(record["error"].is_string(), "case {case}");
        assert!(t.node.last_reload().1.is_some(), "case {case}");
    }
}

#[tokio::test]
async fn after_a_bad_reload_a_good_one_works() {
    let t = Setup::default().build();
    t.sources.write_catalog("nonsense");
    assert!(!t.node.reload("test", None).unwrap().is_changed);
    t.sources.write_catalog(&Setup::catalog("audit", "required", "jwt"));
    t.sources.write_policies("");
    assert!(t.node.reload("test", None).unwrap().is_changed);
    assert!(t.node.last_reload().1.is_none());
    release(&t).await;
    assert_eq!(t.last("decision")["audit_mode"], true);
}

#[tokio::test]
async fn a_reload_that_cannot_be_recorded_changes_nothing() {
    let t = Setup::default().build();
    let before = t.node.snapshot();
    t.node.log.shutdown().unwrap();
    t.sources.write_policies("");
    assert!(t.node.reload("test", None).is_err());
    assert!(Arc::ptr_eq(&before, &t.node.snapshot()));
}

#[tokio::test]
async fn a_decision_is_made_by_one_set_from_beginning_to_end() {
    let t = Arc::new(Setup::default().build());
    t.resolver.tell("reports.example", &["203.0.113.1"]);
    let before = generation(&t);
    let other = Arc::clone(&t);
    // In the middle of a decision, while a name is looked up, everything it rests on is taken away.
    t.resolver.during_next(move || {
        other.sources.write_policies("");
        other.sources.write_entries("");
        assert!(other.node.reload("test", None).unwrap().is_changed);
    });
    let cookie = t.connect("203.0.113.1:443");
    let result = t.node.release(&t.peer(), t.ask_on(cookie)).await;
    let record = t.last("decision");
    assert_eq!(record["policy_generation"], before);
    assert_eq!(record["policy_ids"], serde_json::json!(["release"]));
    assert_eq!(record["outcome"], "allow");
    assert_ne!(generation(&t), before);
    // The new set takes it back before it leaves.
    assert!(matches!(result, Err(Refusal::Leases(_))), "{result:?}");
    let ended = t.last("lease_ended");
    assert_eq!((&ended["lease_id"], &ended["cause"]), (&record["lease_id"], &"withdrawn".into()));
    assert!(t.node.release(&t.peer(), t.ask()).await.is_err(), "the next one is made by the new set");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reloads_and_releases_at_once_never_mix_two_sets() {
    let t = Arc::new(Setup::default().build());
    let audit_mode = Setup::catalog("audit", "required", "jwt");
    let enforce = Setup::catalog("enforce", "required", "jwt");
    let mut tasks = tokio::task::JoinSet::new();
    let other = Arc::clone(&t);
    tasks.spawn_blocking(move || {
        for turn in 0..60 {
            // Either policy permits and the destination enforces, or it forbids and the destination only observes.
            let even = turn % 2 == 0;
            other.sources.write_catalog(if even { &audit_mode } else { &enforce });
            other.sources.write_policies(if even { "" } else { Setup::PERMIT });
            assert!(other.node.reload("test", None).unwrap().is_changed);
        }
    });
    for _ in 0..4 {
        let t = Arc::clone(&t);
        tasks.spawn(async move {
            for _ in 0..25 {
                // A mixture would deny.
                release(&t).await;
            }
        });
    }
    tasks.join_all().await;
}
