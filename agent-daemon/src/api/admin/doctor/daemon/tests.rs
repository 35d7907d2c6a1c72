// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::super::Outcome;
use super::*;
use crate::audit::{Durability, Problem, Progress, VerifyReport};

fn node(mode: u32, uid: u32, kind: Kind) -> io::Result<Node> {
    Ok(Node { mode, uid, kind })
}

fn absent() -> io::Result<Node> {
    Err(io::ErrorKind::NotFound.into())
}

#[test]
fn a_socket_that_others_could_replace_or_use_fails() {
    let fine = || node(0o755, 0, Kind::Directory);
    for (found, parent, expected) in [
        (node(0o600, 0, Kind::Socket), fine(), Outcome::Pass),
        (node(0o600, 0, Kind::Socket), node(0o1777, 0, Kind::Directory), Outcome::Pass),
        (node(0o600, 0, Kind::Socket), node(0o777, 0, Kind::Directory), Outcome::Fail),
        (node(0o600, 0, Kind::Socket), node(0o775, 0, Kind::Directory), Outcome::Fail),
        (node(0o600, 0, Kind::Socket), node(0o755, 1000, Kind::Directory), Outcome::Fail),
        (node(0o660, 0, Kind::Socket), fine(), Outcome::Fail),
        (node(0o666, 0, Kind::Socket), fine(), Outcome::Fail),
        (node(0o600, 1000, Kind::Socket), fine(), Outcome::Fail),
        (node(0o600, 0, Kind::Other), fine(), Outcome::Fail),
        (absent(), fine(), Outcome::Fail),
        (node(0o600, 0, Kind::Socket), absent(), Outcome::Fail),
    ] {
        assert_eq!(socket(&found, &parent, 0o600, 0).0, expected, "{found:?} {parent:?}");
    }
    assert_eq!(socket(&node(0o666, 0, Kind::Socket), &fine(), 0o666, 0).0, Outcome::Pass);
}

#[test]
fn a_state_directory_that_others_can_look_into_fails() {
    for (found, expected) in [
        (node(0o700, 7, Kind::Directory), Outcome::Pass),
        (node(0o750, 7, Kind::Directory), Outcome::Fail),
        (node(0o701, 7, Kind::Directory), Outcome::Fail),
        (node(0o700, 8, Kind::Directory), Outcome::Fail),
        (node(0o700, 7, Kind::Other), Outcome::Fail),
        (absent(), Outcome::Fail),
    ] {
        assert_eq!(private(&found, 7).0, expected, "{found:?}");
    }
}

#[test]
fn a_link_in_the_place_of_a_directory_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("state");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    assert_eq!(look(&link).unwrap().kind, Kind::Other);
    assert_eq!(look(dir.path()).unwrap().kind, Kind::Directory);
}

#[test]
fn a_missing_capability_fails_and_a_needless_one_warns() {
    let needed = NeededCapability { capability: Capability::CAP_SYS_PTRACE, purpose: "reading facts" };
    assert_eq!(missing_ones(&[needed], &[]).0, Outcome::Pass);
    let (outcome, reason) = missing_ones(&[needed], &[&needed]);
    assert_eq!((outcome, reason.as_str()), (Outcome::Fail, "CAP_SYS_PTRACE is missing: reading facts"));
    assert_eq!(extra_ones(&[]).0, Outcome::Pass);
    assert_eq!(extra_ones(&["CAP_SYS_ADMIN".to_owned()]).0, Outcome::Warn);
}

#[test]
fn a_log_that_cannot_be_written_fails() {
    let status = |writable, failures| {
        Ok(audit::Status {
            records: 5,
            head: String::new(),
            segments: 1,
            failures,
            writable,
            durability: Durability::Synced,
        })
    };
    for (status, expected) in [
        (status(true, 0), Outcome::Pass),
        (status(true, 2), Outcome::Warn),
        (status(false, 2), Outcome::Fail),
        (Err(audit::Error::Poisoned), Outcome::Fail),
    ] {
        assert_eq!(audit_writable(status).outcome, expected);
    }
}

#[test]
fn a_chain_passes_only_when_all_of_it_was_read() {
    let read = VerifyReport { progress: Progress { records: 9, ..Progress::default() }, ..VerifyReport::default() };
    let problem = Problem { segment: "audit-00000001.jsonl".into(), line: 4, what: "the hash differs".into() };
    for (report, expected) in [
        (Ok(read.clone()), Outcome::Pass),
        (Ok(VerifyReport { cancelled: true, ..read.clone() }), Outcome::Warn),
        (Ok(VerifyReport { problem: Some(problem.clone()), ..read.clone() }), Outcome::Fail),
        (Ok(VerifyReport { problem: Some(problem), cancelled: true, ..read }), Outcome::Fail),
        (Err(audit::Error::Closed), Outcome::Fail),
    ] {
        assert_eq!(chain(report).0, expected);
    }
}

#[test]
fn memory_that_would_reach_the_disk_fails() {
    for (behavior, expected) in [
        (Ok(DumpableBehavior::NotDumpable), Outcome::Pass),
        (Ok(DumpableBehavior::DumpableReadableOnlyByRoot), Outcome::Warn),
        (Ok(DumpableBehavior::Dumpable), Outcome::Fail),
        (Err(rustix::io::Errno::INVAL), Outcome::Fail),
    ] {
        assert_eq!(dumpable(behavior).0, expected, "{behavior:?}");
    }
}

#[test]
fn a_clock_that_was_never_set_or_was_put_on_is_told() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let start = EARLIEST + 1000;
    for (began, now, passed, expected) in [
        (start, start + 60, 60, Outcome::Pass),
        (start, start + 64, 60, Outcome::Pass),
        (start, start + 3660, 60, Outcome::Warn),
        (start, start, 60, Outcome::Warn),
        (start, start - 500, 60, Outcome::Warn),
        (0, 60, 60, Outcome::Fail),
    ] {
        let seen = evenness(at(began), at(now), Duration::from_secs(passed));
        assert_eq!(seen.0, expected, "{began} {now} {passed}");
    }
}

#[test]
fn a_key_beside_what_it_seals_is_a_warning() {
    assert_eq!(key_source(&KeySource::SystemdCredential).outcome, Outcome::Pass);
    assert_eq!(key_source(&KeySource::File("/x".into())).outcome, Outcome::Warn);
    assert_eq!(peers(true).outcome, Outcome::Pass);
    assert_eq!(peers(false).outcome, Outcome::Warn);
}
