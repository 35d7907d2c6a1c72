// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The end of the log: adds lines, signs checkpoints, begins segments, and takes back what was written in part.

use std::fs;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::Error;
use super::chain::{MAX_HEADER_BYTES, Position, encode, sign_checkpoint, write_line};
use super::directory::segment_path;
use super::log::Config;
use super::record::{Record, RecoveredRecord, RecoveryCause, SegmentRecord};
use super::recovery::{Found, Torn};
use super::segment::{SegmentFile, Storage};
use crate::authority::SigningKey;
use crate::clock::Clock;

/// Lines a slow follower may be behind before it loses some.
const FOLLOW_LINES: usize = 1024;

/// Whether lines can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Yes.
    Writable,
    /// The last write failed; the next append tries again.
    Failed {
        /// The file may hold part of a line.
        truncate: bool,
        /// Failures since it was last writable.
        failures: u64,
    },
    /// A sync failed: no more until a restart.
    Broken,
    /// Shut down.
    Closed,
}

/// Owned by the log's mutex; every method is short.
#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    segment_bytes: u64,
    checkpoint_records: u64,
    max_record_bytes: usize,
    storage: Box<dyn Storage>,
    key: SigningKey,
    boot_id: String,
    clock: Arc<dyn Clock>,
    lines: broadcast::Sender<Arc<str>>,
    file: Arc<dyn SegmentFile>,
    first_segment: u64,
    segment: u64,
    length: u64,
    position: Position,
    /// Records since the last checkpoint.
    unsigned: u64,
    state: State,
    failures: u64,
    buffer: Vec<u8>,
}

impl Writer {
    /// Takes up the log that was found, or begins one.
    pub(super) fn open(
        config: &Config,
        found: Option<Found>,
        storage: Box<dyn Storage>,
        key: SigningKey,
        boot_id: String,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let begun = found.is_some();
        let found =
            found.unwrap_or(Found { first_segment: 1, segment: 1, length: 0, position: Position::START, torn: None });
        let path = segment_path(&config.dir, found.segment);
        let file = if begun { storage.open(&path) } else { storage.create(&path) };
        let mut writer = Self {
            directory: config.dir.clone(),
            segment_bytes: config.segment_bytes,
            checkpoint_records: config.checkpoint_records,
            max_record_bytes: config.max_record_bytes,
            storage,
            key,
            boot_id,
            clock,
            lines: broadcast::Sender::new(FOLLOW_LINES),
            file: file.map_err(Error::io("open", &path))?,
            first_segment: found.first_segment,
            segment: found.segment,
            length: found.length,
            position: found.position,
            unsigned: 0,
            state: State::Writable,
            failures: 0,
            buffer: Vec::new(),
        };
        if found.torn.is_some() {
            writer.file.truncate(writer.length).map_err(Error::io("cut the torn line of", &path))?;
        }
        if writer.length == 0 {
            writer.put_record(&Record::Segment(SegmentRecord { segment: writer.segment }))?;
        }
        if let Some(Torn { bytes, hash }) = found.torn {
            writer.put_record(&Record::Recovered(RecoveredRecord {
                cause: RecoveryCause::TornTail,
                bytes_cut: Some(bytes),
                sha256: Some(hash.hex()),
                failures: None,
            }))?;
        }
        // Whether the tail that was found is signed is not known; one checkpoint more does no harm.
        writer.unsigned = writer.unsigned.max(1);
        Ok(writer)
    }

    /// Adds a record that was encoded before; says its number.
    pub(super) fn append(&mut self, body: &[u8]) -> Result<u64, Error> {
        self.resume()?;
        let upcoming = u64::try_from(body.len().saturating_add(MAX_HEADER_BYTES)).unwrap_or(u64::MAX);
        if self.length.saturating_add(upcoming) > self.segment_bytes {
            self.rotate()?;
        }
        let seq = self.put(body)?;
        if self.unsigned >= self.checkpoint_records
            && let Err(error) = self.checkpoint()
        {
            // The record itself stands; the log is unwritable now and the next append says so.
            tracing::warn!(error = %error, "audit checkpoint failed");
        }
        Ok(seq)
    }

    /// Signs what was not signed yet.
    pub(super) fn checkpoint(&mut self) -> Result<(), Error> {
        if self.unsigned == 0 || self.state != State::Writable {
            return Ok(());
        }
        let now = self.clock.now();
        let checkpoint = sign_checkpoint(&self.position, now, &self.boot_id, &self.key)?;
        let body = encode(&Record::Checkpoint(checkpoint), self.max_record_bytes)?;
        self.put_at(now, &body)?;
        self.unsigned = 0;
        Ok(())
    }

    /// After a failure, tries to write again; the first line then tells of the failure.
    pub(super) fn resume(&mut self) -> Result<(), Error> {
        let (truncate, failures) = match self.state {
            State::Writable => return Ok(()),
            State::Broken => return Err(Error::SyncFailed),
            State::Closed => return Err(Error::Closed),
            State::Failed { truncate, failures } => (truncate, failures),
        };
        if truncate {
            if let Err(source) = self.file.truncate(self.length) {
                return Err(self.failed(true, source));
            }
            self.state = State::Failed { truncate: false, failures };
        }
        // A segment that is due comes first: else each attempt that fails to begin it would add a line here.
        if self.length >= self.segment_bytes {
            self.rotate()?;
        }
        self.put_record(&Record::Recovered(RecoveredRecord {
            cause: RecoveryCause::WriteFailed,
            bytes_cut: None,
            sha256: None,
            failures: Some(failures),
        }))?;
        self.state = State::Writable;
        Ok(())
    }

