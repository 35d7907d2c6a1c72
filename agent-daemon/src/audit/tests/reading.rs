// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Queries, following, and taking up leases again.

use jiff::{SignedDuration, Timestamp};

use super::*;

fn ask(log: &Log, query: &Query) -> Vec<String> {
    let mut found = Vec::new();
    let summary = log
        .query(query, |line| {
            found.push(line.to_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(summary, QuerySummary { matched: u64::try_from(found.len()).unwrap(), unreadable: 0 });
    found
}

#[test]
fn queries_find_lines_by_every_member() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    write(&log, 30);
    log.append(&Record::LeaseEnded(LeaseEndedRecord {
        lease_id: "l1".to_owned(),
        exec_id: 4,
        destination: "api".to_owned(),
        ..LeaseEndedRecord::default()
    }))
    .unwrap();
    log.append(&Record::LeaseEnded(LeaseEndedRecord {
        destination: "a\"b\n".to_owned(),
        ..LeaseEndedRecord::default()
    }))
    .unwrap();
    let some = |text: &str| Some(text.to_owned());
    let member = |path: &str, value: &str| Query {
        members: vec![Member { path: path.to_owned(), value: value.to_owned() }],
        ..Query::default()
    };
    let now = Timestamp::now();
    let hour = SignedDuration::from_hours(1);
    let base = Query { kind: some("decision"), ..Query::default() };
    for (case, query, expected) in [
        ("all decisions", base.clone(), 30),
        ("outcome", Query { outcome: some("allow"), ..base.clone() }, 15),
        ("decision", Query { decision_id: some("d7"), ..base.clone() }, 1),
        ("exec instance", Query { exec_id: Some(4), ..Query::default() }, 2),
        ("tgid", Query { tgid: Some(100), ..Query::default() }, 30),
        ("lease", Query { lease_id: some("l1"), ..Query::default() }, 1),
        ("destination", Query { destination: some("api"), ..Query::default() }, 1),
        ("identity", Query { spiffe_id: some("spiffe://example.org/agent"), ..Query::default() }, 30),
        ("another identity", Query { spiffe_id: some("spiffe://example.org/agen"), ..Query::default() }, 0),
        ("since", Query { since: Some(now - hour), ..base.clone() }, 30),
        ("since the future", Query { since: Some(now + hour), ..base.clone() }, 0),
        ("until", Query { until: Some(now - hour), ..base.clone() }, 0),
        ("last", Query { last: Some(12), ..base.clone() }, 12),
        ("last of few", Query { last: Some(12), decision_id: some("d7"), ..base }, 1),
        ("a member", member("exec.tgid", "100"), 30),
        ("a member with another value", member("exec.tgid", "10"), 0),
        ("an element of a list", member("policy_ids", "p1"), 15),
        ("a member that is no text", member("audit_mode", "false"), 30),
        ("a member that nobody has", member("exec.nothing", "100"), 0),
        ("a member that is not at the end", member("exec", "100"), 0),
        ("a value with what JSON escapes", member("destination", "a\"b\n"), 1),
    ] {
        assert_eq!(ask(&log, &query).len(), expected, "{case}");
    }
}

#[test]
fn the_newest_lines_come_oldest_first_and_byte_for_byte() {
    let directory = finished(40);
    let log = open(config(&directory)).unwrap();
    let all = ask(&log, &Query::default());
    assert!(segments(&directory).len() > 2);
    for last in [0, 1, 5, 25, all.len(), all.len() + 1] {
        let newest = &all[all.len().saturating_sub(last)..];
        assert_eq!(ask(&log, &Query { last: Some(last), ..Query::default() }), newest, "last {last}");
    }
    let mut first = None;
    let summary = log.query(&Query::default(), |line| {
        first = Some(line.to_owned());
        ControlFlow::Break(())
    });
    assert_eq!(summary.unwrap().matched, 1);
    assert_eq!(first.as_ref(), all.first());
}

#[test]
fn a_follower_sees_each_line_as_it_stands_in_the_log() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    let mut follower = log.subscribe().unwrap();
    write(&log, 10);
    let mut seen = Vec::new();
    while let Ok(line) = follower.try_recv() {
        seen.push(line.to_string());
    }
    let stored = ask(&log, &Query::default());
    assert_eq!(seen, stored[1..]);
    assert_eq!(seq_of(&seen[0]), Some(2));
}

#[test]
fn a_follower_that_falls_behind_is_told_how_many_it_lost() {
    let directory = private_tempdir();
    let log = open(Config { checkpoint_records: 1_000_000, segment_bytes: 1 << 30, ..config(&directory) }).unwrap();
    let mut follower = log.subscribe().unwrap();
    write(&log, 1024 + 5);
    assert!(matches!(follower.try_recv(), Err(tokio::sync::broadcast::error::TryRecvError::Lagged(5))));
}

fn grant(lease: &str) -> Record {
    Record::Decision(Box::new(DecisionRecord {
        decision_id: format!("d-{lease}"),
        outcome: Outcome::Allow,
        lease_id: Some(lease.to_owned()),
        expires_at: Some(Timestamp::now() + SignedDuration::from_mins(5)),
        exec: ExecFacts { exec_id: 9, tgid: 8, start_boottime_ns: 7, ..ExecFacts::default() },
        connection: Some(Connection { cookie: u64::MAX, ..Connection::default() }),
        ..DecisionRecord::default()
    }))
}

#[test]
fn leases_granted_and_not_ended_are_recovered_across_segments() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    log.append(&grant("first")).unwrap();
    log.append(&grant("ended")).unwrap();
    write(&log, 30);
    log.append(&grant("last")).unwrap();
    log.append(&Record::LeaseEnded(LeaseEndedRecord {
        lease_id: "ended".to_owned(),
        cause: "exited".to_owned(),
        ..LeaseEndedRecord::default()
    }))
    .unwrap();
    drop(log);
    assert!(segments(&directory).len() > 2);
    let hour = SignedDuration::from_hours(1);
    let leases: Vec<_> = recover_leases(directory.path(), Timestamp::now() - hour).unwrap().collect();
    let ids: Vec<_> = leases.iter().map(|lease| lease.decision.lease_id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["first", "last"]);
    assert_eq!(leases[0].boot_id, "boot-1");
    assert_eq!(leases[0].decision.exec.start_boottime_ns, 7);
    assert_eq!(leases[0].decision.connection.as_ref().unwrap().cookie, u64::MAX);
    assert!(leases[0].decision.expires_at.is_some());
    assert_eq!(recover_leases(directory.path(), Timestamp::now() + hour).unwrap().count(), 0);
}

