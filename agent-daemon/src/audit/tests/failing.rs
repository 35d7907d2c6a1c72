// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Torn lines, full disks, disks that do not sync.

use std::io::Write;

use super::*;

const PLENTY: i64 = 1 << 40;

fn append_bytes(path: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_torn_last_line_is_cut_and_recorded() {
    let directory = finished(3);
    append_bytes(&segment(&directory, 1), br#"{"seq":6,"prev":"#);
    assert_eq!(check(directory.path()).torn_bytes, 16);
    let log = open(config(&directory)).unwrap();
    let last = lines(&directory).pop().unwrap();
    assert_eq!(
        (&last["kind"], &last["cause"], &last["bytes_cut"]),
        (&"recovered".into(), &"torn_tail".into(), &16.into())
    );
    assert_eq!(last["sha256"], chain::Hash::of(br#"{"seq":6,"prev":"#).hex());
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn a_crash_while_a_segment_is_begun_is_mended() {
    for torn in [b"".as_slice(), br#"{"seq":"#] {
        let directory = finished(20);
        let next = segments(&directory).last().unwrap() + 1;
        append_bytes(&segment(&directory, next), torn);
        assert!(check(directory.path()).is_valid());
        let log = open(config(&directory)).unwrap();
        write(&log, 1);
        log.shutdown().unwrap();
        assert_eq!(*segments(&directory).last().unwrap(), next);
        let report = check(directory.path());
        assert!(report.is_valid(), "{report:?}");
    }
}

#[test]
fn a_crash_before_the_very_first_line_is_mended() {
    let directory = private_tempdir();
    append_bytes(&segment(&directory, 1), br#"{"se"#);
    let log = open(config(&directory)).unwrap();
    assert_eq!(kinds(&directory), ["segment", "recovered"]);
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn a_full_disk_refuses_and_the_log_goes_on_when_there_is_room() {
    let directory = private_tempdir();
    let disk = FakeDisk::with_room(PLENTY);
    let log = open_on(config(&directory), &disk).unwrap();
    write(&log, 2);
    let before = fs::read(segment(&directory, 1)).unwrap();

    disk.set_room(10);
    assert!(matches!(log.append(&decision(3)), Err(Error::Unwritable(_))));
    assert_eq!(fs::read(segment(&directory, 1)).unwrap(), before, "the part that fitted was taken back");
    assert!(!log.status().unwrap().writable);
    assert!(matches!(log.reserve(), Err(Error::Unwritable(_))), "nothing is issued meanwhile");
    assert!(log.status().unwrap().failures >= 2);

    disk.set_room(PLENTY);
    let slot = log.reserve().unwrap();
    assert!(log.status().unwrap().writable);
    drop(slot);
    write(&log, 1);
    let kinds = kinds(&directory);
    assert_eq!(kinds[3..5], ["recovered", "decision"]);
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn what_could_not_be_taken_back_is_taken_back_before_the_next_line() {
    let directory = private_tempdir();
    let disk = FakeDisk::with_room(PLENTY);
    let log = open_on(config(&directory), &disk).unwrap();
    disk.set_room(10);
    disk.no_truncate.store(true, Ordering::SeqCst);
    assert!(log.append(&decision(1)).is_err());
    disk.set_room(PLENTY);
    assert!(log.append(&decision(1)).is_err(), "still holds part of a line");
    disk.no_truncate.store(false, Ordering::SeqCst);
    write(&log, 1);
    log.shutdown().unwrap();
    assert!(check(directory.path()).is_valid());
}

#[test]
fn a_segment_that_cannot_be_begun_refuses_and_leaves_the_old_one_last() {
    let directory = private_tempdir();
    let disk = FakeDisk::with_room(PLENTY);
    let log = open_on(config(&directory), &disk).unwrap();
    disk.no_create.store(true, Ordering::SeqCst);
    let refused = (0..100).find(|number| log.append(&decision(*number)).is_err());
    assert!(refused.is_some());
    assert_eq!(segments(&directory), [1]);
    disk.no_create.store(false, Ordering::SeqCst);
    write(&log, 1);
    assert_eq!(segments(&directory), [1, 2]);
    log.shutdown().unwrap();
    let report = check(directory.path());
    assert!(report.is_valid(), "{report:?}");
}

#[test]
fn every_amount_of_room_leaves_a_log_that_verifies() {
    for room in (0..12_000).step_by(197) {
        let directory = private_tempdir();
        let disk = FakeDisk::with_room(PLENTY);
        let log = open_on(config(&directory), &disk).unwrap();
        disk.set_room(room);
        let kept = (0..60).filter(|number| log.append(&decision(*number)).is_ok()).count();
        assert!(kept < 60);
        drop(log);
        assert!(check(directory.path()).is_valid(), "as it was left, {room} bytes");
        disk.set_room(PLENTY);
        let log = open_on(config(&directory), &disk).unwrap();
        write(&log, 1);
        log.shutdown().unwrap();
        let report = check(directory.path());
        assert!(report.is_valid(), "{room} bytes: {report:?}");
        let decisions = kinds(&directory).iter().filter(|kind| *kind == "decision").count();
        assert_eq!(decisions, kept + 1, "{room} bytes");
    }
}

#[tokio::test]
async fn a_failed_sync_refuses_until_a_restart() {
    let directory = private_tempdir();
    let disk = FakeDisk::with_room(PLENTY);
    let config = || Config { durability: Durability::Synced, ..config(&directory) };
    let log = open_on(config(), &disk).unwrap();
    disk.no_sync.store(true, Ordering::SeqCst);
    let outcome = Log::commit(log.reserve().unwrap(), &decision(1)).await;
    assert!(matches!(outcome, Err(Error::SyncFailed)));
    // A later sync that succeeds proves nothing about pages the kernel has dropped.
    disk.no_sync.store(false, Ordering::SeqCst);
    assert!(matches!(log.reserve(), Err(Error::SyncFailed)));
    assert!(matches!(log.append(&decision(2)), Err(Error::SyncFailed)));
    assert!(!log.status().unwrap().writable);
    assert!(matches!(log.shutdown(), Err(Error::SyncFailed)));
    drop(log);
    let log = open_on(config(), &disk).unwrap();
    Log::commit(log.reserve().unwrap(), &decision(2)).await.unwrap();
}
