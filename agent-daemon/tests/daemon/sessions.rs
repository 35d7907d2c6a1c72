// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions: who may open one, what it reaches, who acts in it, and what ends with it.

use std::sync::Arc;
use std::time::Duration;

use agent_daemon::attest::Peer;
use agent_daemon::node::{Ask, OnBehalf, OpenAsk, Opened, Refusal};
use agent_daemon::process::{Ancestor, ExecId, ExecInstance, SessionId};
use agent_daemon::session::{Cause, HandleDigest};
use agent_daemon::testing::{Call, Fault, Setup, TestNode, exec_instance_of};
use serde_json::json;

use super::{denied, is_active, refused};

const ACT: &str = r#"
    @id("act") permit (principal in Group::"agents", action == Action::"actFor", resource is User);
"#;

fn setup() -> Setup {
    Setup { policies: format!("{}{ACT}", Setup::PERMIT), ..Setup::default() }
}

fn local() -> OpenAsk {
    OpenAsk {
        user: OnBehalf::Local,
        agent: Some("coder".into()),
        purpose: Some("a report".into()),
        scopes: None,
        lifetime: None,
        is_bound: true,
        parent: None,
        spiffe_id: None,
    }
}

fn scopes(names: &[&str]) -> Option<Box<[Box<str>]>> {
    Some(names.iter().map(|name| Box::from(*name)).collect())
}

async fn open(t: &TestNode, ask: OpenAsk) -> Opened {
    t.node.open_session(&t.peer(), ask).await.unwrap()
}

/// The reason of a refused opening, which leaves nothing behind.
#[track_caller]
fn reason(t: &TestNode, result: Result<Opened, Refusal>) -> String {
    assert!(matches!(result, Err(Refusal::Denied { .. } | Refusal::Unavailable { .. })), "{result:?}");
    let record = t.last("decision");
    assert_eq!((&record["action"], &record["outcome"]), (&json!("act_for"), &json!("deny")));
    record["reason"].as_str().unwrap().to_owned()
}

/// The test's process replaces its image by itself: another exec instance, with the first above it.
fn exec(t: &TestNode) -> ExecId {
    let _event = t.kernel.exec(t.tgid, |_| {});
    t.kernel.instance(t.tgid).id
}

async fn release_with(
    t: &TestNode,
    peer: &Peer,
    handle: Option<HandleDigest>,
) -> Result<agent_daemon::node::Released, Refusal> {
    t.node.release(peer, Ask { session: handle, ..t.ask() }).await
}

#[tokio::test]
async fn a_session_is_recorded_carried_by_the_kernel_and_stands_in_what_is_released() {
    let t = setup().build();
    let opened = open(&t, local()).await;
    let id = opened.session.id.to_string();
    assert_eq!(t.kernel.instance(t.tgid).session_id, Some(opened.session.id));
    let record = t.last("decision");
    assert_eq!((&record["action"], &record["outcome"]), (&json!("act_for"), &json!("allow")));
    assert_eq!(record["session_id"], id);
    assert_eq!(record["policy_ids"], json!(["act"]));
    assert_eq!(record["session"]["agent"], "coder");
    assert_eq!(record["session"]["purpose"], "a report");
    assert_eq!(record["session"]["bound"], true);
    let user = record["user"].as_str().unwrap().to_owned();
    assert!(user.starts_with("uid:"), "{user}");
    let released = t.node.release(&t.peer(), t.ask()).await.unwrap();
    assert_eq!(released.lease.session, Some(opened.session.id));
    let record = t.last("decision");
    assert_eq!((&record["session_id"], &record["user"]), (&json!(id), &json!(user)));
    assert_eq!(record["exec"]["session_id"], id);
    let text = serde_json::to_string(&t.records()).unwrap();
    assert!(!text.contains(opened.handle.reveal()), "a handle stands nowhere");
    // What it execs is in it too, with what it was before above it.
    exec(&t);
    let released = t.node.release(&t.peer(), t.ask()).await.unwrap();
    assert_eq!(released.lease.session, Some(opened.session.id));
}

