// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Static secrets: put, list, remove. Their values go in and never come out here.

use agent_proto::admin::{ListSecretsResponse, PutSecretRequest, PutSecretResponse, RemoveSecretResponse, SecretView};
use tonic::Status;
use zeroize::Zeroizing;

use super::{Operator, failure};
use crate::api::convert;
use crate::audit::{Record, SecretOperation, SecretRecord};
use crate::node::Node;

/// Seals a secret and records that it was. Blocks.
pub(super) fn put(node: &Node, mut asked: PutSecretRequest, by: Operator) -> Result<PutSecretResponse, Status> {
    let secret = Zeroizing::new(std::mem::take(&mut asked.secret));
    // Before anything is sealed: what cannot be recorded is not done.
    let _slot = node.log.reserve().map_err(|error| failure::audit(&error))?;
    let version = node.secrets.put(&asked.name, &secret).map_err(|error| failure::authority(&error))?;
    record(node, SecretOperation::Put, asked.name, Some(version), by)?;
    Ok(PutSecretResponse { version })
}

/// Names, versions and times. Blocks.
pub(super) fn list(node: &Node) -> Result<ListSecretsResponse, Status> {
    let entries = node.secrets.list().map_err(|error| failure::authority(&error))?;
    let secrets = entries
        .into_iter()
        .map(|entry| SecretView {
            name: entry.name,
            version: entry.version,
            updated_at: Some(convert::timestamp(entry.updated_at)),
        })
        .collect();
    Ok(ListSecretsResponse { secrets })
}

/// Removes a secret and records that it was. Blocks.
pub(super) fn remove(node: &Node, name: String, by: Operator) -> Result<RemoveSecretResponse, Status> {
    let _slot = node.log.reserve().map_err(|error| failure::audit(&error))?;
    let removed = node.secrets.remove(&name).map_err(|error| failure::authority(&error))?;
    if removed {
        record(node, SecretOperation::Remove, name, None, by)?;
    }
    Ok(RemoveSecretResponse { removed })
}

fn record(
    node: &Node,
    operation: SecretOperation,
    name: String,
    version: Option<u32>,
    by: Operator,
) -> Result<(), Status> {
    let record = Record::Secret(SecretRecord { operation, name, version, by: by.into() });
    match node.log.append(&record) {
        Ok(_) => Ok(()),
        Err(error) => {
            let status = failure::audit(&error);
            tracing::error!(%error, "a change of a secret was done but could not be recorded");
            Err(Status::new(status.code(), format!("it was done, but could not be recorded: {}", status.message())))
        }
    }
}
