// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who this daemon is to the local SPIRE agent.

use std::path::Path;

use agent_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use agent_proto::spiffe::{X509svid, X509svidRequest};
use rustls_pki_types::CertificateDer;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use zeroize::Zeroizing;

use super::failed;
use crate::authority::{Error, der_sequence};
use crate::diagnostic::{with_sources, words};
use crate::identity::SpiffeId;
use crate::web::{Identity, Trust, unix_channel};

/// An X509-SVID of this daemon, and by what the server is believed.
pub(super) struct Given {
    pub(super) identity: Identity,
    pub(super) trust: Trust,
}

/// The one that is wanted of those that the agent gives now, or its default.
pub(super) async fn identity(socket: &Path, wanted: Option<&SpiffeId>, server: &SpiffeId) -> Result<Given, Error> {
    let channel = unix_channel(socket).await;
    let channel =
        channel.map_err(|error| failed(format!("the agent {}: {}", socket.display(), with_sources(&error))))?;
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let mut stream = SpiffeWorkloadApiClient::new(channel).fetch_x509svid(request).await.map_err(|s| refused(&s))?;
    let svids = stream.get_mut().message().await.map_err(|status| refused(&status))?.unwrap_or_default().svids;
    let is_it = |svid: &X509svid| wanted.is_none_or(|wanted| wanted.as_str() == svid.spiffe_id);
    // Each key is wiped when it is dropped, those that are not used too.
    let mut svids: Vec<(X509svid, Zeroizing<Vec<u8>>)> = svids
        .into_iter()
        .map(|mut svid| {
            let key = Zeroizing::new(std::mem::take(&mut svid.x509_svid_key));
            (svid, key)
        })
        .collect();
    let Some(place) = svids.iter().position(|(svid, _)| is_it(svid)) else {
        let wanted = wanted.map_or_else(|| "any identity".to_owned(), ToString::to_string);
        return Err(failed(format!("the agent does not know this daemon as {wanted}")));
    };
    let (svid, key) = svids.swap_remove(place);
    let id: SpiffeId = svid.spiffe_id.parse().map_err(|_| failed("the agent gave no SPIFFE ID".to_owned()))?;
    if id.trust_domain() != server.trust_domain() {
        return Err(failed(format!(
            "the agent's trust domain is {}, not {}",
            id.trust_domain(),
            server.trust_domain()
        )));
    }
    let read = |bytes: &[u8]| {
        let certificates = der_sequence(bytes).filter(|certificates| !certificates.is_empty());
        certificates.ok_or_else(|| failed("the agent gave what is no certificate".to_owned()))
    };
    let chain = read(&svid.x509_svid)?.into_iter().map(CertificateDer::from).collect();
    let trust = Trust::Spiffe { roots: read(&svid.bundle)?, id: server.clone() };
    let identity =
        Identity::new(chain, &key).map_err(|error| failed(format!("the agent's key: {}", with_sources(&error))))?;
    Ok(Given { identity, trust })
}

fn refused(status: &Status) -> Error {
    let help = match status.code() {
        Code::PermissionDenied => "; this daemon needs a registration entry there",
        _ => "",
    };
    failed(format!("the agent gave no identity ({:?}: {}){help}", status.code(), words(status.message())))
}