#[tokio::test]
async fn nobody_opens_a_session_whom_policy_does_not_permit_to_act_for_the_user() {
    let t = Setup::default().build();
    assert_eq!(reason(&t, t.node.open_session(&t.peer(), local()).await), "policy_no_permit");
    let t = Setup { entries: Setup::entry("other", "agent/a", ", \"unix:gid:4711\""), ..setup() }.build();
    assert_eq!(reason(&t, t.node.open_session(&t.peer(), local()).await), "no_identity");
    let forbids = r#"@id("no") forbid (principal, action == Action::"actFor", resource)
        when { context.session.user.verified_by != "oidc" };"#;
    let t = Setup { policies: format!("{}{ACT}{forbids}", Setup::PERMIT), ..Setup::default() }.build();
    assert_eq!(reason(&t, t.node.open_session(&t.peer(), local()).await), "policy_forbid");
    assert!(t.node.sessions().is_empty());
    assert_eq!(t.kernel.instance(t.tgid).session_id, None);
}

#[tokio::test]
async fn policy_sees_the_session() {
    let only = r#"
        @id("only") permit (principal in Group::"agents", action == Action::"release", resource)
        when { context has session && context.session has agent && context.session.agent == "coder"
            && context.session.user.verified_by != "oidc" };"#;
    let t = Setup { policies: format!("{only}{ACT}"), ..Setup::default() }.build();
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "policy_no_permit");
    open(&t, local()).await;
    t.node.release(&t.peer(), t.ask()).await.unwrap();
}

#[tokio::test]
async fn a_session_reaches_what_its_scopes_name_and_nothing_else() {
    for (names, expected) in [
        (&["reports"][..], None),
        (&["other", "reports"][..], None),
        (&["other"][..], Some("out_of_scope")),
        (&[], Some("out_of_scope")),
    ] {
        let t = setup().build();
        open(&t, OpenAsk { scopes: scopes(names), ..local() }).await;
        let result = t.node.release(&t.peer(), t.ask()).await;
        match expected {
            None => assert!(result.is_ok(), "{names:?}: {result:?}"),
            Some(reason) => assert_eq!(denied(&t, result), reason, "{names:?}"),
        }
    }
}

#[tokio::test]
async fn a_process_whose_session_is_over_gets_nothing_and_no_way_back() {
    let t = setup().build();
    let opened = open(&t, local()).await;
    let peer = t.peer();
    let released = t.node.release(&peer, t.ask()).await.unwrap();
    assert!(is_active(&t, &released));
    assert_eq!(t.node.end_session(opened.session.id, Cause::Revoked, None), 1);
    assert!(!is_active(&t, &released), "what was released in it is over with it");
    assert_eq!(t.last("lease_ended")["cause"], "session_ended");
    let record = t.last("session_ended");
    assert_eq!((&record["cause"], &record["session_id"]), (&json!("revoked"), &json!(opened.session.id.to_string())));
    assert_eq!(denied(&t, t.node.release(&peer, t.ask()).await), "session_ended");
    assert_eq!(reason(&t, t.node.open_session(&peer, local()).await), "session_ended");
    exec(&t);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "session_ended");
    assert_eq!(t.node.end_session(opened.session.id, Cause::Revoked, None), 0, "it ends once");
}

#[tokio::test]
async fn a_session_ends_in_time_and_nothing_released_in_it_outlives_it() {
    let t = setup().build();
    let opened = open(&t, OpenAsk { lifetime: Some(Duration::from_secs(60)), ..local() }).await;
    let released = t.node.release(&t.peer(), t.ask()).await.unwrap();
    assert_eq!(released.lease.expires_at, opened.session.expires_at);
    let opened = open(&t, OpenAsk { lifetime: Some(Duration::from_secs(1_000_000)), ..local() }).await;
    assert!(opened.session.expires_at <= t.node.sessions().active()[0].expires_at, "not longer than the outer one");
    let t = setup().build();
    let opened = open(&t, OpenAsk { lifetime: Some(Duration::from_secs(1_000_000)), ..local() }).await;
    let life = opened.session.expires_at.duration_since(opened.session.opened_at);
    assert_eq!(life.as_secs(), 3600, "not longer than the operator allows");
}

#[tokio::test]
async fn a_session_of_which_the_lineage_knows_nothing_counts_for_nothing() {
    let t = setup().build();
    let opened = open(&t, local()).await;
    // As if the kernel's word had gone astray: another process, with that number in its record.
    t.kernel.change(t.tgid, |instance| {
        instance.id = ExecId(5000);
        instance.ancestors = Box::new([Ancestor { id: ExecId(4000), tgid: 1 }]);
    });
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "session_not_yours");
    t.kernel.change(t.tgid, |instance| instance.session_id = SessionId::new(77));
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "session_ended");
    t.kernel.change(t.tgid, |instance| instance.session_id = None);
    let handle = Some(opened.handle.digest());
    assert_eq!(denied(&t, release_with(&t, &t.peer(), handle).await), "session_not_yours");
    let unknown = Some(HandleDigest::of("guessed"));
    assert_eq!(denied(&t, release_with(&t, &t.peer(), unknown).await), "session_ended");
}

