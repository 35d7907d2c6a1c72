// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Trust bundles: the node's own, and those of other trust domains.

use agent_proto::admin::set_bundle_request::Content;
use agent_proto::admin::{
    BundleView, ListBundlesRequest, ListBundlesResponse, RemoveBundleRequest, RemoveBundleResponse, SetBundleRequest,
    SetBundleResponse,
};
use tonic::Status;

use super::{Operator, failure};
use crate::api::convert;
use crate::authority::TrustBundle;
use crate::identity::TrustDomain;
use crate::node::{Known, Node, SetError};

pub(super) fn list(node: &Node, asked: &ListBundlesRequest) -> Result<ListBundlesResponse, Status> {
    let own = node.authority.bundle();
    let wanted = match asked.trust_domain.as_str() {
        "" => None,
        name => Some(trust_domain(name)?),
    };
    let fits = |found: &TrustDomain| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let mut bundles = Vec::new();
    if fits(&own.trust_domain) {
        bundles.push(BundleView { own: true, ..view(&own, wanted.is_some()) });
    }
    let foreign = node.foreign.all();
    let snapshot = node.snapshot();
    for bundle in foreign.iter().filter(|bundle| fits(&bundle.trust_domain)) {
        bundles.push(fetching(node, view(bundle, wanted.is_some()), &bundle.trust_domain));
    }
    // Those that are to be fetched and were not yet.
    let is_unknown = |domain: &TrustDomain| !foreign.iter().any(|bundle| bundle.trust_domain == *domain);
    let missing = snapshot.federations.iter().map(|federation| &federation.trust_domain);
    for domain in missing.filter(|domain| fits(domain) && is_unknown(domain)) {
        let nothing = BundleView { trust_domain: domain.to_string(), ..BundleView::default() };
        bundles.push(fetching(node, nothing, domain));
    }
    Ok(ListBundlesResponse { bundles })
}

/// Keeps a bundle and records that. Blocks.
pub(super) fn set(node: &Node, asked: SetBundleRequest, by: Operator) -> Result<SetBundleResponse, Status> {
    let domain = trust_domain(&asked.trust_domain)?;
    let bundle = match asked.content {
        Some(Content::Document(document)) => TrustBundle::parse(domain, &document),
        Some(Content::Pem(text)) => TrustBundle::from_pem(domain, &text),
        None => return Err(Status::invalid_argument("content: required")),
    };
    let bundle = bundle.map_err(|error| failure::authority(&error))?;
    let changed = node.set_bundle(bundle, by.into()).map_err(|error| status(&error))?;
    Ok(SetBundleResponse { changed })
}

/// Forgets a bundle and records that. Blocks.
pub(super) fn remove(node: &Node, asked: &RemoveBundleRequest, by: Operator) -> Result<RemoveBundleResponse, Status> {
    let domain = trust_domain(&asked.trust_domain)?;
    let removed = node.remove_bundle(&domain, by.into()).map_err(|error| status(&error))?;
    Ok(RemoveBundleResponse { removed })
}

fn trust_domain(text: &str) -> Result<TrustDomain, Status> {
    let name = text.strip_prefix("spiffe://").unwrap_or(text);
    name.parse().map_err(|error| Status::invalid_argument(format!("trust_domain: {error}")))
}

fn status(error: &SetError) -> Status {
    match error {
        SetError::Authority(error) => failure::authority(error),
        SetError::Audit(error) => failure::audit(error),
    }
}

fn view(bundle: &TrustBundle, with_document: bool) -> BundleView {
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let part = |bytes: &bytes::Bytes| if with_document { bytes.to_vec() } else { Vec::new() };
    BundleView {
        trust_domain: bundle.trust_domain.to_string(),
        own: false,
        x509_authorities: count(bundle.roots.len()),
        jwt_authorities: bundle.jwt_authorities,
        sequence: bundle.sequence,
        refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
        document: part(&bundle.document),
        x509: part(&bundle.x509),
        ..BundleView::default()
    }
}

/// With how the fetching of it goes.
fn fetching(node: &Node, view: BundleView, domain: &TrustDomain) -> BundleView {
    let snapshot = node.snapshot();
    let Some(federation) = snapshot.federations.iter().find(|federation| federation.trust_domain == *domain) else {
        return view;
    };
    let Known { fetched_at, next_at, error, .. } = node.federation(domain).unwrap_or_default();
    BundleView {
        url: federation.url.to_string(),
        fetched_at: fetched_at.map(convert::timestamp),
        next_fetch_at: next_at.map(convert::timestamp),
        error: error.unwrap_or_default(),
        ..view
    }
}
