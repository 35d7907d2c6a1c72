// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Nothing is issued that is not recorded.

use std::ops::ControlFlow;
use std::sync::Arc;

use agent_daemon::audit::{self, Durability};
use agent_daemon::node::{Ask, ConnectionRef, Refusal};
use agent_daemon::testing::{Call, Setup};

use super::{counts, is_active, release};

#[tokio::test]
async fn a_log_without_a_free_slot_refuses() {
    let t = Setup { audit: |config| config.max_in_flight = 1, ..Setup::default() }.build();
    let held = t.node.log.reserve().unwrap();
    let (peer, ask) = (t.peer(), t.ask());
    let refusal = t.node.release(&peer, ask.clone()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Audit(audit::Error::Full { limit: 1 })), "{refusal:?}");
    let named = ConnectionRef::Cookie(1);
    assert!(matches!(t.node.attest_connection(&peer, named).await, Err(Refusal::Audit(_))));
    assert_eq!(counts(&t), (0, 0, 0));
    drop(held);
    t.node.release(&peer, ask).await.unwrap();
}

#[tokio::test]
async fn a_log_that_takes_no_record_refuses_and_leaves_no_lease() {
    let t = Setup::default().build();
    t.node.log.shutdown().unwrap();
    let (peer, ask) = (t.peer(), t.ask());
    for _ in 0..3 {
        let refusal = t.node.release(&peer, ask.clone()).await.unwrap_err();
        assert!(matches!(refusal, Refusal::Audit(_)), "{refusal:?}");
    }
    assert!(t.node.leases.is_empty());
    assert!(t.kernel.watched().is_empty());
}

#[tokio::test]
async fn a_log_that_fails_after_the_decision_takes_the_lease_back() {
    let t = Arc::new(Setup::default().build());
    let (peer, ask) = (t.peer(), t.ask());
    let log = t.node.log.clone();
    // The lease is granted before it is recorded; this is between the two.
    t.kernel.before(Call::Watch, 1, move |_| log.shutdown().unwrap());
    let refusal = t.node.release(&peer, ask).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Audit(_)), "{refusal:?}");
    assert!(t.node.leases.is_empty());
    assert!(t.kernel.watched().is_empty());
    assert!(t.records_of("decision").is_empty());
}

#[tokio::test]
async fn a_renewal_that_cannot_be_recorded_gives_nothing() {
    let t = Setup::default().build();
    let old = release(&t).await;
    t.node.log.shutdown().unwrap();
    let refusal = t.node.renew(&t.peer(), old.lease.id.clone(), Ask::default()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Audit(_)), "{refusal:?}");
    assert!(is_active(&t, &old), "what was recorded stays good");
}

#[tokio::test]
async fn every_decision_is_one_record_and_the_chain_holds() {
    let t = Setup { audit: |config| config.durability = Durability::Synced, ..Setup::default() }.build();
    for _ in 0..5 {
        release(&t).await;
        assert!(t.node.release(&t.peer(), Ask { connection: None, ..t.ask() }).await.is_err());
    }
    let ids: std::collections::BTreeSet<String> =
        t.records_of("decision").iter().map(|record| record["decision_id"].to_string()).collect();
    assert_eq!(ids.len(), 10);
    let report = t.node.log.verify(|_| ControlFlow::Continue(())).unwrap();
    assert!(report.problem.is_none(), "{report:?}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_while_its_record_is_synced_leaves_no_lease_behind() {
    let slow: fn(&mut audit::Config) = |config| {
        config.durability = Durability::Synced;
        config.sync_interval = std::time::Duration::from_secs(1);
    };
    let t = Setup { audit: slow, ..Setup::default() }.build();
    let (peer, ask) = (t.peer(), t.ask());
    // Facts are cached first, so that the only wait left is for the disk.
    t.node.attest(&peer).await.unwrap();
    let hung_up = {
        let mut release = std::pin::pin!(t.node.release(&peer, ask));
        let mut polls = std::future::poll_fn(|context| std::task::Poll::Ready(release.as_mut().poll(context)));
        (&mut polls).await.is_pending()
    };
    assert!(hung_up, "the record was waited for");
    assert!(t.node.leases.is_empty(), "nobody has this credential");
    assert_eq!(counts(&t), (0, 1, 1), "and the log says that it is over");
}
