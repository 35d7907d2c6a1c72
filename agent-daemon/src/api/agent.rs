// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agent.v1.AgentService`: requests are checked for form here and answered by the [`Node`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_proto::v1;
use agent_proto::v1::agent_service_server::AgentService;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::convert;
use super::status::status;
use super::stream::present;
use crate::authority::MAX_TOKEN_BYTES;
use crate::credential::LeaseId;
use crate::node::{Ask, ConnectionRef, Node, OnBehalf, OpenAsk, Opened, Released, StepAsk};
use crate::session::{HandleDigest, MAX_AGENT_BYTES, MAX_HANDLE_BYTES, MAX_PURPOSE_BYTES, MAX_SCOPE_BYTES, MAX_SCOPES};
use crate::step::{self, TraceContext};

const NAME_BYTES: usize = 128;
const SPIFFE_ID_BYTES: usize = 2048;
const TRACEPARENT_BYTES: usize = 64;
const NONCE_BYTES: usize = 256;

/// The agents' service.
#[derive(Debug)]
pub(super) struct Agent {
    node: Arc<Node>,
    /// See [`Ask::time`].
    time: Duration,
}

impl Agent {
    pub(super) fn new(node: Arc<Node>, time: Duration) -> Self {
        Self { node, time }
    }
}

#[tonic::async_trait]
impl AgentService for Agent {
    async fn attest(&self, request: Request<v1::AttestRequest>) -> Result<Response<v1::AttestResponse>, Status> {
        let peer = present(&request).await?;
        let attested = self.node.attest(&peer).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(v1::AttestResponse { caller: Some(convert::exec_instance(&attested)) }))
    }

    async fn attest_connection(
        &self,
        request: Request<v1::AttestConnectionRequest>,
    ) -> Result<Response<v1::AttestConnectionResponse>, Status> {
        let peer = present(&request).await?;
        let named = connection_ref(request.into_inner().connection)?
            .ok_or_else(|| Status::invalid_argument("connection: name a socket by cookie or tuple"))?;
        let opener = self.node.attest_connection(&peer, named).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(v1::AttestConnectionResponse {
            opener_alive: opener.attested.is_some(),
            opener: opener.attested.as_deref().map(convert::exec_instance),
            connection: Some(convert::connection(&opener.connection)),
        }))
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let peer = present(&request).await?;
        let request = request.into_inner();
        let ask = Ask {
            destination: required("destination", request.destination, NAME_BYTES)?,
            connection: connection_ref(request.connection)?,
            binding: optional("binding", request.binding, NAME_BYTES)?,
            spiffe_id: optional("spiffe_id", request.spiffe_id, SPIFFE_ID_BYTES)?,
            traceparent: optional("traceparent", request.traceparent, TRACEPARENT_BYTES)?,
            session: handle("session_handle", &request.session_handle)?,
            time: Some(self.time),
            ..Ask::default()
        };
        let released = self.node.release(&peer, ask).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(response(released)))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        let peer = present(&request).await?;
        let request = request.into_inner();
        let old = lease_id(&request.lease_id)?;
        let ask = Ask {
            connection: connection_ref(request.connection)?,
            traceparent: optional("traceparent", request.traceparent, TRACEPARENT_BYTES)?,
            session: handle("session_handle", &request.session_handle)?,
            time: Some(self.time),
            ..Ask::default()
        };
        let released = self.node.renew(&peer, old, ask).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(response(released)))
    }

    async fn give_back(&self, request: Request<v1::GiveBackRequest>) -> Result<Response<v1::GiveBackResponse>, Status> {
        let peer = present(&request).await?;
        let id = lease_id(&request.into_inner().lease_id)?;
        self.node.give_back(&peer, &id).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(v1::GiveBackResponse {}))
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let peer = present(&request).await?;
        let ask = open_ask(request.into_inner())?;
        let Opened { session, handle } =
            self.node.open_session(&peer, ask).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(v1::OpenSessionResponse {
            session_id: session.id.to_string(),
            session_handle: handle.reveal().to_owned(),
            user: session.user.id.to_string(),
            expires_at: Some(convert::timestamp(session.expires_at)),
        }))
    }

    async fn enter_session(
        &self,
        request: Request<v1::EnterSessionRequest>,
    ) -> Result<Response<v1::EnterSessionResponse>, Status> {
        let peer = present(&request).await?;
        let named = named_session(&request.into_inner().session_handle)?;
        let session = self.node.enter_session(&peer, named).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(v1::EnterSessionResponse {
            session_id: session.id.to_string(),
            user: session.user.id.to_string(),
            expires_at: Some(convert::timestamp(session.expires_at)),
        }))
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        let peer = present(&request).await?;
        let named = named_session(&request.into_inner().session_handle)?;
        self.node.close_session(&peer, named).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(v1::CloseSessionResponse {}))
    }

    async fn begin_step(
        &self,
        request: Request<v1::BeginStepRequest>,
    ) -> Result<Response<v1::BeginStepResponse>, Status> {
        let peer = present(&request).await?;
        let ask = step_ask(request.into_inner())?;
        self.node.begin_step(&peer, ask).await.map_err(|refusal| status(&refusal))?;
        let content_bytes = u32::try_from(self.node.keeps_of_steps().bytes).unwrap_or(u32::MAX);
        Ok(Response::new(v1::BeginStepResponse { content_bytes }))
    }

    async fn end_step(&self, request: Request<v1::EndStepRequest>) -> Result<Response<v1::EndStepResponse>, Status> {
        let peer = present(&request).await?;
        let request = request.into_inner();
        let handle = handle("session_handle", &request.session_handle)?;
        let context = trace_context(&request.traceparent)?;
        let ended = self.node.end_step(&peer, context, request.failed, handle).await;
        ended.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(v1::EndStepResponse {}))
    }
}