#[tokio::test]
async fn a_handle_names_one_of_several_sessions_of_a_process() {
    let t = setup().build();
    let ask = |names: &[&str]| OpenAsk { is_bound: false, scopes: scopes(names), ..local() };
    let (reports, other) = (open(&t, ask(&["reports"])).await, open(&t, ask(&["other"])).await);
    assert_eq!(t.kernel.instance(t.tgid).session_id, None);
    let peer = t.peer();
    let released = release_with(&t, &peer, Some(reports.handle.digest())).await.unwrap();
    assert_eq!(released.lease.session, Some(reports.session.id));
    t.node.give_back(&peer, &released.lease.id).await.unwrap();
    assert_eq!(denied(&t, release_with(&t, &peer, Some(other.handle.digest())).await), "out_of_scope");
    assert_eq!(release_with(&t, &peer, None).await.unwrap().lease.session, None);
    t.node.close_session(&peer, reports.handle.digest()).await.unwrap();
    t.node.close_session(&peer, reports.handle.digest()).await.unwrap();
    assert!(t.node.sessions().session(reports.session.id).is_none());
    assert!(t.node.sessions().session(other.session.id).is_some());
    assert_eq!(t.last("session_ended")["cause"], "closed");
}

#[tokio::test]
async fn a_lease_is_renewed_in_its_session_and_in_no_other() {
    let t = setup().build();
    let opened = open(&t, OpenAsk { is_bound: false, ..local() }).await;
    let peer = t.peer();
    let handle = Some(opened.handle.digest());
    let released = release_with(&t, &peer, handle).await.unwrap();
    let renew = |session| Ask { session, connection: t.ask().connection, ..Ask::default() };
    let outside = t.node.renew(&peer, released.lease.id.clone(), renew(None)).await;
    assert!(matches!(outside, Err(Refusal::Denied { .. })), "{outside:?}");
    assert_eq!(t.last("decision")["reason"], "lease_not_yours");
    let renewed = t.node.renew(&peer, released.lease.id.clone(), renew(handle)).await.unwrap();
    assert_eq!(renewed.lease.session, Some(opened.session.id));
}

#[tokio::test]
async fn a_delegated_session_narrows_and_ends_with_the_one_above() {
    let t = setup().build();
    let outer = open(&t, OpenAsk { scopes: scopes(&["reports", "mail"]), ..local() }).await;
    let wider = OpenAsk { scopes: scopes(&["reports", "admin"]), ..local() };
    assert_eq!(reason(&t, t.node.open_session(&t.peer(), wider).await), "session_refused");
    exec(&t);
    let inner = open(&t, OpenAsk { user: OnBehalf::Inherited, scopes: scopes(&["mail"]), ..local() }).await;
    assert_eq!(inner.session.parent.as_ref().unwrap().id, outer.session.id);
    assert_eq!(t.kernel.instance(t.tgid).session_id, Some(inner.session.id));
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "out_of_scope");
    // The outer one cannot be gone back to by its handle.
    let back = release_with(&t, &t.peer(), Some(outer.handle.digest())).await;
    assert_eq!(denied(&t, back), "session_not_yours");
    let deep = open(&t, local()).await;
    open(&t, local()).await;
    assert_eq!(reason(&t, t.node.open_session(&t.peer(), local()).await), "session_refused", "depth 3 is the bound");
    assert_eq!(t.node.end_session(outer.session.id, Cause::Revoked, None), 4);
    assert!(t.node.sessions().session(deep.session.id).is_none());
}

