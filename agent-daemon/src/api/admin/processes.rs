// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Live exec instances with their identities and why.

use std::sync::Arc;

use agent_ebpf::flags;
use agent_proto::admin::{Process, ProcessesRequest, ProcessesResponse};
use agent_proto::v1;

use super::outlet::{Broken, Outlet};
use super::{failure, view};
use crate::api::convert;
use crate::attest::{Attested, Failure};
use crate::node::Node;
use crate::process::{self, ExecId, ExecInstance};
use crate::snapshot::Snapshot;

/// Rows of a message.
pub(super) const PAGE: usize = 512;
/// A message is sent when it has grown to about this, so that none outgrows what a client takes.
pub(super) const PAGE_BYTES: usize = 1024 * 1024;

/// Streams what was asked for. Blocks.
pub(super) fn list(node: &Node, asked: &ProcessesRequest, outlet: &Outlet<ProcessesResponse>) -> Result<(), Broken> {
    let snapshot = node.snapshot();
    let exec_id = asked.exec_id.map(ExecId);
    // Only numbers are kept of the walk: a record is read again for its row, and costs memory only for so long.
    let mut tgids = Vec::new();
    match asked.tgid {
        Some(tgid) => tgids.push(tgid),
        None => node
            .records()
            .processes(&mut |instance| {
                if exec_id.is_none_or(|id| id == instance.id) {
                    tgids.push(instance.process.tgid);
                }
            })
            .map_err(|error| failure::records(&error))?,
    }
    let is_one = asked.tgid.is_some() || exec_id.is_some();
    let mut page = ProcessesResponse::default();
    let mut bytes: usize = 0;
    for tgid in tgids {
        let instance = match node.records().process(tgid) {
            Ok(Some(instance)) if exec_id.is_none_or(|id| id == instance.id) => instance,
            Ok(_) => continue,
            // One record out of many; whoever asked for it hears why.
            Err(process::Error::Unstable { .. }) if !is_one => continue,
            Err(error) => return Err(failure::records(&error).into()),
        };
        let Some(found) = look(node, &snapshot, instance) else { continue };
        if asked.identified && found.attested.as_ref().is_none_or(|attested| attested.entries.is_empty()) {
            continue;
        }
        let near_misses = if is_one { 3 } else { 1 };
        let process = found.row(node, &snapshot, near_misses);
        bytes = bytes.saturating_add(weight(&process));
        page.processes.push(process);
        if page.processes.len() >= PAGE || bytes >= PAGE_BYTES {
            outlet.push_blocking(std::mem::take(&mut page))?;
            bytes = 0;
        }
    }
    if page.processes.is_empty() { Ok(()) } else { outlet.push_blocking(page) }
}

/// The exec instance now running in a process, or the one of an id. The latter takes a walk. Blocks.
pub(super) fn find(node: &Node, wanted: Wanted) -> Result<Option<ExecInstance>, process::Error> {
    match wanted {
        Wanted::Tgid(tgid) => node.records().process(tgid),
        Wanted::Exec(id) => {
            let mut found = None;
            node.records().processes(&mut |instance| {
                if instance.id == id {
                    found = Some(instance);
                }
            })?;
            Ok(found)
        }
    }
}

/// One process, named by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Whatever runs in it.
    Tgid(u32),
    /// Only this exec instance.
    Exec(ExecId),
}

/// A live exec instance, with its evidence where that can be had.
pub(super) struct Found {
    pub(super) instance: ExecInstance,
    pub(super) attested: Option<Arc<Attested>>,
}

/// Collects evidence on this thread, so that listing thousands takes no place from callers who wait for theirs.
/// None when the exec instance has ended.
pub(super) fn look(node: &Node, snapshot: &Snapshot, instance: ExecInstance) -> Option<Found> {
    if instance.flags.has(flags::KERNEL_THREAD | flags::INCOMPLETE) {
        return Some(Found { instance, attested: None });
    }
    let ids = node.attestor.effective_ids(instance.process.tgid).ok();
    let known = ids.and_then(|ids| node.attestor.known(instance.id, snapshot.number, instance.session_id, ids));
    let attested = match known {
        Some(known) => Some(known),
        None => match node.attestor.attest_blocking(snapshot, instance.clone(), None) {
            Ok(attested) => Some(attested),
            // It is listed all the same while the kernel says that it lives.
            Err(Failure::OriginatorGone(_)) => {
                let current = node.records().current(instance.process.tgid).ok().flatten();
                current.filter(|current| current.id == instance.id)?;
                None
            }
            Err(_) => None,
        },
    };
    Some(Found { instance, attested })
}

