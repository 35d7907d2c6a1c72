// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Trust bundles of other trust domains, kept over restarts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::bundle::MAX_DOCUMENT_BYTES;
use super::{Error, TrustBundle, file};
use crate::identity::TrustDomain;

/// Trust domains that can be kept.
const MAX_DOMAINS: usize = 256;
const SUFFIX: &str = ".json";
/// A longer trust domain makes no file name; its digest does.
const MAX_NAME_BYTES: usize = 200;
const BEGIN_ANEW: &str = "; agentctl spiffe bundle remove lets it begin anew";
/// What stands around the document.
const FRAME_BYTES: usize = 1024;

type Bundles = BTreeMap<TrustDomain, Arc<TrustBundle>>;
/// What is known from then on.
pub type ForeignChange = Arc<Bundles>;

/// All that are known. Whom they are given to is said elsewhere.
#[derive(Debug)]
pub struct ForeignBundles {
    directory: PathBuf,
    known: watch::Sender<Arc<Bundles>>,
    writing: Mutex<()>,
}

/// One in a file.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    trust_domain: String,
    #[serde(borrow)]
    document: &'a RawValue,
}

impl ForeignBundles {
    /// Reads what is kept in a private directory, which is made if it is not there.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what was written.
    pub fn open(directory: PathBuf) -> Result<Self, Error> {
        file::ensure_private_directory(&directory).map_err(Error::io("use the bundle directory", &directory))?;
        let io = || Error::io("list the bundle directory", &directory);
        let mut known = Bundles::new();
        for entry in fs::read_dir(&directory).map_err(io())? {
            let path = entry.map_err(io())?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with('.') || !name.ends_with(SUFFIX) {
                continue;
            }
            let Some(bundle) = read(&path)? else { continue };
            if known.len() >= MAX_DOMAINS {
                return Err(Error::TooManyBundles { limit: MAX_DOMAINS });
            }
            known.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        }
        Ok(Self { directory, known: watch::Sender::new(Arc::new(known)), writing: Mutex::default() })
    }

