// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who may ask: the process that opened the socket, as it was then, and only while it is that.

use std::num::NonZeroU32;
use std::time::Duration;

use agent_daemon::attest::Failure;
use agent_daemon::credential::rate;
use agent_daemon::node::{ConnectionRef, Refusal};
use agent_daemon::process::BootTime;
use agent_daemon::testing::{Call, FakeProc, Fault, Setup};

use super::{counts, denied, is_active, is_gone, refused, release};

#[test]
fn a_caller_without_a_record_is_unresolvable_and_recorded() {
    let t = Setup::default().build();
    t.kernel.forget(t.tgid);
    assert!(matches!(t.pin(), Err(Failure::Unresolvable(_))));
    let record = t.last("caller_refused");
    assert_eq!((&record["socket"], &record["reason"]), (&"agent".into(), &"unresolvable".into()));
    assert_eq!(record["caller"]["tgid"], t.tgid);
}

#[test]
fn the_record_of_an_earlier_process_with_the_same_number_is_a_mismatch() {
    let t = Setup::default().build();
    t.kernel.change(t.tgid, |instance| instance.process.start_boottime = BootTime(10_000_000));
    assert!(matches!(t.pin(), Err(Failure::OriginatorMismatch(_))));
    assert_eq!(t.last("caller_refused")["reason"], "originator_mismatch");
}

#[test]
fn an_incomplete_record_is_no_basis() {
    let t = Setup::default().build();
    t.kernel.change(t.tgid, |instance| instance.flags.0 |= agent_ebpf::flags::INCOMPLETE);
    assert!(matches!(t.pin(), Err(Failure::Incomplete)));
    assert_eq!(t.last("caller_refused")["reason"], "incomplete");
}

#[tokio::test]
async fn a_record_that_became_incomplete_after_accept_is_no_basis_either() {
    let t = Setup::default().build();
    let peer = t.peer();
    t.kernel.change(t.tgid, |instance| instance.flags.0 |= agent_ebpf::flags::INCOMPLETE);
    assert_eq!(refused(t.node.release(&peer, t.ask()).await), "incomplete");
}

#[test]
fn records_that_cannot_be_read_pin_nobody() {
    for fault in [Fault::Map, Fault::Unstable, Fault::Malformed] {
        let t = Setup::default().build();
        t.kernel.fail(Call::Process, fault);
        assert!(matches!(t.pin(), Err(Failure::Records(_))), "{fault:?}");
        assert_eq!(t.last("caller_refused")["reason"], "unavailable");
    }
}

#[tokio::test]
async fn exec_between_accept_and_request_leaves_the_channel_dead() {
    let t = Setup::default().build();
    let peer = t.peer();
    t.kernel.exec(t.tgid, |_| {});
    let ask = t.ask();
    assert_eq!(refused(t.node.release(&peer, ask.clone()).await), "originator_gone");
    assert_eq!(refused(t.node.release(&peer, ask).await), "originator_gone", "and it stays dead");
    assert!(matches!(t.node.attest(&peer).await, Err(Refusal::Caller(failure)) if is_gone(&failure)));
    assert_eq!(counts(&t), (0, 0, 0));
    let record = t.last("caller_refused");
    assert_eq!(record["caller"]["exec_id"], 1001, "the record names who opened the socket");
    t.node.release(&t.peer(), t.ask()).await.unwrap();
}

#[tokio::test]
async fn exec_between_issue_and_reply_is_caught_and_the_lease_ended() {
    let t = Setup::default().build();
    let (peer, ask) = (t.peer(), t.ask());
    t.kernel.before(Call::Watch, 1, move |kernel| {
        let _lost = kernel.exec(std::process::id(), |_| {});
    });
    assert_eq!(refused(t.node.release(&peer, ask).await), "originator_gone");
    assert_eq!(counts(&t), (0, 1, 1), "issued, recorded, and ended again");
    assert_eq!(t.records_of("caller_refused").len(), 1);
}

#[tokio::test]
async fn exec_while_the_facts_are_read_is_caught() {
    // The second look at the record closes the reading of facts; the first is the recheck before it.
    let t = Setup::default().build();
    let (peer, ask) = (t.peer(), t.ask());
    t.kernel.before(Call::Current, 2, move |kernel| {
        let _lost = kernel.exec(std::process::id(), |_| {});
    });
    assert_eq!(refused(t.node.release(&peer, ask).await), "originator_gone");
    assert_eq!(counts(&t), (0, 0, 0));
}

