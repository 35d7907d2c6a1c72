// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Segment files: appending through a trait, so that tests can let writes fail; reading line by line, bounded.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::chain::MAX_LINE_BYTES;
use crate::authority::file::{flags, open_nofollow};

const READ_BUFFER_BYTES: usize = 256 * 1024;

/// Where segments are made and opened.
pub(super) trait Storage: Debug + Send + Sync {
    /// An empty segment under this name. Only a segment that never got its first line may be there already.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>>;
    /// The segment that is there.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>>;
}

/// A segment that lines are added to.
pub(super) trait SegmentFile: Debug + Send + Sync {
    /// One write at the end; says how much was taken.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts it to a length.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Makes its bytes durable.
    fn sync(&self) -> io::Result<()>;
}

/// The file system.
#[derive(Debug)]
pub(super) struct Disk;

impl Storage for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        let file = options().create(true).mode(0o600).open(path)?;
        file.set_len(0)?;
        if let Some(directory) = path.parent() {
            crate::authority::file::sync_directory(directory)?;
        }
        Ok(Arc::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(options().open(path)?))
    }
}

impl SegmentFile for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self;
        loop {
            match file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(flags(OFlags::NOFOLLOW));
    options
}

/// What the reader came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A whole line is in [`Lines::line`].
    Line,
    /// The file ends without a newline; what stands there is in [`Lines::line`].
    Torn,
    /// The file ends after a newline.
    End,
    /// A line is longer than any of ours.
    TooLong,
}

/// Reads a segment line by line; memory is bounded by the longest line.
#[derive(Debug)]
pub(super) struct Lines {
    reader: BufReader<File>,
    buffer: Vec<u8>,
    number: u64,
    /// Where the line in the buffer starts.
    start: u64,
    /// Where the next one starts.
    end: u64,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let reader = BufReader::with_capacity(READ_BUFFER_BYTES, open_nofollow(path)?);
        Ok(Self { reader, buffer: Vec::new(), number: 0, start: 0, end: 0 })
    }

    pub(super) fn next(&mut self) -> io::Result<Next> {
        self.buffer.clear();
        let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
        let read = self.reader.by_ref().take(limit).read_until(b'\n', &mut self.buffer)?;
        self.start = self.end;
        self.end = self.end.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        self.number = self.number.saturating_add(1);
        if self.buffer.pop_if(|last| *last == b'\n').is_some() {
            return Ok(Next::Line);
        }
        Ok(match self.buffer.len() {
            0 => Next::End,
            length if length >= MAX_LINE_BYTES => Next::TooLong,
            _ => Next::Torn,
        })
    }

    /// Goes on at a byte that starts a line.
    pub(super) fn seek(&mut self, start: u64) -> io::Result<()> {
        self.reader.seek(SeekFrom::Start(start))?;
        self.end = start;
        Ok(())
    }

    /// Without its newline.
    pub(super) fn line(&self) -> &[u8] {
        &self.buffer
    }

    /// From 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Byte at which the line starts.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Byte after the line and its newline.
    pub(super) fn end(&self) -> u64 {
        self.end
    }
}
