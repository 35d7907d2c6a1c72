// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Generations of one kind of key in a private directory, each sealed in a file of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Error, Sealer, file};

/// Rotation keeps a few, anything more is a mistake.
pub(super) const MAX_GENERATIONS: usize = 16;
/// A key and the certificates that an upstream may send for it.
const MAX_FILE_BYTES: usize = 320 * 1024;
const SUFFIX: &str = ".sealed";
/// Seconds since the epoch at which it was made stand before everything else.
const CREATED_BYTES: usize = 8;

/// Where they are and how they are sealed.
#[derive(Debug)]
pub(super) struct Generations {
    directory: PathBuf,
    sealer: Sealer,
    prefix: &'static str,
    /// No valid name has a slash, so no named key can pass for one of these.
    sealing_name: &'static str,
}

/// One, opened.
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) created_at: Timestamp,
    pub(super) content: Zeroizing<Vec<u8>>,
}

impl Generations {
    /// In a private directory, which is made if it is not there.
    pub(super) fn open(
        directory: &Path,
        sealer: &Sealer,
        prefix: &'static str,
        sealing_name: &'static str,
    ) -> Result<Self, Error> {
        file::ensure_private_directory(directory).map_err(Error::io("use the key directory", directory))?;
        Ok(Self { directory: directory.to_owned(), sealer: sealer.clone(), prefix, sealing_name })
    }

    /// All of them, oldest first.
    pub(super) fn read_all(&self) -> Result<Vec<Generation>, Error> {
        self.list()?.into_iter().map(|number| self.read(number)).collect()
    }

    /// Seals one under the next number.
    pub(super) fn add(&self, number: u32, created_at: Timestamp, content: &[u8]) -> Result<(), Error> {
        // More would keep the next start from reading any.
        if self.list()?.len() >= MAX_GENERATIONS {
            return Err(Error::TooManyKeys { path: self.directory.clone(), limit: MAX_GENERATIONS });
        }
        let path = self.path(number);
        let mut plaintext = Zeroizing::new(Vec::with_capacity(content.len().saturating_add(CREATED_BYTES)));
        plaintext.extend_from_slice(&created_at.as_second().to_be_bytes());
        plaintext.extend_from_slice(content);
        let sealed = self.sealer.seal(self.sealing_name, number, &plaintext)?;
        file::create_new(&path, &sealed).map_err(Error::io("create the key", &path))?;
        Ok(())
    }

    /// Forgets one. Nothing to do when it is gone.
    pub(super) fn remove(&self, number: u32) -> Result<(), Error> {
        let path = self.path(number);
        match fs::remove_file(&path) {
            Ok(()) => file::sync_directory(&self.directory).map_err(Error::io("sync the key directory", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::Io { operation: "remove the key", path, source }),
        }
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(format!("{}{number}{SUFFIX}", self.prefix))
    }

    fn list(&self) -> Result<Vec<u32>, Error> {
        let io = || Error::io("list the key directory", &self.directory);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io())? {
            let name = entry.map_err(io())?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(self.prefix)?.strip_suffix(SUFFIX)?.parse::<u32>().ok())
                .filter(|number| self.path(*number).file_name() == Some(&name));
            numbers.extend(number);
            if numbers.len() > MAX_GENERATIONS {
                return Err(Error::TooManyKeys { path: self.directory.clone(), limit: MAX_GENERATIONS });
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, number: u32) -> Result<Generation, Error> {
        let unseal = || Error::Unseal { name: format!("{}{number}", self.prefix) };
        let path = self.path(number);
        let sealed = file::read_private(&path, MAX_FILE_BYTES).map_err(Error::io("read the key", &path))?;
        let plaintext = self.sealer.unseal(self.sealing_name, number, &sealed.ok_or_else(unseal)?)?;
        let (seconds, content) = plaintext.split_first_chunk::<CREATED_BYTES>().ok_or_else(unseal)?;
        let created_at = Timestamp::from_second(i64::from_be_bytes(*seconds)).map_err(|_| unseal())?;
        Ok(Generation { number, created_at, content: Zeroizing::new(content.to_vec()) })
    }
}
