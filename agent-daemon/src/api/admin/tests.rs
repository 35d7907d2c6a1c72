// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The service over a whole node on fakes, called as the socket's loop calls it.

use agent_proto::admin::admin_service_server::AdminService as _;
use agent_proto::admin::revoke_request::What;
use agent_proto::admin::watch_response::Event;
use agent_proto::admin::{self, explain_request};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::task::TaskTracker;
use tonic::{Code, Request};

use super::*;
use crate::kernel::{Assumption, ProgramView, Proof, Tier};
use crate::process::{Capacity, ExecId};
use crate::testing::{Setup, TestNode, exec_instance_of};

const OPERATOR: Operator = Operator { uid: 0, gid: 0, tgid: Some(77), exec_id: None };

#[derive(Debug)]
struct FakeView;

impl KernelView for FakeView {
    fn programs(&self) -> Vec<ProgramView> {
        Vec::new()
    }

    fn proofs_at_start(&self) -> Vec<Proof> {
        vec![proof("hook.exec", Tier::Observe, Ok("old")), proof("tier.lsm", Tier::Lsm, Err("refused"))]
    }

    fn prove_now(&self) -> Vec<Proof> {
        vec![proof("hook.exec", Tier::Observe, Err("no record"))]
    }

    fn assumptions(&self) -> Vec<Assumption> {
        Vec::new()
    }

    fn rejected_events(&self) -> u64 {
        3
    }
}

fn proof(id: &'static str, tier: Tier, result: Result<&str, &str>) -> Proof {
    Proof { id, tier, guarantee: "g", result: result.map(str::to_owned).map_err(str::to_owned) }
}

#[derive(Debug)]
struct NoSockets;

impl Gauges for NoSockets {
    fn capacities(&self) -> Vec<Capacity> {
        Vec::new()
    }
}

struct Bench {
    test: TestNode,
    admin: Admin,
    state: watch::Sender<ServingState>,
}

fn bench() -> Bench {
    let test = Setup::default().build();
    let (state, is_serving) = watch::channel(ServingState::Serving);
    let directory = test.directory.path();
    let facts = AdminFacts {
        version: "0.0.0".into(),
        endpoints: vec![("AGENT_SOCKET".into(), "unix:/x".into())],
        agent_socket: directory.join("agent.sock"),
        agent_socket_mode: 0o666,
        admin_socket: directory.join("admin.sock"),
        state_dir: directory.to_owned(),
        key_source: KeySource::SystemdCredential,
        required_tier: Tier::Egress,
        capabilities: Vec::new(),
        sockets: Arc::new(NoSockets),
        state: is_serving,
        tasks: TaskTracker::new(),
    };
    let admin = Admin::new(Arc::clone(&test.node), Arc::new(FakeView), facts);
    Bench { test, admin, state }
}

fn from_operator<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(OPERATOR);
    request
}

async fn all<T>(stream: Stream<T>) -> Result<Vec<T>, Status> {
    stream.collect::<Vec<_>>().await.into_iter().collect()
}

