// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Renewing and giving back.

use std::sync::Arc;

use agent_daemon::clock::Clock as _;
use agent_daemon::credential::LeaseId;
use agent_daemon::node::{Ask, Refusal};
use agent_daemon::testing::{Setup, TestNode};

use super::{counts, is_active, refused, release};

async fn renewal_denied(t: &TestNode, id: &LeaseId) -> String {
    let refusal = t.node.renew(&t.peer(), id.clone(), Ask::default()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied { .. }), "{refusal:?}");
    let record = t.last("decision");
    assert_eq!((&record["action"], &record["outcome"]), (&"renew".into(), &"deny".into()));
    record["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_renewal_is_decided_anew_and_replaces_the_old_lease() {
    let t = Setup::default().build();
    let old = release(&t).await;
    let new = t.node.renew(&t.peer(), old.lease.id.clone(), Ask::default()).await.unwrap();
    assert!(!is_active(&t, &old));
    assert!(is_active(&t, &new));
    assert_eq!(counts(&t), (1, 2, 1));
    assert_eq!(t.last("lease_ended")["cause"], "renewed");
    assert_eq!(t.last("decision")["action"], "renew");
    assert_eq!(new.lease.cookie, old.lease.cookie, "on the same connection without naming it again");
    assert_eq!(t.kernel.watched().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_renewals_at_once_one_succeeds() {
    let t = Arc::new(Setup::default().build());
    let old = release(&t).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (t, id) = (Arc::clone(&t), old.lease.id.clone());
        asking.spawn(async move { t.node.renew(&t.peer(), id, Ask::default()).await.is_ok() });
    }
    let granted = asking.join_all().await.into_iter().filter(|granted| *granted).count();
    assert_eq!(granted, 1);
    assert_eq!(counts(&t), (1, 2, 1));
    let renewals = t.records_of("decision").iter().filter(|record| record["action"] == "renew").count();
    assert_eq!(renewals, 32, "every one has its record");
}

#[tokio::test]
async fn a_lease_that_is_over_unknown_or_anothers_is_not_renewed() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let unknown = LeaseId::parse("AAAAAAAAAAAAAAAAAAAAAA").unwrap();
    assert_eq!(renewal_denied(&t, &unknown).await, "lease_not_yours");
    t.node.give_back(&t.peer(), &released.lease.id).await.unwrap();
    assert_eq!(renewal_denied(&t, &released.lease.id).await, "lease_not_yours");
    let expired = release(&t).await;
    t.clock.set(expired.lease.expires_at);
    assert_eq!(renewal_denied(&t, &expired.lease.id).await, "lease_not_yours");
    let of_image_before = release(&t).await;
    let _lost = t.kernel.exec(t.tgid, |_| {});
    assert_eq!(renewal_denied(&t, &of_image_before.lease.id).await, "lease_not_yours");
}

#[tokio::test]
async fn a_renewal_cannot_become_something_else() {
    let t = Setup::default().build();
    let old = release(&t).await;
    let ask = Ask {
        destination: "payroll".to_owned(),
        binding: Some("other".to_owned()),
        spiffe_id: Some("spiffe://example.org/agent/b".to_owned()),
        ..Ask::default()
    };
    let new = t.node.renew(&t.peer(), old.lease.id.clone(), ask).await.unwrap();
    assert_eq!(new.lease.destination, old.lease.destination);
    assert_eq!(new.lease.spiffe_id, old.lease.spiffe_id);
}

#[tokio::test]
async fn a_renewal_that_policy_no_longer_permits_leaves_the_old_lease_as_it_is() {
    let t = Setup::default().build();
    let old = release(&t).await;
    t.sources.write_policies("");
    assert!(t.node.reload("test", None).unwrap().is_changed);
    assert_eq!(renewal_denied(&t, &old.lease.id).await, "policy_no_permit");
    assert!(is_active(&t, &old));
}

#[tokio::test]
async fn a_renewal_needs_its_connection_to_be_there_still() {
    let t = Setup::default().build();
    let old = release(&t).await;
    t.kernel.close(old.lease.cookie.unwrap());
    assert_eq!(renewal_denied(&t, &old.lease.id).await, "connection_unknown");
    let on_new = t.node.renew(&t.peer(), old.lease.id.clone(), t.ask()).await.unwrap();
    assert_ne!(on_new.lease.cookie, old.lease.cookie);
}

#[tokio::test]
async fn a_renewal_gives_no_second_place_on_a_connection() {
    let t = Setup::default().build();
    let first = release(&t).await;
    let second = release(&t).await;
    let onto_second = t.ask_on(second.lease.cookie.unwrap());
    let refusal = t.node.renew(&t.peer(), first.lease.id.clone(), onto_second).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied { .. }), "{refusal:?}");
    assert_eq!(t.last("decision")["reason"], "connection_used");
    assert!(is_active(&t, &first) && is_active(&t, &second));
}

#[tokio::test]
async fn giving_back_ends_ones_own_lease_once() {
    let t = Setup::default().build();
    let released = release(&t).await;
    for _ in 0..3 {
        t.node.give_back(&t.peer(), &released.lease.id).await.unwrap();
    }
    assert!(!is_active(&t, &released));
    assert_eq!(counts(&t), (0, 1, 1));
    assert_eq!(t.last("lease_ended")["cause"], "given_back");
    // Its place on the connection is free again.
    t.node.release(&t.peer(), t.ask_on(released.lease.cookie.unwrap())).await.unwrap();
}

#[tokio::test]
async fn anothers_lease_cannot_be_given_back_and_looks_like_none() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let _lost = t.kernel.exec(t.tgid, |_| {});
    t.node.give_back(&t.peer(), &released.lease.id).await.unwrap();
    assert!(t.records_of("lease_ended").is_empty());
    assert_eq!(t.node.leases.len(), 1);
}

#[tokio::test]
async fn a_dead_channel_neither_renews_nor_gives_back() {
    let t = Setup::default().build();
    let (peer, released) = (t.peer(), release(&t).await);
    t.kernel.exec(t.tgid, |_| {});
    assert_eq!(refused(t.node.renew(&peer, released.lease.id.clone(), Ask::default()).await), "originator_gone");
    assert!(matches!(t.node.give_back(&peer, &released.lease.id).await, Err(Refusal::Caller(_))));
    assert_eq!(t.records_of("caller_refused").len(), 2);
    assert!(t.clock.now() < released.lease.expires_at);
}
