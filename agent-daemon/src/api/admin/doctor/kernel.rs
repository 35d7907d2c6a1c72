// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kernel half: what it rests on, which hooks were proved, what was lost, how full it is.

use super::super::losses::{self, Baseline, Weight};
use super::super::status::is_cache;
use super::{Check, Outcome, Subject, fail, pass, warn};
use crate::kernel::{Assumption, Proof, Tier};
use crate::process::{Capacity, Count};

/// How the self-test begins to say that this host gave it nothing to try a hook with.
const UNTRIED: &str = "cannot be tried here";
/// Fuller than this many hundredths is a warning.
const FULL: u64 = 80;

pub(super) fn assumption(assumption: Assumption) -> Check {
    let Assumption { id, title, guarantee, fix, result } = assumption;
    Subject { id, title, fix, guarantee }.seen(match result {
        Ok(seen) => pass(seen),
        Err(wrong) => fail(wrong),
    })
}

/// A probe that takes rights which the daemon has given up by now is as old as the daemon, and says so.
pub(super) fn tried_earlier(proof: Proof) -> Proof {
    let when = |text: String| format!("{text} (tried when the daemon started)");
    Proof { result: proof.result.map(when).map_err(when), ..proof }
}

/// A hook or tier. What the configuration does not ask for may be missing, and that is said.
pub(super) fn proof(proof: Proof, required: Tier, lsms: Option<&str>) -> Check {
    let name = proof.id.split_once('.').map_or(proof.id, |(_, name)| name);
    let (outcome, mut reason) = match proof.result {
        Ok(seen) => (Outcome::Pass, seen),
        Err(why) if proof.tier > required => (Outcome::Warn, why),
        Err(why) if why.starts_with(UNTRIED) => (Outcome::Warn, why),
        Err(why) => (Outcome::Fail, why),
    };
    if let (Tier::Lsm, Some(lsms)) = (proof.tier, lsms) {
        reason.push_str("; active LSMs: ");
        reason.push_str(lsms);
    }
    let is_untried = reason.starts_with(UNTRIED);
    let fix = match proof.tier {
        _ if is_untried => "bring up the address on the loopback interface so that the hook can be tried",
        Tier::Observe => "restart the daemon, which attaches what is missing; if it stays so, use a supported kernel",
        Tier::Egress => "restart the daemon; if it stays so, use a supported kernel (6.1 or later)",
        Tier::Lsm => "boot a kernel with CONFIG_BPF_LSM and `bpf` in its lsm= list, or do without this tier",
    };
    Check {
        id: proof.id.to_owned(),
        title: match proof.id.starts_with("tier.") {
            true => format!("Tier {name}"),
            false => format!("Kernel hook {name}"),
        },
        outcome,
        reason,
        fix: fix.to_owned(),
        guarantee: proof.guarantee.to_owned(),
    }
}

/// What the kernel programs could not do, since they were attached.
pub(super) fn losses(counts: &[Count], baseline: &Baseline) -> Check {
    let lost: Vec<_> = counts
        .iter()
        .filter(|count| count.value > 0)
        .filter_map(|count| Some((count, losses::of(count.name)?)))
        .collect();
    let mut outcome = Outcome::Pass;
    let mut said = Vec::new();
    let mut fixes: Vec<&str> = Vec::new();
    for (count, loss) in &lost {
        let growth = baseline.growth(count);
        // A binding lost before this daemon started may be of a process that still lives, but it is no news.
        let worse = if loss.weight == Weight::Binding && growth > 0 { Outcome::Fail } else { Outcome::Warn };
        if outcome != Outcome::Fail {
            outcome = worse;
        }
        said.push(format!("{} {} ({growth} since start): {}", loss.name, count.value, loss.meaning));
        if !fixes.contains(&loss.fix) {
            fixes.push(loss.fix);
        }
    }
    Check {
        id: "kernel.losses".to_owned(),
        title: "Losses counted by the kernel programs".to_owned(),
        outcome,
        reason: if said.is_empty() { "none".to_owned() } else { said.join("; ") },
        fix: fixes.join("; "),
        guarantee: "every process and connection has a record".to_owned(),
    }
}