/// The caller's own program, started by one that may not have what it asks for.
#[tokio::test]
async fn a_tool_never_has_more_than_what_started_it_alive_or_not() {
    let entries = format!(
        "{}{}",
        Setup::entry("tool", "agent/tool", ", \"exec:no-new-privs\""),
        Setup::entry("starter", "agent/starter", ", \"exec:traced\"")
    );
    let only = r#"
        @id("tool") permit (principal == Workload::"spiffe://example.org/agent/tool", action == Action::"release", resource);"#;
    let both = r#"
        @id("all") permit (principal in Group::"agents", action == Action::"release", resource);"#;
    for (policies, expected) in [(only, Some("ancestor_not_permitted")), (both, None)] {
        let t = Setup { entries: entries.clone(), policies: format!("{policies}{ACT}"), ..setup() }.build();
        let flagged = |flag: u32| move |instance: &mut ExecInstance| instance.flags.0 = flag;
        t.kernel.change(t.tgid, flagged(agent_ebpf::flags::TRACED));
        open(&t, local()).await;
        let _event = t.kernel.exec(t.tgid, flagged(agent_ebpf::flags::NO_NEW_PRIVS));
        let result = t.node.release(&t.peer(), t.ask()).await;
        match expected {
            None => assert_eq!(result.unwrap().lease.spiffe_id.as_str(), "spiffe://example.org/agent/tool"),
            Some(reason) => {
                assert_eq!(denied(&t, result), reason);
                // Without a session only its own identity is asked about.
                t.kernel.change(t.tgid, |instance| instance.session_id = None);
                t.node.release(&t.peer(), t.ask()).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn an_ancestor_of_whom_nothing_is_known_gives_nothing() {
    let t = setup().build();
    open(&t, local()).await;
    let starter = t.kernel.instance(t.tgid).id;
    exec(&t);
    agent_daemon::process::Records::forget_ended(&*t.kernel, starter);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "ancestor_unknown");
    let t = setup().build();
    open(&t, local()).await;
    exec(&t);
    t.kernel.fail(Call::Ended, Fault::Map);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "ancestor_unknown");
}

#[tokio::test]
async fn a_lineage_longer_than_the_record_gives_nothing() {
    let t = setup().build();
    open(&t, local()).await;
    for _ in 0..agent_ebpf::limits::ANCESTORS {
        exec(&t);
    }
    t.node.release(&t.peer(), t.ask()).await.unwrap();
    exec(&t);
    // The opener fell out of the record, so nothing shows that the session is its own.
    let released = t.node.release(&t.peer(), t.ask()).await;
    assert!(matches!(released, Err(Refusal::Denied { .. })), "{released:?}");
    assert_eq!(t.last("decision")["reason"], "session_not_yours");
}

#[tokio::test]
async fn whoever_ends_or_moves_while_a_session_opens_leaves_none_behind() {
    // Recheck is the last call: the image is replaced just before it.
    for nth in 1..=6 {
        let t = setup().build();
        let (peer, tgid) = (t.peer(), t.tgid);
        t.kernel.before(Call::Current, nth, move |kernel| {
            let _event = kernel.exec(tgid, |_| {});
        });
        match t.node.open_session(&peer, local()).await {
            Ok(opened) => assert!(t.node.sessions().session(opened.session.id).is_some()),
            Err(refusal) => {
                assert_eq!(refused(Err(refusal)), "originator_gone", "{nth}");
                assert!(t.node.sessions().is_empty(), "{nth}");
            }
        }
    }
    let t = setup().build();
    let (peer, tgid) = (t.peer(), t.tgid);
    t.kernel.before(Call::BindSession, 1, move |kernel| {
        kernel.change(tgid, |instance| instance.session_id = SessionId::new(9));
    });
    assert_eq!(refused(t.node.open_session(&peer, local()).await.map(|_| unreachable!())), "originator_mismatch");
    assert!(t.node.sessions().is_empty());
    assert_eq!(t.last("session_ended")["cause"], "undone");
}

#[tokio::test]
async fn no_session_without_its_record() {
    let t = setup().build();
    t.kernel.fail(Call::BindSession, Fault::Map);
    assert!(t.node.open_session(&t.peer(), local()).await.is_err());
    assert!(t.node.sessions().is_empty());
    t.kernel.mend();
    let limited = setup();
    let limited = Setup { sessions: agent_daemon::session::Limits { total: 1, ..limited.sessions }, ..limited };
    let t = limited.build();
    open(&t, OpenAsk { is_bound: false, ..local() }).await;
    let refusal = t.node.open_session(&t.peer(), OpenAsk { is_bound: false, ..local() }).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Sessions(_)), "{refusal:?}");
    assert_eq!(t.last("decision")["reason"], "session_limit");
}

