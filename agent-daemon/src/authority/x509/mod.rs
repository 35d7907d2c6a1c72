// SPDX-License-Identifier: Apache-2.0 OR MIT

//! X509-SVIDs and the authority that signs them.
//!
//! The extensions are those of <https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>. A private key of
//! an SVID is made here, handed out once, and kept nowhere.

mod adopt;
mod ca;
mod chain;
mod disk;
mod svid;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

pub use self::adopt::Signed;
pub(crate) use self::chain::{der_sequence, spiffe_id, verify};
pub use self::disk::CaFiles;
pub use self::svid::{Subject, X509Svid};

use self::adopt::Asked;
use self::ca::{Ca, Stored};
use super::generations::{Generations, MAX_GENERATIONS};
use super::key::generate_pkcs8;
use super::schedule::{self, Life};
use super::{Error, Sealer};
use crate::identity::TrustDomain;

const CA_PREFIX: &str = "ca-";
const SEALING_NAME: &str = "x509/ca";

/// Who signs the certificate of the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Itself.
    Embedded,
    /// An operator put key and certificate into files.
    Disk,
    /// The PKI of OpenBao or Vault.
    OpenBao,
    /// A SPIRE server.
    Spire,
}

impl Origin {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Embedded, Self::Disk, Self::OpenBao, Self::Spire];

    /// As in the configuration and the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Disk => "disk",
            Self::OpenBao => "openbao",
            Self::Spire => "spire",
        }
    }

    /// In sealed files.
    fn code(self) -> u8 {
        match self {
            Self::Embedded => 0,
            Self::Disk => 1,
            Self::OpenBao => 2,
            Self::Spire => 3,
        }
    }

    /// Whether it says what else is to be trusted, and has to be asked for that again and again.
    pub fn has_bundle(self) -> bool {
        self == Self::Spire
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.code() == code)
    }

    /// Whether it has to be asked for, and may take its time.
    fn is_asked(self) -> bool {
        matches!(self, Self::OpenBao | Self::Spire)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the CA comes from, with what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaSource {
    /// It is made here.
    Embedded,
    /// It is in files.
    Disk(CaFiles),
    /// This one is asked.
    Upstream(Origin),
}

impl CaSource {
    fn origin(&self) -> Origin {
        match self {
            Self::Embedded => Origin::Embedded,
            Self::Disk(_) => Origin::Disk,
            Self::Upstream(origin) => *origin,
        }
    }
}

/// What an upstream authority is asked to sign.
pub struct CaRequest {
    key: Zeroizing<Vec<u8>>,
    /// PKCS#10, PEM.
    pub csr_pem: String,
    /// How long the CA is to live.
    pub lifetime: Duration,
    asked_at: Timestamp,
}

impl CaRequest {
    /// PKCS#10, DER.
    ///
    /// # Errors
    /// When there is none: that would be a bug.
    pub fn csr_der(&self) -> Result<Vec<u8>, Error> {
        let read = pem::parse(&self.csr_pem).map_err(|_| Error::Crypto { operation: "read a request for a CA" });
        read.map(pem::Pem::into_contents)
    }
}

impl fmt::Debug for CaRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaRequest").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// A CA that came into use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCa {
    /// Who signed it.
    pub origin: Origin,
    /// Nothing it signs is good at this instant.
    pub ends_at: Timestamp,
}

/// Signs X509-SVIDs with one of its CAs.
#[derive(Debug)]
pub struct X509Authority {
    trust_domain: TrustDomain,
    generations: Generations,
    source: CaSource,
    lifetime: SignedDuration,
    cas: ArcSwap<Cas>,
    /// What the upstream trusts, where it says so.
    trusted: ArcSwapOption<Vec<Vec<u8>>>,
    rotating: Mutex<Rotating>,
}

/// What only rotation touches.
#[derive(Debug, Default)]
struct Rotating {
    /// The files as they were when the CA was last read from them.
    seen: Option<disk::Seen>,
    /// Those that the audit log does not know of yet, oldest first.
    unrecorded: Vec<NewCa>,
}

/// The CAs as they are now. Swapped whole.
#[derive(Debug, Default)]
struct Cas {
    signing: Option<Arc<Ca>>,
    /// Oldest first.
    held: Vec<Arc<Ca>>,
}

