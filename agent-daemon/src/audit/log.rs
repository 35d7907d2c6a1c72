// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The log as the rest of the daemon sees it: reserve a slot, decide, commit the record, then reply.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use super::chain::{MAX_HEADER_BYTES, MAX_LINE_BYTES, encode, is_boot_id};
use super::query::{Query, QuerySummary};
use super::record::Record;
use super::segment::{Disk, Storage};
use super::sidecar::{Head, keep_key};
use super::verify::{Progress, VerifyReport, verify_up_to};
use super::writer::{State, Writer};
use super::{Error, directory, query, recovery, sync};
use crate::authority::SigningKey;
use crate::authority::file::ensure_private_directory;
use crate::clock::Clock;

/// What has to be true before a reply leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The kernel has the record: it survives the daemon's death, not a loss of power.
    Written,
    /// The disk has the record.
    Synced,
}

impl Durability {
    /// As configuration and status spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Synced => "synced",
        }
    }
}

/// How the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Private directory; made when it is not there, its parent is not.
    pub dir: PathBuf,
    /// A segment that would grow beyond this is followed by a new one.
    pub segment_bytes: u64,
    /// Segments kept, the one being written included.
    pub retain_segments: u64,
    /// When a record counts as written.
    pub durability: Durability,
    /// Records of this long are synced together.
    pub sync_interval: Duration,
    /// A checkpoint after so many records.
    pub checkpoint_records: u64,
    /// A checkpoint after so long, if anything was written.
    pub checkpoint_interval: Duration,
    /// Most slots at once.
    pub max_in_flight: usize,
    /// Largest record; texts of a larger one are shortened.
    pub max_record_bytes: usize,
}

impl Config {
    /// The defaults, in this directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 * 1024 * 1024,
            retain_segments: 64,
            durability: Durability::Written,
            sync_interval: Duration::from_millis(5),
            checkpoint_records: 1000,
            checkpoint_interval: Duration::from_secs(60),
            max_in_flight: 1024,
            max_record_bytes: 64 * 1024,
        }
    }

    fn check(&self) -> Result<(), Error> {
        let limit = MAX_LINE_BYTES.saturating_sub(MAX_HEADER_BYTES).saturating_sub(1);
        for (fits, setting, expected) in [
            (self.segment_bytes > 0, "segment_bytes", "must not be zero"),
            (self.retain_segments > 0, "retain_segments", "must not be zero"),
            (self.sync_interval <= Duration::from_secs(1), "sync_interval", "must be one second or less"),
            (self.checkpoint_records > 0, "checkpoint_records", "must not be zero"),
            (!self.checkpoint_interval.is_zero(), "checkpoint_interval", "must not be zero"),
            (self.max_in_flight > 0, "max_in_flight", "must not be zero"),
            ((1024..=limit).contains(&self.max_record_bytes), "max_record_bytes", "must be 1 KiB to just under 1 MiB"),
        ] {
            if !fits {
                return Err(Error::Setting { setting, expected });
            }
        }
        Ok(())
    }
}

/// The audit log. Clones share it; when the last one and every [`Slot`] are gone, its thread ends and the
/// directory is free again. [`Log::shutdown`] ends it in order.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
    thread: Arc<SyncThread>,
}

/// The right to write one record. Dropped unused, it is free again.
#[derive(Debug)]
#[must_use = "a slot that is dropped reserves nothing"]
pub struct Slot {
    log: Log,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// From 1; never starts anew.
    pub seq: u64,
}

/// How the log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Records ever written.
    pub records: u64,
    /// Hash of the last line.
    pub head: String,
    /// Segments held.
    pub segments: u64,
    /// Writes, syncs and side files that failed since start.
    pub failures: u64,
    /// Whether the last write succeeded.
    pub writable: bool,
    /// When a record counts as written.
    pub durability: Durability,
}

/// What appenders and the sync thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) writer: Mutex<Writer>,
    pub(super) synced: watch::Sender<Synced>,
    pub(super) signal: Mutex<Signal>,
    pub(super) wake: Condvar,
    /// Lines were written since the sync thread last looked.
    pub(super) dirty: AtomicBool,
    /// Spares `reserve` the lock; the writer's state decides.
    writable: AtomicBool,
    in_flight: AtomicUsize,
    /// Keeps other daemons out for as long as this lives.
    _lock: File,
}