    /// That of one trust domain.
    pub fn bundle(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.known.borrow().get(trust_domain).map(Arc::clone)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<TrustBundle>> {
        self.known.borrow().values().map(Arc::clone).collect()
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<ForeignChange> {
        self.known.subscribe()
    }

    /// Keeps one that somebody is sure of in place of what is known of its trust domain; says whether that is a change.
    /// Blocks.
    ///
    /// # Errors
    /// When it cannot be written, or there is no room.
    pub fn put(&self, bundle: TrustBundle) -> Result<bool, Error> {
        self.put_if(bundle, |_, _| Ok(()))
    }

    /// Keeps one that was fetched, unless it may be older than what is known of its trust domain. What is known, and
    /// whether it `is_wanted` still, is looked at while nobody else writes.
    ///
    /// # Errors
    /// Why it is not kept.
    pub fn put_fetched(&self, bundle: TrustBundle, is_wanted: impl FnOnce() -> bool) -> Result<bool, Error> {
        self.put_if(bundle, |known, bundle| {
            if !is_wanted() {
                return Err("nobody asks for it any more".to_owned());
            }
            let Some((known, last)) = known.and_then(|known| Some((known, known.sequence?))) else { return Ok(()) };
            // An old bundle may name a key that was withdrawn.
            match bundle.sequence {
                Some(sequence) if sequence > last => Ok(()),
                Some(sequence) if sequence == last && bundle.trusts_the_same(known) => Ok(()),
                Some(sequence) if sequence == last => {
                    Err(format!("it is another one than is known, under the same sequence {last}"))
                }
                Some(sequence) => {
                    Err(format!("it is older than what is known (sequence {sequence} after {last}){BEGIN_ANEW}"))
                }
                None => Err(format!("it has no sequence, and what is known has {last}{BEGIN_ANEW}")),
            }
        })
    }

    fn put_if(
        &self,
        bundle: TrustBundle,
        may: impl FnOnce(Option<&TrustBundle>, &TrustBundle) -> Result<(), String>,
    ) -> Result<bool, Error> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = Bundles::clone(&self.known.borrow());
        let before = known.get(&bundle.trust_domain).map(|before| &**before);
        may(before, &bundle).map_err(|reason| Error::Bundle { trust_domain: bundle.trust_domain.clone(), reason })?;
        let is_same = |before: &TrustBundle| {
            let told = |bundle: &TrustBundle| (bundle.sequence, bundle.refresh_hint);
            told(before) == told(&bundle) && before.trusts_the_same(&bundle)
        };
        if before.is_some_and(is_same) {
            return Ok(false);
        }
        if before.is_none() && known.len() >= MAX_DOMAINS {
            return Err(Error::TooManyBundles { limit: MAX_DOMAINS });
        }
        let path = self.path(&bundle.trust_domain);
        write(&path, &bundle)?;
        known.insert(bundle.trust_domain.clone(), Arc::new(bundle));
        self.known.send_replace(Arc::new(known));
        Ok(true)
    }

    /// Forgets one; says whether there was one. Blocks.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn remove(&self, trust_domain: &TrustDomain) -> Result<bool, Error> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = Bundles::clone(&self.known.borrow());
        if known.remove(trust_domain).is_none() {
            return Ok(false);
        }
        let path = self.path(trust_domain);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { operation: "remove", path, source }),
        }
        file::sync_directory(&self.directory).map_err(Error::io("sync the bundle directory", &self.directory))?;
        self.known.send_replace(Arc::new(known));
        Ok(true)
    }

    fn path(&self, trust_domain: &TrustDomain) -> PathBuf {
        let name = trust_domain.as_str();
        if name.len() <= MAX_NAME_BYTES && !name.starts_with('.') {
            return self.directory.join(format!("{name}{SUFFIX}"));
        }
        // No trust domain that is its own file name has an upper-case letter.
        self.directory.join(format!("SHA256-{}{SUFFIX}", super::sha256(name.as_bytes())))
    }
}

/// Keeps a bundle in a private file.
pub(super) fn write(path: &Path, bundle: &TrustBundle) -> Result<(), Error> {
    let document = serde_json::from_slice(&bundle.document).map_err(Error::Json)?;
    let stored = Stored { trust_domain: bundle.trust_domain.to_string(), document };
    let text = serde_json::to_vec(&stored).map_err(Error::Json)?;
    file::replace(path, &text).map_err(Error::io("write", path))
}