impl X509Authority {
    /// Opens the CAs in a private directory and makes what is missing.
    ///
    /// # Errors
    /// When a file cannot be read or written, was changed, or is of no use.
    pub fn open(
        directory: &Path,
        sealer: &Sealer,
        trust_domain: TrustDomain,
        source: CaSource,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let authority = Self {
            trust_domain,
            generations: Generations::open(directory, sealer, CA_PREFIX, SEALING_NAME)?,
            source,
            lifetime: SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX),
            cas: ArcSwap::from_pointee(Cas::default()),
            trusted: ArcSwapOption::empty(),
            rotating: Mutex::default(),
        };
        authority.rotate(now, |_| Ok(()))?;
        Ok(authority)
    }

    /// Makes the next CA when it is time, turns to it when it is time, and forgets what is over. Nothing is signed
    /// with a CA before `publish` took its roots. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read or written, or `publish` fails; what was there goes on.
    pub fn rotate(&self, now: Timestamp, publish: impl FnOnce(&[Vec<u8>]) -> Result<(), Error>) -> Result<(), Error> {
        let mut rotating = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.read_all()?;
        if self.source == CaSource::Embedded && schedule::plan(&lives(&self.rooted(&held)), now).is_due {
            // In whole seconds, as in a certificate and in the file.
            let begins_at = Timestamp::from_second(now.as_second()).unwrap_or(now);
            let life = Life { begins_at, ends_at: begins_at.saturating_add(self.lifetime).unwrap_or(Timestamp::MAX) };
            self.make_room(&mut held, now)?;
            self.generations.add(next_number(&held), begins_at, &ca::generate(&self.trust_domain, life)?)?;
            rotating.unrecorded.push(NewCa { origin: Origin::Embedded, ends_at: life.ends_at });
            held = self.read_all()?;
        }
        let mut refused = None;
        let mut read = None;
        if let CaSource::Disk(files) = &self.source {
            let current = self.cas.load().held.iter().find(|ca| ca.origin == Origin::Disk).map(Arc::clone);
            match files.read_if_changed(rotating.seen.as_ref(), &self.trust_domain, now) {
                Ok(Some((ca, seen))) => {
                    read = Some((NewCa { origin: Origin::Disk, ends_at: ca.life.ends_at }, seen));
                    held.push(Arc::new(ca));
                }
                Ok(None) => held.extend(current),
                // The last good one goes on.
                Err(error) => {
                    held.extend(current);
                    refused = Some(error);
                }
            }
        }
        // Only when the next one is safe on disk.
        self.forget(&mut held, now)?;
        self.turn_to(held, now, publish)?;
        if let Some((new, seen)) = read {
            rotating.unrecorded.push(new);
            rotating.seen = Some(seen);
        }
        refused.map_or(Ok(()), Err)
    }

    /// Forgets what is over.
    fn forget(&self, held: &mut Vec<Arc<Ca>>, now: Timestamp) -> Result<(), Error> {
        // The last one of an upstream stays for its roots: they are good for longer, and what other nodes have below
        // them too.
        let origin = Some(self.source.origin()).filter(|origin| origin.is_asked());
        let kept = held.iter().rev().find(|ca| Some(ca.origin) == origin).map(|ca| ca.number);
        let is_of_use = |ca: &Ca| ca.origin == Origin::Disk || !ca.life.is_over(now) || Some(ca.number) == kept;
        for ca in held.iter().filter(|ca| !is_of_use(ca)) {
            self.generations.remove(ca.number)?;
        }
        held.retain(|ca| is_of_use(ca));
        Ok(())
    }

    /// Forgets what is over already when there is no room for another.
    fn make_room(&self, held: &mut Vec<Arc<Ca>>, now: Timestamp) -> Result<(), Error> {
        if held.len() >= MAX_GENERATIONS { self.forget(held, now) } else { Ok(()) }
    }

    /// Whether an upstream has to be asked for the next.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let held = &self.cas.load().held;
        self.source.origin().is_asked() && schedule::plan(&lives(&self.rooted(held)), now).is_due
    }

    /// From now on only these are trusted of what the upstream ever named. Takes effect with the next
    /// [`Self::rotate`].
    pub fn trust(&self, roots: Vec<Vec<u8>>) {
        self.trusted.store(Some(Arc::new(roots)));
    }

    /// Those of the source whose root is trusted still.
    fn rooted<'a>(&self, held: &'a [Arc<Ca>]) -> Vec<&'a Arc<Ca>> {
        let trusted = self.trusted.load();
        let is_rooted = |ca: &Ca| match trusted.as_ref() {
            Some(trusted) => ca.roots.first().is_some_and(|root| trusted.contains(root)),
            None => true,
        };
        held.iter().filter(|ca| ca.origin == self.source.origin() && is_rooted(ca)).collect()
    }

    fn roots_of(&self, held: &[Arc<Ca>]) -> Vec<Vec<u8>> {
        let trusted = self.trusted.load();
        let is_told = |ca: &Ca| trusted.is_some() && ca.origin == self.source.origin();
        let named = held.iter().filter(|ca| !is_told(ca)).flat_map(|ca| &ca.roots);
        let mut roots: Vec<Vec<u8>> = Vec::new();
        for root in named.chain(trusted.iter().flat_map(|trusted| trusted.iter())) {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        roots
    }

    /// Has the roots of what is held trusted, and then signs with it.
    fn turn_to(
        &self,
        held: Vec<Arc<Ca>>,
        now: Timestamp,
        publish: impl FnOnce(&[Vec<u8>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Those of another source stay known until what they signed is over, and sign nothing more. One whose root is
        // not trusted any more signs only as long as there is no other.
        let rooted = self.rooted(&held);
        let of_source = match rooted.iter().any(|ca| ca.life.is_of_use(now)) {
            true => rooted,
            false => held.iter().filter(|ca| ca.origin == self.source.origin()).collect(),
        };
        let signing = match &self.source {
            CaSource::Disk(_) => of_source.last().copied(),
            CaSource::Embedded | CaSource::Upstream(_) => {
                schedule::plan(&lives(&of_source), now).signing.and_then(|place| of_source.get(place).copied())
            }
        };
        let signing = signing.map(Arc::clone);
        publish(&self.roots_of(&held))?;
        self.cas.store(Arc::new(Cas { signing, held }));
        Ok(())
    }

    /// Those that came into use and that nobody recorded yet, oldest first.
    pub fn unrecorded(&self) -> Vec<NewCa> {
        self.rotating.lock().unwrap_or_else(PoisonError::into_inner).unrecorded.clone()
    }

    /// The oldest of [`Self::unrecorded`] is in the audit log.
    pub fn recorded(&self, new: &NewCa) {
        let mut rotating = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        if rotating.unrecorded.first() == Some(new) {
            rotating.unrecorded.remove(0);
        }
    }

    /// Asks for a CA: a new key, and what is to be signed for it.
    ///
    /// # Errors
    /// When there is no randomness, or the library refuses.
    pub fn request(&self, now: Timestamp) -> Result<CaRequest, Error> {
        let key = generate_pkcs8(&SystemRandom::new())?;
        let csr_pem = ca::request(&self.trust_domain, &key)?;
        let lifetime = Duration::try_from(self.lifetime).unwrap_or_default();
        Ok(CaRequest { key, csr_pem, lifetime, asked_at: now })
    }

    /// Takes what an upstream signed, if SVIDs can stand on it, and keeps it sealed. Blocks.
    ///
    /// # Errors
    /// When it is of no use, or cannot be written; what was there goes on.
    pub fn adopt(
        &self,
        request: &CaRequest,
        signed: &Signed,
        now: Timestamp,
        publish: impl FnOnce(&[Vec<u8>]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let origin = self.source.origin();
        let refused = |reason| Error::Refused { origin, reason };
        let mut rotating = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.read_all()?;
        self.make_room(&mut held, now)?;
        let of_use = lives(&self.rooted(&held)).into_iter().filter(|life| life.is_of_use(now));
        let asked = Asked {
            at: request.asked_at,
            lifetime: self.lifetime,
            newest_ends_at: of_use.map(|life| life.ends_at).max(),
        };
        let judged = adopt::judge(signed, &request.key, &self.trust_domain, Some(asked), now);
        let (path, ends_at) = judged.map_err(refused)?;
        let begins_at = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let life = Life { begins_at, ends_at };
        let ca = Ca::new(next_number(&held), life, origin, &request.key, path.clone())
            .map_err(|error| refused(error.to_string()))?;
        let content = Stored { origin, ends_at, key: &request.key, path }.write()?;
        self.generations.add(ca.number, begins_at, &content)?;
        rotating.unrecorded.push(NewCa { origin, ends_at });
        held.push(Arc::new(ca));
        self.turn_to(held, now, publish)
    }

    /// Those that were sealed, oldest first.
    fn read_all(&self) -> Result<Vec<Arc<Ca>>, Error> {
        self.generations.read_all()?.iter().map(|generation| Ca::read(generation).map(Arc::new)).collect()
    }

    /// How long until [`Self::rotate`] has something to do, at most `longest`.
    pub fn next_look(&self, now: Timestamp, longest: SignedDuration) -> SignedDuration {
        match &self.source {
            CaSource::Disk(_) => longest.min(disk::LOOK_AGAIN),
            CaSource::Embedded | CaSource::Upstream(_) => {
                let lives: Vec<Life> = self.cas.load().held.iter().map(|ca| ca.life).collect();
                schedule::next_look(&lives, now, longest)
            }
        }
    }

    /// Who signs the CA.
    pub fn origin(&self) -> Origin {
        self.source.origin()
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
        svid::issue(ca.issuer(), ca.presented(), ca.life, subject)
    }

    fn signing(&self, now: Timestamp) -> Result<Arc<Ca>, Error> {
        let signing = self.cas.load().signing.as_ref().map(Arc::clone);
        signing.filter(|ca| !ca.life.is_over(now)).ok_or(Error::NoSigner { what: "certificates" })
    }

    /// What others have to trust, DER, oldest first.
    pub fn roots(&self) -> Vec<Vec<u8>> {
        self.roots_of(&self.cas.load().held)
    }
}

fn lives(cas: &[&Arc<Ca>]) -> Vec<Life> {
    cas.iter().map(|ca| ca.life).collect()
}

fn next_number(held: &[Arc<Ca>]) -> u32 {
    held.last().map_or(0, |newest| newest.number).saturating_add(1)
}

#[cfg(test)]
mod tests;
