// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The incremental form: names come and go, and only what changed is sent.

use std::collections::{BTreeSet, HashMap};

use agent_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use ring::digest;
use tonic::{Status, Streaming};

use super::secret::{Names, SECRET_TYPE, Validation, any};
use super::{Given, MAX_NAMES, State, check_type, look_up, may_go_on, nonce, refused, status};
use crate::node::Part;

/// The state of a stream on which only changes are sent.
pub(super) struct Delta {
    requests: Streaming<DeltaDiscoveryRequest>,
    names: Names,
    is_first: bool,
    validation: Validation,
    given: Given,
    /// By name: what the client has.
    versions: HashMap<String, String>,
    /// Names that have to be answered whatever the client has.
    asked: BTreeSet<String>,
    number: u64,
}

impl Delta {
    pub(super) fn new(requests: Streaming<DeltaDiscoveryRequest>) -> Self {
        Self {
            requests,
            names: Names::Listed(BTreeSet::new()),
            is_first: true,
            validation: Validation::Spiffe,
            given: Given::default(),
            versions: HashMap::new(),
            asked: BTreeSet::new(),
            number: 0,
        }
    }

    /// Whether a request asks for something.
    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<bool, Status> {
        check_type(&request.type_url)?;
        if let Some(node) = &request.node {
            self.validation = Validation::of(node);
        }
        if let Some(error) = &request.error_detail {
            refused(error);
        }
        let subscribed: BTreeSet<String> =
            request.resource_names_subscribe.into_iter().filter(|name| !name.is_empty()).collect();
        if self.is_first {
            self.is_first = false;
            self.versions = request.initial_resource_versions;
            if subscribed.is_empty() {
                self.names = Names::Everything;
                return Ok(true);
            }
        }
        let Names::Listed(names) = &mut self.names else {
            // Whoever has everything has these too, and is answered all the same.
            let is_asked = !subscribed.is_empty();
            self.asked.extend(subscribed);
            return Ok(is_asked);
        };
        for name in request.resource_names_unsubscribe {
            names.remove(&name);
            self.versions.remove(&name);
            self.asked.remove(&name);
        }
        let is_asked = !subscribed.is_empty();
        names.extend(subscribed.iter().cloned());
        if names.len() > MAX_NAMES || self.versions.len() > MAX_NAMES {
            return Err(Status::invalid_argument(format!("resource_names_subscribe: more than {MAX_NAMES}")));
        }
        self.asked.extend(subscribed);
        Ok(is_asked)
    }

    fn is_idle(&self) -> bool {
        matches!(&self.names, Names::Listed(names) if names.is_empty())
    }
}

pub(super) async fn next(state: State<Delta>) -> Option<(Result<DeltaDiscoveryResponse, Status>, State<Delta>)> {
    let (mut open, mut delta) = state?;
    loop {
        let rotate_at = delta.given.rotate_at;
        // Each arm is cancel-safe: a request that is not taken stays in the stream.
        let is_due = tokio::select! {
            request = delta.requests.message() => match request {
                Ok(Some(request)) => delta.take(request),
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
        if delta.is_idle() {
            delta.given = Given::default();
            continue;
        }
        match look_up(&open.node, &open.peer, &delta.names, delta.validation, &delta.given.leases).await {
            Ok((secrets, given, bundles)) => {
                open.told(&bundles, Part::X509);
                delta.given = given;
                if let Some(response) = changes(&mut delta, &secrets) {
                    return Some((Ok(response), Some((open, delta))));
                }
            }
            Err(refusal) if may_go_on(&refusal, &delta.given, open.node.clock.now()) => {
                delta.given.rotate_at = Some(open.goes_on_without(&refusal));
            }
            Err(refusal) => return Some((Err(status(&refusal)), None)),
        }
    }
}

/// What differs from what the client has; nothing when nothing does.
fn changes(
    delta: &mut Delta,
    secrets: &[agent_proto::envoy::extensions::transport_sockets::tls::v3::Secret],
) -> Option<DeltaDiscoveryResponse> {
    let mut resources = Vec::new();
    let mut present = BTreeSet::new();
    for secret in secrets {
        let resource = any(secret);
        let version = version(&resource.value);
        present.insert(secret.name.clone());
        let is_same = delta.versions.get(&secret.name) == Some(&version);
        if is_same && !delta.asked.contains(&secret.name) {
            continue;
        }
        delta.versions.insert(secret.name.clone(), version.clone());
        resources.push(Resource { version, resource: Some(resource), name: secret.name.clone(), aliases: Vec::new() });
    }
    // What the client has and what it asked for just now, as far as there is none.
    let mut gone: BTreeSet<String> = delta.versions.keys().filter(|name| !present.contains(*name)).cloned().collect();
    gone.extend(delta.asked.iter().filter(|name| !present.contains(*name)).cloned());
    delta.versions.retain(|name, _| present.contains(name));
    delta.asked.clear();
    if resources.is_empty() && gone.is_empty() {
        return None;
    }
    delta.number = delta.number.wrapping_add(1);
    Some(DeltaDiscoveryResponse {
        system_version_info: delta.number.to_string(),
        resources,
        type_url: SECRET_TYPE.to_owned(),
        nonce: nonce(delta.number),
        removed_resources: gone.into_iter().collect(),
    })
}

/// Of the content: the same after a reconnect, as far as the content is.
fn version(content: &[u8]) -> String {
    digest::digest(&digest::SHA256, content).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
