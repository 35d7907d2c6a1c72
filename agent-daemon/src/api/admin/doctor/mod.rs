// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Every assumption the program rests on, looked at now.
//!
//! `host` and `daemon` read and judge apart, so that every outcome can be tested without the host it is about.
//! What could not be looked at never passes.

mod daemon;
mod egress;
mod host;
mod kernel;
mod trust;

use std::time::{Duration, Instant};

use agent_proto::admin::{self, DoctorResponse};

use super::{Admin, status};
use crate::kernel::Tier;

/// Reading the audit chain goes on for so long; a whole log may take minutes.
const CHAIN_TIME: Duration = Duration::from_secs(2);

/// How one assumption stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pass,
    Warn,
    Fail,
}

/// One assumption and what was seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    id: String,
    title: String,
    outcome: Outcome,
    reason: String,
    fix: String,
    guarantee: String,
}

/// What a check is about, whatever comes of it.
#[derive(Debug, Clone, Copy)]
struct Subject {
    id: &'static str,
    title: &'static str,
    fix: &'static str,
    guarantee: &'static str,
}

/// What came of looking.
type Seen = (Outcome, String);

impl Subject {
    fn seen(self, (outcome, reason): Seen) -> Check {
        Check {
            id: self.id.to_owned(),
            title: self.title.to_owned(),
            outcome,
            reason,
            fix: self.fix.to_owned(),
            guarantee: self.guarantee.to_owned(),
        }
    }
}

impl From<Check> for admin::Check {
    fn from(check: Check) -> Self {
        let is_pass = check.outcome == Outcome::Pass;
        let outcome = match check.outcome {
            Outcome::Pass => admin::Outcome::Pass,
            Outcome::Warn => admin::Outcome::Warn,
            Outcome::Fail => admin::Outcome::Fail,
        };
        let unless_passed = |text: String| if is_pass { String::new() } else { text };
        Self {
            id: check.id,
            title: check.title,
            outcome: outcome.into(),
            reason: check.reason,
            fix: unless_passed(check.fix),
            guarantee: unless_passed(check.guarantee),
        }
    }
}

fn pass(reason: impl Into<String>) -> Seen {
    (Outcome::Pass, reason.into())
}

fn warn(reason: impl Into<String>) -> Seen {
    (Outcome::Warn, reason.into())
}

fn fail(reason: impl Into<String>) -> Seen {
    (Outcome::Fail, reason.into())
}

/// Looks at everything. Blocks for as long as [`CHAIN_TIME`] and some milliseconds.
pub(super) fn examine(admin: &Admin) -> DoctorResponse {
    let Admin { node, kernel, facts, baseline, began, .. } = admin;
    let lsms = host::lsms();
    let mut checks: Vec<Check> = kernel.assumptions().into_iter().map(kernel::assumption).collect();
    let now = kernel.prove_now();
    let earlier = kernel.proofs_at_start().into_iter().filter(|proof| now.iter().all(|again| again.id != proof.id));
    let proofs = now.iter().cloned().chain(earlier.map(kernel::tried_earlier));
    checks.extend(proofs.map(|proof| kernel::proof(proof, facts.required_tier, lsms.as_deref())));
    checks.push(kernel::losses(&status::kernel_counts(node, &**kernel), baseline));
    checks.push(kernel::capacity(&status::capacities(node, facts)));
    checks.extend(daemon::capabilities(&facts.capabilities));
    checks.push(daemon::peers(crate::attest::is_peer_pidfd_supported()));
    checks.push(daemon::audit_writable(node.log.status()));
    checks.push(daemon::audit_chain(&node.log, CHAIN_TIME));
    checks.extend(daemon::files(facts));
    checks.push(daemon::key_source(&facts.key_source));
    checks.push(daemon::core_dumps());
    let (authority, time) = (&node.authority, node.clock.now());
    checks.push(trust::tokens(authority.jwt.signer(time).map(|signer| signer.ends_at)));
    checks.extend(authority.wit.iter().map(|wit| trust::wit(wit.signer(time).map(|signer| signer.ends_at))));
    checks.push(trust::certificates(authority.x509.ends_at(time), authority.x509.origin()));
    checks.push(trust::bundles(&node.snapshot().entries, |domain| node.foreign.bundle(domain).is_some()));
    let governing = node.egress();
    let is_lsm_proved = node.identity.tiers.iter().any(|tier| tier == Tier::Lsm.as_str());
    checks.extend([
        egress::governed(&governing),
        egress::programs(&governing, is_lsm_proved),
        egress::gaps(&governing),
    ]);
    let passed = Instant::now().saturating_duration_since(began.1);
    checks.push(daemon::clock(began.0, node.clock.now(), passed));
    checks.extend(host::settings());
    DoctorResponse { checks: checks.into_iter().map(Into::into).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject { id: "a.b", title: "T", fix: "F", guarantee: "G" };

    #[test]
    fn what_passed_needs_no_fix_and_loses_nothing() {
        let passed = admin::Check::from(SUBJECT.seen(pass("fine")));
        assert_eq!(passed.outcome(), admin::Outcome::Pass);
        assert_eq!((passed.reason.as_str(), passed.fix.as_str(), passed.guarantee.as_str()), ("fine", "", ""));
        for (seen, outcome) in [(warn("odd"), admin::Outcome::Warn), (fail("bad"), admin::Outcome::Fail)] {
            let check = admin::Check::from(SUBJECT.seen(seen));
            assert_eq!(check.outcome(), outcome);
            assert_eq!((check.fix.as_str(), check.guarantee.as_str()), ("F", "G"));
        }
    }
}
