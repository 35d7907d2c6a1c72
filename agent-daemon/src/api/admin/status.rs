// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How the daemon is.

use agent_proto::admin::{AuditStatus, Counter, Endpoint, Gauge, Program, StatusResponse};

use super::facts::{AdminFacts, ServingState};
use super::losses::{Baseline, REJECTED};
use super::view;
use crate::api::convert;
use crate::audit;
use crate::kernel::{KernelView, ProgramView};
use crate::node::Node;
use crate::process::{Capacity, Count};

/// Everything at once; walks the kernel's maps to count them. Blocks.
pub(super) fn status(node: &Node, kernel: &dyn KernelView, facts: &AdminFacts, baseline: &Baseline) -> StatusResponse {
    let snapshot = node.snapshot();
    let counts = kernel_counts(node, kernel);
    let log = node.log.status();
    let (last_reload, last_reload_error) = node.last_reload();
    let degraded = degraded(&log, last_reload_error.as_deref(), baseline.lost_bindings(&counts));
    let state = *facts.state.borrow();
    let identity = &node.identity;
    let counters = counts.into_iter().chain(node.counts());
    StatusResponse {
        version: facts.version.clone(),
        state: word(state, &degraded).to_owned(),
        degraded,
        trust_domain: identity.trust_domain.to_string(),
        started_at: Some(convert::timestamp(identity.started_at)),
        boot_id: identity.boot_id.clone(),
        kernel_release: identity.kernel_release.clone(),
        tiers: identity.tiers.clone(),
        policy_generation: snapshot.policies.generation().to_string(),
        last_reload: Some(convert::timestamp(last_reload)),
        last_reload_error: last_reload_error.unwrap_or_default(),
        policies: view::count(snapshot.policies.len()),
        entries: view::count(snapshot.entries.len()),
        destinations: view::count(snapshot.catalog.destinations().len()),
        bindings: view::count(snapshot.catalog.bindings().len()),
        capacity: capacities(node, facts).into_iter().map(gauge).collect(),
        counters: counters.map(|count| Counter { name: count.name.to_owned(), value: count.value }).collect(),
        programs: kernel.programs().into_iter().map(program).collect(),
        audit: log.ok().map(|log| AuditStatus {
            records: log.records,
            head: log.head,
            segments: log.segments,
            durability: log.durability.as_str().to_owned(),
            failures: log.failures,
            writable: log.writable,
        }),
        resident_bytes: resident_bytes().unwrap_or_default(),
        endpoints: facts
            .endpoints
            .iter()
            .map(|(name, address)| Endpoint { name: name.clone(), address: address.clone() })
            .collect(),
    }
}

/// The losses that the kernel half and its reader counted.
pub(super) fn kernel_counts(node: &Node, kernel: &dyn KernelView) -> Vec<Count> {
    let mut counts = node.records().counts();
    counts.push(Count { name: REJECTED, value: kernel.rejected_events() });
    counts
}

/// Everything bounded.
pub(super) fn capacities(node: &Node, facts: &AdminFacts) -> Vec<Capacity> {
    let held = |name, used: usize, limit: usize| Capacity {
        name,
        used: u64::try_from(used).unwrap_or(u64::MAX),
        limit: u64::try_from(limit).unwrap_or(u64::MAX),
    };
    let [(attested, attested_limit), (measured, measured_limit)] = node.attestor.usage();
    let (approvals, approvals_limit) = node.approvals().usage();
    let history = node.attestor.history();
    let mut capacities = node.records().capacities();
    let egress = node.egress();
    let limit = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
    capacities.extend([
        held("governing", egress.trees.len(), limit(agent_ebpf::tree::LOST)),
        held("egress_addresses", egress.counts.places, limit(agent_ebpf::limits::ADDRESSES)),
        held("egress_groups", egress.counts.groups, limit(agent_ebpf::limits::GROUPS)),
        held("egress_classes", egress.counts.classes, limit(agent_ebpf::limits::CLASSES)),
        held("leases", node.leases.len(), node.leases.limits().total),
        held("sessions", node.sessions().len(), node.sessions().limits().total),
        held("steps", node.steps().len(), node.steps().limits().total),
        held("approvals", approvals, approvals_limit),
        held("attested", attested, attested_limit),
        held("measurements", measured, measured_limit),
        held("history", history.len(), history.limit()),
    ]);
    capacities.extend(facts.sockets.capacities());
    capacities
}

/// Those of [`capacities`] that forget the oldest when they are full: full is how they are meant to be.
pub(super) fn is_cache(name: &str) -> bool {
    matches!(name, "attested" | "measurements" | "history")
}

fn word(state: ServingState, degraded: &[String]) -> &'static str {
    match state {
        ServingState::Serving if !degraded.is_empty() => "degraded",
        state => state.as_str(),
    }
}

fn degraded(log: &Result<audit::Status, audit::Error>, reload_error: Option<&str>, lost: Vec<String>) -> Vec<String> {
    let mut reasons = Vec::new();
    match log {
        Ok(status) if status.writable => {}
        Ok(_) => reasons.push("the audit log cannot be written, so nothing is released".to_owned()),
        Err(error) => reasons.push(format!("the audit log is not usable, so nothing is released: {error}")),
    }
    if let Some(error) = reload_error {
        reasons.push(format!("the last reload was refused, what was loaded before stays in force: {error}"));
    }
    reasons.extend(lost);
    reasons
}

fn gauge(capacity: Capacity) -> Gauge {
    Gauge { name: capacity.name.to_owned(), used: capacity.used, limit: capacity.limit }
}

fn program(program: ProgramView) -> Program {
    Program {
        name: program.name,
        origin: if program.is_adopted { "adopted" } else { "attached" }.to_owned(),
        run_count: program.run_count,
        run_time_ns: program.run_time_ns,
        verified_instructions: program.verified_instructions,
    }
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    resident_pages(&statm)?.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

/// The second number of `statm` (`proc_pid_statm(5)`).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Durability;

    fn log(writable: bool) -> Result<audit::Status, audit::Error> {
        Ok(audit::Status {
            records: 1,
            head: String::new(),
            segments: 1,
            failures: 0,
            writable,
            durability: Durability::Written,
        })
    }

    #[test]
    fn only_a_whole_daemon_is_serving() {
        let lost = vec!["processes have no record".to_owned()];
        for (log, reload, lost, state, expected) in [
            (log(true), None, Vec::new(), ServingState::Serving, "serving"),
            (log(false), None, Vec::new(), ServingState::Serving, "degraded"),
            (Err(audit::Error::Poisoned), None, Vec::new(), ServingState::Serving, "degraded"),
            (log(true), Some("p.cedar:1:1: error"), Vec::new(), ServingState::Serving, "degraded"),
            (log(true), None, lost.clone(), ServingState::Serving, "degraded"),
            (log(false), None, Vec::new(), ServingState::Starting, "starting"),
            (log(true), None, lost, ServingState::Stopping, "stopping"),
        ] {
            assert_eq!(word(state, &degraded(&log, reload, lost)), expected);
        }
    }

    #[test]
    fn resident_memory_is_the_second_number() {
        for (text, expected) in [("100 42 7 1 0 30 0\n", Some(42)), ("100", None), ("", None), ("1 x", None)] {
            assert_eq!(resident_pages(text), expected, "{text:?}");
        }
        assert!(resident_bytes().unwrap() > 0);
    }
}
