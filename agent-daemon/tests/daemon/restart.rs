// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A daemon that was killed and started again on the same host.

use std::sync::Arc;

use agent_daemon::audit::recover_leases;
use agent_daemon::clock::Clock as _;
use agent_daemon::credential::Cause;
use agent_daemon::credential::lease::State;
use agent_daemon::node::oldest_live;
use agent_daemon::testing::{Setup, TestNode};

use super::{counts, is_active, release, token};

/// What stays when a daemon is killed.
struct Host {
    setup: Setup,
}

impl Host {
    fn of(t: TestNode) -> Self {
        let setup = Setup {
            directory: Arc::clone(&t.directory),
            kernel: Some(Arc::clone(&t.kernel)),
            clock: Arc::clone(&t.clock),
            ..Setup::default()
        };
        drop(t);
        Self { setup }
    }

    fn start(self) -> (TestNode, usize) {
        let audit = self.setup.directory.path().join("audit");
        let t = self.setup.build();
        let granted = recover_leases(&audit, oldest_live(t.clock.now())).unwrap();
        let taken = t.node.take_up(granted);
        (t, taken)
    }
}

#[tokio::test]
async fn leases_of_this_boot_are_taken_up_and_go_on() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let cookie = released.lease.cookie.unwrap();
    let (t, taken) = Host::of(t).start();
    assert_eq!(taken, 1);
    assert!(is_active(&t, &released));
    assert_eq!(t.kernel.watched().len(), 1);
    let again = t.node.release(&t.peer(), t.ask_on(cookie)).await;
    assert!(again.is_err(), "its place on the connection is taken up as well");
    assert_eq!(t.last("decision")["reason"], "connection_used");
    let event = t.kernel.exit(t.tgid);
    t.node.apply(event);
    assert!(!is_active(&t, &released));
}

#[tokio::test]
async fn leases_whose_holder_went_meanwhile_end_at_once() {
    for (expected, exits) in [(Cause::Exited, true), (Cause::Exec, false)] {
        let t = Setup::default().build();
        let released = release(&t).await;
        let kernel = Arc::clone(&t.kernel);
        let tgid = t.tgid;
        let host = Host::of(t);
        let _lost = if exits { kernel.exit(tgid) } else { kernel.exec(tgid, |_| {}) };
        let (t, _) = host.start();
        assert!(!is_active(&t, &released));
        let state = t.node.leases.lease(&released.lease.id).unwrap().state;
        assert!(matches!(state, State::Ended { cause, .. } if cause == expected), "{state:?}");
        assert_eq!(t.last("lease_ended")["cause"], expected.as_str());
    }
}

#[tokio::test]
async fn leases_that_ended_before_do_not_come_back() {
    let t = Setup::default().build();
    let (given_back, expired) = (release(&t).await, release(&t).await);
    t.node.give_back(&t.peer(), &given_back.lease.id).await.unwrap();
    t.clock.set(expired.lease.expires_at);
    let (t, taken) = Host::of(t).start();
    assert_eq!(taken, 0);
    assert!(!is_active(&t, &given_back) && !is_active(&t, &expired));
    assert_eq!(counts(&t).0, 0);
}

#[tokio::test]
async fn leases_of_another_boot_are_not_taken_up() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let mut host = Host::of(t);
    host.setup.boot_id = "00000000-0000-4000-8000-000000000002".to_owned();
    let (t, taken) = host.start();
    assert_eq!(taken, 0, "its exec ids mean others now");
    assert!(!is_active(&t, &released));
}

#[tokio::test]
async fn a_lease_ended_between_issue_and_reply_does_not_come_back() {
    let t = Setup::default().build();
    let (peer, ask) = (t.peer(), t.ask());
    let cookie = t.kernel.connect(t.tgid, "192.0.2.1:443".parse().unwrap());
    t.kernel.before(agent_daemon::testing::Call::Watch, 1, move |kernel| {
        let _event = kernel.close(cookie);
    });
    assert!(t.node.release(&peer, agent_daemon::node::Ask { ..t.ask_on(cookie) }).await.is_err());
    drop(ask);
    let (_, taken) = Host::of(t).start();
    assert_eq!(taken, 0);
}

#[tokio::test]
async fn tokens_of_the_run_before_still_verify() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let jwks = t.node.authority.jwt.jwks().unwrap();
    let (t, _) = Host::of(t).start();
    assert_eq!(t.node.authority.jwt.jwks().unwrap(), jwks);
    t.node.authority.jwt.verify_jwt(&token(&released)).unwrap();
}
