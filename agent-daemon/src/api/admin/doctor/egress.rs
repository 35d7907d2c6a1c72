// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Governed trees: whether the kernel's tables are as they should be, and what the hooks do not see.

use super::{Check, Subject, fail, pass, warn};
use crate::node::EgressView;

/// Ways out that no hook of this version refuses, as `docs/hook-coverage.md` has them.
const GAPS: &str = "not refused by any hook: packet sockets (they need CAP_NET_RAW), sockets that were passed in or \
                    inherited already connected, source routes, AF_UNIX, AF_VSOCK, and families in which the kernel sends \
                    (AF_RXRPC, AF_RDS)";

pub(super) fn governed(view: &EgressView) -> Check {
    let subject = Subject {
        id: "egress.tables",
        title: "Governed trees",
        fix: "look at what is said; declare fewer destinations, or raise kernel.max_processes, and reload",
        guarantee: "governed programs reach what policy permits, and nothing else",
    };
    let counts = &view.counts;
    if let Some(problem) = &view.problem {
        return subject.seen(fail(format!("the tables are not up to date: {problem}")));
    }
    if view.is_anybody_lost {
        let lost = "a process of a governed tree found no room for its record; until the kernel half is set up anew nobody \
                    without a record connects";
        return subject.seen(fail(lost));
    }
    if view.trees.is_empty() {
        return subject.seen(pass("no registration entry governs"));
    }
    let mut odd = Vec::new();
    if counts.left_out > 0 {
        odd.push(format!(
            "{} addresses of names found no room, so only what is declared around them counts there",
            counts.left_out
        ));
    }
    if counts.unclassed > 0 {
        odd.push(format!("{} programs found no room for their class, so they reach nothing", counts.unclassed));
    }
    if counts.unusable > 0 {
        let what = "addresses of names mean this machine or a link and are declared by no range, so they are not used";
        odd.push(format!("{} {what}", counts.unusable));
    }
    let names: Vec<String> = view
        .trees
        .iter()
        .map(|(entry, settings)| format!("{entry} ({})", if settings.is_audit { "audit" } else { "enforce" }))
        .collect();
    let seen = format!(
        "governed by {}: {} addresses in {} groups, {} classes",
        names.join(", "),
        counts.places,
        counts.groups,
        counts.classes
    );
    subject.seen(if odd.is_empty() { pass(seen) } else { warn(format!("{seen}; {}", odd.join("; "))) })
}

/// Said wherever something is governed: what is not covered is printed, never passed over.
pub(super) fn gaps(view: &EgressView) -> Check {
    let subject = Subject {
        id: "egress.gaps",
        title: "Ways out that are not covered",
        fix: "start governed programs without CAP_NET_RAW and without connected sockets of others",
        guarantee: "nothing governed leaves by a way that the hooks do not see",
    };
    subject.seen(if view.trees.is_empty() { pass("nothing is governed") } else { warn(GAPS) })
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use crate::egress::Counts;
    use crate::identity::TreeSettings;

    #[test]
    fn what_is_not_as_it_should_be_is_said() {
        let nothing = EgressView::default();
        assert_eq!((governed(&nothing).outcome, gaps(&nothing).outcome), (Outcome::Pass, Outcome::Pass));
        let trees = vec![("launcher".into(), TreeSettings::STRICTEST)];
        let whole = EgressView { trees, ..nothing };
        let check = governed(&whole);
        assert_eq!(check.outcome, Outcome::Pass);
        assert!(check.reason.contains("launcher (enforce)"), "{}", check.reason);
        assert_eq!(gaps(&whole).outcome, Outcome::Warn);
        let full = EgressView { counts: Counts { left_out: 3, unclassed: 1, ..Counts::default() }, ..whole.clone() };
        let check = governed(&full);
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(check.reason.contains("3 addresses") && check.reason.contains("1 programs"), "{}", check.reason);
        for bad in [
            EgressView { problem: Some("the map is full".into()), ..whole.clone() },
            EgressView { is_anybody_lost: true, ..whole },
        ] {
            assert_eq!(governed(&bad).outcome, Outcome::Fail);
        }
    }
}