#[tokio::test]
async fn exit_while_it_is_decided_leaves_no_lease() {
    let t = std::sync::Arc::new(Setup::default().build());
    t.resolver.tell("reports.example", &["203.0.113.1"]);
    let (peer, cookie) = (t.peer(), t.connect("203.0.113.1:443"));
    let other = std::sync::Arc::clone(&t);
    t.resolver.during_next(move || {
        let event = other.kernel.exit(other.tgid);
        other.node.apply(event);
    });
    assert_eq!(refused(t.node.release(&peer, t.ask_on(cookie)).await), "originator_gone");
    assert!(t.node.leases.is_empty());
}

#[tokio::test]
async fn a_connection_that_closes_before_the_reply_takes_the_credential_with_it() {
    let t = Setup::default().build();
    let (peer, cookie) = (t.peer(), t.connect("192.0.2.1:443"));
    t.kernel.before(Call::Watch, 1, move |kernel| {
        let _event = kernel.close(cookie);
    });
    assert_eq!(refused(t.node.release(&peer, t.ask_on(cookie)).await), "originator_mismatch");
    assert_eq!(counts(&t), (0, 1, 1));
}

#[tokio::test]
async fn a_connection_that_the_other_end_closes_before_the_reply_does_too() {
    let t = Setup::default().build();
    let (peer, cookie) = (t.peer(), t.connect("192.0.2.1:443"));
    t.kernel.before(Call::Watch, 1, move |kernel| {
        kernel.change_connection(cookie, |connection| connection.is_open = false);
    });
    assert_eq!(refused(t.node.release(&peer, t.ask_on(cookie)).await), "originator_mismatch");
    assert_eq!(counts(&t), (0, 1, 1));
}

#[tokio::test]
async fn a_connection_that_is_turned_elsewhere_before_the_reply_takes_the_credential_with_it() {
    let t = Setup::default().build();
    let (peer, cookie) = (t.peer(), t.connect("192.0.2.1:443"));
    t.kernel.before(Call::Watch, 1, move |kernel| {
        kernel.change_connection(cookie, |connection| connection.remote = "203.0.113.1:443".parse().unwrap());
    });
    assert_eq!(refused(t.node.release(&peer, t.ask_on(cookie)).await), "originator_mismatch");
    assert_eq!(counts(&t), (0, 1, 1));
}

#[tokio::test]
async fn a_caller_that_changed_its_uid_is_decided_by_the_new_one() {
    let proc = FakeProc::new();
    let t = Setup::default().with_proc(&proc).build();
    let peer = t.peer();
    let released = t.node.release(&peer, t.ask()).await.unwrap();
    proc.set_ids(t.tgid, 4_000_000_001, 4_000_000_001);
    let refusal = t.node.release(&peer, t.ask()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied { .. }), "{refusal:?}");
    let record = t.last("decision");
    assert_eq!((&record["reason"], &record["exec"]["uid"]), (&"no_identity".into(), &4_000_000_001_u32.into()));
    assert!(!is_active(&t, &released), "and what it had as somebody else is over");
}

#[tokio::test]
async fn whoever_asks_too_often_waits_and_nobody_else_does() {
    let rates = rate::Limits { burst: NonZeroU32::new(3).unwrap(), refill: Duration::from_secs(3600), table: 10 };
    let t = Setup { rates, ..Setup::default() }.build();
    let peer = t.peer();
    for _ in 0..3 {
        t.node.release(&peer, t.ask()).await.unwrap();
    }
    let limited = t.node.release(&peer, t.ask()).await.unwrap_err();
    assert!(matches!(limited, Refusal::RateLimited { .. }), "{limited:?}");
    // A second socket of the same exec instance is the same asker.
    assert!(matches!(t.node.attest(&t.peer()).await, Err(Refusal::RateLimited { .. })));
    assert_eq!(counts(&t), (3, 3, 0));
    // Another one is not.
    t.kernel.exec(t.tgid, |_| {});
    t.node.release(&t.peer(), t.ask()).await.unwrap();
}

#[tokio::test]
async fn a_change_of_uid_does_not_refill_the_bucket() {
    let rates = rate::Limits { burst: NonZeroU32::new(2).unwrap(), refill: Duration::from_secs(3600), table: 10 };
    let proc = FakeProc::new();
    let t = Setup { rates, ..Setup::default() }.with_proc(&proc).build();
    let peer = t.peer();
    let released = t.node.release(&peer, t.ask()).await.unwrap();
    t.node.attest(&peer).await.unwrap();
    proc.set_ids(t.tgid, 4_000_000_001, 4_000_000_001);
    assert!(!is_active(&t, &released));
    assert!(matches!(t.node.attest(&peer).await, Err(Refusal::RateLimited { .. })));
}