fn step_ask(request: v1::BeginStepRequest) -> Result<StepAsk, Status> {
    use v1::begin_step_request::Kind;
    let kind = match Kind::try_from(request.kind) {
        Ok(Kind::Instruction) => step::Kind::Instruction,
        Ok(Kind::Reasoning) => step::Kind::Reasoning,
        Ok(Kind::ToolCall) => step::Kind::ToolCall,
        Ok(Kind::Approval) => step::Kind::Approval,
        Ok(Kind::Unspecified) | Err(_) => return Err(Status::invalid_argument("kind: not one that there is")),
    };
    let parent = match request.parent_span_id.as_str() {
        "" => None,
        text => Some(step::parse_span_id(text).ok_or_else(|| {
            Status::invalid_argument("parent_span_id: 16 hexadecimal digits, small letters, and not all zero")
        })?),
    };
    let text = |field, text, limit| Ok::<_, Status>(optional(field, text, limit)?.map(String::into_boxed_str));
    Ok(StepAsk {
        context: trace_context(&request.traceparent)?,
        parent,
        kind,
        name: text("name", request.name, step::MAX_NAME_BYTES)?,
        reference: text("reference", request.reference, step::MAX_REFERENCE_BYTES)?,
        tid: Some(request.thread_id).filter(|tid| *tid != 0),
        session: handle("session_handle", &request.session_handle)?,
        content: request.content.into_boxed_str(),
    })
}

fn trace_context(text: &str) -> Result<TraceContext, Status> {
    text.parse().map_err(|error: step::NoTraceContext| Status::invalid_argument(format!("traceparent: {error}")))
}

fn open_ask(request: v1::OpenSessionRequest) -> Result<OpenAsk, Status> {
    use v1::open_session_request::{Binding, User};
    let text = |field, text, limit| Ok::<_, Status>(optional(field, text, limit)?.map(String::into_boxed_str));
    let user = match request.user {
        None => OnBehalf::Inherited,
        Some(User::Local(v1::LocalUser {})) => OnBehalf::Local,
        Some(User::Token(v1::UserToken { token, nonce })) => {
            let token = Zeroizing::new(token);
            if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
                return Err(Status::invalid_argument(format!("token: 1 to {MAX_TOKEN_BYTES} bytes")));
            }
            OnBehalf::Token { token, nonce: optional("nonce", nonce, NONCE_BYTES)? }
        }
    };
    let scopes = match request.scopes {
        None => None,
        Some(v1::Scopes { names }) if names.len() > MAX_SCOPES => {
            return Err(Status::invalid_argument(format!("scopes: {} of them, at most {MAX_SCOPES}", names.len())));
        }
        Some(v1::Scopes { names }) => {
            let names = names.into_iter().map(|name| required("scopes", name, MAX_SCOPE_BYTES));
            Some(names.map(|name| name.map(String::into_boxed_str)).collect::<Result<_, _>>()?)
        }
    };
    let binding = Binding::try_from(request.binding);
    let binding = binding.map_err(|_| Status::invalid_argument("binding: not one that there is"))?;
    Ok(OpenAsk {
        user,
        agent: text("agent", request.agent, MAX_AGENT_BYTES)?,
        purpose: text("purpose", request.purpose, MAX_PURPOSE_BYTES)?,
        scopes,
        lifetime: Some(Duration::from_secs(request.lifetime_seconds.into())).filter(|asked| !asked.is_zero()),
        is_bound: binding == Binding::Process,
        parent: handle("parent_handle", &request.parent_handle)?,
        spiffe_id: optional("spiffe_id", request.spiffe_id, SPIFFE_ID_BYTES)?,
    })
}

