// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every call of the service, one screen: who calls, what is asked, which file answers.

use std::sync::Arc;

use agent_proto::admin::admin_service_server::AdminService;
use agent_proto::admin::{
    AnswerApprovalRequest, AnswerApprovalResponse, ApprovalsRequest, ApprovalsResponse, ConnectionsRequest,
    ConnectionsResponse, DecisionsRequest, DecisionsResponse, DoctorRequest, DoctorResponse, EndSessionRequest,
    EndSessionResponse, ExplainRequest, ExplainResponse, LeasesRequest, LeasesResponse, ListBundlesRequest,
    ListBundlesResponse, ListPoliciesRequest, ListPoliciesResponse, ListSecretsRequest, ListSecretsResponse,
    ProcessesRequest, ProcessesResponse, PutSecretRequest, PutSecretResponse, QueryAuditRequest, QueryAuditResponse,
    ReloadRequest, ReloadResponse, RemoveBundleRequest, RemoveBundleResponse, RemoveSecretRequest,
    RemoveSecretResponse, RevokeRequest, RevokeResponse, SessionsRequest, SessionsResponse, SetBundleRequest,
    SetBundleResponse, StatusRequest, StatusResponse, TestPolicyRequest, TestPolicyResponse, ValidatePolicyRequest,
    ValidatePolicyResponse, VerifyAuditRequest, VerifyAuditResponse, WatchRequest, WatchResponse,
};
use tonic::{Request, Response, Status, async_trait};

use super::outlet::{Broken, Stream};
use super::{
    Admin, Operator, approvals, audit, bundles, connections, doctor, explain, failure, leases, policies, processes,
    secrets, sessions, status, view, watch,
};
use crate::audit::Outcome;

/// Decisions when no number is asked for, and at most.
const DECISIONS: (u32, u32) = (50, 1000);

type Reply<T> = Result<Response<T>, Status>;

