// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How a credential ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_daemon::audit::Caller;
use agent_daemon::clock::Clock as _;
use agent_daemon::credential::lease::State;
use agent_daemon::credential::{Cause, Lease, LeaseId};
use agent_daemon::node::{Doomed, Happening, Released};
use agent_daemon::process::ExecId;
use agent_daemon::testing::{Call, FakeProc, Fault, Setup, TestNode};
use tokio_util::sync::CancellationToken;

use super::{counts, is_active, release};

/// A lease of another exec instance, alike in all else.
fn lease_of(released: &Released, number: u8, change: impl FnOnce(&mut Lease)) -> Lease {
    let id = LeaseId::generate(|bytes| {
        bytes.fill(number);
        Ok::<_, ()>(())
    });
    let mut lease = Lease { id: id.unwrap(), cookie: None, state: State::Active, ..(*released.lease).clone() };
    change(&mut lease);
    lease
}

fn cause(t: &TestNode, id: &LeaseId) -> Option<Cause> {
    match t.node.leases.lease(id)?.state {
        State::Active => None,
        State::Ended { cause, .. } => Some(cause),
    }
}

#[tokio::test]
async fn exit_ends_it() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let event = t.kernel.exit(t.tgid);
    t.node.apply(event);
    assert!(!is_active(&t, &released));
    assert_eq!(counts(&t), (0, 1, 1));
    let record = t.last("lease_ended");
    assert_eq!((&record["cause"], &record["lease_id"]), (&"exited".into(), &released.lease.id.as_str().into()));
}

#[tokio::test]
async fn exec_ends_it() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let event = t.kernel.exec(t.tgid, |_| {});
    t.node.apply(event);
    assert!(!is_active(&t, &released));
    assert_eq!(t.last("lease_ended")["cause"], "exec");
}

#[tokio::test]
async fn the_end_is_known_even_when_its_event_was_lost() {
    for (cause, end) in [("exited", true), ("exec", false)] {
        let t = Setup::default().build();
        let released = release(&t).await;
        let _lost = if end { t.kernel.exit(t.tgid) } else { t.kernel.exec(t.tgid, |_| {}) };
        assert!(!is_active(&t, &released), "{cause}");
        assert_eq!(t.last("lease_ended")["cause"], cause, "and it is recorded there and then");
    }
}

#[tokio::test]
async fn a_process_that_took_over_the_number_does_not_keep_it_alive() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let mut another = t.kernel.instance(t.tgid);
    let _lost = t.kernel.exit(t.tgid);
    another.id = ExecId(2000);
    t.kernel.insert(another);
    assert!(!is_active(&t, &released));
}

#[tokio::test]
async fn the_end_of_another_exec_instance_ends_nothing() {
    let t = Setup::default().build();
    let released = release(&t).await;
    t.kernel.fork(t.tgid, 999_999);
    let event = t.kernel.exec(999_999, |_| {});
    t.node.apply(event);
    let event = t.kernel.exit(999_999);
    t.node.apply(event);
    assert!(is_active(&t, &released));
}

#[tokio::test]
async fn an_event_that_comes_twice_or_late_is_harmless() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let event = t.kernel.exec(t.tgid, |_| {});
    let renewed = release(&t).await;
    t.node.apply(event.clone());
    t.node.apply(event);
    assert!(!is_active(&t, &released));
    assert!(is_active(&t, &renewed), "the new image's own is not touched");
    let known = t.node.attestor.history().ended(released.lease.exec_id).unwrap();
    assert_eq!(known.spiffe_id.as_deref(), Some(released.lease.spiffe_id.as_str()), "a lineage can still name it");
    assert_eq!(counts(&t), (1, 2, 1));
}

#[tokio::test]
async fn a_change_of_uid_ends_it() {
    let proc = FakeProc::new();
    let t = Setup::default().with_proc(&proc).build();
    let released = release(&t).await;
    t.node.sweep_holders();
    assert!(is_active(&t, &released));
    proc.set_ids(t.tgid, 4_000_000_001, 4_000_000_001);
    t.node.sweep_holders();
    assert_eq!(cause(&t, &released.lease.id), Some(Cause::UidChanged));
    assert_eq!(t.last("lease_ended")["cause"], "uid_changed");
}

