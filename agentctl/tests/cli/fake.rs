// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A daemon with the admin API and a small world behind it, on a real Unix socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use agent_proto::admin::admin_service_server::{AdminService, AdminServiceServer};
use agent_proto::admin::{
    AnswerApprovalRequest, AnswerApprovalResponse, Approval, ApprovalsRequest, ApprovalsResponse, explain_request,
    revoke_request, set_bundle_request, watch_response, *,
};
use agent_proto::v1::{Ancestor, Connection, ExecInstance, Lease, Provenance, Selector};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// The agent: allowed to `reports`. Its id is above what a JSON number can hold.
pub const AGENT: u64 = u64::MAX;
pub const AGENT_TGID: u32 = 7;
/// Same interpreter, same request, no identity.
pub const IMPOSTOR: u64 = 42;
pub const IMPOSTOR_TGID: u32 = 8;

/// The only session.
pub const SESSION: &str = "s00000000000000ff";

/// What the daemon knows, and how it misbehaves.
#[derive(Debug, Default)]
pub struct World {
    pub state: String,
    pub doctor_fails: bool,
    pub log_is_broken: bool,
    pub verify_ends_early: bool,
    pub processes_break_off: bool,
    pub reload_hangs: bool,
    pub reload_is_refused: bool,
    /// Processes beside the agent and the impostor.
    pub crowd: u32,
    pub secrets: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Of partner.example.
    pub bundle: Mutex<Option<Vec<u8>>>,
    pub queries: Mutex<Vec<QueryAuditRequest>>,
    pub revocations: Mutex<Vec<RevokeRequest>>,
}

