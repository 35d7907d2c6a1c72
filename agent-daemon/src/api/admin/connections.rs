// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Recorded connections, who opened them, and what was released on them.

use std::collections::HashMap;

use agent_proto::admin::{ConnectionView, ConnectionsRequest, ConnectionsResponse};

use super::outlet::{Broken, Outlet};
use super::{failure, processes};
use crate::api::convert;
use crate::credential::Observed;
use crate::credential::address::declared;
use crate::node::Node;
use crate::process::{Connection, ExecId};
use crate::snapshot::Snapshot;

/// Openers remembered while a list is made; beyond this they are looked at again.
const OPENERS: usize = 4096;

/// What a row says of the opener.
#[derive(Debug, Clone, Default)]
struct Opener {
    comm: String,
    spiffe_id: String,
    is_alive: bool,
}

/// Streams what was asked for. Blocks.
pub(super) fn list(
    node: &Node,
    asked: &ConnectionsRequest,
    outlet: &Outlet<ConnectionsResponse>,
) -> Result<(), Broken> {
    let fits = |connection: &Connection| {
        asked.tgid.is_none_or(|tgid| tgid == connection.tgid)
            && asked.exec_id.is_none_or(|id| ExecId(id) == connection.exec_id)
    };
    let mut cookies = Vec::new();
    match asked.cookie {
        Some(cookie) => cookies.push(cookie),
        None => node
            .records()
            .connections(&mut |connection| {
                if fits(&connection) {
                    cookies.push(connection.cookie);
                }
            })
            .map_err(|error| failure::records(&error))?,
    }
    let snapshot = node.snapshot();
    let mut openers = HashMap::new();
    for page in cookies.chunks(processes::PAGE) {
        let mut rows = Vec::with_capacity(page.len());
        for cookie in page {
            let connection = node.records().connection(*cookie).map_err(|error| failure::records(&error))?;
            let Some(connection) = connection.filter(&fits) else { continue };
            if openers.len() >= OPENERS {
                openers.clear();
            }
            let opener =
                openers.entry(connection.exec_id).or_insert_with(|| look(node, &snapshot, &connection)).clone();
            rows.push(row(node, &snapshot, &connection, opener));
        }
        if !rows.is_empty() {
            outlet.push_blocking(ConnectionsResponse { connections: rows })?;
        }
    }
    Ok(())
}

fn row(node: &Node, snapshot: &Snapshot, connection: &Connection, opener: Opener) -> ConnectionView {
    let destinations = declared(Observed::from(connection), &snapshot.catalog, node.resolver());
    ConnectionView {
        connection: Some(convert::connection(connection)),
        comm: opener.comm,
        spiffe_id: opener.spiffe_id,
        opener_alive: opener.is_alive,
        leases: node.leases.on_connection(connection.cookie).iter().map(|lease| lease.id.to_string()).collect(),
        destinations: destinations.into_iter().map(|destination| destination.name.to_string()).collect(),
    }
}

fn look(node: &Node, snapshot: &Snapshot, connection: &Connection) -> Opener {
    let live = node.records().process(connection.tgid).ok().flatten();
    let live = live.filter(|instance| instance.id == connection.exec_id);
    if let Some(found) = live.and_then(|instance| processes::look(node, snapshot, instance)) {
        let spiffe_id = found.attested.as_ref().and_then(|attested| attested.spiffe_id());
        return Opener {
            comm: found.instance.comm.to_string(),
            spiffe_id: spiffe_id.map(ToString::to_string).unwrap_or_default(),
            is_alive: true,
        };
    }
    match node.attestor.history().ended(connection.exec_id) {
        Some(ended) => Opener {
            comm: ended.comm.into(),
            spiffe_id: ended.spiffe_id.map(String::from).unwrap_or_default(),
            is_alive: false,
        },
        None => Opener::default(),
    }
}
