// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon itself: status, doctor, audit verification, secrets, revocation.

use agent_proto::admin;
use jiff::Timestamp;
use serde::Serialize;

use super::{each, filled, moment};

#[derive(Serialize)]
pub(crate) struct Status<'a> {
    version: &'a str,
    state: &'a str,
    degraded: &'a [String],
    trust_domain: &'a str,
    started_at: Option<Timestamp>,
    boot_id: &'a str,
    kernel_release: &'a str,
    tiers: &'a [String],
    policy_generation: &'a str,
    last_reload: Option<Timestamp>,
    last_reload_error: Option<&'a str>,
    policies: u32,
    entries: u32,
    destinations: u32,
    bindings: u32,
    capacity: Vec<Gauge<'a>>,
    counters: Vec<Counter<'a>>,
    programs: Vec<Program<'a>>,
    audit: Option<Audit<'a>>,
    resident_bytes: u64,
    endpoints: Vec<Endpoint<'a>>,
}

#[derive(Serialize)]
struct Gauge<'a> {
    name: &'a str,
    used: u64,
    limit: u64,
}

#[derive(Serialize)]
struct Counter<'a> {
    name: &'a str,
    value: u64,
}

#[derive(Serialize)]
struct Program<'a> {
    name: &'a str,
    origin: &'a str,
    run_count: u64,
    run_time_ns: u64,
    verified_instructions: u64,
}

#[derive(Serialize)]
struct Audit<'a> {
    records: u64,
    head: &'a str,
    segments: u64,
    durability: &'a str,
    failures: u64,
    writable: bool,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    name: &'a str,
    address: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Doctor<'a> {
    passed: usize,
    warned: usize,
    failed: usize,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize)]
struct Check<'a> {
    id: &'a str,
    title: &'a str,
    outcome: &'static str,
    reason: &'a str,
    fix: Option<&'a str>,
    guarantee: Option<&'a str>,
}

#[derive(Serialize)]
pub(crate) struct Verification<'a> {
    valid: bool,
    records: u64,
    segments: u64,
    checkpoints: u64,
    first_seq: u64,
    head: &'a str,
    unsigned_tail: u64,
    problem: Option<&'a str>,
    segment: Option<&'a str>,
    line: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct Revoked<'a> {
    pub(crate) lease_ids: &'a [String],
}

#[derive(Serialize)]
pub(crate) struct SecretSet<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: u32,
}

#[derive(Serialize)]
pub(crate) struct SecretRemoved<'a> {
    pub(crate) name: &'a str,
    pub(crate) removed: bool,
}

#[derive(Serialize)]
pub(crate) struct Secret<'a> {
    name: &'a str,
    version: u32,
    updated_at: Option<Timestamp>,
}

/// The word for an outcome; what is not known to have passed has failed.
pub(crate) fn outcome(value: i32) -> &'static str {
    match admin::Outcome::try_from(value) {
        Ok(admin::Outcome::Pass) => "pass",
        Ok(admin::Outcome::Warn) => "warn",
        Ok(admin::Outcome::Fail | admin::Outcome::Unspecified) | Err(_) => "fail",
    }
}

impl<'a> From<&'a admin::StatusResponse> for Status<'a> {
    fn from(status: &'a admin::StatusResponse) -> Self {
        Self {
            version: &status.version,
            state: &status.state,
            degraded: &status.degraded,
            trust_domain: &status.trust_domain,
            started_at: moment(status.started_at.as_ref()),
            boot_id: &status.boot_id,
            kernel_release: &status.kernel_release,
            tiers: &status.tiers,
            policy_generation: &status.policy_generation,
            last_reload: moment(status.last_reload.as_ref()),
            last_reload_error: filled(&status.last_reload_error),
            policies: status.policies,
            entries: status.entries,
            destinations: status.destinations,
            bindings: status.bindings,
            capacity: each(&status.capacity),
            counters: each(&status.counters),
            programs: each(&status.programs),
            audit: status.audit.as_ref().map(Audit::from),
            resident_bytes: status.resident_bytes,
            endpoints: each(&status.endpoints),
        }
    }
}

impl<'a> From<&'a admin::Gauge> for Gauge<'a> {
    fn from(gauge: &'a admin::Gauge) -> Self {
        Self { name: &gauge.name, used: gauge.used, limit: gauge.limit }
    }
}

impl<'a> From<&'a admin::Counter> for Counter<'a> {
    fn from(counter: &'a admin::Counter) -> Self {
        Self { name: &counter.name, value: counter.value }
    }
}

impl<'a> From<&'a admin::Program> for Program<'a> {
    fn from(program: &'a admin::Program) -> Self {
        Self {
            name: &program.name,
            origin: &program.origin,
            run_count: program.run_count,
            run_time_ns: program.run_time_ns,
            verified_instructions: program.verified_instructions,
        }
    }
}

impl<'a> From<&'a admin::AuditStatus> for Audit<'a> {
    fn from(audit: &'a admin::AuditStatus) -> Self {
        Self {
            records: audit.records,
            head: &audit.head,
            segments: audit.segments,
            durability: &audit.durability,
            failures: audit.failures,
            writable: audit.writable,
        }
    }
}

impl<'a> From<&'a admin::Endpoint> for Endpoint<'a> {
    fn from(endpoint: &'a admin::Endpoint) -> Self {
        Self { name: &endpoint.name, address: &endpoint.address }
    }
}

impl<'a> From<&'a admin::DoctorResponse> for Doctor<'a> {
    fn from(response: &'a admin::DoctorResponse) -> Self {
        let count = |word| response.checks.iter().filter(|check| outcome(check.outcome) == word).count();
        Self { passed: count("pass"), warned: count("warn"), failed: count("fail"), checks: each(&response.checks) }
    }
}

impl<'a> From<&'a admin::Check> for Check<'a> {
    fn from(check: &'a admin::Check) -> Self {
        Self {
            id: &check.id,
            title: &check.title,
            outcome: outcome(check.outcome),
            reason: &check.reason,
            fix: filled(&check.fix),
            guarantee: filled(&check.guarantee),
        }
    }
}

impl<'a> From<&'a admin::VerifyAuditResponse> for Verification<'a> {
    fn from(response: &'a admin::VerifyAuditResponse) -> Self {
        Self {
            valid: response.valid,
            records: response.records,
            segments: response.segments,
            checkpoints: response.checkpoints,
            first_seq: response.first_seq,
            head: &response.head,
            unsigned_tail: response.unsigned_tail,
            problem: filled(&response.problem),
            segment: filled(&response.segment),
            line: Some(response.line).filter(|line| *line != 0),
        }
    }
}

impl<'a> From<&'a admin::SecretView> for Secret<'a> {
    fn from(secret: &'a admin::SecretView) -> Self {
        Self { name: &secret.name, version: secret.version, updated_at: moment(secret.updated_at.as_ref()) }
    }
}