/// How far the disk is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Synced {
    pub(super) seq: u64,
    /// Nothing beyond `seq` will be synced any more.
    pub(super) ended: bool,
}

/// What the sync thread waits for.
#[derive(Debug, Default)]
pub(super) struct Signal {
    pub(super) dirty: bool,
    pub(super) stop: bool,
}

/// Ends the thread when the last handle goes.
#[derive(Debug)]
struct SyncThread {
    shared: Arc<Shared>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Log {
    /// Opens the log, mends a torn last line, and says what happened in it. Blocks on the disk.
    ///
    /// `boot_id` is the kernel's; `key` signs the checkpoints and has to be the same in every run.
    pub fn open(config: Config, key: SigningKey, boot_id: String, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_on(config, Box::new(Disk), key, boot_id, clock)
    }

    pub(super) fn open_on(
        config: Config,
        storage: Box<dyn Storage>,
        key: SigningKey,
        boot_id: String,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        config.check()?;
        if !is_boot_id(&boot_id) {
            return Err(Error::Setting { setting: "boot_id", expected: "must be 1 to 64 letters, digits or hyphens" });
        }
        ensure_private_directory(&config.dir).map_err(Error::io("use the audit directory", &config.dir))?;
        let lock = directory::lock(&config.dir)?;
        directory::remove_temporaries(&config.dir)?;
        keep_key(&config.dir, &key)?;
        let found = recovery::find(&config.dir, &key.public_jwk())?;
        let writer = Writer::open(&config, found, storage, key, boot_id, clock)?;
        let shared = Arc::new(Shared {
            config,
            writer: Mutex::new(writer),
            synced: watch::Sender::new(Synced::default()),
            signal: Mutex::new(Signal::default()),
            wake: Condvar::new(),
            dirty: AtomicBool::new(false),
            writable: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            _lock: lock,
        });
        // From here on a missing or older head is a sign of removed lines.
        sync::first(&shared)?;
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("audit-sync".to_owned()).spawn(move || sync::run(&shared))
        };
        let handle = thread.map_err(Error::io("start the audit sync thread for", &shared.config.dir))?;
        let thread = SyncThread { shared: Arc::clone(&shared), handle: Mutex::new(Some(handle)) };
        Ok(Self { shared, thread: Arc::new(thread) })
    }