/// What is kept in such a file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<TrustBundle>, Error> {
    let damaged = || Error::Unseal { name: path.display().to_string() };
    let limit = MAX_DOCUMENT_BYTES.saturating_add(FRAME_BYTES);
    let Some(text) = file::read_private(path, limit).map_err(Error::io("read", path))? else { return Ok(None) };
    let stored: Stored<'_> = serde_json::from_slice(&text).map_err(|_| damaged())?;
    let trust_domain = stored.trust_domain.parse().map_err(|_| damaged())?;
    TrustBundle::parse(trust_domain, stored.document.get().as_bytes()).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::file::private_tempdir;

    fn bundle(trust_domain: &str, sequence: u64) -> TrustBundle {
        let document = format!("{{\"keys\":[],\"spiffe_sequence\":{sequence}}}");
        TrustBundle::parse(trust_domain.parse().unwrap(), document.as_bytes()).unwrap()
    }

    #[test]
    fn bundles_are_kept_replaced_and_forgotten_over_restarts() {
        let directory = private_tempdir();
        let folder = directory.path().join("bundles");
        let store = ForeignBundles::open(folder.clone()).unwrap();
        let long = format!("{}.example", "a".repeat(240));
        for name in ["partner.example", "..", &long] {
            assert!(store.put(bundle(name, 1)).unwrap(), "{name}");
            assert!(!store.put(bundle(name, 1)).unwrap(), "nothing new");
        }
        assert!(store.put(bundle("partner.example", 2)).unwrap());
        drop(store);
        let store = ForeignBundles::open(folder.clone()).unwrap();
        assert_eq!(store.all().len(), 3);
        let partner = "partner.example".parse().unwrap();
        assert_eq!(store.bundle(&partner).unwrap().sequence, Some(2));
        assert!(store.remove(&partner).unwrap());
        assert!(!store.remove(&partner).unwrap());
        assert!(ForeignBundles::open(folder).unwrap().bundle(&partner).is_none());
    }

    #[test]
    fn what_is_fetched_may_not_be_older_than_what_is_known() {
        let directory = private_tempdir();
        let store = ForeignBundles::open(directory.path().join("bundles")).unwrap();
        let partner: TrustDomain = "partner.example".parse().unwrap();
        let parse = |document: &str| TrustBundle::parse(partner.clone(), document.as_bytes()).unwrap();
        let key = r#"{"use":"jwt-svid","kid":"a"}"#;
        let numbered =
            |sequence: u64, keys: &str| parse(&format!(r#"{{"keys":[{keys}],"spiffe_sequence":{sequence}}}"#));
        let uncounted = || parse(r#"{"keys":[]}"#);
        let hinted = parse(r#"{"keys":[],"spiffe_sequence":5,"spiffe_refresh_hint":60}"#);
        let fetched = |bundle| store.put_fetched(bundle, || true).map_err(|error| error.to_string());
        assert_eq!(fetched(uncounted()), Ok(true));
        assert_eq!(fetched(numbered(5, "")), Ok(true));
        assert_eq!(fetched(numbered(5, "")), Ok(false));
        for (bundle, words) in [
            (numbered(4, ""), "older than what is known (sequence 4 after 5)"),
            (numbered(5, key), "under the same sequence 5"),
            (uncounted(), "it has no sequence"),
        ] {
            let error = fetched(bundle).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(fetched(hinted), Ok(true), "it trusts the same");
        assert_eq!(fetched(numbered(6, key)), Ok(true));
        assert_eq!(fetched(numbered(6, r#"{"kid":"a","use":"jwt-svid"}"#)), Ok(false), "in another order");
        let two = [r#"{"use":"jwt-svid","kid":"a"}"#, r#"{"use":"jwt-svid","kid":"b"}"#];
        assert_eq!(fetched(numbered(7, &two.join(","))), Ok(true));
        let turned = format!("{},{}", two[1], two[0]);
        assert_eq!(fetched(numbered(7, &turned)), Ok(false), "SPIRE writes its keys in any order");
        assert!(store.put_fetched(numbered(8, key), || false).is_err(), "it was given up meanwhile");
        assert!(store.put(numbered(1, "")).unwrap(), "an operator is sure");
        assert!(store.remove(&partner).unwrap());
        assert_eq!(fetched(uncounted()), Ok(true));
    }

    #[test]
    fn a_file_that_was_changed_stops_the_start() {
        let directory = private_tempdir();
        let folder = directory.path().join("bundles");
        ForeignBundles::open(folder.clone()).unwrap().put(bundle("partner.example", 1)).unwrap();
        fs::write(folder.join("partner.example.json"), "{}").unwrap();
        assert!(matches!(ForeignBundles::open(folder), Err(Error::Unseal { .. })));
    }

    #[test]
    fn there_is_a_bound() {
        let directory = private_tempdir();
        let store = ForeignBundles::open(directory.path().join("bundles")).unwrap();
        for number in 0..MAX_DOMAINS {
            store.put(bundle(&format!("d{number}.example"), 1)).unwrap();
        }
        assert!(matches!(store.put(bundle("more.example", 1)), Err(Error::TooManyBundles { .. })));
        assert!(store.put(bundle("d0.example", 2)).unwrap(), "those that are known can change");
    }
}