impl Found {
    fn row(&self, node: &Node, snapshot: &Snapshot, near_misses: usize) -> Process {
        match &self.attested {
            Some(attested) => {
                let mut process = of_attested(node, attested);
                if attested.entries.is_empty() {
                    let near = snapshot.entries.near_misses(&attested.facts, near_misses);
                    process.near_misses = near.into_iter().map(view::near_miss).collect();
                }
                process
            }
            None => {
                let lineage = node.attestor.lineage(snapshot, &self.instance);
                let instance = v1::ExecInstance {
                    lineage: lineage.entries.iter().map(convert::ancestor).collect(),
                    ..convert::recorded(&self.instance)
                };
                of_record(node, &self.instance, instance)
            }
        }
    }
}

/// A row with everything but near misses.
pub(super) fn of_attested(node: &Node, attested: &Attested) -> Process {
    let evidence = &attested.evidence;
    let row = of_record(node, &evidence.instance, convert::exec_instance(attested));
    Process {
        path: evidence.exe.as_ref().map_or(row.path, |exe| exe.path.clone()),
        script: evidence.script.as_ref().map(|script| script.path.clone()).unwrap_or_default(),
        uid: evidence.uid,
        gid: evidence.gid,
        entry_id: attested.entries.first().map(|entry| entry.id.to_string()).unwrap_or_default(),
        ..row
    }
}

fn of_record(node: &Node, record: &ExecInstance, instance: v1::ExecInstance) -> Process {
    Process {
        instance: Some(instance),
        parent_tgid: record.parent_tgid,
        path: record.filename_lossy(),
        script: String::new(),
        uid: record.euid,
        gid: record.egid,
        cgroup_id: record.cgroup_id,
        session_id: record.session_id.map(|id| id.to_string()).unwrap_or_default(),
        flags: record.flags.names().map(str::to_owned).collect(),
        entry_id: String::new(),
        near_misses: Vec::new(),
        leases: view::count(node.leases.of_exec(record.id).len()),
        ktime_ns: record.began.0,
    }
}

/// About how many bytes a row takes; what a process can make long is counted.
fn weight(process: &Process) -> usize {
    let instance = process.instance.iter();
    let texts = instance.flat_map(|instance| {
        let selectors = instance.selectors.iter().map(|selector| selector.value.len().saturating_add(8));
        let lineage = instance
            .lineage
            .iter()
            .map(|ancestor| ancestor.path.len().saturating_add(ancestor.spiffe_id.len()).saturating_add(64));
        let ids = instance.spiffe_ids.iter().map(String::len);
        selectors.chain(lineage).chain(ids)
    });
    let misses = process
        .near_misses
        .iter()
        .flat_map(|miss| &miss.differences)
        .map(|difference| difference.expected.len().saturating_add(difference.actual.len()).saturating_add(128));
    texts.chain(misses).chain([process.path.len(), process.script.len(), 256]).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_weighs_at_least_what_a_process_can_make_long() {
        let long = "x".repeat(4096);
        let instance = v1::ExecInstance {
            selectors: vec![v1::Selector { value: long.clone(), provenance: 1 }; 3],
            lineage: vec![v1::Ancestor { path: long.clone(), spiffe_id: long.clone(), ..Default::default() }; 16],
            ..Default::default()
        };
        let process = Process { instance: Some(instance), path: long.clone(), script: long, ..Default::default() };
        assert!(weight(&process) >= 4096 * (3 + 32 + 2));
        assert!(weight(&Process::default()) > 0, "rows without texts fill a page too");
    }
}