    /// Reserves the right to write one record, before anything is issued.
    pub fn reserve(&self) -> Result<Slot, Error> {
        let limit = self.shared.config.max_in_flight;
        // ORDER: the counter guards nothing but itself.
        self.shared
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < limit).then_some(taken.saturating_add(1))
            })
            .map_err(|_| Error::Full { limit })?;
        let slot = Slot { log: self.clone() };
        // ORDER: a stale value costs one lock or one refusal at commit, never a record.
        if !self.shared.writable.load(Ordering::Relaxed) {
            self.shared.with_writer(Writer::resume)??;
        }
        Ok(slot)
    }

    /// Writes the record of a slot and waits until it is as durable as configured.
    ///
    /// An error means that nothing may be released. Dropping the future after it was polled may leave the
    /// record in the log, which says more than happened, never less.
    pub async fn commit(slot: Slot, record: &Record) -> Result<Receipt, Error> {
        let shared = &slot.log.shared;
        let receipt = shared.append(record)?;
        if shared.config.durability == Durability::Synced {
            let mut synced = shared.synced.subscribe();
            let outcome = synced.wait_for(|synced| synced.ended || synced.seq >= receipt.seq).await;
            if outcome.map_err(|_| Error::Closed)?.seq < receipt.seq {
                return Err(Error::SyncFailed);
            }
        }
        Ok(receipt)
    }

    /// Writes a record that nothing waits for: start, stop, a lease that ended.
    ///
    /// It is handed to the kernel, whatever the durability.
    pub fn append(&self, record: &Record) -> Result<Receipt, Error> {
        self.shared.append(record)
    }

    /// How the log is.
    pub fn status(&self) -> Result<Status, Error> {
        let durability = self.shared.config.durability;
        self.shared.with_writer(|writer| {
            let (first, last) = writer.segments();
            Status {
                records: writer.position().last_seq(),
                head: writer.position().head.hex(),
                segments: last.saturating_sub(first).saturating_add(1),
                failures: writer.failures(),
                writable: writer.state() == State::Writable,
                durability,
            }
        })
    }

    /// Every line from now on, without its newline; a reader that falls behind is told how many it lost.
    ///
    /// To join it with a query: subscribe first, then query, then skip what [`super::seq_of`] says was seen.
    pub fn subscribe(&self) -> Result<broadcast::Receiver<Arc<str>>, Error> {
        self.shared.with_writer(|writer| writer.subscribe())
    }

    /// Hands matching lines to `each`, oldest first, until it breaks. Blocks on the disk; memory is bounded.
    pub fn query(&self, query: &Query, each: impl FnMut(&str) -> ControlFlow<()>) -> Result<QuerySummary, Error> {
        query::run(&self.shared.config.dir, query, each)
    }

    /// Checks the whole log as it stands on the disk. Blocks on the disk; memory is bounded.
    pub fn verify(&self, progress: impl FnMut(&Progress) -> ControlFlow<()>) -> Result<VerifyReport, Error> {
        let (key, written) = self
            .shared
            .with_writer(|writer| (writer.key().public_jwk(), Head::new(writer.segments().1, &writer.position())))?;
        verify_up_to(&self.shared.config.dir, &key, Some(&written), progress)
    }

    #[cfg(test)]
    pub(super) fn shared_for_tests(&self) -> &Shared {
        &self.shared
    }

    /// Where the log is.
    pub fn directory(&self) -> &Path {
        &self.shared.config.dir
    }

    /// Signs the end, syncs, and takes no more records. Blocks on the disk; a second call does nothing.
    pub fn shutdown(&self) -> Result<(), Error> {
        let closed = self.shared.with_writer(Writer::close)?;
        self.thread.stop();
        closed?;
        let last = self.shared.with_writer(|writer| writer.position().last_seq())?;
        if self.shared.synced.borrow().seq < last { Err(Error::SyncFailed) } else { Ok(()) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // ORDER: the counter guards nothing but itself.
        self.log.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn append(&self, record: &Record) -> Result<Receipt, Error> {
        // Outside the lock: it is most of the work.
        let body = match encode(record, self.config.max_record_bytes) {
            Ok(body) => body,
            Err(error) => {
                self.with_writer(Writer::count_failure)?;
                return Err(error);
            }
        };
        let seq = self.with_writer(|writer| writer.append(&body))??;
        Ok(Receipt { seq })
    }

    /// Every use of the writer goes through here, so that its state and the sync thread follow.
    pub(super) fn with_writer<T>(&self, work: impl FnOnce(&mut Writer) -> T) -> Result<T, Error> {
        let mut writer = self.writer.lock().map_err(|_| Error::Poisoned)?;
        let before = writer.position();
        let outcome = work(&mut writer);
        let wrote = writer.position() != before;
        self.writable.store(writer.state() == State::Writable, Ordering::Relaxed);
        drop(writer);
        // ORDER: the thread clears the flag before it takes the writer's lock, so a line it did not see sets the
        // flag again and wakes it. Only the first line of a group pays for waking.
        if wrote && !self.dirty.swap(true, Ordering::AcqRel) {
            self.signal()?.dirty = true;
            self.wake.notify_one();
        }
        Ok(outcome)
    }

    pub(super) fn signal(&self) -> Result<MutexGuard<'_, Signal>, Error> {
        self.signal.lock().map_err(|_| Error::Poisoned)
    }
}

impl SyncThread {
    fn stop(&self) {
        if let Ok(mut signal) = self.shared.signal() {
            signal.stop = true;
        }
        self.shared.wake.notify_one();
        let handle = self.handle.lock().ok().and_then(|mut handle| handle.take());
        if let Some(handle) = handle
            && handle.join().is_err()
        {
            tracing::error!("bug: the audit sync thread panicked");
        }
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.stop();
    }
}