#[async_trait]
impl AdminService for Admin {
    type ProcessesStream = Stream<ProcessesResponse>;
    type ConnectionsStream = Stream<ConnectionsResponse>;
    type LeasesStream = Stream<LeasesResponse>;
    type SessionsStream = Stream<SessionsResponse>;
    type QueryAuditStream = Stream<QueryAuditResponse>;
    type VerifyAuditStream = Stream<VerifyAuditResponse>;
    type WatchStream = Stream<WatchResponse>;

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        Operator::of(&request)?;
        self.blocking(|this| Ok(status::status(&this.node, &*this.kernel, &this.facts, &this.baseline))).await
    }

    async fn doctor(&self, request: Request<DoctorRequest>) -> Reply<DoctorResponse> {
        Operator::of(&request)?;
        let turn = Arc::clone(&self.examining).lock_owned().await;
        self.blocking(move |this| {
            let examined = doctor::examine(this);
            drop(turn);
            Ok(examined)
        })
        .await
    }

    async fn processes(&self, request: Request<ProcessesRequest>) -> Reply<Self::ProcessesStream> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        self.stream_blocking(move |node, outlet| processes::list(node, &asked, outlet))
    }

    async fn connections(&self, request: Request<ConnectionsRequest>) -> Reply<Self::ConnectionsStream> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        self.stream_blocking(move |node, outlet| connections::list(node, &asked, outlet))
    }

    async fn leases(&self, request: Request<LeasesRequest>) -> Reply<Self::LeasesStream> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        self.stream_blocking(move |node, outlet| leases::list(node, &asked, outlet))
    }

    async fn decisions(&self, request: Request<DecisionsRequest>) -> Reply<DecisionsResponse> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        let (usual, most) = DECISIONS;
        let limit = match asked.limit {
            0 => usual,
            limit if limit <= most => limit,
            _ => return Err(Status::invalid_argument(format!("limit: at most {most}"))),
        };
        let wanted = |record: &crate::audit::DecisionRecord| !asked.denied_only || record.outcome == Outcome::Deny;
        let newest = self.node.recent.newest(usize::try_from(limit).unwrap_or(usize::MAX), wanted);
        let decisions = newest.iter().map(|decided| view::decision(decided.time, &decided.record)).collect();
        Ok(Response::new(DecisionsResponse { decisions }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Reply<ExplainResponse> {
        let operator = Operator::of(&request)?;
        let (wanted, ask) = explain::question(request.into_inner())?;
        let found = self
            .blocking(move |this| {
                let found = processes::find(&this.node, wanted).map_err(|error| failure::records(&error))?;
                found.ok_or_else(|| explain::absent(wanted))
            })
            .await?;
        let explained = self.node.explain(found.into_inner(), ask, operator.into()).await;
        let explained = explained.map_err(|refusal| failure::refusal(&refusal))?;
        Ok(Response::new(explain::answer(&self.node, explained, self.node.clock.now())))
    }

    async fn validate_policy(&self, request: Request<ValidatePolicyRequest>) -> Reply<ValidatePolicyResponse> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        self.blocking(move |this| policies::validate(&this.node, asked)).await
    }

    async fn test_policy(&self, request: Request<TestPolicyRequest>) -> Reply<TestPolicyResponse> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        self.blocking(move |this| policies::test(&this.node.snapshot(), asked)).await
    }

    async fn list_policies(&self, request: Request<ListPoliciesRequest>) -> Reply<ListPoliciesResponse> {
        Operator::of(&request)?;
        Ok(Response::new(policies::list(&self.node.snapshot())))
    }

    async fn reload(&self, request: Request<ReloadRequest>) -> Reply<ReloadResponse> {
        let operator = Operator::of(&request)?;
        self.blocking(move |this| {
            let outcome = this.node.reload("admin", Some(operator.into())).map_err(|error| failure::audit(&error))?;
            Ok(policies::reloaded(&outcome))
        })
        .await
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Reply<RevokeResponse> {
        let operator = Operator::of(&request)?;
        let (doomed, reason) = leases::doomed(request.into_inner())?;
        self.blocking(move |this| match this.node.revoke(&doomed, reason, operator.into()) {
            Ok(ended) => Ok(RevokeResponse { lease_ids: ended.iter().map(|lease| lease.id.to_string()).collect() }),
            Err(error) => {
                let status = failure::audit(&error);
                let text = format!("the leases are ended, but that could not be recorded: {}", status.message());
                Err(Status::new(status.code(), text))
            }
        })
        .await
    }

    async fn sessions(&self, request: Request<SessionsRequest>) -> Reply<Self::SessionsStream> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        self.stream_blocking(move |node, outlet| sessions::list(node, &asked, outlet))
    }

    async fn end_session(&self, request: Request<EndSessionRequest>) -> Reply<EndSessionResponse> {
        let operator = Operator::of(&request)?;
        let asked = request.into_inner();
        self.blocking(move |this| sessions::end(&this.node, &asked, operator)).await
    }

    async fn approvals(&self, request: Request<ApprovalsRequest>) -> Reply<ApprovalsResponse> {
        Operator::of(&request)?;
        Ok(Response::new(approvals::list(&self.node)))
    }

    async fn answer_approval(&self, request: Request<AnswerApprovalRequest>) -> Reply<AnswerApprovalResponse> {
        let operator = Operator::of(&request)?;
        let asked = request.into_inner();
        self.blocking(move |this| approvals::answer(&this.node, asked, operator)).await
    }

    async fn query_audit(&self, request: Request<QueryAuditRequest>) -> Reply<Self::QueryAuditStream> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        let is_followed = asked.follow;
        let query = audit::query(asked)?;
        if !is_followed {
            return self.stream_blocking(move |node, outlet| audit::past(&node.log, &query, outlet).map(drop));
        }
        // Before the past is read, so that nothing falls between the two.
        let lines = self.node.log.subscribe().map_err(|error| failure::audit(&error))?;
        self.stream(move |this, outlet| async move {
            let log = this.node.log.clone();
            let past = this.facts.tasks.spawn_blocking(move || {
                let seen = audit::past(&log, &query, &outlet);
                (seen, query, outlet)
            });
            let (seen, query, outlet) = past.await.map_err(|error| Broken::Failed(failure::task(&error)))?;
            audit::follow(&query, seen?, lines, this.facts.state.clone(), &outlet).await
        })
    }

    async fn verify_audit(&self, request: Request<VerifyAuditRequest>) -> Reply<Self::VerifyAuditStream> {
        Operator::of(&request)?;
        self.stream_blocking(|node, outlet| audit::verify(&node.log, outlet))
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        Operator::of(&request)?;
        let asked = request.into_inner();
        watch::check(&asked)?;
        let watching = self.node.watch(asked.kernel).map_err(|error| {
            tracing::error!(%error, "kernel events cannot be watched");
            Status::unavailable("the kernel cannot be asked for its events; the daemon's log says why")
        })?;
        self.stream(move |this, outlet| async move {
            let state = this.facts.state.clone();
            watch::run(asked, &this.node, watching, state, &outlet).await
        })
    }

    async fn put_secret(&self, request: Request<PutSecretRequest>) -> Reply<PutSecretResponse> {
        let operator = Operator::of(&request)?;
        let asked = request.into_inner();
        self.blocking(move |this| secrets::put(&this.node, asked, operator)).await
    }

    async fn list_secrets(&self, request: Request<ListSecretsRequest>) -> Reply<ListSecretsResponse> {
        Operator::of(&request)?;
        self.blocking(|this| secrets::list(&this.node)).await
    }

    async fn list_bundles(&self, request: Request<ListBundlesRequest>) -> Reply<ListBundlesResponse> {
        Operator::of(&request)?;
        bundles::list(&self.node, &request.into_inner()).map(Response::new)
    }

    async fn set_bundle(&self, request: Request<SetBundleRequest>) -> Reply<SetBundleResponse> {
        let operator = Operator::of(&request)?;
        let asked = request.into_inner();
        self.blocking(move |this| bundles::set(&this.node, asked, operator)).await
    }

    async fn remove_bundle(&self, request: Request<RemoveBundleRequest>) -> Reply<RemoveBundleResponse> {
        let operator = Operator::of(&request)?;
        let asked = request.into_inner();
        self.blocking(move |this| bundles::remove(&this.node, &asked, operator)).await
    }

    async fn remove_secret(&self, request: Request<RemoveSecretRequest>) -> Reply<RemoveSecretResponse> {
        let operator = Operator::of(&request)?;
        let name = request.into_inner().name;
        self.blocking(move |this| secrets::remove(&this.node, name, operator)).await
    }
}
