// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Governed trees: whether the kernel's tables are as they should be, and what the hooks do not see.

use super::{Check, Subject, fail, pass, warn};
use crate::identity::ImageRule;
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

/// What may be executed, and how the rest is kept from it on this kernel.
pub(super) fn programs(view: &EgressView, is_lsm_proved: bool) -> Check {
    let subject = Subject {
        id: "exec.programs",
        title: "Programs of governed trees",
        fix: "correct the list (exec.programs), or make the files and their directories root's alone to write",
        guarantee: "governed trees execute the programs that are listed, and nothing else",
    };
    let ruled: Vec<&str> = view
        .trees
        .iter()
        .filter(|(_, settings)| settings.images != ImageRule::Any)
        .map(|(entry, _)| &**entry)
        .collect();
    if ruled.is_empty() {
        return subject.seen(pass("no registration entry lists programs"));
    }
    let means = if is_lsm_proved {
        "exec of others fails (LSM)"
    } else {
        "others are killed before their first instruction, because LSM programs were not seen to refuse here"
    };
    let (count, problems) = &view.programs;
    let seen = format!("{count} files may be executed below {}; {means}", ruled.join(", "));
    let problems = problems.join("; ");
    subject.seen(if problems.is_empty() { pass(seen) } else { warn(format!("{seen}; not usable: {problems}")) })
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

    #[test]
    fn what_is_listed_and_does_not_count_is_said() {
        let settings = TreeSettings { images: ImageRule::Listed, ..TreeSettings::STRICTEST };
        let view = EgressView {
            trees: vec![("launcher".into(), settings)],
            programs: (3, Vec::new()),
            ..EgressView::default()
        };
        let check = programs(&view, true);
        assert_eq!(check.outcome, Outcome::Pass);
        assert!(check.reason.contains("3 files") && check.reason.contains("LSM"), "{}", check.reason);
        assert!(programs(&view, false).reason.contains("killed before"));
        let odd = EgressView { programs: (3, vec!["launcher: /x: it is no executable file".into()]), ..view };
        assert_eq!(programs(&odd, true).outcome, Outcome::Warn);
        assert_eq!(programs(&EgressView::default(), true).outcome, Outcome::Pass);
    }
}