/// The running daemon; stops when dropped.
pub struct Daemon {
    directory: TempDir,
    pub world: Arc<World>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start(world: World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("admin.sock");
        let world = Arc::new(world);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let service = AdminServiceServer::from_arc(Arc::new(Fake(Arc::clone(&world))));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = UnixListener::bind(socket).unwrap();
                ready.send(()).unwrap();
                let server = tonic::transport::Server::builder().add_service(service);
                // Not the graceful stop: it would wait for streams that never end.
                tokio::select! {
                    served = server.serve_with_incoming(UnixListenerStream::new(listener)) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self { directory, world, stop: Some(stop), thread: Some(thread) }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Fake(Arc<World>);

type Reply<T> = Result<Response<T>, Status>;
type Pages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn pages<T: Send + 'static>(pages: Vec<Result<T, Status>>) -> Reply<Pages<T>> {
    Ok(Response::new(Box::pin(tokio_stream::iter(pages))))
}

fn process(exec_id: u64, tgid: u32, comm: &str, identity: Option<&str>) -> Process {
    let near_miss = NearMiss {
        entry_id: "report-writer".into(),
        spiffe_id: "spiffe://example.org/agent/report-writer".into(),
        differences: vec![Difference {
            expected: "script:path:/opt/agent.py".into(),
            actual: "script:path:/tmp/impostor.py".into(),
            note: String::new(),
        }],
    };
    Process {
        instance: Some(ExecInstance {
            exec_id,
            tgid,
            comm: comm.into(),
            spiffe_ids: identity.map(str::to_owned).into_iter().collect(),
            selectors: vec![Selector { value: "unix:uid:0".into(), provenance: Provenance::Kernel.into() }],
            lineage: vec![Ancestor { exec_id: 1, tgid: 1, alive: true, ..Default::default() }],
            ..Default::default()
        }),
        path: "/usr/bin/python3".into(),
        entry_id: identity.map(|_| "report-writer".to_owned()).unwrap_or_default(),
        near_misses: if identity.is_none() { vec![near_miss] } else { vec![] },
        ..Default::default()
    }
}

fn everybody(world: &World) -> Vec<Process> {
    let mut all = vec![
        process(AGENT, AGENT_TGID, "agent", Some("spiffe://example.org/agent/report-writer")),
        process(IMPOSTOR, IMPOSTOR_TGID, "impostor\x1b[2J", None),
        Process { flags: vec!["kernel-thread".into()], ..process(2, 2, "kthreadd", None) },
    ];
    all.extend((0..world.crowd).map(|at| process(u64::from(at) + 1000, at + 1000, "crowd", None)));
    all
}

fn diagnostic() -> Diagnostic {
    Diagnostic {
        file: "a.cedar".into(),
        line: 1,
        column: 2,
        severity: "error".into(),
        message: "unexpected token".into(),
        help: String::new(),
    }
}

fn lease() -> LeaseView {
    LeaseView {
        lease: Some(Lease {
            lease_id: "lease-1".into(),
            exec_id: AGENT,
            destination: "reports".into(),
            ..Default::default()
        }),
        state: "active".into(),
        tgid: AGENT_TGID,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl AdminService for Fake {
    async fn status(&self, _: Request<StatusRequest>) -> Reply<StatusResponse> {
        let state = if self.0.state.is_empty() { "serving".to_owned() } else { self.0.state.clone() };
        Ok(Response::new(StatusResponse {
            state,
            version: "1.2.3".into(),
            capacity: vec![Gauge { name: "leases".into(), used: 1, limit: 10 }],
            counters: vec![Counter { name: "dropped".into(), value: 1 }],
            programs: vec![Program { name: "connect4".into(), ..Default::default() }],
            endpoints: vec![Endpoint { name: "AGENT_SOCKET".into(), address: "unix:/a".into() }],
            audit: Some(AuditStatus { writable: true, ..Default::default() }),
            ..Default::default()
        }))
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Reply<DoctorResponse> {
        let check = |id: &str, outcome: Outcome| Check {
            id: id.into(),
            title: id.into(),
            outcome: outcome.into(),
            ..Default::default()
        };
        let last = if self.0.doctor_fails { Outcome::Fail } else { Outcome::Pass };
        Ok(Response::new(DoctorResponse { checks: vec![check("a", Outcome::Warn), check("b", last)] }))
    }

    type ProcessesStream = Pages<ProcessesResponse>;
    async fn processes(&self, request: Request<ProcessesRequest>) -> Reply<Self::ProcessesStream> {
        let request = request.into_inner();
        let wanted = |process: &Process| {
            let instance = process.instance.clone().unwrap_or_default();
            request.tgid.is_none_or(|tgid| instance.tgid == tgid)
                && request.exec_id.is_none_or(|id| instance.exec_id == id)
                && (!request.identified || !instance.spiffe_ids.is_empty())
        };
        let processes: Vec<Process> = everybody(&self.0).into_iter().filter(wanted).collect();
        let mut answer: Vec<Result<ProcessesResponse, Status>> =
            processes.chunks(512).map(|page| Ok(ProcessesResponse { processes: page.to_vec() })).collect();
        if self.0.processes_break_off {
            answer.push(Err(Status::unavailable("stopping")));
        }
        pages(answer)
    }

    type ConnectionsStream = Pages<ConnectionsResponse>;
    async fn connections(&self, _: Request<ConnectionsRequest>) -> Reply<Self::ConnectionsStream> {
        let connection = Connection {
            cookie: 9,
            exec_id: AGENT,
            protocol: "tcp".into(),
            remote_address: "::1".into(),
            remote_port: 443,
            ..Default::default()
        };
        let view = ConnectionView { connection: Some(connection), opener_alive: true, ..Default::default() };
        pages(vec![Ok(ConnectionsResponse { connections: vec![view] })])
    }

    type LeasesStream = Pages<LeasesResponse>;
    async fn leases(&self, _: Request<LeasesRequest>) -> Reply<Self::LeasesStream> {
        pages(vec![Ok(LeasesResponse { leases: vec![lease()] })])
    }

    type SessionsStream = Pages<SessionsResponse>;
    async fn sessions(&self, request: Request<SessionsRequest>) -> Reply<Self::SessionsStream> {
        let session = Session {
            session_id: SESSION.into(),
            user: "corp:248".into(),
            user_name: "Ada".into(),
            state: "active".into(),
            opener_exec_id: AGENT,
            ..Default::default()
        };
        let wanted = request.into_inner().session_id;
        let sessions = Some(session).filter(|session| wanted.is_empty() || wanted == session.session_id);
        pages(vec![Ok(SessionsResponse { sessions: sessions.into_iter().collect() })])
    }

    async fn end_session(&self, request: Request<EndSessionRequest>) -> Reply<EndSessionResponse> {
        let ended = u32::from(request.into_inner().session_id == SESSION);
        Ok(Response::new(EndSessionResponse { ended }))
    }

    async fn approvals(&self, _: Request<ApprovalsRequest>) -> Reply<ApprovalsResponse> {
        Ok(Response::new(ApprovalsResponse { approvals: vec![approval()] }))
    }

    async fn answer_approval(&self, request: Request<AnswerApprovalRequest>) -> Reply<AnswerApprovalResponse> {
        let approval = Some(approval()).filter(|one| one.approval_id == request.get_ref().approval_id);
        Ok(Response::new(AnswerApprovalResponse { approval }))
    }

    async fn decisions(&self, request: Request<DecisionsRequest>) -> Reply<DecisionsResponse> {
        let decision = |allowed: bool| Decision {
            decision_id: "d-1".into(),
            allowed,
            reason: if allowed { "allowed" } else { "no_identity" }.into(),
            ..Default::default()
        };
        let mut decisions = vec![decision(false), decision(true)];
        decisions.retain(|decision| !request.get_ref().denied_only || !decision.allowed);
        Ok(Response::new(DecisionsResponse { decisions }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Reply<ExplainResponse> {
        let request = request.into_inner();
        let wanted = |process: &Process| {
            let instance = process.instance.clone().unwrap_or_default();
            match request.subject {
                Some(explain_request::Subject::Tgid(tgid)) => instance.tgid == tgid,
                Some(explain_request::Subject::ExecId(id)) => instance.exec_id == id,
                None => false,
            }
        };
        let process =
            everybody(&self.0).into_iter().find(wanted).ok_or_else(|| Status::not_found("no such process"))?;
        let exec_id = process.instance.clone().unwrap_or_default().exec_id;
        let allowed = exec_id == AGENT && request.destination == "reports";
        let reason = if allowed { "allowed" } else { "no_identity" }.to_owned();
        let decision = Decision { allowed, reason, exec_id, destination: request.destination, ..Default::default() };
        Ok(Response::new(ExplainResponse { decision: Some(decision), process: Some(process), ..Default::default() }))
    }

    async fn validate_policy(&self, request: Request<ValidatePolicyRequest>) -> Reply<ValidatePolicyResponse> {
        let valid = request.get_ref().files.iter().all(|file| !file.text.contains("wrong"));
        let diagnostics = if valid { vec![] } else { vec![diagnostic()] };
        Ok(Response::new(ValidatePolicyResponse { valid, diagnostics, policies: 1, generation: "g".into() }))
    }

    async fn test_policy(&self, request: Request<TestPolicyRequest>) -> Reply<TestPolicyResponse> {
        let cases = request.into_inner().cases.unwrap_or_default().text;
        let case = |line: &str| TestCase { name: line.into(), passed: line == "good", ..Default::default() };
        Ok(Response::new(TestPolicyResponse { cases: cases.lines().map(case).collect(), diagnostics: vec![] }))
    }

    async fn list_policies(&self, _: Request<ListPoliciesRequest>) -> Reply<ListPoliciesResponse> {
        let policy = PolicyView {
            id: "writers".into(),
            effect: "permit".into(),
            file: "a.cedar".into(),
            text: "permit(principal, action, resource);".into(),
        };
        Ok(Response::new(ListPoliciesResponse { generation: "g".into(), policies: vec![policy] }))
    }

    async fn reload(&self, _: Request<ReloadRequest>) -> Reply<ReloadResponse> {
        if self.0.reload_hangs {
            std::future::pending::<()>().await;
        }
        let refused = self.0.reload_is_refused;
        let diagnostics = if refused { vec![diagnostic()] } else { vec![] };
        Ok(Response::new(ReloadResponse { changed: !refused, diagnostics, ..Default::default() }))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Reply<RevokeResponse> {
        let request = request.into_inner();
        let hit = match &request.what {
            Some(revoke_request::What::LeaseId(id)) => id == "lease-1",
            Some(revoke_request::What::ExecId(id)) => *id == AGENT,
            Some(revoke_request::What::Tgid(tgid)) => *tgid == AGENT_TGID,
            Some(revoke_request::What::SpiffeId(id)) => id == "spiffe://example.org/agent/report-writer",
            Some(revoke_request::What::Destination(name)) => name == "reports",
            None => return Err(Status::invalid_argument("nothing named")),
        };
        self.0.revocations.lock().unwrap().push(request);
        let lease_ids = if hit { vec!["lease-1".to_owned()] } else { vec![] };
        Ok(Response::new(RevokeResponse { lease_ids }))
    }

    type QueryAuditStream = Pages<QueryAuditResponse>;
    async fn query_audit(&self, request: Request<QueryAuditRequest>) -> Reply<Self::QueryAuditStream> {
        let follow = request.get_ref().follow;
        self.0.queries.lock().unwrap().push(request.into_inner());
        let record = r#"{"seq":1,"kind":"decision","outcome":"deny","exec":{"exec_id":42}}"#.to_owned();
        let records = tokio_stream::once(Ok(QueryAuditResponse { records: vec![record] }));
        if follow {
            return Ok(Response::new(Box::pin(records.chain(tokio_stream::pending()))));
        }
        Ok(Response::new(Box::pin(records)))
    }

    type VerifyAuditStream = Pages<VerifyAuditResponse>;
    async fn verify_audit(&self, _: Request<VerifyAuditRequest>) -> Reply<Self::VerifyAuditStream> {
        let progress = VerifyAuditResponse { records: 1, valid: true, ..Default::default() };
        if self.0.verify_ends_early {
            return pages(vec![Ok(progress)]);
        }
        let last = VerifyAuditResponse {
            finished: true,
            valid: !self.0.log_is_broken,
            problem: if self.0.log_is_broken { "a line was changed".into() } else { String::new() },
            ..progress.clone()
        };
        pages(vec![Ok(progress), Ok(last)])
    }

    type WatchStream = Pages<WatchResponse>;
    async fn watch(&self, request: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        let WatchRequest { kernel, decisions, leases } = request.into_inner();
        let mut events = Vec::new();
        if kernel {
            events.push(watch_response::Event::Exec(ExecEvent { exec_id: AGENT, ..Default::default() }));
            events.push(watch_response::Event::Exit(ExitEvent { exec_id: AGENT, ..Default::default() }));
        }
        if decisions {
            events.push(watch_response::Event::Decision(Decision::default()));
        }
        if leases {
            events.push(watch_response::Event::Lease(lease()));
        }
        let response = |event| Ok(WatchResponse { time: None, lost: 0, event: Some(event) });
        let events = tokio_stream::iter(events.into_iter().map(response).collect::<Vec<_>>());
        Ok(Response::new(Box::pin(events.chain(tokio_stream::pending()))))
    }

    async fn put_secret(&self, request: Request<PutSecretRequest>) -> Reply<PutSecretResponse> {
        let PutSecretRequest { name, secret } = request.into_inner();
        self.0.secrets.lock().unwrap().insert(name, secret);
        Ok(Response::new(PutSecretResponse { version: 1 }))
    }

    async fn list_secrets(&self, _: Request<ListSecretsRequest>) -> Reply<ListSecretsResponse> {
        let secrets = self.0.secrets.lock().unwrap();
        let view = |name: &String| SecretView { name: name.clone(), version: 1, updated_at: None };
        Ok(Response::new(ListSecretsResponse { secrets: secrets.keys().map(view).collect() }))
    }

    async fn list_bundles(&self, request: Request<ListBundlesRequest>) -> Reply<ListBundlesResponse> {
        let own = BundleView {
            trust_domain: "example.org".to_owned(),
            own: true,
            x509_authorities: 1,
            jwt_authorities: 2,
            sequence: Some(3),
            ..BundleView::default()
        };
        let missing = BundleView {
            trust_domain: "late.example".to_owned(),
            url: "https://late.example".to_owned(),
            error: "no answer".to_owned(),
            ..BundleView::default()
        };
        let partner = self.0.bundle.lock().unwrap().clone().map(|document| BundleView {
            trust_domain: "partner.example".to_owned(),
            document,
            ..BundleView::default()
        });
        let wanted = request.into_inner().trust_domain;
        let all = [own, missing].into_iter().chain(partner);
        let bundles = all.filter(|bundle| wanted.is_empty() || bundle.trust_domain == wanted).collect();
        Ok(Response::new(ListBundlesResponse { bundles }))
    }

    async fn set_bundle(&self, request: Request<SetBundleRequest>) -> Reply<SetBundleResponse> {
        let content = request.into_inner().content;
        let Some(set_bundle_request::Content::Document(document)) = content else {
            return Err(Status::invalid_argument("the trust bundle of partner.example is refused: it is not PEM"));
        };
        let old = self.0.bundle.lock().unwrap().replace(document.clone());
        Ok(Response::new(SetBundleResponse { changed: old != Some(document) }))
    }

    async fn remove_bundle(&self, _: Request<RemoveBundleRequest>) -> Reply<RemoveBundleResponse> {
        let removed = self.0.bundle.lock().unwrap().take().is_some();
        Ok(Response::new(RemoveBundleResponse { removed }))
    }

    async fn remove_secret(&self, request: Request<RemoveSecretRequest>) -> Reply<RemoveSecretResponse> {
        let removed = self.0.secrets.lock().unwrap().remove(&request.get_ref().name).is_some();
        Ok(Response::new(RemoveSecretResponse { removed }))
    }
}

fn approval() -> Approval {
    Approval {
        approval_id: "a1".into(),
        user: "corp:ada".into(),
        spiffe_id: "spiffe://example.org/mailer".into(),
        action: "release".into(),
        destination: "mail".into(),
        binding: "smtp".into(),
        ..Default::default()
    }
}