    /// Signs, then takes no more.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        let outcome = match self.state {
            State::Closed => return Ok(()),
            State::Broken => Err(Error::SyncFailed),
            State::Writable | State::Failed { .. } => self.resume().and_then(|()| self.checkpoint()),
        };
        self.state = State::Closed;
        outcome
    }

    /// A sync failed; nothing may be added to what may not be there.
    pub(super) fn mark_broken(&mut self) {
        self.failures = self.failures.saturating_add(1);
        if self.state != State::Closed {
            self.state = State::Broken;
        }
    }

    /// Something beside the lines themselves failed.
    pub(super) fn count_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    pub(super) fn removed_before(&mut self, first_segment: u64) {
        self.first_segment = first_segment;
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// Oldest and newest.
    pub(super) fn segments(&self) -> (u64, u64) {
        (self.first_segment, self.segment)
    }

    pub(super) fn has_unsigned(&self) -> bool {
        self.unsigned > 0
    }

    pub(super) fn file(&self) -> Arc<dyn SegmentFile> {
        Arc::clone(&self.file)
    }

    pub(super) fn key(&self) -> &SigningKey {
        &self.key
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<str>> {
        self.lines.subscribe()
    }

    fn put_record(&mut self, record: &Record) -> Result<u64, Error> {
        let body = encode(record, self.max_record_bytes)?;
        self.put(&body)
    }

    fn put(&mut self, body: &[u8]) -> Result<u64, Error> {
        let now = self.clock.now();
        self.put_at(now, body)
    }

    /// One line with one write; a part of it is taken back.
    fn put_at(&mut self, now: jiff::Timestamp, body: &[u8]) -> Result<u64, Error> {
        write_line(&mut self.buffer, &self.position, now, &self.boot_id, body);
        match self.file.append(&self.buffer) {
            Ok(written) if written == self.buffer.len() => {}
            Ok(_) => return Err(self.take_back(io::Error::new(io::ErrorKind::StorageFull, "written only in part"))),
            Err(source) => return Err(self.take_back(source)),
        }
        let seq = self.position.next_seq;
        let line = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        self.position = self.position.after(line);
        self.length = self.length.saturating_add(u64::try_from(self.buffer.len()).unwrap_or(u64::MAX));
        self.unsigned = self.unsigned.saturating_add(1);
        if self.lines.receiver_count() > 0
            && let Ok(line) = str::from_utf8(line)
        {
            // An error means that the last follower just left.
            drop(self.lines.send(Arc::from(line)));
        }
        Ok(seq)
    }

    fn take_back(&mut self, source: io::Error) -> Error {
        let truncate = self.file.truncate(self.length).is_err();
        self.failed(truncate, source)
    }

    fn failed(&mut self, truncate: bool, source: io::Error) -> Error {
        self.failures = self.failures.saturating_add(1);
        let before = match self.state {
            State::Failed { failures, .. } => failures,
            State::Writable | State::Broken | State::Closed => 0,
        };
        self.state = State::Failed { truncate, failures: before.saturating_add(1) };
        Error::Unwritable(source)
    }

    /// Signs and syncs the segment, then begins the next one; on failure the old one stays the last.
    fn rotate(&mut self) -> Result<(), Error> {
        let number = self.segment.saturating_add(1);
        let path = segment_path(&self.directory, number);
        // Made first, because that is what fails when there is no room, and then nothing else was done.
        let next = match self.storage.create(&path) {
            Ok(next) => next,
            Err(source) => {
                self.remove_empty(&path);
                return Err(self.failed(false, source));
            }
        };
        if let Err(error) = self.checkpoint() {
            self.remove_empty(&path);
            return Err(error);
        }
        // The next segment must never be on the disk without the end of this one. Rare enough to wait for.
        if let Err(error) = self.file.sync() {
            tracing::error!(error = %error, "audit segment could not be synced");
            self.remove_empty(&path);
            self.mark_broken();
            return Err(Error::SyncFailed);
        }
        let file = mem::replace(&mut self.file, next);
        let length = mem::replace(&mut self.length, 0);
        self.segment = number;
        if let Err(error) = self.put_record(&Record::Segment(SegmentRecord { segment: number })) {
            self.remove_empty(&path);
            self.file = file;
            self.length = length;
            self.segment = number.saturating_sub(1);
            if let State::Failed { truncate, .. } = &mut self.state {
                // What was written in part went with the file; the old one is whole.
                *truncate = false;
            }
            return Err(error);
        }
        Ok(())
    }

    /// Best effort: `create` takes over an empty one, and so does recovery.
    fn remove_empty(&mut self, path: &std::path::Path) {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, path = %path.display(), "empty audit segment could not be removed");
        }
    }
}