#[tokio::test]
async fn who_is_on_the_other_end_is_told_only_with_a_permit_and_recorded() {
    let t = Setup::default().build();
    t.kernel.fork(t.tgid, 999_999);
    let cookie = t.kernel.connect(999_999, "192.0.2.1:443".parse().unwrap());
    let named = ConnectionRef::Cookie(cookie);
    let opener = t.node.attest_connection(&t.peer(), named).await.unwrap();
    assert_eq!(opener.connection.tgid, 999_999);
    assert_eq!(t.last("decision")["action"], "attest_connection");
    assert_eq!(t.last("decision")["outcome"], "allow");
    let t = Setup { policies: String::new(), ..Setup::default() }.build();
    let refusal = t.node.attest_connection(&t.peer(), named).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied { .. }));
    assert_eq!(t.last("decision")["reason"], "policy_no_permit");
}

#[tokio::test]
async fn an_opener_is_named_as_what_it_is_now_or_not_at_all() {
    let t = Setup::default().build();
    let cookie = t.connect("192.0.2.1:443");
    let named = ConnectionRef::Cookie(cookie);
    let peer = t.peer();
    let opener = t.node.attest_connection(&peer, named).await.unwrap();
    assert_eq!(opener.attested.unwrap().spiffe_id().unwrap().as_str(), "spiffe://example.org/agent/a");
    t.kernel.exec(t.tgid, |_| {});
    let opener = t.node.attest_connection(&t.peer(), named).await.unwrap();
    assert!(opener.attested.is_none(), "the exec instance that opened it is gone");
}

#[tokio::test]
async fn an_opener_that_changed_its_uid_is_not_named_by_the_old_one() {
    let proc = FakeProc::new();
    let t = Setup::default().with_proc(&proc).build();
    // Any user may ask who is there; only the old one is the agent.
    let policies = r#"@id("attest") permit (principal, action == Action::"attest", resource);"#;
    t.sources.write_policies(policies);
    let other = format!(
        r#"{} [[entry]]
           id = "other"
           spiffe_id = "spiffe://example.org/other"
           kind = "workload"
           selectors = ["unix:uid:4000000001"]"#,
        Setup::entry("agent", "agent/a", "")
    );
    t.sources.write_entries(&other);
    assert!(t.node.reload("test", None).unwrap().is_changed);
    let cookie = t.connect("192.0.2.1:443");
    t.node.attest(&t.peer()).await.unwrap();
    proc.set_ids(t.tgid, 4_000_000_001, 4_000_000_001);
    let opener = t.node.attest_connection(&t.peer(), ConnectionRef::Cookie(cookie)).await.unwrap();
    assert_eq!(opener.attested.unwrap().spiffe_id().unwrap().as_str(), "spiffe://example.org/other");
}

#[test]
fn refused_callers_cannot_fill_the_disk() {
    let t = Setup::default().build();
    t.kernel.forget(t.tgid);
    for _ in 0..2000 {
        assert!(t.pin().is_err());
    }
    let written = t.records_of("caller_refused").len();
    let counted = |name| t.node.counts().into_iter().find(|count| count.name == name).unwrap().value;
    assert_eq!(counted("callers_refused"), 2000, "every one is counted");
    assert_eq!(u64::try_from(written).unwrap() + counted("callers_refused_unrecorded"), 2000);
    assert!((500..1500).contains(&written), "{written}");
}

#[tokio::test]
async fn a_caller_without_identity_learns_who_it_is_not_what_is_missing() {
    let entries = Setup::entry("near", "agent/a", r#", "unix:gid:4000000000""#);
    let t = Setup { entries, ..Setup::default() }.build();
    let refusal = t.node.release(&t.peer(), t.ask()).await;
    let text = format!("{}", refusal.as_ref().unwrap_err());
    assert_eq!(denied(&t, refusal), "no_identity");
    for secret in ["near", "4000000000", "example.org", "unix:"] {
        assert!(!text.contains(secret), "{text}");
    }
    release_is_still_possible_for_nobody(&t).await;
}

async fn release_is_still_possible_for_nobody(t: &agent_daemon::testing::TestNode) {
    for _ in 0..3 {
        assert!(t.node.release(&t.peer(), t.ask()).await.is_err());
    }
    assert_eq!(counts(t), (0, 0, 0));
    let permitted = Setup::default().build();
    release(&permitted).await;
}
