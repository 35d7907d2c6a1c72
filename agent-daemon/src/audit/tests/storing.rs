// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Writing, restarting, rotating, removing old segments.

use super::*;

#[test]
fn one_chain_runs_across_restarts_and_rotations() {
    let directory = private_tempdir();
    for _ in 0..3 {
        let log = open(config(&directory)).unwrap();
        write(&log, 20);
        log.shutdown().unwrap();
    }
    assert!(segments(&directory).len() > 3, "{:?}", segments(&directory));
    let report = check(directory.path());
    assert!(report.is_valid(), "{report:?}");
    assert_eq!((report.first_seq, report.unsigned_tail), (1, 0));
    let lines = lines(&directory);
    assert_eq!(report.last_seq, u64::try_from(lines.len()).unwrap());
    for (line, seq) in lines.iter().zip(1..) {
        assert_eq!(line["seq"], seq);
    }
    assert_eq!(lines.iter().filter(|line| line["kind"] == "decision").count(), 60);
    let log = open(config(&directory)).unwrap();
    assert_eq!(log.status().unwrap().records, report.last_seq);
    assert_eq!(log.status().unwrap().head, report.head);
}

#[test]
fn a_daemon_killed_after_a_write_loses_nothing_that_was_written() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    write(&log, 3);
    // Not shut down: no final checkpoint.
    drop(log);
    let log = open(config(&directory)).unwrap();
    assert_eq!(kinds(&directory), ["segment", "decision", "decision", "decision"]);
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn two_daemons_never_share_a_log() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    assert!(matches!(open(config(&directory)), Err(Error::Locked { .. })));
    drop(log);
    assert!(open(config(&directory)).is_ok());
}

#[test]
fn a_log_signed_by_another_key_is_refused() {
    let directory = finished(3);
    let key = SigningKey::generate(&SystemRandom::new()).unwrap();
    let outcome = Log::open(config(&directory), key, "boot-1".to_owned(), Arc::new(SystemClock));
    assert!(matches!(outcome, Err(Error::ForeignKey { .. })));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let directory = private_tempdir();
    let good = || config(&directory);
    for (setting, config) in [
        ("segment_bytes", Config { segment_bytes: 0, ..good() }),
        ("retain_segments", Config { retain_segments: 0, ..good() }),
        ("checkpoint_records", Config { checkpoint_records: 0, ..good() }),
        ("max_in_flight", Config { max_in_flight: 0, ..good() }),
        ("max_record_bytes", Config { max_record_bytes: 1024 * 1024, ..good() }),
    ] {
        assert!(matches!(open(config), Err(Error::Setting { setting: found, .. }) if found == setting), "{setting}");
    }
    let outcome = Log::open(good(), KEY.clone(), "a\"b".to_owned(), Arc::new(SystemClock));
    assert!(matches!(outcome, Err(Error::Setting { setting: "boot_id", .. })));
}

#[test]
fn slots_are_bounded_and_free_again_when_dropped() {
    let directory = private_tempdir();
    let log = open(Config { max_in_flight: 2, ..config(&directory) }).unwrap();
    let first = log.reserve().unwrap();
    let _second = log.reserve().unwrap();
    assert!(matches!(log.reserve(), Err(Error::Full { limit: 2 })));
    drop(first);
    assert!(log.reserve().is_ok());
}

#[tokio::test]
async fn a_synced_commit_is_on_the_disk_when_it_returns() {
    let directory = private_tempdir();
    let config = Config { durability: Durability::Synced, ..config(&directory) };
    let log = open(config).unwrap();
    for number in 1..=5 {
        let receipt = Log::commit(log.reserve().unwrap(), &decision(number)).await.unwrap();
        assert!(log.shared_for_tests().synced.borrow().seq >= receipt.seq);
    }
    assert_eq!(log.status().unwrap().durability.as_str(), "synced");
}

#[tokio::test]
async fn commits_from_many_tasks_form_one_chain() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let log = log.clone();
        tasks.spawn(async move { Log::commit(log.reserve().unwrap(), &decision(number)).await.unwrap().seq });
    }
    let mut seqs = tasks.join_all().await;
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 100);
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn a_closed_log_takes_nothing_more() {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    log.shutdown().unwrap();
    assert!(matches!(log.append(&decision(1)), Err(Error::Closed)));
    assert!(matches!(log.reserve(), Err(Error::Closed)));
    log.shutdown().unwrap();
    assert_eq!(kinds(&directory), ["segment", "checkpoint"]);
}

#[test]
fn a_record_too_large_to_keep_whole_is_kept_shortened() {
    let directory = private_tempdir();
    let log = open(Config { max_record_bytes: 2048, ..config(&directory) }).unwrap();
    let record = Record::Stop(StopRecord { cause: "x".repeat(5000) });
    log.append(&record).unwrap();
    let lines = lines(&directory);
    assert_eq!(lines[1]["kind"], "stop");
    assert_eq!(lines[1]["shortened"], true);
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn old_segments_are_removed_and_what_remains_verifies() {
    let directory = private_tempdir();
    let small = || Config { retain_segments: 2, ..config(&directory) };
    let log = open(small()).unwrap();
    write(&log, 40);
    log.shutdown().unwrap();
    assert_eq!(segments(&directory).len(), 2);
    assert_eq!(log.status().unwrap().segments, 2);
    let report = check(directory.path());
    assert!(report.is_valid(), "{report:?}");
    assert!(report.first_seq > 1);

    // A crash between naming a segment as removed and removing it.
    let first = segments(&directory)[0];
    fs::write(segment(&directory, first - 1), b"left over").unwrap();
    assert!(check(directory.path()).is_valid());
    drop(log);
    let log = open(small()).unwrap();
    assert_eq!(segments(&directory)[0], first);
    write(&log, 20);
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn what_a_crash_left_of_a_side_file_is_removed() {
    let directory = finished(1);
    let left = directory.path().join(".head.json.1.2.tmp");
    fs::write(&left, b"x").unwrap();
    drop(open(config(&directory)).unwrap());
    assert!(!left.exists());
}
