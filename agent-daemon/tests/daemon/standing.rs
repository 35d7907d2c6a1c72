// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What was released ends when what operators wrote would not release it again, and its holder loses the connections that it
//! was for.

use std::sync::Arc;
use std::time::Duration;

use agent_daemon::audit::{Caller, recover_leases};
use agent_daemon::clock::Clock as _;
use agent_daemon::credential::Cause;
use agent_daemon::credential::lease::State;
use agent_daemon::node::{Answer, Ask, Doomed, OnBehalf, OpenAsk, Refusal, Released, oldest_live};
use agent_daemon::process::Records as _;
use agent_daemon::testing::{Call, Fault, Setup, TestNode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{counts, is_active, release};

const FORBID: &str =
    r#"@id("no") forbid (principal, action == Action::"release", resource == Destination::"reports");"#;
const BILLING: &str = r#"
    [[destination]]
    name = "billing"
    cidrs = ["198.51.100.0/24"]
    ports = [443]
    audience = "billing"

    [[binding]]
    name = "billing-token"
    destination = "billing"
    identities = ["spiffe://example.org/agent/*"]
    source = "jwt"
    observed_connect = "optional"
    ttl = "5m"
"#;

/// A node that looks at its leases, until this is dropped.
struct Kept {
    t: Arc<TestNode>,
    cancel: CancellationToken,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Kept {
    fn build(setup: Setup) -> Self {
        Self::of(setup.build())
    }

    fn of(t: TestNode) -> Self {
        let (node, cancel) = (Arc::clone(&t.node), CancellationToken::new());
        let until = cancel.clone();
        TaskTracker::new().spawn(async move { tokio::join!(node.keep_standing(until.clone()), node.govern(until)) });
        Self { t: Arc::new(t), cancel }
    }

    async fn says(&self, policies: &str) {
        // What was released before this is looked at has to be looked at.
        tokio::task::yield_now().await;
        self.t.sources.write_policies(policies);
        assert!(self.t.node.reload("test", None).unwrap().is_changed);
    }

    async fn waits_for(&self, what: &str, is_so: impl Fn(&TestNode) -> bool) {
        for _ in 0..2000 {
            if is_so(&self.t) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain: {what}");
    }

    async fn ends(&self, released: &Released) -> String {
        self.waits_for("the end of a lease", |t| !is_active(t, released)).await;
        let record = self.t.last("lease_ended");
        assert_eq!(record["lease_id"], released.lease.id.as_str());
        assert_eq!(record["cause"], "withdrawn");
        record["detail"].as_str().unwrap().to_owned()
    }

    async fn stays(&self, released: &Released) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(is_active(&self.t, released), "{}", self.t.last("lease_ended"));
    }

    fn is_closed(&self, cookie: u64) -> bool {
        self.t.kernel.connection(cookie).unwrap().is_none_or(|connection| connection.is_closed)
    }
}

async fn billing(t: &TestNode) -> Released {
    let ask = Ask { destination: "billing".to_owned(), ..Ask::default() };
    t.node.release(&t.peer(), ask).await.unwrap()
}

fn two() -> Setup {
    Setup { catalog: Setup::catalog("enforce", "required", "jwt") + BILLING, ..Setup::default() }
}

#[tokio::test]
async fn what_policy_takes_back_ends_with_its_connections_and_nothing_else_does() {
    let kept = Kept::build(two());
    let t = &kept.t;
    let (reports, billed) = (release(t).await, billing(t).await);
    let (same, elsewhere) = (t.connect("192.0.2.7:443"), t.connect("198.51.100.1:443"));
    t.kernel.fork(t.tgid, 999_999);
    let of_child = t.kernel.connect(999_999, "192.0.2.1:443".parse().unwrap());
    kept.says(&[Setup::PERMIT, FORBID].concat()).await;
    assert_eq!(kept.ends(&reports).await, "policy_forbid: policy forbids: no");
    kept.waits_for("the connections to be closed", |_| {
        kept.is_closed(reports.lease.cookie.unwrap()) && kept.is_closed(same)
    })
    .await;
    assert!(is_active(t, &billed));
    assert!(!kept.is_closed(elsewhere), "it goes to where it still may");
    assert!(!kept.is_closed(of_child), "another exec instance opened it");
    let closed: Vec<_> =
        t.records_of("decision").into_iter().filter(|one| one["reason"] == "egress_withdrawn").collect();
    assert_eq!(closed.len(), 2);
    for record in closed {
        assert_eq!(
            (&record["lease_id"], &record["destination"]),
            (&reports.lease.id.as_str().into(), &"reports".into())
        );
    }
}

#[tokio::test]
async fn what_would_be_released_again_stays_though_its_connection_is_gone() {
    let on_port = r#"@id("port") permit (principal, action == Action::"release", resource)
        when { context has connection && context.connection.port == 443 && !context.renewal };"#;
    let kept = Kept::build(Setup { policies: on_port.into(), ..Setup::default() });
    let released = release(&kept.t).await;
    kept.t.kernel.close(released.lease.cookie.unwrap());
    kept.says(&[on_port, " // the same"].concat()).await;
    kept.stays(&released).await;
    kept.says(&on_port.replace("443", "444")).await;
    assert!(kept.ends(&released).await.starts_with("policy_no_permit: "));
}

#[tokio::test]
async fn whatever_else_it_rested_on_can_be_taken_away() {
    let catalog = Setup::catalog("enforce", "required", "jwt");
    for (what, entries, catalog) in [
        ("no_identity: ", Setup::entry("agent", "agent/a", ", \"unix:gid:4000000001\""), catalog.clone()),
        ("identity_not_yours: ", Setup::entry("agent", "agent/b", ""), catalog.clone()),
        ("no_binding: ", Setup::entry("agent", "agent/a", ""), catalog.replace("/agent/*", "/other/*")),
        (
            "no binding \"reports-token\" gives a jwt-svid",
            Setup::entry("agent", "agent/a", ""),
            catalog.replace("reports-token", "another"),
        ),
        (
            "no binding \"reports-token\" gives a jwt-svid",
            Setup::entry("agent", "agent/a", ""),
            catalog.replace("source = \"jwt\"", "source = \"key\""),
        ),
    ] {
        let kept = Kept::build(Setup::default());
        let released = release(&kept.t).await;
        tokio::task::yield_now().await;
        kept.t.sources.write_entries(&entries);
        kept.t.sources.write_catalog(&catalog);
        assert!(kept.t.node.reload("test", None).unwrap().is_changed, "{what}");
        let detail = kept.ends(&released).await;
        assert!(detail.starts_with(what), "{detail}");
        kept.waits_for("the connection to be closed", |_| kept.is_closed(released.lease.cookie.unwrap())).await;
    }
}

#[tokio::test]
async fn a_destination_that_is_gone_takes_the_connections_to_where_it_was() {
    let kept = Kept::build(two());
    let billed = billing(&kept.t).await;
    let there = kept.t.connect("198.51.100.1:443");
    tokio::task::yield_now().await;
    kept.t.sources.write_catalog(&Setup::catalog("enforce", "required", "jwt"));
    assert!(kept.t.node.reload("test", None).unwrap().is_changed);
    kept.ends(&billed).await;
    kept.waits_for("the connection to be closed", |_| kept.is_closed(there)).await;
}

#[tokio::test]
async fn what_policy_only_says_in_audit_mode_ends_nothing() {
    let kept = Kept::build(Setup { catalog: Setup::catalog("audit", "required", "jwt"), ..Setup::default() });
    let released = release(&kept.t).await;
    kept.says(FORBID).await;
    kept.stays(&released).await;
}

#[tokio::test]
async fn a_set_that_is_refused_ends_nothing() {
    let kept = Kept::build(Setup::default());
    let released = release(&kept.t).await;
    tokio::task::yield_now().await;
    kept.t.sources.write_policies("permit (");
    assert!(!kept.t.node.reload("test", None).unwrap().is_changed);
    kept.stays(&released).await;
}

#[tokio::test]
async fn of_what_cannot_be_seen_it_is_found_out_later() {
    let kept = Kept::build(Setup::default());
    let released = release(&kept.t).await;
    tokio::task::yield_now().await;
    kept.t.kernel.fail(Call::Process, Fault::Map);
    kept.says(FORBID).await;
    kept.stays(&released).await;
    kept.t.kernel.mend();
    kept.ends(&released).await;
}

#[tokio::test]
async fn a_person_who_approved_it_approved_it_under_the_policies_of_then() {
    let word = r#"@id("word") @approval permit (principal in Group::"agents", action == Action::"release", resource);"#;
    let other = word.replace("word", "other");
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let kept = Kept::build(Setup { policies: word.into(), catalog, ..Setup::default() });
    let asker = Arc::clone(&kept.t);
    let asking = TaskTracker::new().spawn(async move { asker.node.release(&asker.peer(), asker.ask()).await });
    kept.waits_for("a request", |t| !t.node.approvals().waiting().is_empty()).await;
    let waiting = kept.t.node.approvals().waiting().remove(0);
    let answer = Answer {
        is_allowed: true,
        is_for_session: false,
        reason: String::new(),
        by: Caller { uid: 7, ..Caller::default() },
    };
    kept.t.node.answer_approval(&waiting.id, &answer).map(drop).unwrap();
    let released = asking.await.unwrap().unwrap();
    kept.says(&[word, " // the same"].concat()).await;
    kept.stays(&released).await;
    kept.says(&other).await;
    assert!(kept.ends(&released).await.starts_with("approval_required: "));
}

#[tokio::test]
async fn what_is_taken_back_while_it_is_answered_does_not_leave() {
    let t = Setup::default().build();
    let (peer, ask, node, sources) = (t.peer(), t.ask(), Arc::clone(&t.node), t.sources.clone());
    t.kernel.before(Call::Watch, 1, move |_| {
        sources.write_policies(FORBID);
        assert!(node.reload("test", None).unwrap().is_changed);
    });
    let result = t.node.release(&peer, ask).await;
    assert!(matches!(result, Err(Refusal::Leases(_))), "{result:?}");
    assert_eq!(counts(&t), (0, 1, 1));
    assert_eq!(t.last("lease_ended")["cause"], "withdrawn");
}

#[tokio::test]
async fn a_daemon_that_was_killed_goes_on_with_what_it_rested_on() {
    let on_port = r#"@id("port") permit (principal, action == Action::"release", resource)
        when { context has connection && context.connection.port == 443 && context.connection.gid >= 0
            && context.credential.audiences == ["https://reports.example"] };"#;
    let t = Setup { policies: on_port.into(), ..Setup::default() }.build();
    let released = release(&t).await;
    t.kernel.close(released.lease.cookie.unwrap());
    let setup = Setup {
        policies: on_port.into(),
        directory: Arc::clone(&t.directory),
        kernel: Some(Arc::clone(&t.kernel)),
        clock: Arc::clone(&t.clock),
        ..Setup::default()
    };
    drop(t);
    let audit = setup.directory.path().join("audit");
    let t = setup.build();
    assert_eq!(t.node.take_up(recover_leases(&audit, oldest_live(t.clock.now())).unwrap()), 1);
    assert_eq!(t.node.leases.lease(&released.lease.id).unwrap().basis, released.lease.basis);
    let kept = Kept::of(t);
    kept.says(&[on_port, " // the same"].concat()).await;
    kept.stays(&released).await;
    kept.says(FORBID).await;
    kept.ends(&released).await;
}

#[tokio::test]
async fn what_was_edited_while_the_daemon_was_down_counts_when_it_is_back() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let setup = Setup {
        policies: FORBID.into(),
        directory: Arc::clone(&t.directory),
        kernel: Some(Arc::clone(&t.kernel)),
        clock: Arc::clone(&t.clock),
        ..Setup::default()
    };
    drop(t);
    let audit = setup.directory.path().join("audit");
    let t = setup.build();
    assert_eq!(t.node.take_up(recover_leases(&audit, oldest_live(t.clock.now())).unwrap()), 1);
    let kept = Kept::of(t);
    kept.ends(&released).await;
    kept.waits_for("its connection to be closed", |_| kept.is_closed(released.lease.cookie.unwrap())).await;
}

#[tokio::test]
async fn an_operator_takes_the_connection_with_the_lease_and_leaves_what_others_have() {
    let kept = Kept::build(Setup { catalog: Setup::catalog("enforce", "optional", "jwt"), ..Setup::default() });
    let t = &kept.t;
    let (first, second) = (release(t).await, release(t).await);
    let plain = t.connect("192.0.2.9:443");
    let revoke = |doomed: Doomed| t.node.revoke(&doomed, String::new(), Caller::default()).unwrap().len();
    assert_eq!(revoke(Doomed::Lease(first.lease.id.clone())), 1);
    kept.waits_for("its connection to be closed", |_| kept.is_closed(first.lease.cookie.unwrap())).await;
    assert!(
        !kept.is_closed(second.lease.cookie.unwrap()) && !kept.is_closed(plain),
        "it still has a lease for the same"
    );
    assert_eq!(revoke(Doomed::Exec(second.lease.exec_id)), 1);
    kept.waits_for("all to be closed", |_| kept.is_closed(second.lease.cookie.unwrap()) && kept.is_closed(plain)).await;
    let State::Ended { cause, .. } = t.node.leases.lease(&second.lease.id).unwrap().state else { panic!("it lives") };
    assert_eq!(cause, Cause::Revoked);
}

#[tokio::test]
async fn what_is_given_back_or_renewed_closes_nothing() {
    let kept = Kept::build(Setup::default());
    let t = &kept.t;
    let released = release(t).await;
    let renewed = t.node.renew(&t.peer(), released.lease.id.clone(), Ask::default()).await.unwrap();
    t.node.give_back(&t.peer(), &renewed.lease.id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!kept.is_closed(released.lease.cookie.unwrap()));
}

#[tokio::test]
async fn a_session_that_ends_takes_the_connections_of_what_was_released_in_it() {
    let may = r#"@id("act") permit (principal in Group::"agents", action == Action::"actFor", resource is User);"#;
    let kept = Kept::build(Setup { policies: [Setup::PERMIT, may].concat(), ..Setup::default() });
    let t = &kept.t;
    let ask = OpenAsk {
        user: OnBehalf::Local,
        agent: None,
        purpose: None,
        scopes: None,
        lifetime: None,
        is_bound: true,
        parent: None,
        spiffe_id: None,
    };
    let opened = t.node.open_session(&t.peer(), ask).await.unwrap();
    let released = release(t).await;
    kept.says(&[Setup::PERMIT, may, "// the same"].concat()).await;
    kept.stays(&released).await;
    t.node.end_session(opened.session.id, agent_daemon::session::Cause::Revoked, None);
    kept.waits_for("its connection to be closed", |_| kept.is_closed(released.lease.cookie.unwrap())).await;
}
