// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What somebody who can write the directory, but has no key, can try.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn read(directory: &TempDir, number: u64) -> Vec<String> {
    let text = fs::read_to_string(segment(directory, number)).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn put(directory: &TempDir, number: u64, lines: &[String]) {
    fs::write(segment(directory, number), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
}

#[test]
fn removed_moved_inserted_and_changed_lines_are_found() {
    type Change = fn(&mut Vec<String>);
    let cases: [(&str, Change); 7] = [
        ("a line removed", |lines| drop(lines.remove(3))),
        ("the first line removed", |lines| drop(lines.remove(0))),
        ("the last line removed", |lines| drop(lines.pop())),
        ("two lines swapped", |lines| lines.swap(3, 4)),
        ("a line repeated", |lines| lines.insert(3, lines[3].clone())),
        ("an empty line inserted", |lines| lines.insert(3, String::new())),
        ("a deny turned into an allow", |lines| {
            let line = lines.iter_mut().find(|line| line.contains(r#""deny""#)).unwrap();
            *line = line.replace(r#""deny""#, r#""allow""#);
        }),
    ];
    let directory = finished(40);
    for (case, change) in cases {
        for number in segments(&directory) {
            let before = read(&directory, number);
            let mut lines = before.clone();
            if lines.len() < 6 {
                continue;
            }
            change(&mut lines);
            put(&directory, number, &lines);
            let report = check(directory.path());
            assert!(!report.is_valid(), "{case} in segment {number}");
            put(&directory, number, &before);
        }
    }
    assert!(check(directory.path()).is_valid());
}

#[test]
fn a_forged_chain_fails_at_its_first_checkpoint() {
    // Everything is written anew and hashed as it should be, but by somebody with another key.
    let forged = private_tempdir();
    let key = SigningKey::generate(&SystemRandom::new()).unwrap();
    let log = Log::open(config(&forged), key, "boot-1".to_owned(), Arc::new(SystemClock)).unwrap();
    write(&log, 10);
    log.shutdown().unwrap();
    let problem = check(forged.path()).problem.unwrap();
    assert_eq!((problem.segment.as_str(), problem.line), ("audit-00000001.jsonl", 8));
    assert!(problem.what.contains("another key"), "{problem:?}");
}

#[test]
fn removed_segments_and_side_files_are_found() {
    let directory = finished(40);
    let last = *segments(&directory).last().unwrap();
    let paths = [
        segment(&directory, 1),
        segment(&directory, 2),
        segment(&directory, last),
        directory.path().join(sidecar::HEAD_FILE),
    ];
    for path in paths {
        let aside = directory.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        assert!(!check(directory.path()).is_valid(), "{}", path.display());
        assert!(open(config(&directory)).is_err(), "{}", path.display());
        fs::rename(&aside, &path).unwrap();
    }
    assert!(check(directory.path()).is_valid());
}

#[test]
fn a_log_whose_end_was_removed_is_not_continued() {
    let directory = finished(3);
    let mut lines = read(&directory, 1);
    lines.pop();
    put(&directory, 1, &lines);
    match open(config(&directory)) {
        Err(error @ Error::Truncated { found: 4, expected: 5, .. }) => {
            assert!(error.to_string().contains("move it aside"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_removed_whole_is_not_begun_anew() {
    let directory = finished(3);
    fs::remove_file(segment(&directory, 1)).unwrap();
    assert!(matches!(open(config(&directory)), Err(Error::Truncated { found: 0, .. })));
}

#[test]
fn a_changed_line_in_the_last_segment_is_not_continued() {
    let directory = finished(3);
    let mut lines = read(&directory, 1);
    lines[1] = lines[1].replace("release", "attests");
    put(&directory, 1, &lines);
    assert!(matches!(open(config(&directory)), Err(Error::Damaged { line: 3, .. })));
}

#[test]
fn an_end_replaced_by_another_of_the_same_length_is_not_continued() {
    let directory = finished(3);
    let lines = read(&directory, 1);
    let mut last: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    last["time"] = "2020-01-01T00:00:00.000000Z".into();
    let mut forged = lines.clone();
    *forged.last_mut().unwrap() = last.to_string();
    put(&directory, 1, &forged);
    assert!(matches!(open(config(&directory)), Err(Error::Damaged { line: 0, .. })));
}

#[test]
fn what_retention_removed_cannot_be_claimed_without_the_key() {
    let directory = private_tempdir();
    let config = || Config { retain_segments: 2, ..config(&directory) };
    let log = open(config()).unwrap();
    write(&log, 40);
    log.shutdown().unwrap();
    drop(log);
    let path = directory.path().join(sidecar::RETAINED_FILE);
    let good = fs::read_to_string(&path).unwrap();
    let mut retained: serde_json::Value = serde_json::from_str(&good).unwrap();
    let removed = retained["segment"].as_u64().unwrap();

    // One segment more is removed and named as retention would have done.
    let next = read(&directory, removed + 2);
    let next: serde_json::Value = serde_json::from_str(&next[0]).unwrap();
    retained["segment"] = (removed + 1).into();
    retained["seq"] = (next["seq"].as_u64().unwrap() - 1).into();
    retained["hash"] = next["prev"].clone();
    fs::write(&path, retained.to_string()).unwrap();
    fs::rename(segment(&directory, removed + 1), directory.path().join("aside")).unwrap();
    assert_eq!(check(directory.path()).problem.unwrap().segment, sidecar::RETAINED_FILE);
    assert!(open(config()).is_err());

    fs::write(&path, good).unwrap();
    assert!(!check(directory.path()).is_valid(), "the segment is still missing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_changed_byte_is_found(which: Index, at: Index, bit in 0..8u32) {
        static LOG: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
            let directory = finished(40);
            let names = segments(&directory).into_iter().map(directory::segment_name).chain([sidecar::HEAD_FILE.to_owned()]);
            names.map(|name| (name.clone(), fs::read(directory.path().join(name)).unwrap())).collect()
        });
        let which = which.index(LOG.len());
        let directory = private_tempdir();
        for (index, (name, bytes)) in LOG.iter().enumerate() {
            let mut bytes = bytes.clone();
            if index == which {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        let report = check(directory.path());
        prop_assert!(!report.is_valid());
    }
}

#[test]
fn every_changed_byte_of_the_last_line_is_found() {
    let directory = finished(2);
    let path = segment(&directory, 1);
    let good = fs::read(&path).unwrap();
    let start = good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    for at in start..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(!check(directory.path()).is_valid(), "byte {at}");
        assert!(open(config(&directory)).is_err(), "byte {at}");
    }
}
