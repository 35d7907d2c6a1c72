// SPDX-License-Identifier: Apache-2.0 OR MIT

//! X509-SVIDs and the authority that signs them.
//!
//! The extensions are those of <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>. A private key of
//! an SVID is made here, handed out once, and kept nowhere.

mod ca;
mod svid;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};

pub use self::svid::{Subject, X509Svid};

use self::ca::LocalCa;
use super::generations::Generations;
use super::schedule::{self, Life};
use super::{Error, Sealer};
use crate::identity::TrustDomain;

const CA_PREFIX: &str = "ca-";
const SEALING_NAME: &str = "x509/ca";

/// Signs X509-SVIDs with one of its CAs.
#[derive(Debug)]
pub struct X509Authority {
    trust_domain: TrustDomain,
    generations: Generations,
    lifetime: SignedDuration,
    cas: ArcSwap<Cas>,
    rotating: Mutex<()>,
}

/// The CAs as they are now. Swapped whole.
#[derive(Debug, Default)]
struct Cas {
    signing: Option<Arc<LocalCa>>,
    /// Oldest first.
    held: Vec<Arc<LocalCa>>,
}

impl X509Authority {
    /// Opens the CAs in a private directory and makes what is missing.
    pub fn open(
        directory: &Path,
        sealer: &Sealer,
        trust_domain: TrustDomain,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let authority = Self {
            trust_domain,
            generations: Generations::open(directory, sealer, CA_PREFIX, SEALING_NAME)?,
            lifetime: SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX),
            cas: ArcSwap::from_pointee(Cas::default()),
            rotating: Mutex::default(),
        };
        authority.rotate(now)?;
        Ok(authority)
    }

    /// Makes the next CA when it is time, turns to it when it is time, and forgets what is over. Says whether what is
    /// published changed. Blocks.
    pub fn rotate(&self, now: Timestamp) -> Result<bool, Error> {
        let _alone = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.read_all()?;
        let plan = schedule::plan(&lives(&held), now);
        if plan.is_due {
            let number = held.last().map_or(0, |newest| newest.number).saturating_add(1);
            // In whole seconds, as in a certificate and in the file.
            let begins_at = Timestamp::from_second(now.as_second()).unwrap_or(now);
            let life = Life { begins_at, ends_at: begins_at.saturating_add(self.lifetime).unwrap_or(Timestamp::MAX) };
            self.generations.add(number, begins_at, &LocalCa::generate(&self.trust_domain, life)?)?;
            held = self.read_all()?;
        }
        // Only when the next one is safe on disk.
        for number in plan.over.iter().filter_map(|place| held.get(*place)).map(|ca| ca.number).collect::<Vec<_>>() {
            self.generations.remove(number)?;
            held.retain(|ca| ca.number != number);
        }
        let signing = schedule::plan(&lives(&held), now).signing.and_then(|place| held.get(place)).map(Arc::clone);
        let numbers = |cas: &[Arc<LocalCa>]| cas.iter().map(|ca| ca.number).collect::<Vec<_>>();
        let is_changed = numbers(&self.cas.load().held) != numbers(&held);
        self.cas.store(Arc::new(Cas { signing, held }));
        Ok(is_changed)
    }

    fn read_all(&self) -> Result<Vec<Arc<LocalCa>>, Error> {
        let generations = self.generations.read_all()?;
        generations.iter().map(|generation| LocalCa::read(generation, &self.trust_domain).map(Arc::new)).collect()
    }

    /// How long until [`Self::rotate`] has something to do, at most `longest`.
    pub fn next_look(&self, now: Timestamp, longest: SignedDuration) -> SignedDuration {
        schedule::next_look(&lives(&self.cas.load().held), now, longest)
    }

    /// Until when an SVID that is issued now may be good.
    ///
    /// # Errors
    /// When every CA is over: the clock was set forward, or rotation fails.
    pub fn ends_at(&self, now: Timestamp) -> Result<Timestamp, Error> {
        self.signing(now).map(|ca| ca.life.ends_at)
    }

    /// Makes a key and a certificate for it.
    ///
    /// # Errors
    /// When there is no CA, or it would be outlived.
    pub fn issue(&self, subject: &Subject<'_>, now: Timestamp) -> Result<X509Svid, Error> {
        let ca = self.signing(now)?;
        svid::issue(ca.issuer(), ca.life, subject)
    }

    fn signing(&self, now: Timestamp) -> Result<Arc<LocalCa>, Error> {
        let signing = self.cas.load().signing.as_ref().map(Arc::clone);
        signing.filter(|ca| !ca.life.is_over(now)).ok_or(Error::NoSigner { what: "certificates" })
    }

    /// What others have to trust, DER, oldest first.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.cas.load().held.iter().map(|ca| ca.certificate().to_vec()).collect()
    }

    /// Counts up with every CA that comes or goes, also over restarts.
    pub fn sequence(&self) -> u64 {
        let cas = self.cas.load();
        let number = |ca: Option<&Arc<LocalCa>>| ca.map_or(0, |ca| u64::from(ca.number));
        number(cas.held.first()).saturating_add(number(cas.held.last()))
    }
}

fn lives(cas: &[Arc<LocalCa>]) -> Vec<Life> {
    cas.iter().map(|ca| ca.life).collect()
}

#[cfg(test)]
mod tests;
