// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Static secrets, sealed at rest: one file each, replaced whole, never printed.
//!
//! Whoever can write the directory can put an older version of a file back; sealing shows change, not age.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::seal::{OVERHEAD_BYTES, sealed_version};
use super::{Error, Sealer, file, is_name};

/// Largest secret.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;
/// Most secrets in one store.
pub const MAX_SECRETS: usize = 1024;

const SUFFIX: &str = ".sealed";
/// Enough of a file to read the version it claims.
const HEADER_BYTES: usize = 12;

/// A directory of sealed secrets.
#[derive(Debug)]
pub struct SecretStore {
    directory: PathBuf,
    sealer: Sealer,
    /// Held while a version is chosen and written.
    writing: Mutex<()>,
}

/// What may be told about a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretEntry {
    /// Its name.
    pub name: String,
    /// The version its file claims.
    pub version: u32,
    /// When it was last put.
    pub updated_at: Timestamp,
}

/// A secret and the version under which it was sealed.
struct Opened {
    version: u32,
    secret: Zeroizing<Vec<u8>>,
}

impl SecretStore {
    /// Opens a private directory, or makes it.
    pub fn open(directory: impl Into<PathBuf>, sealer: Sealer) -> Result<Self, Error> {
        let directory = directory.into();
        file::ensure_private_directory(&directory).map_err(Error::io("use the secret directory", &directory))?;
        Ok(Self { directory, sealer, writing: Mutex::new(()) })
    }

    /// Seals a secret in place of the one of that name, if any, and says its version.
    ///
    /// One that cannot be unsealed is not replaced: somebody has to look at it and remove it.
    pub fn put(&self, name: &str, secret: &[u8]) -> Result<u32, Error> {
        let path = self.path(name)?;
        if secret.is_empty() || secret.len() > MAX_SECRET_BYTES {
            return Err(Error::SecretSize { limit: MAX_SECRET_BYTES, actual: secret.len() });
        }
        let _writing = self.lock()?;
        let version = match self.read(name, &path)? {
            Some(Opened { version, .. }) => {
                version.checked_add(1).ok_or_else(|| Error::VersionExhausted { name: name.to_owned() })?
            }
            None if self.names()?.len() >= MAX_SECRETS => return Err(Error::TooManySecrets { limit: MAX_SECRETS }),
            None => 1,
        };
        let sealed = self.sealer.seal(&sealing_name(name), version, secret)?;
        file::replace(&path, &sealed).map_err(Error::io("write the secret", &path))?;
        Ok(version)
    }

    /// The secret of that name; `None` when there is none.
    pub fn secret(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let path = self.path(name)?;
        Ok(self.read(name, &path)?.map(|opened| opened.secret))
    }

