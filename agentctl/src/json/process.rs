// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Exec instances and their connections.

use agent_proto::{admin, v1};
use serde::Serialize;

use super::{Big, each, filled};
use crate::id::ExecId;

#[derive(Serialize)]
pub(crate) struct Process<'a> {
    tgid: u32,
    exec_id: ExecId,
    start_boottime_ns: Big,
    ktime_ns: Big,
    parent_tgid: u32,
    comm: &'a str,
    path: &'a str,
    script: Option<&'a str>,
    uid: u32,
    gid: u32,
    cgroup_id: Big,
    session_id: Option<&'a str>,
    seeded: bool,
    flags: &'a [String],
    spiffe_ids: &'a [String],
    entry_id: Option<&'a str>,
    near_misses: Vec<NearMiss<'a>>,
    leases: u32,
    selectors: Vec<Selector<'a>>,
    lineage: Vec<Ancestor<'a>>,
    lineage_truncated: bool,
}

#[derive(Serialize)]
struct Selector<'a> {
    value: &'a str,
    provenance: &'static str,
}

#[derive(Serialize)]
struct Ancestor<'a> {
    exec_id: ExecId,
    tgid: Option<u32>,
    alive: bool,
    comm: &'a str,
    path: &'a str,
    spiffe_id: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct NearMiss<'a> {
    entry_id: &'a str,
    spiffe_id: &'a str,
    differences: Vec<Difference<'a>>,
}

#[derive(Serialize)]
struct Difference<'a> {
    expected: &'a str,
    actual: Option<&'a str>,
    note: Option<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct Connection<'a> {
    cookie: Big,
    exec_id: ExecId,
    tgid: u32,
    protocol: &'a str,
    remote_address: &'a str,
    remote_port: u32,
    local_address: Option<&'a str>,
    local_port: Option<u32>,
    ktime_ns: Big,
    uid: u32,
    gid: u32,
    hook: &'a str,
}

#[derive(Serialize)]
pub(crate) struct ConnectionView<'a> {
    #[serde(flatten)]
    connection: Option<Connection<'a>>,
    comm: &'a str,
    spiffe_id: Option<&'a str>,
    opener_alive: bool,
    leases: &'a [String],
    destinations: &'a [String],
}

/// The word for where a fact comes from.
pub(crate) fn provenance(value: i32) -> &'static str {
    match v1::Provenance::try_from(value) {
        Ok(v1::Provenance::Kernel) => "kernel",
        Ok(v1::Provenance::Measured) => "measured",
        Ok(v1::Provenance::Orchestrator) => "orchestrator",
        Ok(v1::Provenance::Claimed) => "claimed",
        Ok(v1::Provenance::Unspecified) | Err(_) => "unknown",
    }
}

impl<'a> Process<'a> {
    /// A process is nothing without its exec instance.
    pub(crate) fn of(process: &'a admin::Process) -> Option<Self> {
        let instance = process.instance.as_ref()?;
        Some(Self {
            tgid: instance.tgid,
            exec_id: ExecId(instance.exec_id),
            start_boottime_ns: Big(instance.start_boottime_ns),
            ktime_ns: Big(process.ktime_ns),
            parent_tgid: process.parent_tgid,
            comm: &instance.comm,
            path: &process.path,
            script: filled(&process.script),
            uid: process.uid,
            gid: process.gid,
            cgroup_id: Big(process.cgroup_id),
            session_id: filled(&process.session_id),
            seeded: instance.seeded,
            flags: &process.flags,
            spiffe_ids: &instance.spiffe_ids,
            entry_id: filled(&process.entry_id),
            near_misses: each(&process.near_misses),
            leases: process.leases,
            selectors: each(&instance.selectors),
            lineage: each(&instance.lineage),
            lineage_truncated: instance.lineage_truncated,
        })
    }
}

impl<'a> From<&'a v1::Selector> for Selector<'a> {
    fn from(selector: &'a v1::Selector) -> Self {
        Self { value: &selector.value, provenance: provenance(selector.provenance) }
    }
}

impl<'a> From<&'a v1::Ancestor> for Ancestor<'a> {
    fn from(ancestor: &'a v1::Ancestor) -> Self {
        Self {
            exec_id: ExecId(ancestor.exec_id),
            tgid: Some(ancestor.tgid).filter(|tgid| *tgid != 0),
            alive: ancestor.alive,
            comm: &ancestor.comm,
            path: &ancestor.path,
            spiffe_id: filled(&ancestor.spiffe_id),
        }
    }
}

impl<'a> From<&'a admin::NearMiss> for NearMiss<'a> {
    fn from(miss: &'a admin::NearMiss) -> Self {
        Self { entry_id: &miss.entry_id, spiffe_id: &miss.spiffe_id, differences: each(&miss.differences) }
    }
}

impl<'a> From<&'a admin::Difference> for Difference<'a> {
    fn from(difference: &'a admin::Difference) -> Self {
        Self { expected: &difference.expected, actual: filled(&difference.actual), note: filled(&difference.note) }
    }
}

impl<'a> From<&'a v1::Connection> for Connection<'a> {
    fn from(connection: &'a v1::Connection) -> Self {
        let known = !connection.local_address.is_empty();
        Self {
            cookie: Big(connection.cookie),
            exec_id: ExecId(connection.exec_id),
            tgid: connection.tgid,
            protocol: &connection.protocol,
            remote_address: &connection.remote_address,
            remote_port: connection.remote_port,
            local_address: known.then_some(&connection.local_address),
            local_port: known.then_some(connection.local_port),
            ktime_ns: Big(connection.ktime_ns),
            uid: connection.uid,
            gid: connection.gid,
            hook: &connection.hook,
        }
    }
}

impl<'a> From<&'a admin::ConnectionView> for ConnectionView<'a> {
    fn from(view: &'a admin::ConnectionView) -> Self {
        Self {
            connection: view.connection.as_ref().map(Connection::from),
            comm: &view.comm,
            spiffe_id: filled(&view.spiffe_id),
            opener_alive: view.opener_alive,
            leases: &view.leases,
            destinations: &view.destinations,
        }
    }
}
