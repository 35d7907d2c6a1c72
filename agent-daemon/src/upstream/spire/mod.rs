// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A SPIRE server as the authority above, reached as an identity that the local SPIRE agent gives this daemon.
//!
//! SPIRE permits that to identities whose registration entry is a downstream one, and to no others:
//! <https://spiffe.io/docs/latest/deploying/registering/#mapping-to-a-downstream-spire-server>.

mod agent;

use std::path::PathBuf;
use std::time::Duration;

use agent_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use agent_proto::spire::api::server::bundle::v1::{GetBundleRequest, PublishJwtAuthorityRequest};
use agent_proto::spire::api::server::svid::v1::NewDownstreamX509caRequest;
use agent_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use agent_proto::spire::api::types;
use futures_util::future::BoxFuture;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Followed, Upstream};
use crate::authority::{CaRequest, Error, Origin, PublishedKey, Signed, TrustBundle};
use crate::diagnostic::{with_sources, words};
use crate::identity::{SpiffeId, TrustDomain};
use crate::url::HostPort;
use crate::web::tls_channel;

/// The path of a server's SPIFFE ID.
const SERVER_PATH: &str = "/spire/server";

/// Where the agent and the server are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpireConfig {
    /// Of the agent on this machine: its Workload API.
    pub agent_socket: PathBuf,
    /// The server's API.
    pub server: HostPort,
    /// As whom the server is called; without, as the agent's default.
    pub spiffe_id: Option<SpiffeId>,
}

/// A SPIRE server.
#[derive(Debug)]
pub struct Spire {
    config: SpireConfig,
    trust_domain: TrustDomain,
    server_id: SpiffeId,
}

impl Spire {
    /// # Errors
    /// When the trust domain is too long for a server in it.
    pub fn new(config: SpireConfig, trust_domain: TrustDomain) -> Result<Self, Error> {
        let server_id = format!("spiffe://{trust_domain}{SERVER_PATH}");
        let server_id = server_id.parse().map_err(|error| failed(format!("no server in {trust_domain}: {error}")))?;
        Ok(Self { config, trust_domain, server_id })
    }

    /// To the server, as the identity that the agent gives now.
    async fn connect(&self) -> Result<Channel, Error> {
        let given = agent::identity(&self.config.agent_socket, self.config.spiffe_id.as_ref(), &self.server_id).await?;
        let channel = tls_channel(&self.config.server, &given.trust, given.identity).await;
        channel.map_err(|error| failed(format!("the server {}: {}", self.config.server, with_sources(&error))))
    }

    async fn ask(&self, request: &CaRequest) -> Result<Signed, Error> {
        let csr = request.csr_der()?;
        let preferred_ttl = i32::try_from(request.lifetime.as_secs()).unwrap_or(i32::MAX);
        let asked = NewDownstreamX509caRequest { csr, preferred_ttl };
        let answer = SvidClient::new(self.connect().await?).new_downstream_x509ca(asked).await;
        let answer = answer.map_err(|status| refused("did not sign a CA", &status))?.into_inner();
        Ok(Signed { certificates: answer.ca_cert_chain, roots: answer.x509_authorities })
    }

    async fn exchange(&self, keys: &[PublishedKey]) -> Result<Followed, Error> {
        let mut client = BundleClient::new(self.connect().await?);
        let answer = client.get_bundle(GetBundleRequest {}).await;
        let mut bundle = answer.map_err(|status| refused("does not show its bundle", &status))?.into_inner();
        let is_missing = |key: &&PublishedKey| bundle.jwt_authorities.iter().all(|known| known.key_id != key.jwk.kid());
        let missing: Vec<&PublishedKey> = keys.iter().filter(is_missing).collect();
        let mut error = None;
        for key in missing {
            let asked = PublishJwtAuthorityRequest { jwt_authority: Some(published(key)?) };
            match client.publish_jwt_authority(asked).await {
                Ok(answer) => bundle.jwt_authorities = answer.into_inner().jwt_authorities,
                Err(status) => {
                    error = Some(refused("does not publish the keys of this node", &status));
                    break;
                }
            }
        }
        Ok(Followed { bundle: Some(self.read(bundle)?), error })
    }

    /// What is tainted there is not trusted here.
    fn read(&self, bundle: types::Bundle) -> Result<TrustBundle, Error> {
        let domain = bundle.trust_domain.strip_prefix("spiffe://").unwrap_or(&bundle.trust_domain);
        if domain != self.trust_domain.as_str() {
            return Err(failed(format!("the server's bundle is of {:?}, not of {}", words(domain), self.trust_domain)));
        }
        let roots = bundle.x509_authorities.into_iter().filter(|one| !one.tainted).map(|one| one.asn1);
        let roots: Vec<Vec<u8>> = roots.collect();
        if roots.is_empty() {
            return Err(failed("the server's bundle has no X.509 authority".to_owned()));
        }
        let keys = bundle.jwt_authorities.into_iter().filter(|one| !one.tainted);
        let hint = u64::try_from(bundle.refresh_hint).ok().filter(|hint| *hint > 0).map(Duration::from_secs);
        TrustBundle::from_authorities(
            self.trust_domain.clone(),
            &roots,
            &keys.map(|key| (key.key_id, key.public_key)).collect::<Vec<_>>(),
            bundle.sequence_number,
            hint,
        )
    }
}

impl Upstream for Spire {
    fn origin(&self) -> Origin {
        Origin::Spire
    }

    fn sign<'a>(&'a self, request: &'a CaRequest) -> BoxFuture<'a, Result<Signed, Error>> {
        Box::pin(self.ask(request))
    }

    fn follow<'a>(&'a self, keys: &'a [PublishedKey]) -> BoxFuture<'a, Followed> {
        Box::pin(async move {
            let exchanged = self.exchange(keys).await;
            exchanged.unwrap_or_else(|error| Followed { bundle: None, error: Some(error) })
        })
    }
}

fn published(key: &PublishedKey) -> Result<types::JwtKey, Error> {
    let public_key = key.jwk.spki().ok_or(Error::Crypto { operation: "write a public key" })?;
    let key_id = key.jwk.kid().to_owned();
    Ok(types::JwtKey { public_key, key_id, expires_at: key.ends_at.as_second(), tainted: false })
}

fn failed(reason: String) -> Error {
    Error::Upstream { origin: Origin::Spire, reason }
}

/// In the server's words.
fn refused(what: &str, status: &Status) -> Error {
    let help = match status.code() {
        Code::PermissionDenied => "; the registration entry of this daemon has to be a downstream one",
        _ => "",
    };
    failed(format!("the server {what} ({:?}: {}){help}", status.code(), words(status.message())))
}