/// A lease of the test's own process.
async fn leased(bench: &Bench) -> String {
    let released = bench.test.node.release(&bench.test.peer(), bench.test.ask()).await.unwrap();
    released.lease.id.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_answered_for_a_caller_that_is_not_known() {
    let Bench { test, admin, .. } = bench();
    macro_rules! refused {
        ($($call:ident($request:ident))*) => {$(
            let status = admin.$call(Request::new(admin::$request::default())).await.map(drop).unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, stringify!($call));
        )*};
    }
    refused! {
        status(StatusRequest) doctor(DoctorRequest) processes(ProcessesRequest) connections(ConnectionsRequest)
        leases(LeasesRequest) decisions(DecisionsRequest) explain(ExplainRequest)
        validate_policy(ValidatePolicyRequest) test_policy(TestPolicyRequest) list_policies(ListPoliciesRequest)
        reload(ReloadRequest) revoke(RevokeRequest) query_audit(QueryAuditRequest) verify_audit(VerifyAuditRequest)
        watch(WatchRequest) put_secret(PutSecretRequest) list_secrets(ListSecretsRequest)
        remove_secret(RemoveSecretRequest)
    }
    assert!(test.records_of("reload").is_empty() && test.records_of("revoke").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_listed_with_its_identity_and_one_without_evidence_from_its_record() {
    let Bench { test, admin, .. } = bench();
    // No such process exists outside the fake kernel, so nothing can be collected about it.
    let mut bare = exec_instance_of(test.tgid, ExecId(1002));
    bare.process.tgid = u32::MAX;
    test.kernel.insert(bare);
    let asked = |asked| admin.processes(from_operator(asked));
    let pages = all(asked(admin::ProcessesRequest::default()).await.unwrap().into_inner()).await.unwrap();
    let mut listed: Vec<_> = pages.into_iter().flat_map(|page| page.processes).collect();
    listed.sort_by_key(|process| process.instance.as_ref().unwrap().exec_id);
    let ids: Vec<_> = listed.iter().map(|process| process.instance.clone().unwrap().spiffe_ids).collect();
    assert_eq!(ids, [vec!["spiffe://example.org/agent/a".to_owned()], Vec::new()]);
    assert_eq!(listed[0].entry_id, "agent");

    for (request, expected) in [
        (admin::ProcessesRequest { identified: true, ..Default::default() }, 1),
        (admin::ProcessesRequest { exec_id: Some(1002), ..Default::default() }, 1),
        (admin::ProcessesRequest { tgid: Some(test.tgid), exec_id: Some(1002), ..Default::default() }, 0),
        (admin::ProcessesRequest { tgid: Some(4), ..Default::default() }, 0),
    ] {
        let pages = all(asked(request).await.unwrap().into_inner()).await.unwrap();
        assert_eq!(pages.iter().map(|page| page.processes.len()).sum::<usize>(), expected, "{request:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_seen_on_its_connection_and_revoked_in_the_operators_name() {
    let bench = bench();
    let id = leased(&bench).await;
    let Bench { test, admin, .. } = bench;
    let pages = admin.connections(from_operator(admin::ConnectionsRequest::default())).await.unwrap();
    let seen = all(pages.into_inner()).await.unwrap().remove(0).connections.remove(0);
    assert_eq!((seen.leases.as_slice(), seen.opener_alive), ([id.clone()].as_slice(), true));
    assert_eq!(
        (seen.destinations.as_slice(), seen.spiffe_id.as_str()),
        (["reports".to_owned()].as_slice(), "spiffe://example.org/agent/a")
    );

    let revoke = admin::RevokeRequest { what: Some(What::Destination("reports".into())), reason: "drill".into() };
    let revoked = admin.revoke(from_operator(revoke)).await.unwrap().into_inner();
    assert_eq!(revoked.lease_ids, std::slice::from_ref(&id));
    let record = test.last("revoke");
    assert_eq!((&record["by"]["tgid"], &record["reason"]), (&serde_json::json!(77), &serde_json::json!("drill")));

    for (ended, expected) in [(false, Vec::new()), (true, vec!["revoked".to_owned()])] {
        let asked = admin::LeasesRequest { ended, ..Default::default() };
        let pages = all(admin.leases(from_operator(asked)).await.unwrap().into_inner()).await.unwrap();
        let states: Vec<_> = pages.into_iter().flat_map(|page| page.leases).map(|lease| lease.state).collect();
        assert_eq!(states, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_issues_nothing_and_an_absent_process_has_none() {
    let Bench { test, admin, .. } = bench();
    test.connect("192.0.2.1:443");
    let ask = |subject| admin::ExplainRequest {
        subject: Some(subject),
        destination: "reports".into(),
        ..admin::ExplainRequest::default()
    };
    for subject in [explain_request::Subject::Tgid(test.tgid), explain_request::Subject::ExecId(1001)] {
        let answer = admin.explain(from_operator(ask(subject))).await.unwrap().into_inner();
        assert!(answer.decision.unwrap().allowed);
        assert_eq!(answer.connections.len(), 1);
    }
    assert!(test.node.leases.is_empty());
    assert_eq!(test.records_of("explain").len(), 2);
    for subject in [explain_request::Subject::Tgid(4), explain_request::Subject::ExecId(4)] {
        let status = admin.explain(from_operator(ask(subject))).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_recorded_by_name_and_nowhere_by_value() {
    let Bench { test, admin, .. } = bench();
    let put = admin::PutSecretRequest { name: "api-key".into(), secret: b"canary-value".to_vec() };
    assert_eq!(admin.put_secret(from_operator(put)).await.unwrap().into_inner().version, 1);
    let listed = admin.list_secrets(from_operator(admin::ListSecretsRequest {})).await.unwrap().into_inner();
    assert_eq!((listed.secrets[0].name.as_str(), listed.secrets[0].version), ("api-key", 1));
    for expected in [true, false] {
        let remove = admin::RemoveSecretRequest { name: "api-key".into() };
        assert_eq!(admin.remove_secret(from_operator(remove)).await.unwrap().into_inner().removed, expected);
    }
    let records = test.records_of("secret");
    assert_eq!(
        records.iter().map(|record| record["operation"].as_str().unwrap()).collect::<Vec<_>>(),
        ["put", "remove"]
    );
    assert!(!format!("{:?}", test.records()).contains("canary"));
    let bad = admin::PutSecretRequest { name: "../x".into(), secret: b"canary-value".to_vec() };
    let status = admin.put_secret(from_operator(bad)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!status.message().contains("canary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_reload_changes_nothing_and_degrades() {
    let Bench { test, admin, .. } = bench();
    let status = || async { admin.status(from_operator(admin::StatusRequest {})).await.unwrap().into_inner() };
    let before = status().await;
    assert_eq!((before.state.as_str(), before.policies), ("serving", 2));
    assert!(before.counters.iter().any(|counter| counter.name == "events_rejected" && counter.value == 3));
    test.sources.write_policies("permit (");
    let validated = admin.validate_policy(from_operator(admin::ValidatePolicyRequest::default())).await.unwrap();
    assert!(!validated.into_inner().valid, "what is on disk now");
    let reloaded = admin.reload(from_operator(admin::ReloadRequest {})).await.unwrap().into_inner();
    assert!(!reloaded.changed && !reloaded.diagnostics.is_empty());
    let after = status().await;
    assert_eq!((after.state.as_str(), &after.policy_generation), ("degraded", &before.policy_generation));
    assert_eq!(test.last("reload")["by"]["tgid"], 77);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_read_followed_and_verified() {
    let bench = bench();
    leased(&bench).await;
    let Bench { test, admin, state } = bench;
    let asked = admin::QueryAuditRequest { kind: "decision".into(), ..Default::default() };
    let pages = all(admin.query_audit(from_operator(asked.clone())).await.unwrap().into_inner()).await.unwrap();
    assert_eq!(pages.iter().map(|page| page.records.len()).sum::<usize>(), 1);

    let follow = admin::QueryAuditRequest { follow: true, ..asked };
    let mut stream = admin.query_audit(from_operator(follow)).await.unwrap().into_inner();
    let first = stream.next().await.unwrap().unwrap();
    let _second = test.node.release(&test.peer(), test.ask()).await.unwrap();
    let second = stream.next().await.unwrap().unwrap();
    assert_eq!((first.records.len(), second.records.len()), (1, 1));
    assert_ne!(first.records, second.records);
    state.send_replace(ServingState::Stopping);
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(stream.next().await.is_none());

    let told = all(admin.verify_audit(from_operator(admin::VerifyAuditRequest {})).await.unwrap().into_inner()).await;
    let last = told.unwrap().pop().unwrap();
    assert!(last.finished && last.valid, "{last:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_what_it_asked_for_and_no_more() {
    let bench = bench();
    let watch = admin::WatchRequest { leases: true, ..Default::default() };
    let mut stream = bench.admin.watch(from_operator(watch)).await.unwrap().into_inner();
    let id = leased(&bench).await;
    let seen = stream.next().await.unwrap().unwrap();
    let Some(Event::Lease(lease)) = seen.event else { panic!("{seen:?}") };
    assert_eq!((lease.lease.unwrap().lease_id, lease.state.as_str(), seen.lost), (id, "active", 0));
    let nothing = bench.admin.watch(from_operator(admin::WatchRequest::default())).await;
    assert_eq!(nothing.map(drop).unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_bounded_and_give_their_places_back() {
    // What is not kept ends the streams too.
    let Bench { admin, test: _test, state: _state } = bench();
    let watch = || admin.watch(from_operator(admin::WatchRequest { kernel: true, ..Default::default() }));
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(watch().await.unwrap());
    }
    assert_eq!(watch().await.map(drop).unwrap_err().code(), Code::ResourceExhausted);
    drop(streams);
    admin.facts.tasks.close();
    admin.facts.tasks.wait().await;
    assert_eq!(admin.streams.available_permits(), STREAMS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_tells_what_was_tried_now_and_what_only_at_start() {
    // Its directory goes with it.
    let Bench { admin, test: _test, .. } = bench();
    let checks = admin.doctor(from_operator(admin::DoctorRequest {})).await.unwrap().into_inner().checks;
    let of = |id: &str| checks.iter().find(|check| check.id == id).unwrap_or_else(|| panic!("{id}"));
    assert_eq!(checks.iter().filter(|check| check.id == "hook.exec").count(), 1);
    assert_eq!((of("hook.exec").outcome(), of("hook.exec").reason.as_str()), (admin::Outcome::Fail, "no record"));
    assert_eq!(of("tier.lsm").outcome(), admin::Outcome::Warn);
    assert!(of("tier.lsm").reason.contains("when the daemon started"));
    assert_eq!(of("audit.writable").outcome(), admin::Outcome::Pass);
    assert_eq!(of("audit.chain").outcome(), admin::Outcome::Pass);
    assert_eq!(of("state.private").outcome(), admin::Outcome::Pass);
    assert_eq!(of("socket.admin").outcome(), admin::Outcome::Fail, "there is no such socket");
    for check in &checks {
        let is_pass = check.outcome() == admin::Outcome::Pass;
        assert_eq!(check.fix.is_empty(), is_pass, "{}", check.id);
        assert_eq!(check.guarantee.is_empty(), is_pass, "{}", check.id);
    }
}
