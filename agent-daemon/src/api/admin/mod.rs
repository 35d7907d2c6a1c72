#![allow(warnings)]
use agent_proto::admin::admin_service_server::AdminService;
use agent_proto::admin::*;
use std::sync::Arc;
use tonic::{Request, Response, Status};
#[derive(Debug, Clone)]
pub struct Operator {
    pub uid: u32,
    pub gid: u32,
    pub tgid: Option<u32>,
    pub exec_id: Option<u64>,
}
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ServingState {
    Starting,
    Serving,
    Stopping,
}
#[derive(Debug)]
pub struct AdminFacts;
impl AdminFacts {
    pub fn new<A, B, C>(_: A, _: B, _: C) -> Self {
        Self
    }
}
#[derive(Debug)]
pub struct Admin;
impl Admin {
    pub fn new<A, B, C>(_: A, _: B, _: C) -> Self {
        Self
    }
}
type S<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;
#[tonic::async_trait]
impl AdminService for Admin {
    type ProcessesStream = S<ProcessesResponse>;
    type ConnectionsStream = S<ConnectionsResponse>;
    type LeasesStream = S<LeasesResponse>;
    type QueryAuditStream = S<QueryAuditResponse>;
    type VerifyAuditStream = S<VerifyAuditResponse>;
    type WatchStream = S<WatchResponse>;
    async fn status(&self, _r: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn doctor(&self, _r: Request<DoctorRequest>) -> Result<Response<DoctorResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn processes(&self, _r: Request<ProcessesRequest>) -> Result<Response<Self::ProcessesStream>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn connections(&self, _r: Request<ConnectionsRequest>) -> Result<Response<Self::ConnectionsStream>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn leases(&self, _r: Request<LeasesRequest>) -> Result<Response<Self::LeasesStream>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn decisions(&self, _r: Request<DecisionsRequest>) -> Result<Response<DecisionsResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn explain(&self, _r: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn validate_policy(
        &self,
        _r: Request<ValidatePolicyRequest>,
    ) -> Result<Response<ValidatePolicyResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn test_policy(&self, _r: Request<TestPolicyRequest>) -> Result<Response<TestPolicyResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn list_policies(&self, _r: Request<ListPoliciesRequest>) -> Result<Response<ListPoliciesResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn reload(&self, _r: Request<ReloadRequest>) -> Result<Response<ReloadResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn revoke(&self, _r: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn query_audit(&self, _r: Request<QueryAuditRequest>) -> Result<Response<Self::QueryAuditStream>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn verify_audit(&self, _r: Request<VerifyAuditRequest>) -> Result<Response<Self::VerifyAuditStream>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn watch(&self, _r: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn put_secret(&self, _r: Request<PutSecretRequest>) -> Result<Response<PutSecretResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn list_secrets(&self, _r: Request<ListSecretsRequest>) -> Result<Response<ListSecretsResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
    async fn remove_secret(&self, _r: Request<RemoveSecretRequest>) -> Result<Response<RemoveSecretResponse>, Status> {
        Err(Status::unimplemented("wip"))
    }
}