#[tokio::test]
async fn the_sweep_looks_at_every_lease_of_a_holder() {
    // Ids are in no order of age, so whichever comes first must not speak for the others.
    for (old, new) in [(1, 2), (2, 1)] {
        let t = Setup::default().build();
        let released = release(&t).await;
        let uid = released.lease.uid;
        let stale = t.node.leases.restore(lease_of(&released, old, |lease| lease.uid = uid + 1)).unwrap().lease;
        let good = t.node.leases.restore(lease_of(&released, new, |_| {})).unwrap().lease;
        t.node.sweep_holders();
        assert_eq!(cause(&t, &stale.id), Some(Cause::UidChanged));
        assert_eq!(cause(&t, &good.id), None, "it was granted to the user the process is");
        assert!(is_active(&t, &released));
    }
}

#[tokio::test]
async fn asking_about_an_old_token_does_not_end_the_newer_ones() {
    let proc = FakeProc::new();
    let entries = Setup::entry("agent", "agent/a", "").replace(
        &format!("\"unix:uid:{}\"", rustix::process::geteuid().as_raw()),
        &format!("[\"unix:uid:{}\", \"unix:uid:4000000001\"]", rustix::process::geteuid().as_raw()),
    );
    let t = Setup { entries, ..Setup::default() }.with_proc(&proc).build();
    let as_first = release(&t).await;
    proc.set_ids(t.tgid, 4_000_000_001, 4_000_000_001);
    assert!(!is_active(&t, &as_first));
    let as_second = release(&t).await;
    assert!(is_active(&t, &as_second));
    assert!(!is_active(&t, &as_first));
    assert!(is_active(&t, &as_second), "a holder of the old token must not be able to end it");
}

#[tokio::test]
async fn what_cannot_be_read_is_neither_alive_nor_ended() {
    let proc = FakeProc::new();
    let t = Setup::default().with_proc(&proc).build();
    let released = release(&t).await;
    t.kernel.fail(Call::Current, Fault::Map);
    assert!(!is_active(&t, &released), "on doubt inactive");
    t.node.sweep_holders();
    t.kernel.mend();
    assert!(is_active(&t, &released), "but not over");
    // Such as a daemon that has no descriptors left: no reason to end everybody's credentials.
    proc.break_status(t.tgid);
    assert!(!is_active(&t, &released), "on doubt inactive");
    t.node.sweep_holders();
    assert_eq!(cause(&t, &released.lease.id), None, "but not over");
    proc.remove(t.tgid);
    t.node.sweep_holders();
    assert_eq!(cause(&t, &released.lease.id), Some(Cause::Exited));
}

#[tokio::test]
async fn an_operator_can_end_it_by_every_name_it_has() {
    type Name = fn(&Lease) -> Doomed;
    let doomed: [(&str, Name); 5] = [
        ("lease_id", |lease| Doomed::Lease(lease.id.clone())),
        ("exec_id", |lease| Doomed::Exec(lease.exec_id)),
        ("tgid", |lease| Doomed::Tgid(lease.tgid)),
        ("spiffe_id", |lease| Doomed::Identity(lease.spiffe_id.to_string())),
        ("destination", |lease| Doomed::Destination(lease.destination.to_string())),
    ];
    for (name, doomed) in doomed {
        let t = Setup::default().build();
        let released = release(&t).await;
        let ended = t.node.revoke(&doomed(&released.lease), "leaked".to_owned(), Caller::default()).unwrap();
        assert_eq!(ended.len(), 1, "{name}");
        assert!(!is_active(&t, &released), "{name}");
        let record = t.last("revoke");
        assert!(record["what"].as_str().unwrap().starts_with(name), "{record}");
        assert_eq!((&record["revoked"], &record["reason"]), (&1.into(), &"leaked".into()));
        assert_eq!(t.last("lease_ended")["cause"], "revoked");
        assert!(t.kernel.watched().is_empty(), "nobody is watched for nothing");
    }
}

#[tokio::test]
async fn what_is_revoked_before_the_answer_leaves_does_not_leave() {
    let t = Setup::default().build();
    let (peer, ask, node) = (t.peer(), t.ask(), Arc::clone(&t.node));
    let doomed = Doomed::Tgid(t.tgid);
    t.kernel.before(Call::Watch, 1, move |_| {
        assert_eq!(node.revoke(&doomed, String::new(), Caller::default()).unwrap().len(), 1);
    });
    assert!(t.node.release(&peer, ask).await.is_err());
    assert_eq!(counts(&t), (0, 1, 1));
}

#[tokio::test]
async fn revoking_what_is_not_there_ends_nothing() {
    let t = Setup::default().build();
    let released = release(&t).await;
    for doomed in [
        Doomed::Exec(ExecId(1)),
        Doomed::Tgid(0),
        Doomed::Identity("spiffe://example.org/agent".to_owned()),
        Doomed::Destination("report".to_owned()),
    ] {
        assert!(t.node.revoke(&doomed, String::new(), Caller::default()).unwrap().is_empty(), "{doomed}");
    }
    assert!(is_active(&t, &released));
}

