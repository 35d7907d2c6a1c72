// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Envoy's secret discovery (SDS v3) over the same socket: the X509-SVIDs and authorities of whoever connects, by name,
//! pushed when they change.
//!
//! Streams follow <https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>. A name that stands for nothing is
//! remembered and answered when it comes to stand for something; a caller without an identity is denied, and so is a
//! stream that asks for certificates only of which its caller may have none.

mod delta;
mod secret;

use std::collections::BTreeSet;
use std::sync::Arc;

use agent_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use agent_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use agent_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryService;
use agent_proto::google::rpc;
use futures_util::stream::unfold;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::secret::{Names, SECRET_TYPE, Validation, any, certificates, secrets};
use super::{Open, Updates, is_passing, status};
use crate::api::stream::present;
use crate::attest::Peer;
use crate::credential::Lease;
use crate::diagnostic::words;
use crate::node::{Bundles, Node, Part, Refusal};

/// Names that one stream may ask for.
const MAX_NAMES: usize = 256;

/// Envoy's secret discovery.
#[derive(Debug)]
pub(in crate::api) struct Sds {
    node: Arc<Node>,
    cancel: CancellationToken,
}

/// What was given on a stream, and when it has to be replaced.
#[derive(Debug, Default)]
struct Given {
    leases: Vec<Arc<Lease>>,
    rotate_at: Option<Timestamp>,
    ends_at: Option<Timestamp>,
}

impl Sds {
    /// Streams end with `cancel`.
    pub(in crate::api) fn new(node: Arc<Node>, cancel: CancellationToken) -> Self {
        Self { node, cancel }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Updates<DiscoveryResponse>;
    type DeltaSecretsStream = Updates<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let peer = present(&request).await?;
        let open = Open::new(&self.node, peer, &self.cancel)?;
        let state = Whole::new(request.into_inner());
        Ok(Response::new(Box::pin(unfold(Some((open, state)), next))))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let peer = present(&request).await?;
        let open = Open::new(&self.node, peer, &self.cancel)?;
        let state = delta::Delta::new(request.into_inner());
        Ok(Response::new(Box::pin(unfold(Some((open, state)), delta::next))))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let peer = present(&request).await?;
        let request = request.into_inner();
        check_type(&request.type_url)?;
        let names = names(&request.resource_names, true)?;
        let validation = request.node.as_ref().map_or(Validation::Spiffe, Validation::of);
        let (secrets, ..) =
            look_up(&self.node, &peer, &names, validation, &[]).await.map_err(|refusal| status(&refusal))?;
        let resources = secrets.iter().map(any).collect();
        Ok(Response::new(DiscoveryResponse { resources, type_url: SECRET_TYPE.to_owned(), ..Default::default() }))
    }
}

/// The state of a stream on which every answer is whole.
struct Whole {
    requests: Streaming<DiscoveryRequest>,
    names: Option<Names>,
    validation: Validation,
    given: Given,
    /// Of the answers so far; also the nonce of the last.
    version: u64,
}

impl Whole {
    fn new(requests: Streaming<DiscoveryRequest>) -> Self {
        Self { requests, names: None, validation: Validation::Spiffe, given: Given::default(), version: 0 }
    }

    /// Whether a request asks for something that it did not ask for before.
    fn take(&mut self, request: &DiscoveryRequest) -> Result<bool, Status> {
        check_type(&request.type_url)?;
        if let Some(node) = &request.node {
            self.validation = Validation::of(node);
        }
        // An answer to an answer that was overtaken meanwhile.
        if !request.response_nonce.is_empty() && request.response_nonce != nonce(self.version) {
            return Ok(false);
        }
        if let Some(error) = &request.error_detail {
            refused(error);
        }
        let names = names(&request.resource_names, self.names.is_none())?;
        let is_new = self.names.as_ref() != Some(&names);
        self.names = Some(names);
        Ok(is_new)
    }
}

type State<S> = Option<(Open<()>, S)>;

