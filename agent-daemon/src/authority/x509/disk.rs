// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A CA that an operator keeps in files, and may replace at any time.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{KeyPair, PKCS_ED25519};
use zeroize::Zeroizing;

use super::super::given::{Given, Kind, MAX_PEM_BYTES};
use super::super::schedule::Life;
use super::super::{Error, file};
use super::Origin;
use super::adopt::{self, Signed};
use super::ca::Ca;
use crate::identity::TrustDomain;

/// How often the files are looked at.
pub(super) const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// Where they are; PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaFiles {
    /// The CA's certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8.
    pub key: PathBuf,
    /// Roots. Without it the CA is its own root.
    pub bundle: Option<PathBuf>,
}

/// All of them, as they were seen.
pub(super) type Seen = Vec<file::Seen>;

impl CaFiles {
    /// The CA, when the files are not those that were seen last. What was refused was not seen: it is looked at again,
    /// and refused again, until it is mended.
    ///
    /// # Errors
    /// When they cannot be read, do not fit each other, or are not a CA of this trust domain.
    pub(super) fn read_if_changed(
        &self,
        seen: Option<&Seen>,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<Option<(Ca, Seen)>, Error> {
        let mut files = vec![open(&self.key, Kind::Secret)?, open(&self.certificate, Kind::Public)?];
        if let Some(bundle) = &self.bundle {
            files.push(open(bundle, Kind::Public)?);
        }
        let found: Seen = files.iter().map(|(_, given)| given.seen).collect();
        if seen == Some(&found) {
            return Ok(None);
        }
        let mut contents = files.into_iter().map(read).collect::<Result<Vec<_>, _>>()?.into_iter();
        let (key, certificate, bundle) = (contents.next(), contents.next(), contents.next());
        let ca = self.parse(
            key.as_deref().map_or(&[], Vec::as_slice),
            certificate.as_deref().map_or(&[], Vec::as_slice),
            bundle.as_deref().map(Vec::as_slice),
            trust_domain,
            now,
        )?;
        Ok(Some((ca, found)))
    }

    fn parse(
        &self,
        key: &[u8],
        certificate: &[u8],
        bundle: Option<&[u8]>,
        trust_domain: &TrustDomain,
        now: Timestamp,
    ) -> Result<Ca, Error> {
        let refused = |reason: String| Error::Refused { origin: Origin::Disk, reason };
        let key = private_key(key).ok_or_else(|| {
            refused(format!("{} holds no PKCS#8 key (openssl pkcs8 -topk8 -nodes writes one)", self.key.display()))
        })?;
        if !is_usable(&key) {
            return Err(refused(format!("the key in {} is neither P-256, P-384 nor RSA", self.key.display())));
        }
        let read = |path: &Path, text: &[u8]| {
            let certificates = certificates(text).filter(|certificates| !certificates.is_empty());
            certificates.ok_or_else(|| refused(format!("{} holds no certificates", path.display())))
        };
        let roots = match (bundle, &self.bundle) {
            (Some(text), Some(path)) => read(path, text)?,
            _ => Vec::new(),
        };
        let signed = Signed { certificates: read(&self.certificate, certificate)?, roots };
        let (path, ends_at) = adopt::judge(&signed, &key, trust_domain, None, now).map_err(refused)?;
        Ca::new(0, Life { begins_at: now, ends_at }, Origin::Disk, &key, path)
            .map_err(|error| refused(error.to_string()))
    }
}

fn open(path: &Path, kind: Kind) -> Result<(&Path, Given), Error> {
    let given = Given::open(path, kind).map_err(Error::io("read the CA from", path))?;
    Ok((path, given))
}

fn read((path, given): (&Path, Given)) -> Result<Zeroizing<Vec<u8>>, Error> {
    given.read(MAX_PEM_BYTES).map_err(Error::io("read the CA from", path))
}

/// PKCS#8, DER.
fn private_key(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let blocks = pem::parse_many(text).ok()?;
    let mut keys = blocks.into_iter().filter(|block| block.tag() == "PRIVATE KEY");
    let key = keys.next().map(|key| Zeroizing::new(key.into_contents()))?;
    keys.next().is_none().then_some(key)
}

fn certificates(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let blocks = pem::parse_many(text).ok()?;
    Some(blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE").map(pem::Pem::into_contents).collect())
}

/// Ed25519 is left out: an X509-SVID is to verify everywhere.
fn is_usable(pkcs8: &[u8]) -> bool {
    KeyPair::try_from(pkcs8).is_ok_and(|pair| pair.algorithm() != &PKCS_ED25519)
}