#[tokio::test]
async fn a_revocation_that_cannot_be_recorded_is_done_all_the_same() {
    let t = Setup::default().build();
    let released = release(&t).await;
    t.node.log.shutdown().unwrap();
    let doomed = Doomed::Lease(released.lease.id.clone());
    assert!(t.node.revoke(&doomed, String::new(), Caller::default()).is_err());
    assert!(!is_active(&t, &released));
}

/// Sweeps, once a second, until something holds.
async fn sweep_until(t: &TestNode, holds: impl Fn() -> bool) {
    let cancel = CancellationToken::new();
    let until = async {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "it never came to hold");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancel.cancel();
    };
    tokio::join!(t.node.sweep(cancel.clone()), until);
}

#[tokio::test]
async fn the_sweep_records_expiry() {
    let t = Setup::default().build();
    let released = release(&t).await;
    t.clock.set(released.lease.expires_at);
    sweep_until(&t, || t.node.leases.is_empty()).await;
    assert_eq!(t.last("lease_ended")["cause"], "expired");
    assert!(t.kernel.watched().is_empty());
}

#[tokio::test]
async fn leases_that_are_always_about_to_expire_do_not_keep_the_sweep_from_the_holders() {
    let t = Setup::default().build();
    let released = release(&t).await;
    // The clock is held, so this one stays half a second from its end for ever.
    let soon = t.clock.now() + jiff::SignedDuration::from_millis(500);
    t.node.leases.restore(lease_of(&released, 1, |lease| lease.expires_at = soon)).unwrap();
    let _lost = t.kernel.exit(t.tgid);
    sweep_until(&t, || t.node.leases.is_empty()).await;
}

#[tokio::test]
async fn whoever_watches_is_told_of_the_end() {
    let t = Setup::default().build();
    let mut watching = t.node.watch(true).unwrap().happenings;
    let released = release(&t).await;
    let event = t.kernel.exit(t.tgid);
    t.node.apply(event);
    let mut seen = Vec::new();
    while let Ok(happening) = watching.try_recv() {
        seen.push(match &*happening {
            Happening::Kernel(_) => "kernel",
            Happening::Decision(_) => "decision",
            Happening::Lease(lease) if lease.id == released.lease.id => lease.state.as_str(),
            Happening::Lease(_) => "another",
        });
    }
    assert_eq!(seen, ["decision", "active", "exited", "kernel"]);
}

#[tokio::test]
async fn the_kernel_tells_of_everything_only_while_somebody_watches_it() {
    let t = Setup::default().build();
    let decisions_only = t.node.watch(false).unwrap();
    assert!(!t.kernel.is_listening());
    let (first, second) = (t.node.watch(true).unwrap(), t.node.watch(true).unwrap());
    assert!(t.kernel.is_listening());
    drop((first, decisions_only));
    assert!(t.kernel.is_listening());
    drop(second);
    assert!(!t.kernel.is_listening());
    t.kernel.fail(Call::Listen, Fault::Map);
    t.node.watch(true).unwrap_err();
    t.kernel.mend();
    drop(t.node.watch(true).unwrap());
    assert!(!t.kernel.is_listening());
}

#[tokio::test]
async fn evidence_of_whoever_ended_unnoticed_is_forgotten() {
    let t = Setup::default().build();
    let released = release(&t).await;
    t.node.leases.end(&released.lease.id, Cause::GivenBack, t.clock.now());
    let attested = || t.node.attestor.usage()[0].0;
    assert_eq!(attested(), 1);
    t.node.attestor.sweep();
    t.node.attestor.sweep();
    assert_eq!(attested(), 1, "it lives");
    let _lost = t.kernel.exit(t.tgid);
    t.node.attestor.sweep();
    assert_eq!(attested(), 1, "its event may be on the way");
    t.node.attestor.sweep();
    assert_eq!(attested(), 0);
    let known = t.node.attestor.history().ended(released.lease.exec_id).unwrap();
    assert_eq!(known.spiffe_id.as_deref(), Some(released.lease.spiffe_id.as_str()), "should its event be later still");
}

#[tokio::test]
async fn a_token_that_was_altered_or_never_ours_is_inactive() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let token = super::token(&released);
    let other = Setup::default().build();
    let foreign = super::token(&release(&other).await);
    for bad in ["", ".", "..", "a.b.c", &token[1..], &format!("{token}A"), &foreign, &"x".repeat(100_000)] {
        assert!(!t.node.introspect(bad).is_active());
    }
    assert!(is_active(&t, &released));
}
