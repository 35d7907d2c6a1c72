// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The log on a real directory, and on a disk that fails when told to.

mod failing;
mod reading;
mod storing;
mod tampering;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};

use ring::rand::SystemRandom;
use tempfile::TempDir;

use super::segment::{SegmentFile, Storage};
use super::*;
use crate::authority::SigningKey;
use crate::authority::file::private_tempdir;
use crate::clock::SystemClock;

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::generate(&SystemRandom::new()).unwrap());

/// Small segments and no checkpoints by time: what happens follows from what is written.
fn config(directory: &TempDir) -> Config {
    Config { segment_bytes: 4096, checkpoint_records: 7, ..Config::new(directory.path()) }
}

fn open(config: Config) -> Result<Log, Error> {
    Log::open(config, KEY.clone(), "boot-1".to_owned(), Arc::new(SystemClock))
}

fn open_on(config: Config, disk: &Arc<FakeDisk>) -> Result<Log, Error> {
    let storage = Box::new(Arc::clone(disk));
    Log::open_on(config, storage, KEY.clone(), "boot-1".to_owned(), Arc::new(SystemClock))
}

fn check(directory: &Path) -> VerifyReport {
    verify(directory, &KEY.public_jwk(), |_| ControlFlow::Continue(())).unwrap()
}

fn decision(number: u64) -> Record {
    Record::Decision(Box::new(DecisionRecord {
        decision_id: format!("d{number}"),
        action: "release".to_owned(),
        outcome: if number.is_multiple_of(2) { Outcome::Allow } else { Outcome::Deny },
        spiffe_id: Some("spiffe://example.org/agent".to_owned()),
        exec: ExecFacts { exec_id: number, tgid: 100, ..ExecFacts::default() },
        policy_ids: if number.is_multiple_of(2) { vec!["p0".to_owned(), "p1".to_owned()] } else { Vec::new() },
        ..DecisionRecord::default()
    }))
}

fn write(log: &Log, records: u64) {
    for number in 1..=records {
        log.append(&decision(number)).unwrap();
    }
}

/// A finished log of several segments, in a directory of its own.
fn finished(records: u64) -> TempDir {
    let directory = private_tempdir();
    let log = open(config(&directory)).unwrap();
    write(&log, records);
    log.shutdown().unwrap();
    directory
}

fn segment(directory: &TempDir, number: u64) -> PathBuf {
    directory::segment_path(directory.path(), number)
}

fn segments(directory: &TempDir) -> Vec<u64> {
    directory::list_segments(directory.path()).unwrap()
}

fn lines(directory: &TempDir) -> Vec<serde_json::Value> {
    let text: String =
        segments(directory).into_iter().map(|number| fs::read_to_string(segment(directory, number)).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(directory: &TempDir) -> Vec<String> {
    lines(directory).iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
}

/// A disk with so much room, of which some calls fail when told to.
#[derive(Debug, Default)]
struct FakeDisk {
    /// Bytes that still fit; a write beyond them is written in part, as on a full disk.
    room: AtomicI64,
    no_create: AtomicBool,
    no_truncate: AtomicBool,
    no_sync: AtomicBool,
}

impl FakeDisk {
    fn with_room(room: i64) -> Arc<Self> {
        Arc::new(Self { room: AtomicI64::new(room), ..Self::default() })
    }

    fn set_room(&self, room: i64) {
        self.room.store(room, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct FakeFile {
    file: File,
    disk: Arc<FakeDisk>,
}

impl Storage for Arc<FakeDisk> {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        if self.no_create.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        file.set_len(0)?;
        Ok(Arc::new(FakeFile { file, disk: Arc::clone(self) }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Arc::new(FakeFile { file, disk: Arc::clone(self) }))
    }
}

impl SegmentFile for FakeFile {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let length = i64::try_from(bytes.len()).unwrap();
        let room = self.disk.room.load(Ordering::SeqCst);
        if room <= 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let fits = usize::try_from(length.min(room)).unwrap();
        self.disk.room.fetch_sub(length.min(room), Ordering::SeqCst);
        self.file.append(&bytes[..fits])
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        if self.disk.no_truncate.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Other.into());
        }
        SegmentFile::truncate(&self.file, length)
    }

    fn sync(&self) -> io::Result<()> {
        if self.disk.no_sync.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Other.into());
        }
        self.file.sync()
    }
}