#[tokio::test]
async fn a_session_and_its_leases_survive_a_restart_of_the_daemon() {
    let t = setup().build();
    let opened = open(&t, local()).await;
    let released = t.node.release(&t.peer(), t.ask()).await.unwrap();
    let (directory, kernel, clock) = (Arc::clone(&t.directory), Arc::clone(&t.kernel), Arc::clone(&t.clock));
    drop(t);
    let again = |boot_id: &str| Setup {
        directory: Arc::clone(&directory),
        kernel: Some(Arc::clone(&kernel)),
        clock: Arc::clone(&clock),
        boot_id: boot_id.to_owned(),
        ..setup()
    };
    let t = again(agent_daemon::testing::BOOT_ID).build();
    assert_eq!(t.node.take_up_sessions().unwrap(), 1);
    let known = t.node.sessions().session(opened.session.id).unwrap();
    assert_eq!((known.handle, &known.user), (opened.session.handle, &opened.session.user));
    t.node.release(&t.peer(), t.ask()).await.unwrap();
    assert_eq!(released.lease.session, Some(known.id));
    drop(t);
    // Of another boot nothing is left, and the kernel's word alone is none.
    let t = again("00000000-0000-4000-8000-000000000002").build();
    assert_eq!(t.node.take_up_sessions().unwrap(), 0);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "session_ended");
}

#[tokio::test]
async fn whoever_has_the_handle_and_descends_from_the_opener_may_enter_for_good() {
    let t = setup().build();
    let opened = open(&t, OpenAsk { is_bound: false, ..local() }).await;
    let handle = opened.handle.digest();
    let opener = t.kernel.instance(t.tgid).id;
    t.kernel.change(t.tgid, |instance| {
        instance.id = ExecId(6000);
        instance.ancestors = Box::new([Ancestor { id: opener, tgid: 1 }]);
    });
    t.node.enter_session(&t.peer(), handle).await.unwrap();
    assert_eq!(t.kernel.instance(t.tgid).session_id, Some(opened.session.id));
    assert_eq!(t.last("decision")["action"], "enter_session");
    t.kernel.change(t.tgid, |instance| {
        instance.id = ExecId(7000);
        instance.session_id = None;
        instance.ancestors = Box::new([]);
    });
    let stranger = t.node.enter_session(&t.peer(), handle).await;
    assert!(matches!(stranger, Err(Refusal::Denied { .. })), "{stranger:?}");
    assert_eq!(t.kernel.instance(t.tgid).session_id, None);
}

/// What an ancestor makes unreadable of itself frees nobody.
#[tokio::test]
async fn an_ancestor_that_lives_bounds_what_it_started_whatever_can_be_read_of_it() {
    let nobodys = "0".repeat(64);
    let entries = Setup::entry("tool", "agent/tool", ", \"exec:no-new-privs\"")
        + &format!(
            "[[entry]]\nid = \"starter\"\nspiffe_id = \"spiffe://example.org/agent/starter\"\nkind = \"agent\"\n\
             selectors = [\"unix:sha256:{nobodys}\"]\ngroups = [\"agents\"]\n"
        );
    let only = r#"
        @id("tool") permit (principal == Workload::"spiffe://example.org/agent/tool", action == Action::"release", resource);"#;
    let tool = |instance: &mut ExecInstance| instance.flags.0 = agent_ebpf::flags::NO_NEW_PRIVS;
    for is_readable in [true, false] {
        let t = Setup { entries: entries.clone(), policies: format!("{only}{ACT}"), ..setup() }.build();
        t.kernel.change(t.tgid, tool);
        open(&t, local()).await;
        let top = t.kernel.instance(t.tgid);
        // A live child of the test stands between; its executable is what the kernel recorded, or cannot be looked at.
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let mut above = exec_instance_of(child.id(), ExecId(2000));
        above.ancestors = Box::new([Ancestor { id: top.id, tgid: 1 }]);
        above.session_id = top.session_id;
        above.exe.inode += u64::from(!is_readable);
        t.kernel.insert(above);
        let _event = t.kernel.exec(t.tgid, tool);
        let between = Ancestor { id: ExecId(2000), tgid: child.id() };
        let ancestors = [between, Ancestor { id: top.id, tgid: 1 }];
        t.kernel.change(t.tgid, |instance| instance.ancestors = Box::new(ancestors));
        let result = t.node.release(&t.peer(), t.ask()).await;
        child.kill().unwrap();
        child.wait().unwrap();
        match is_readable {
            // It is nobody, and that is sure.
            true => drop(result.unwrap()),
            // It may be the starter, who is permitted nothing.
            false => assert_eq!(denied(&t, result), "ancestor_not_permitted"),
        }
    }
}