    /// Names, versions and times, by name.
    pub fn list(&self) -> Result<Vec<SecretEntry>, Error> {
        let mut entries = Vec::new();
        for name in self.names()? {
            let path = self.path(&name)?;
            match read_header(&path) {
                Ok((version, updated_at)) => entries.push(SecretEntry {
                    version: version.ok_or_else(|| Error::Unseal { name: name.clone() })?,
                    name,
                    updated_at,
                }),
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Io { operation: "read the secret", path, source }),
            }
        }
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Removes a secret and says whether there was one.
    pub fn remove(&self, name: &str) -> Result<bool, Error> {
        let path = self.path(name)?;
        let _writing = self.lock()?;
        match fs::remove_file(&path) {
            Ok(()) => {
                file::sync_directory(&self.directory)
                    .map_err(Error::io("sync the secret directory", &self.directory))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Io { operation: "remove the secret", path, source }),
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf, Error> {
        if is_name(name) { Ok(self.directory.join(format!("{name}{SUFFIX}"))) } else { Err(Error::Name) }
    }

    fn read(&self, name: &str, path: &Path) -> Result<Option<Opened>, Error> {
        let sealed =
            file::read_private(path, MAX_SECRET_BYTES + OVERHEAD_BYTES).map_err(Error::io("read the secret", path))?;
        let Some(sealed) = sealed else { return Ok(None) };
        let version = sealed_version(&sealed).ok_or_else(|| Error::Unseal { name: name.to_owned() })?;
        Ok(Some(Opened { version, secret: self.sealer.unseal(&sealing_name(name), version, &sealed)? }))
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let io = || Error::io("list the secret directory", &self.directory);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(io())? {
            let name = entry.map_err(io())?.file_name();
            names.extend(
                name.to_str()
                    .and_then(|name| name.strip_suffix(SUFFIX))
                    .filter(|name| is_name(name))
                    .map(str::to_owned),
            );
        }
        Ok(names)
    }

    fn lock(&self) -> Result<MutexGuard<'_, ()>, Error> {
        self.writing.lock().map_err(|_| Error::Poisoned)
    }
}

/// Keeps secrets apart from signing keys, which are sealed under the same key and could bear the same name.
fn sealing_name(name: &str) -> String {
    format!("secret/{name}")
}

fn read_header(path: &Path) -> io::Result<(Option<u32>, Timestamp)> {
    let file = file::open_nofollow(path)?;
    let modified = file.metadata()?.modified()?;
    let updated_at = Timestamp::try_from(modified).map_err(io::Error::other)?;
    let mut header = Vec::with_capacity(HEADER_BYTES);
    file.take(u64::try_from(HEADER_BYTES).unwrap_or(0)).read_to_end(&mut header)?;
    Ok((sealed_version(&header), updated_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::file::private_tempdir;

    fn store(directory: &Path) -> SecretStore {
        SecretStore::open(directory, Sealer::from_bytes(&[7; 32]).unwrap()).unwrap()
    }

    #[test]
    fn secrets_are_versioned_listed_and_removed() {
        let directory = private_tempdir();
        let secrets = store(directory.path());
        assert_eq!(secrets.put("github", b"one").unwrap(), 1);
        assert_eq!(secrets.put("github", b"two").unwrap(), 2);
        assert_eq!(secrets.put("db.main", b"x").unwrap(), 1);
        let secrets = store(directory.path());
        assert_eq!(secrets.secret("github").unwrap().unwrap().as_slice(), b"two");
        let listed: Vec<_> = secrets.list().unwrap().into_iter().map(|entry| (entry.name, entry.version)).collect();
        assert_eq!(listed, [("db.main".to_owned(), 1), ("github".to_owned(), 2)]);
        assert!(secrets.remove("github").unwrap());
        assert!(!secrets.remove("github").unwrap());
        assert!(secrets.secret("github").unwrap().is_none());
    }

    #[test]
    fn names_that_mean_something_to_a_path_are_refused() {
        let directory = private_tempdir();
        let secrets = store(directory.path());
        let long = "a".repeat(65);
        for name in ["", ".", "..", ".hidden", "a/b", "../a", "A", "a b", "a\0", "ä", long.as_str()] {
            assert!(matches!(secrets.put(name, b"x"), Err(Error::Name)), "{name:?}");
            assert!(matches!(secrets.secret(name), Err(Error::Name)), "{name:?}");
            assert!(matches!(secrets.remove(name), Err(Error::Name)), "{name:?}");
        }
    }

    #[test]
    fn sizes_hold_at_their_edges() {
        let directory = private_tempdir();
        let secrets = store(directory.path());
        for (size, fits) in [(0, false), (1, true), (MAX_SECRET_BYTES, true), (MAX_SECRET_BYTES + 1, false)] {
            assert_eq!(secrets.put("a", &vec![1; size]).is_ok(), fits, "{size} bytes");
        }
        assert_eq!(secrets.secret("a").unwrap().unwrap().len(), MAX_SECRET_BYTES);
    }

    #[test]
    fn a_full_store_takes_new_versions_but_no_new_names() {
        let directory = private_tempdir();
        let secrets = store(directory.path());
        secrets.put("first", b"x").unwrap();
        for number in 1..MAX_SECRETS {
            fs::write(directory.path().join(format!("n{number}{SUFFIX}")), b"").unwrap();
        }
        assert!(matches!(secrets.put("one-more", b"x"), Err(Error::TooManySecrets { .. })));
        assert_eq!(secrets.put("first", b"y").unwrap(), 2);
    }

    #[test]
    fn a_changed_or_renamed_file_gives_nothing_and_is_not_replaced() {
        let directory = private_tempdir();
        let secrets = store(directory.path());
        secrets.put("a", b"hunter2").unwrap();
        let path = directory.path().join("a.sealed");
        let sealed = fs::read(&path).unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        file::replace(&directory.path().join("b.sealed"), &sealed).unwrap();
        assert!(matches!(secrets.secret("b"), Err(Error::Unseal { .. })));
        let mut changed = sealed;
        *changed.last_mut().unwrap() ^= 1;
        file::replace(&path, &changed).unwrap();
        assert!(matches!(secrets.secret("a"), Err(Error::Unseal { .. })));
        assert!(matches!(secrets.put("a", b"new"), Err(Error::Unseal { .. })));
        assert!(secrets.remove("a").unwrap());
        assert_eq!(secrets.put("a", b"new").unwrap(), 1);
    }
}