#[test]
fn a_denial_that_names_a_lease_grants_none() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    let Record::Decision(mut record) = grant("denied") else { unreachable!() };
    record.outcome = Outcome::Deny;
    log.append(&Record::Decision(record)).unwrap();
    assert_eq!(recover_leases(directory.path(), Timestamp::UNIX_EPOCH).unwrap().count(), 0);
}

#[test]
fn leases_are_not_recovered_from_a_line_that_cannot_be_read() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    log.append(&grant("a")).unwrap();
    drop(log);
    let path = segment(&directory, 1);
    let text = fs::read_to_string(&path).unwrap().replace("\"lease_id\":", "\"lease_id\"");
    fs::write(&path, text).unwrap();
    let outcome = recover_leases(directory.path(), Timestamp::UNIX_EPOCH);
    assert!(matches!(outcome, Err(Error::Damaged { line: 2, .. })));
}

#[test]
fn a_segment_that_is_made_and_not_begun_leaves_the_one_before_it_the_last() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    log.append(&grant("a")).unwrap();
    // In the middle of a rotation: the next one is made, and the end of this one is being written.
    fs::write(segment(&directory, 2), "").unwrap();
    let path = segment(&directory, 1);
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{{\"seq\":")).unwrap();
    let report = log.verify(|_| ControlFlow::Continue(())).unwrap();
    assert!(report.is_valid() && report.torn_bytes > 0, "{report:?}");
    // Once it is begun, it is not.
    fs::write(segment(&directory, 2), "{}\n").unwrap();
    assert!(!log.verify(|_| ControlFlow::Continue(())).unwrap().is_valid());
}

#[test]
fn a_log_can_be_verified_while_it_is_written() {
    let directory = private_tempdir();
    let log = open(Config { retain_segments: 10, ..config(&directory) }).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| write(&log, 300));
        for _ in 0..20 {
            let report = log.verify(|_| ControlFlow::Continue(())).unwrap();
            assert!(report.is_valid(), "{report:?}");
        }
    });
    log.shutdown().unwrap();
    assert!(log.verify(|_| ControlFlow::Continue(())).unwrap().is_valid());
}