fn named_session(shown: &str) -> Result<HandleDigest, Status> {
    handle("session_handle", shown)?.ok_or_else(|| Status::invalid_argument("session_handle: required"))
}

/// What is kept of a handle that somebody shows.
fn handle(field: &str, shown: &str) -> Result<Option<HandleDigest>, Status> {
    if shown.len() > MAX_HANDLE_BYTES {
        return Err(Status::invalid_argument(format!("{field}: longer than {MAX_HANDLE_BYTES} bytes")));
    }
    Ok((!shown.is_empty()).then(|| HandleDigest::of(shown)))
}

fn response(released: Released) -> v1::ReleaseResponse {
    let Released { mut secret, lease, audiences, .. } = released;
    v1::ReleaseResponse {
        decision_id: lease.decision_id.to_string(),
        credential: Some(v1::Credential {
            r#type: lease.credential_type.as_str().to_owned(),
            secret: std::mem::take(&mut *secret),
            spiffe_id: lease.spiffe_id.to_string(),
            audience: audiences.join(" "),
        }),
        lease: Some(convert::lease(&lease)),
    }
}

fn lease_id(text: &str) -> Result<LeaseId, Status> {
    LeaseId::parse(text).map_err(|_| Status::invalid_argument("lease_id: not the id of a lease"))
}

fn required(field: &str, text: String, limit: usize) -> Result<String, Status> {
    optional(field, text, limit)?.ok_or_else(|| Status::invalid_argument(format!("{field}: required")))
}

fn optional(field: &str, text: String, limit: usize) -> Result<Option<String>, Status> {
    if text.len() > limit {
        return Err(Status::invalid_argument(format!("{field}: longer than {limit} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Status::invalid_argument(format!("{field}: holds a control character")));
    }
    Ok((!text.is_empty()).then_some(text))
}

fn connection_ref(named: Option<v1::ConnectionRef>) -> Result<Option<ConnectionRef>, Status> {
    use v1::connection_ref::By;
    match named.and_then(|named| named.by) {
        None => Ok(None),
        Some(By::Cookie(0)) => Err(Status::invalid_argument("connection.cookie: zero is no cookie")),
        Some(By::Cookie(cookie)) => Ok(Some(ConnectionRef::Cookie(cookie))),
        Some(By::Tuple(tuple)) => {
            let local = address("connection.tuple.local", &tuple.local_address, tuple.local_port)?;
            let remote = address("connection.tuple.remote", &tuple.remote_address, tuple.remote_port)?;
            Ok(Some(ConnectionRef::Tuple { local, remote }))
        }
    }
}

fn address(field: &str, address: &str, port: u32) -> Result<SocketAddr, Status> {
    let ip: IpAddr =
        address.parse().map_err(|_| Status::invalid_argument(format!("{field}_address: not an IP address")))?;
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(Status::invalid_argument(format!("{field}_port: not a port"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(local: &str, port: u32) -> v1::ConnectionRef {
        let tuple = v1::Tuple {
            local_address: local.to_owned(),
            local_port: port,
            remote_address: "::ffff:127.0.0.1".to_owned(),
            remote_port: 443,
        };
        v1::ConnectionRef { by: Some(v1::connection_ref::By::Tuple(tuple)) }
    }

    #[test]
    fn malformed_requests_name_the_field() {
        for (named, expected) in [
            (tuple("nonsense", 1), "connection.tuple.local_address"),
            (tuple("127.0.0.1", 0), "connection.tuple.local_port"),
            (tuple("127.0.0.1", 65536), "connection.tuple.local_port"),
            (v1::ConnectionRef { by: Some(v1::connection_ref::By::Cookie(0)) }, "connection.cookie"),
        ] {
            let status = connection_ref(Some(named)).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with(expected), "{status:?}");
        }
        assert!(connection_ref(Some(tuple("127.0.0.1", 1))).unwrap().is_some());
        assert!(required("destination", String::new(), 8).is_err());
        assert!(required("destination", "123456789".to_owned(), 8).is_err());
        assert!(optional("destination", "a\nb".to_owned(), 8).is_err());
    }
}
