// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The log's own thread: syncs what was written in groups, signs by the clock, removes old segments, and keeps
//! `head.json` at what is on the disk.

use std::fs;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Error;
use super::directory::segment_path;
use super::log::{Shared, Synced};
use super::recovery::stands_at;
use super::segment::{Lines, Next};
use super::sidecar::{Head, Retained};
use super::writer::{State, Writer};
use crate::authority::file::sync_directory;

/// `head.json` costs two syncs of its own, so it is written at most this often.
const HEAD_INTERVAL: Duration = Duration::from_secs(1);
/// How long the thread sleeps when nothing is left to do.
const IDLE: Duration = Duration::from_secs(3600);

/// Says that no more will be synced, also when the thread panics: nobody waits for it then.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.synced.send_modify(|synced| synced.ended = true);
    }
}

/// Syncs what opening wrote, before anybody relies on the log.
pub(super) fn first(shared: &Shared) -> Result<(), Error> {
    let head = sync_group(shared)?;
    head.write(&shared.config.dir)
}

/// Runs until told to stop; everything written by then is synced.
pub(super) fn run(shared: &Shared) {
    let _ended = Ended(shared);
    let mut head_written = Instant::now();
    let mut head: Option<Head> = None;
    let mut signed = Instant::now();
    let mut muted = false;
    let mut pending = true;
    loop {
        let timeout = if pending { HEAD_INTERVAL.min(shared.config.checkpoint_interval) } else { IDLE };
        let stopping = wait(shared, timeout);
        let now = Instant::now();
        let mut work = || -> Result<(), Error> {
            if let State::Failed { .. } = shared.with_writer(|writer| writer.state())? {
                shared.with_writer(Writer::resume)??;
            }
            if now.duration_since(signed) >= shared.config.checkpoint_interval {
                shared.with_writer(Writer::checkpoint)??;
                signed = now;
            }
            let current = sync_group(shared)?;
            if remove_old(shared, &current)? {
                head_written = now;
                head = Some(current.clone());
            }
            if head.as_ref() != Some(&current) && (stopping || now.duration_since(head_written) >= HEAD_INTERVAL) {
                current.write(&shared.config.dir)?;
                head_written = now;
                head = Some(current);
                pending = false;
            } else {
                pending = head.as_ref() != Some(&current);
            }
            Ok(())
        };
        match work() {
            Ok(()) => muted = false,
            Err(error) => {
                pending = true;
                // Once per trouble: the counter in the status goes on.
                if !muted {
                    muted = true;
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "audit log housekeeping failed");
                }
                if shared.with_writer(Writer::count_failure).is_err() {
                    return;
                }
            }
        }
        let Ok((unsigned, state)) = shared.with_writer(|writer| (writer.has_unsigned(), writer.state())) else {
            return;
        };
        pending |= unsigned || matches!(state, State::Failed { .. });
        if stopping || state == State::Broken {
            return;
        }
    }
}

/// Waits for the first line of a group, then for the rest of the group. Says whether to stop.
fn wait(shared: &Shared, timeout: Duration) -> bool {
    let signal = shared.signal.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut signal, _) = shared
        .wake
        .wait_timeout_while(signal, timeout, |signal| !signal.dirty && !signal.stop)
        .unwrap_or_else(PoisonError::into_inner);
    if signal.dirty && !signal.stop {
        (signal, _) = shared
            .wake
            .wait_timeout_while(signal, shared.config.sync_interval, |signal| !signal.stop)
            .unwrap_or_else(PoisonError::into_inner);
    }
    signal.dirty = false;
    signal.stop
}

/// One `fdatasync` for everything written so far, without the lock; says what is on the disk then.
fn sync_group(shared: &Shared) -> Result<Head, Error> {
    // ORDER: cleared before the position is read, see `Shared::with_writer`.
    shared.dirty.store(false, Ordering::Release);
    let (file, segment, position, state) =
        shared.with_writer(|writer| (writer.file(), writer.segments().1, writer.position(), writer.state()))?;
    if state == State::Broken {
        return Err(Error::SyncFailed);
    }
    if shared.synced.borrow().seq < position.last_seq() {
        if let Err(source) = file.sync() {
            shared.with_writer(Writer::mark_broken)?;
            shared.synced.send_modify(|synced| synced.ended = true);
            return Err(Error::Io { operation: "sync", path: segment_path(&shared.config.dir, segment), source });
        }
        shared.synced.send_replace(Synced { seq: position.last_seq(), ended: false });
    }
    Ok(Head::new(segment, &position))
}

/// Removes segments beyond those to keep. What is removed is named and signed first, so that a crash between
/// the two leaves a log that still verifies.
///
/// Says whether any was removed; `head.json` is `head` then, for it must not name what is gone.
fn remove_old(shared: &Shared, head: &Head) -> Result<bool, Error> {
    let directory = &shared.config.dir;
    let mut removed = false;
    loop {
        let ((first, last), key) = shared.with_writer(|writer| (writer.segments(), writer.key().clone()))?;
        if last.saturating_sub(first) < shared.config.retain_segments {
            return Ok(removed);
        }
        if !removed {
            head.write(directory)?;
            removed = true;
        }
        let next = first.saturating_add(1);
        let path = segment_path(directory, next);
        let mut lines = Lines::open(&path).map_err(Error::io("open", &path))?;
        let position = match lines.next().map_err(Error::io("read", &path))? {
            Next::Line => stands_at(lines.line()),
            Next::Torn | Next::End | Next::TooLong => None,
        };
        let position = position.ok_or_else(|| Error::Damaged {
            path: path.clone(),
            line: 1,
            what: "the line is not an audit record",
        })?;
        Retained::sign(first, &position, &key)?.write(directory)?;
        let old = segment_path(directory, first);
        match fs::remove_file(&old) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { operation: "remove", path: old, source }),
        }
        sync_directory(directory).map_err(Error::io("sync", directory))?;
        shared.with_writer(|writer| writer.removed_before(next))?;
    }
}