#[tokio::test]
async fn a_delegated_session_gives_nothing_by_what_it_is_called() {
    let only = r#"
        @id("reports") permit (principal in Group::"agents", action == Action::"release", resource)
        when { context has session && context.session has purpose && context.session.purpose == "reports" };"#;
    let build = || Setup { policies: format!("{only}{ACT}"), ..setup() }.build();
    let t = build();
    open(&t, OpenAsk { purpose: None, ..local() }).await;
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "policy_no_permit");
    open(&t, OpenAsk { purpose: Some("reports".into()), ..local() }).await;
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "ancestor_not_permitted");
    let t = build();
    open(&t, OpenAsk { purpose: Some("reports".into()), ..local() }).await;
    open(&t, OpenAsk { purpose: Some("something else".into()), ..local() }).await;
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "policy_no_permit");
}

#[tokio::test]
async fn whoever_may_not_act_for_a_user_lets_nobody_below_it_do_so() {
    let entries = Setup::entry("tool", "agent/tool", ", \"exec:no-new-privs\"")
        + &Setup::entry("agent", "agent/agent", ", \"exec:deleted\"")
        + &Setup::entry("launcher", "agent/launcher", ", \"exec:traced\"");
    let act = r#"
        @id("act") permit (principal, action == Action::"actFor", resource is User)
        when { principal.spiffe_id != "spiffe://example.org/agent/agent" };"#;
    let t = Setup { entries, policies: format!("{}{act}", Setup::PERMIT), ..setup() }.build();
    let flagged = |flag: u32| move |instance: &mut ExecInstance| instance.flags.0 = flag;
    t.kernel.change(t.tgid, flagged(agent_ebpf::flags::TRACED));
    open(&t, local()).await;
    let _event = t.kernel.exec(t.tgid, flagged(agent_ebpf::flags::DELETED));
    assert_eq!(reason(&t, t.node.open_session(&t.peer(), local()).await), "policy_no_permit");
    let _event = t.kernel.exec(t.tgid, flagged(agent_ebpf::flags::NO_NEW_PRIVS));
    assert_eq!(reason(&t, t.node.open_session(&t.peer(), local()).await), "ancestor_not_permitted");
}

#[tokio::test]
async fn a_session_that_nobody_has_noticed_to_be_over_is_over() {
    let t = setup().build();
    let opened = open(&t, local()).await;
    t.clock.set(opened.session.expires_at);
    assert!(t.node.sessions().session(opened.session.id).is_some(), "nobody has looked");
    let released = t.node.release(&t.peer(), t.ask()).await;
    assert!(matches!(released, Err(Refusal::Denied { .. })), "{released:?}");
    assert_eq!(t.last("decision")["reason"], "session_ended");
}

#[tokio::test]
async fn a_local_user_is_the_real_one_unless_root_says_who_logged_in() {
    let t = setup().build();
    let user = open(&t, local()).await.session.user.id.clone();
    let real = rustix::process::getuid().as_raw();
    let login = std::fs::read_to_string("/proc/self/loginuid").unwrap_or_default();
    let login = login.trim().parse::<u32>().ok().filter(|uid| *uid != u32::MAX);
    let expected = login.filter(|login| *login == real || real == 0).unwrap_or(real);
    assert_eq!(*user, *format!("uid:{expected}"));
}

#[tokio::test]
async fn a_fork_that_opens_a_session_and_execs_is_still_in_it() {
    let t = setup().build();
    let own = t.kernel.instance(t.tgid);
    let mut parent = own.clone();
    (parent.id, parent.process.tgid) = (ExecId(900), 999_999);
    t.kernel.insert(parent);
    t.kernel.fork(999_999, t.tgid);
    t.kernel.change(t.tgid, |instance| instance.process = own.process);
    let opened = open(&t, local()).await;
    exec(&t);
    let released = t.node.release(&t.peer(), t.ask()).await.unwrap();
    assert_eq!(released.lease.session, Some(opened.session.id));
    // One that only execs has no place of its own.
    t.kernel.fork(999_999, t.tgid);
    let _event = t.kernel.exec(t.tgid, |_| {});
    assert_eq!(t.kernel.instance(t.tgid).ancestors.first().map(|above| above.id), Some(ExecId(900)));
}
