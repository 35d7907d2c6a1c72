// SPDX-License-Identifier: Apache-2.0 OR MIT

//! SHA-256 of the exact file that is run, cached by its fingerprint, one reader a file at a time, size-capped.
//! Runs on blocking threads only.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::linux::fs::MetadataExt as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use ring::digest::{Context, SHA256};

/// Bounds of measuring.
#[derive(Debug, Clone)]
pub struct Config {
    /// Larger files are not measured, so nothing that asks for a hash matches them.
    pub max_file_bytes: u64,
    /// Measurements kept.
    pub cache_entries: usize,
    /// Files read at once.
    pub concurrency: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_file_bytes: 512 * 1024 * 1024, cache_entries: 4096, concurrency: 2 }
    }
}

/// A file's state by everything that changes when its content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Fingerprint {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.st_dev(),
            inode: metadata.st_ino(),
            size: metadata.st_size(),
            mtime: (metadata.st_mtime(), metadata.st_mtime_nsec()),
            ctime: (metadata.st_ctime(), metadata.st_ctime_nsec()),
        })
    }
}

/// Why a file has no measurement.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the file has {actual} bytes, more than {limit}")]
    TooLarge { limit: u64, actual: u64 },
    #[error("the file changed while it was read")]
    Changed,
    #[error("the file is not a regular file")]
    NotRegular,
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
}

/// Hashes files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Measurer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// None while somebody is reading it.
    known: HashMap<Fingerprint, Option<Arc<str>>>,
    readers: usize,
}

impl Measurer {
    /// With these bounds.
    pub fn new(config: Config) -> Self {
        Self { inner: Arc::new(Inner { config, state: Mutex::default(), changed: Condvar::new() }) }
    }

    /// How many measurements are kept, and how many can be.
    pub fn usage(&self) -> (usize, usize) {
        (self.inner.lock().known.len(), self.inner.config.cache_entries)
    }

    /// The hexadecimal SHA-256 of an open file. Blocks.
    pub(super) fn measure(&self, file: &mut File) -> Result<Arc<str>, Error> {
        if !file.metadata()?.is_file() {
            return Err(Error::NotRegular);
        }
        let fingerprint = Fingerprint::of(file)?;
        let limit = self.inner.config.max_file_bytes;
        if fingerprint.size > limit {
            return Err(Error::TooLarge { limit, actual: fingerprint.size });
        }
        if let Some(known) = self.inner.claim(fingerprint) {
            return Ok(known);
        }
        let result = hash(file, limit)
            .and_then(|digest| if Fingerprint::of(file)? == fingerprint { Ok(digest) } else { Err(Error::Changed) });
        self.inner.settle(fingerprint, result.as_ref().ok());
        result
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The known digest; or none, and then the caller reads the file and must call `settle`.
    fn claim(&self, fingerprint: Fingerprint) -> Option<Arc<str>> {
        let mut state = self.lock();
        loop {
            match state.known.get(&fingerprint) {
                Some(Some(digest)) => return Some(Arc::clone(digest)),
                None if state.readers < self.config.concurrency.max(1) => break,
                // Somebody reads this file, or too many read others.
                Some(None) | None => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        if state.known.len() >= self.config.cache_entries
            && let Some(victim) = state.known.iter().find(|(_, digest)| digest.is_some()).map(|(key, _)| *key)
        {
            state.known.remove(&victim);
        }
        state.known.insert(fingerprint, None);
        state.readers += 1;
        None
    }

    fn settle(&self, fingerprint: Fingerprint, digest: Option<&Arc<str>>) {
        let mut state = self.lock();
        match digest {
            Some(digest) => state.known.insert(fingerprint, Some(Arc::clone(digest))),
            None => state.known.remove(&fingerprint),
        };
        state.readers = state.readers.saturating_sub(1);
        self.changed.notify_all();
    }
}

fn hash(file: &mut File, limit: u64) -> Result<Arc<str>, Error> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 128 * 1024];
    let mut total: u64 = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        total = total.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if total > limit {
            return Err(Error::TooLarge { limit, actual: total });
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn a_file_is_hashed_once_and_again_when_it_changes() {
        let measurer = Measurer::new(Config::default());
        let mut temporary = file(b"abc");
        let measure = |path: &std::path::Path| measurer.measure(&mut File::open(path).unwrap()).unwrap();
        let first = measure(temporary.path());
        assert_eq!(&*first, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(Arc::ptr_eq(&first, &measure(temporary.path())));
        temporary.write_all(b"d").unwrap();
        assert_ne!(first, measure(temporary.path()));
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let measurer = Measurer::new(Config { max_file_bytes: 2, ..Config::default() });
        let temporary = file(b"abc");
        let result = measurer.measure(&mut File::open(temporary.path()).unwrap());
        assert!(matches!(result, Err(Error::TooLarge { limit: 2, actual: 3 })));
    }

    #[test]
    fn the_cache_stays_within_its_bound() {
        let measurer = Measurer::new(Config { cache_entries: 2, ..Config::default() });
        for content in [b"a", b"b", b"c"] {
            measurer.measure(&mut File::open(file(content).path()).unwrap()).unwrap();
        }
        assert!(measurer.usage().0 <= 2);
    }

    #[test]
    fn a_device_is_not_read() {
        let result = Measurer::new(Config::default()).measure(&mut File::open("/dev/zero").unwrap());
        assert!(matches!(result, Err(Error::NotRegular)));
    }
}