/// Whether anything bounded is about to be full.
pub(super) fn capacity(capacities: &[Capacity]) -> Check {
    let subject = Subject {
        id: "node.capacity",
        title: "Room in maps and tables",
        fix: "raise the bound in the configuration and restart the daemon",
        guarantee: "new processes, connections and leases find room",
    };
    let bounded = || capacities.iter().filter(|capacity| !is_cache(capacity.name));
    let tight: Vec<String> = bounded()
        .filter(|capacity| capacity.used.saturating_mul(100) >= capacity.limit.saturating_mul(FULL))
        .map(|capacity| format!("{} {} of {}", capacity.name, capacity.used, capacity.limit))
        .collect();
    let is_full = bounded().any(|capacity| capacity.used >= capacity.limit);
    subject.seen(match tight.is_empty() {
        true => pass(format!("all of {} are less than {FULL} % full", bounded().count())),
        false if is_full => fail(tight.join(", ")),
        false => warn(tight.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(tier: Tier, result: Result<&str, &str>) -> Proof {
        let id = if tier == Tier::Observe { "hook.connect6" } else { "tier.lsm" };
        let result = result.map(str::to_owned).map_err(str::to_owned);
        Proof { id, tier, guarantee: "g", result }
    }

    #[test]
    fn a_hook_that_was_not_proved_fails_unless_nobody_asked_for_it() {
        for (tier, required, result, expected) in [
            (Tier::Observe, Tier::Observe, Ok("seen"), Outcome::Pass),
            (Tier::Observe, Tier::Observe, Err("no record"), Outcome::Fail),
            (Tier::Observe, Tier::Lsm, Err("no record"), Outcome::Fail),
            (Tier::Egress, Tier::Observe, Err("refused"), Outcome::Warn),
            (Tier::Egress, Tier::Egress, Err("refused"), Outcome::Fail),
            (Tier::Lsm, Tier::Egress, Err("this kernel refuses LSM programs: EPERM"), Outcome::Warn),
            (Tier::Lsm, Tier::Lsm, Err("this kernel refuses LSM programs: EPERM"), Outcome::Fail),
            (Tier::Observe, Tier::Egress, Err("cannot be tried here: [::1]:0 cannot be bound"), Outcome::Warn),
        ] {
            let check = proof(tried(tier, result), required, None);
            assert_eq!(check.outcome, expected, "{tier:?} {required:?} {result:?}");
            assert_eq!(check.guarantee, "g");
        }
    }

    #[test]
    fn the_truth_about_lsm_is_told_with_the_list() {
        let proved = tried(Tier::Lsm, Err("this kernel refuses LSM programs: EPERM"));
        let check = proof(proved, Tier::Egress, Some("capability,yama"));
        assert_eq!(check.reason, "this kernel refuses LSM programs: EPERM; active LSMs: capability,yama");
        assert_eq!((check.id.as_str(), check.title.as_str()), ("tier.lsm", "Tier lsm"));
    }

    #[test]
    fn a_lost_binding_fails_and_a_lost_event_warns() {
        let count = |name, value| Count { name, value };
        let old = Baseline::new(&[count("processes_full", 3)]);
        for (counts, expected) in [
            (vec![count("processes_full", 0), count("decisions_denied", 9)], Outcome::Pass),
            (vec![count("events_dropped", 4)], Outcome::Warn),
            (vec![count("processes_full", 3)], Outcome::Warn),
            (vec![count("processes_full", 4)], Outcome::Fail),
            (vec![count("connect_read_failed", 1), count("events_dropped", 4)], Outcome::Fail),
        ] {
            let check = losses(&counts, &old);
            assert_eq!(check.outcome, expected, "{counts:?}");
            assert_eq!(check.fix.is_empty(), expected == Outcome::Pass);
        }
    }

    #[test]
    fn what_is_nearly_full_warns_and_what_is_full_fails() {
        let of = |name, used| Capacity { name, used, limit: 100 };
        for (capacities, expected) in [
            (vec![of("processes", 79)], Outcome::Pass),
            (vec![of("processes", 80)], Outcome::Warn),
            (vec![of("processes", 80), of("leases", 100)], Outcome::Fail),
            (vec![of("measurements", 100)], Outcome::Pass),
        ] {
            assert_eq!(capacity(&capacities).outcome, expected, "{capacities:?}");
        }
    }

    #[test]
    fn an_assumption_that_does_not_hold_fails() {
        let look =
            |result| assumption(Assumption { id: "kernel.btf", title: "t", guarantee: "g", fix: "f", result }).outcome;
        assert_eq!(look(Ok("there".to_owned())), Outcome::Pass);
        assert_eq!(look(Err("not there".to_owned())), Outcome::Fail);
    }
}
