// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tree of exec instances, by lineage. The list it is grown from is no snapshot: processes come and go while it
//! is read, so parents may be missing, named twice, or even form a circle; every process is drawn exactly once.

use std::collections::HashMap;

use agent_proto::admin::Process;

/// One process with the lines that lead to it.
#[derive(Debug)]
pub(crate) struct Branch<'a> {
    pub(crate) process: &'a Process,
    pub(crate) prefix: String,
}

/// Deeper nesting is drawn no further to the right.
const MAX_DRAWN_DEPTH: usize = 32;

/// Every process once, parents before their children, siblings by pid.
pub(crate) fn grow(processes: &[Process]) -> Vec<Branch<'_>> {
    let keys: Vec<(u32, u64)> = processes.iter().map(key).collect();
    let by_exec: HashMap<u64, usize> = keys.iter().enumerate().map(|(at, (_, exec_id))| (*exec_id, at)).collect();
    let by_tgid: HashMap<u32, usize> = keys.iter().enumerate().map(|(at, (tgid, _))| (*tgid, at)).collect();
    let mut order: Vec<usize> = (0..processes.len()).collect();
    order.sort_by_key(|at| keys.get(*at));

    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for at in order.iter().copied() {
        let parent = processes.get(at).and_then(|process| parent(process, &by_exec, &by_tgid)).filter(|up| *up != at);
        match parent {
            Some(parent) => children.entry(parent).or_default().push(at),
            None => roots.push(at),
        }
    }

    let mut drawn = vec![false; processes.len()];
    let mut branches = Vec::with_capacity(processes.len());
    // After the roots, all: those in a circle have not been reached.
    for root in roots.into_iter().chain(order) {
        draw(root, processes, &children, &mut drawn, &mut branches);
    }
    branches
}

fn key(process: &Process) -> (u32, u64) {
    process.instance.as_ref().map(|instance| (instance.tgid, instance.exec_id)).unwrap_or_default()
}

/// The nearest ancestor that still runs. Lineage is what the kernel programs saw and outlives a dead parent; an
/// ancestor that has exec'd since is still the same process, so its pid is as good while it is our parent.
fn parent(process: &Process, by_exec: &HashMap<u64, usize>, by_tgid: &HashMap<u32, usize>) -> Option<usize> {
    let instance = process.instance.as_ref()?;
    let now = by_tgid.get(&process.parent_tgid).filter(|_| process.parent_tgid != 0).copied();
    for ancestor in &instance.lineage {
        if ancestor.tgid == instance.tgid {
            continue;
        }
        if let Some(at) = by_exec.get(&ancestor.exec_id) {
            return Some(*at);
        }
        if ancestor.tgid == process.parent_tgid && now.is_some() {
            return now;
        }
    }
    now
}

fn draw<'a>(
    root: usize,
    processes: &'a [Process],
    children: &HashMap<usize, Vec<usize>>,
    drawn: &mut [bool],
    branches: &mut Vec<Branch<'a>>,
) {
    // A stack and not recursion: a process can nest its children as deep as it likes.
    let mut stack = vec![(root, 0, String::new(), String::new())];
    while let Some((at, depth, prefix, indent)) = stack.pop() {
        let (Some(process), Some(done)) = (processes.get(at), drawn.get_mut(at)) else {
            continue;
        };
        if std::mem::replace(done, true) {
            continue;
        }
        branches.push(Branch { process, prefix });
        let below = children.get(&at).map(Vec::as_slice).unwrap_or_default();
        for (index, child) in below.iter().enumerate().rev() {
            let is_last = index + 1 == below.len();
            let (joint, pass) = match (depth < MAX_DRAWN_DEPTH, is_last) {
                (true, true) => ("└─ ", "   "),
                (true, false) => ("├─ ", "│  "),
                (false, true) => ("└… ", ""),
                (false, false) => ("├… ", ""),
            };
            stack.push((*child, depth + 1, format!("{indent}{joint}"), format!("{indent}{pass}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_proto::v1::{Ancestor, ExecInstance};

    use super::*;

    /// `(tgid, exec, parent tgid, lineage as (tgid, exec))`.
    type Given<'a> = (u32, u64, u32, &'a [(u32, u64)]);

    fn processes(given: &[Given<'_>]) -> Vec<Process> {
        let process = |(tgid, exec_id, parent_tgid, lineage): &Given<'_>| Process {
            instance: Some(ExecInstance {
                tgid: *tgid,
                exec_id: *exec_id,
                lineage: lineage
                    .iter()
                    .map(|(tgid, exec_id)| Ancestor { tgid: *tgid, exec_id: *exec_id, ..Default::default() })
                    .collect(),
                ..Default::default()
            }),
            parent_tgid: *parent_tgid,
            ..Default::default()
        };
        given.iter().map(process).collect()
    }

    fn check(given: &[Given<'_>], expected: &[&str]) {
        let processes = processes(given);
        let lines: Vec<String> =
            grow(&processes).iter().map(|branch| format!("{}{}", branch.prefix, key(branch.process).0)).collect();
        assert_eq!(lines, expected, "{given:?}");
    }

    #[test]
    fn children_stand_below_their_parents_in_the_order_of_pids() {
        check(
            &[(30, 3, 1, &[]), (4, 4, 3, &[]), (1, 1, 0, &[]), (3, 30, 1, &[]), (5, 5, 4, &[])],
            &["1", "├─ 3", "│  └─ 4", "│     └─ 5", "└─ 30"],
        );
    }

    #[test]
    fn a_child_whose_parent_died_stays_with_its_lineage() {
        check(&[(1, 1, 0, &[]), (2, 2, 1, &[]), (9, 9, 1, &[(5, 5), (2, 2), (1, 1)])], &["1", "└─ 2", "   └─ 9"]);
    }

    #[test]
    fn a_parent_that_has_execd_since_is_still_the_parent() {
        check(&[(1, 1, 0, &[]), (2, 20, 1, &[]), (9, 9, 2, &[(2, 2), (1, 1)])], &["1", "└─ 2", "   └─ 9"]);
    }

    #[test]
    fn the_image_before_in_the_same_process_is_not_a_parent() {
        check(&[(1, 1, 0, &[]), (9, 9, 1, &[(9, 8), (1, 1)])], &["1", "└─ 9"]);
        check(&[(9, 9, 9, &[(9, 9)])], &["9"]);
    }

    #[test]
    fn a_circle_of_parents_is_drawn_once_and_ends() {
        check(&[(2, 2, 3, &[]), (3, 3, 2, &[]), (1, 1, 0, &[])], &["1", "2", "└─ 3"]);
    }

    #[test]
    fn a_missing_parent_makes_a_root() {
        check(&[(7, 7, 6, &[(6, 6)])], &["7"]);
    }

    #[test]
    fn very_deep_chains_are_drawn_within_bounds() {
        let chain: Vec<Given<'_>> = (1..=5_000).map(|tgid| (tgid, u64::from(tgid), tgid - 1, &[][..])).collect();
        let processes = processes(&chain);
        let branches = grow(&processes);
        assert_eq!(branches.len(), 5_000);
        assert!(branches.iter().all(|branch| branch.prefix.chars().count() <= 3 * (MAX_DRAWN_DEPTH + 1)));
    }
}