async fn next(state: State<Whole>) -> Option<(Result<DiscoveryResponse, Status>, State<Whole>)> {
    let (mut open, mut whole) = state?;
    loop {
        let rotate_at = whole.given.rotate_at;
        // Each arm is cancel-safe: a request that is not taken stays in the stream.
        let is_due = tokio::select! {
            request = whole.requests.message() => match request {
                Ok(Some(request)) => whole.take(&request),
                Ok(None) => return None,
                Err(error) => Err(error),
            },
            over = open.wait(rotate_at) => over.map(|()| true),
        };
        match is_due {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) => return Some((Err(error), None)),
        }
        // Nothing was asked for yet.
        let Some(names) = &whole.names else { continue };
        match look_up(&open.node, &open.peer, names, whole.validation, &whole.given.leases).await {
            Ok((secrets, given, bundles)) => {
                open.told(&bundles, Part::X509);
                whole.given = given;
                if secrets.is_empty() {
                    continue;
                }
                whole.version = whole.version.wrapping_add(1);
                let response = DiscoveryResponse {
                    version_info: whole.version.to_string(),
                    resources: secrets.iter().map(any).collect(),
                    canary: false,
                    type_url: SECRET_TYPE.to_owned(),
                    nonce: nonce(whole.version),
                };
                return Some((Ok(response), Some((open, whole))));
            }
            Err(refusal) if may_go_on(&refusal, &whole.given, open.node.clock.now()) => {
                whole.given.rotate_at = Some(open.goes_on_without(&refusal));
            }
            Err(refusal) => return Some((Err(status(&refusal)), None)),
        }
    }
}

/// Envoy goes on with what it had before. Its words are a workload's, so they neither alarm nor fill a log.
fn refused(error: &rpc::Status) {
    tracing::debug!(error = %words(&error.message), "Envoy refused a secret and keeps the one before");
}

fn nonce(version: u64) -> String {
    format!("{version:x}")
}

/// Whether what the client has is still good, so that the stream need not end.
fn may_go_on(refusal: &Refusal, given: &Given, now: Timestamp) -> bool {
    is_passing(refusal) && given.ends_at.is_some_and(|ends_at| now < ends_at)
}

/// An absent type is that of the service.
fn check_type(type_url: &str) -> Result<(), Status> {
    if type_url.is_empty() || type_url == SECRET_TYPE {
        return Ok(());
    }
    Err(Status::invalid_argument("type_url: this service has secrets only"))
}

/// No name at all means everything only where none was ever given.
fn names(listed: &[String], is_first: bool) -> Result<Names, Status> {
    if listed.len() > MAX_NAMES {
        return Err(Status::invalid_argument(format!("resource_names: more than {MAX_NAMES}")));
    }
    let names: BTreeSet<String> = listed.iter().filter(|name| !name.is_empty()).cloned().collect();
    Ok(if names.is_empty() && is_first { Names::Everything } else { Names::Listed(names) })
}

/// The secrets behind the names as they are now: new certificates, and the authorities.
async fn look_up(
    node: &Node,
    peer: &Peer,
    names: &Names,
    validation: Validation,
    held: &[Arc<Lease>],
) -> Result<(Vec<Secret>, Given, Bundles), Refusal> {
    let Some(wanted) = certificates(names) else {
        let bundles = node.bundles(peer).await?;
        return Ok((secrets(names, &[], None, &bundles, validation), Given::default(), bundles));
    };
    let svids = node.x509_svids(peer, &wanted, held).await?;
    let released: Vec<_> = svids.svids.into_iter().map(|(_, svid)| svid).collect();
    let leases: Vec<Arc<Lease>> = released.iter().map(|svid| Arc::clone(&svid.lease)).collect();
    let ends_at = leases.iter().map(|lease| lease.expires_at).min();
    let secrets = secrets(names, &released, Some(&svids.default), &svids.bundles, validation);
    Ok((secrets, Given { leases, rotate_at: Some(svids.rotate_at), ends_at }, svids.bundles))
}
