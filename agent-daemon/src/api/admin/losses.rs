// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What each of the kernel programs' counters means for the people who run the node.

use std::collections::HashMap;

use crate::process::Count;

/// How much a loss matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Something came later or says less than it could; no answer was wrong or refused.
    Late,
    /// Somebody has no record and is refused for it.
    Binding,
}

/// A counter and what it counts.
#[derive(Debug)]
pub(super) struct Loss {
    /// Of the counter.
    pub(super) name: &'static str,
    /// How much it matters.
    pub(super) weight: Weight,
    /// One sentence without a period.
    pub(super) meaning: &'static str,
    /// What to do.
    pub(super) fix: &'static str,
}

const LARGER: &str = "raise the bound in the configuration and restart the daemon";
const RESTART: &str = "restart the processes concerned; if it goes on, report it with the kernel's version";

macro_rules! losses {
    ($($name:literal $weight:ident $meaning:literal $fix:expr,)*) => {
        /// Every counter of the kernel programs, and the decoder's own.
        pub(super) const LOSSES: &[Loss] = &[
            $(Loss { name: $name, weight: Weight::$weight, meaning: $meaning, fix: $fix },)*
        ];
    };
}

losses! {
    "events_dropped" Late "live views missed events and some ends were noticed late; no answer was affected" LARGER,
    "processes_full" Binding "processes have no record and get nothing" LARGER,
    "ended_full" Binding "ancestors in sessions are forgotten, and what they started gets nothing there" RESTART,
    "connections_full" Binding "sockets have no record, so nothing is released on them" LARGER,
    "tuples_full" Binding "connections cannot be named by their addresses" LARGER,
    "fork_parent_missing" Late "processes were forked by a parent without a record; their lineage is cut" RESTART,
    "exec_record_missing" Late "processes without a record exec'd; their new record is incomplete and gets nothing" RESTART,
    "exec_read_failed" Binding "program images have an incomplete record and get nothing" RESTART,
    "fork_read_failed" Binding "forked processes have an incomplete record and get nothing" RESTART,
    "connect_record_missing" Late "processes without a record connected; nothing is released on those sockets" RESTART,
    "connect_read_failed" Binding "connections have no record, so nothing is released on them" RESTART,
    "exit_read_failed" Late "ends of processes were found by the sweep instead of at once" RESTART,
    "state_read_failed" Late "connections are known without their local address" RESTART,
    "governed_lost" Binding "processes of governed trees have no record; until the kernel half is set up anew nobody without one connects" LARGER,
    "events_rejected" Late "events could not be decoded; live views missed them" RESTART,
}

/// The name of the decoder's counter, which is not among the kernel's.
pub(super) const REJECTED: &str = "events_rejected";

/// What a counter means; none for those that count no loss.
pub(super) fn of(name: &str) -> Option<&'static Loss> {
    LOSSES.iter().find(|loss| loss.name == name)
}

/// The counters as they were when this daemon started: the programs are older than it, and so are their losses.
#[derive(Debug, Default)]
pub(super) struct Baseline(HashMap<&'static str, u64>);

impl Baseline {
    pub(super) fn new(counts: &[Count]) -> Self {
        Self(counts.iter().map(|count| (count.name, count.value)).collect())
    }

    /// How much a counter has grown since.
    pub(super) fn growth(&self, count: &Count) -> u64 {
        count.value.saturating_sub(self.0.get(count.name).copied().unwrap_or_default())
    }

    /// The bindings lost since, one sentence each.
    pub(super) fn lost_bindings(&self, counts: &[Count]) -> Vec<String> {
        let lost = |count: &Count| {
            let loss = of(count.name).filter(|loss| loss.weight == Weight::Binding)?;
            let growth = self.growth(count);
            (growth > 0).then(|| format!("{} ({} {growth} times since start)", loss.meaning, loss.name))
        };
        counts.iter().filter_map(lost).collect()
    }
}

#[cfg(test)]
mod tests {
    use agent_ebpf::Counter;

    use super::*;

    #[test]
    fn every_counter_of_the_kernel_programs_has_a_meaning() {
        for counter in Counter::ALL {
            let is_work = matches!(
                counter,
                Counter::EgressRefused | Counter::EgressAudited | Counter::ImagesRefused | Counter::ImagesAudited
            );
            assert_eq!(of(counter.name()).is_none(), is_work, "{}", counter.name());
        }
        assert!(of(REJECTED).is_some());
        assert!(of("decisions_allowed").is_none());
    }

    #[test]
    fn only_bindings_lost_since_start_count() {
        let count = |name, value| Count { name, value };
        let baseline = Baseline::new(&[count("processes_full", 5), count("events_dropped", 0)]);
        assert!(baseline.lost_bindings(&[count("processes_full", 5), count("events_dropped", 9)]).is_empty());
        let lost = baseline.lost_bindings(&[count("processes_full", 7), count("connect_read_failed", 1)]);
        assert_eq!(lost.len(), 2);
        assert!(lost[0].contains("processes_full 2 times"), "{lost:?}");
    }
}
