// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    CaRequest, CaSource, Claims, Error, JwtAuthority, Sealer, Signed, TokenKind, TrustBundle, X509Authority, file,
    foreign,
};
use crate::identity::TrustDomain;

/// A number and a digest.
const MAX_PUBLISHED_BYTES: usize = 1024;

/// How keys are kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Of every SVID.
    pub trust_domain: TrustDomain,
    /// From the making of a JWT key to its end.
    pub jwt_key_lifetime: Duration,
    /// Whether WIT-SVIDs are minted.
    pub wit: bool,
    /// Where the CA comes from.
    pub ca: CaSource,
    /// From the making of a CA to its end.
    pub ca_lifetime: Duration,
    /// How often those who use the trust bundle should look for a change.
    pub refresh_hint: Duration,
}

/// Everything that issues: the JWT keys, the CA, and the trust bundle that names both.
#[derive(Debug)]
pub struct Authority {
    /// Signs tokens.
    pub jwt: JwtAuthority,
    /// Signs WIT-SVIDs, where those are minted.
    pub wit: Option<JwtAuthority>,
    /// Signs certificates.
    pub x509: X509Authority,
    config: Config,
    published: Published,
    above: Above,
    bundle: watch::Sender<Arc<TrustBundle>>,
}

/// Who minted a token of the own trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Minted {
    /// This node.
    Here,
    /// The upstream, or somebody else below it.
    Elsewhere,
}

impl Authority {
    /// Opens the keys in a private directory and makes what is missing.
    ///
    /// # Errors
    /// When a file cannot be read or written, was changed, or is of no use.
    pub fn open(directory: &Path, sealer: &Sealer, config: Config, now: Timestamp) -> Result<Self, Error> {
        let of_kind = |kind| JwtAuthority::open(directory, sealer, kind, config.jwt_key_lifetime, now);
        let jwt = of_kind(TokenKind::Jwt)?;
        let wit = config.wit.then(|| of_kind(TokenKind::Wit)).transpose()?;
        let (domain, ca) = (config.trust_domain.clone(), config.ca.clone());
        let x509 = X509Authority::open(directory, sealer, domain, ca, config.ca_lifetime, now)?;
        let published = Published::open(directory)?;
        let above = Above::open(directory, &config)?;
        if let Some(above) = above.bundle() {
            x509.trust(above.roots.clone());
            x509.rotate(now, |_| Ok(()))?;
        }
        let bundle = bundle_of(&jwt, wit.as_ref(), &x509.roots(), above.bundle().as_deref(), &config, &published)?;
        Ok(Self { jwt, wit, x509, config, published, above, bundle: watch::Sender::new(Arc::new(bundle)) })
    }

    /// Rotates what is due, and publishes what changed. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read or written; what was there goes on.
    pub fn rotate(&self, now: Timestamp) -> Result<(), Error> {
        // Both are tried: a failure of one must not keep the other from its turn.
        let jwt = self.jwt.rotate(now).and(self.wit.as_ref().map(|wit| wit.rotate(now)).transpose());
        let mut bundle = None;
        let x509 = self.x509.rotate(now, |roots| self.numbered(roots).map(|next| bundle = Some(next)));
        let bundle = match bundle {
            Some(bundle) => bundle,
            None => self.numbered(&self.x509.roots())?,
        };
        self.publish(bundle);
        jwt?;
        x509
    }

    /// Takes what an upstream signed, if it is of use, and publishes its roots. Blocks.
    ///
    /// # Errors
    /// When it is of no use, or cannot be written; what was there goes on.
    pub fn adopt(&self, request: &CaRequest, signed: &Signed, now: Timestamp) -> Result<(), Error> {
        let mut bundle = None;
        self.x509.adopt(request, signed, now, |roots| self.numbered(roots).map(|next| bundle = Some(next)))?;
        if let Some(bundle) = bundle {
            self.publish(bundle);
        }
        Ok(())
    }

    /// The bundle with these roots, its number safe on disk.
    fn numbered(&self, roots: &[Vec<u8>]) -> Result<TrustBundle, Error> {
        bundle_of(&self.jwt, self.wit.as_ref(), roots, self.above.bundle().as_deref(), &self.config, &self.published)
    }

    /// Trusts what the upstream trusts, from now on and over restarts; says whether that is news. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; what was known goes on.
    pub fn follow(&self, bundle: TrustBundle, now: Timestamp) -> Result<bool, Error> {
        let roots = bundle.roots.clone();
        let is_news = self.above.set(bundle)?;
        self.x509.trust(roots);
        // What was written and could not be published the last time is published now.
        self.rotate(now)?;
        Ok(is_news)
    }

    /// The claims of a token of the own trust domain, and who minted it.
    ///
    /// # Errors
    /// [`Error::Token`], with what is wrong.
    pub fn verify_jwt(&self, token: &str) -> Result<(Claims, Minted), Error> {
        match self.above.bundle().filter(|_| !self.jwt.knows_key_of(token)) {
            Some(above) => above.verify_jwt(token).map(|claims| (claims, Minted::Elsewhere)),
            None => self.jwt.verify_jwt(token).map(|claims| (claims, Minted::Here)),
        }
    }

    fn publish(&self, bundle: TrustBundle) {
        self.bundle.send_if_modified(|published| {
            let is_changed = **published != bundle;
            if is_changed {
                *published = Arc::new(bundle);
            }
            is_changed
        });
    }

    /// How long until [`Self::rotate`] has something to do, at most `longest`.
    pub fn next_look(&self, now: Timestamp, longest: SignedDuration) -> SignedDuration {
        let wit = self.wit.as_ref().map_or(longest, |wit| wit.next_look(now, longest));
        self.jwt.next_look(now, longest).min(self.x509.next_look(now, longest)).min(wit)
    }

    /// The trust bundle as it is now.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.bundle.borrow())
    }

    /// Tells of every change of the trust bundle.
    pub fn bundles(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }
}

fn bundle_of(
    jwt: &JwtAuthority,
    wit: Option<&JwtAuthority>,
    roots: &[Vec<u8>],
    above: Option<&TrustBundle>,
    config: &Config,
    published: &Published,
) -> Result<TrustBundle, Error> {
    let (keys, wit) = (jwt.public_keys(), wit.map(JwtAuthority::public_keys).unwrap_or_default());
    let of = |sequence| {
        TrustBundle::new(config.trust_domain.clone(), roots, &keys, &wit, above, sequence, config.refresh_hint)
    };
    // The same authorities always make the same document, but for its number.
    let sequence = published.sequence_of(&of(0)?.document)?;
    of(sequence)
}

/// What the upstream trusts, where it says so, as it was last known.
#[derive(Debug)]
struct Above {
    path: PathBuf,
    bundle: ArcSwapOption<TrustBundle>,
}

impl Above {
    fn open(directory: &Path, config: &Config) -> Result<Self, Error> {
        let path = directory.join("upstream.json");
        let is_asked = matches!(config.ca, CaSource::Upstream(origin) if origin.has_bundle());
        let known = foreign::read(&path)?;
        // What another upstream said, or one of another trust domain, says nothing about this one.
        let of_this = known.filter(|known| is_asked && known.trust_domain == config.trust_domain);
        if of_this.is_none() {
            file::remove(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(Self { path, bundle: ArcSwapOption::from(of_this.map(Arc::new)) })
    }

    fn bundle(&self) -> Option<Arc<TrustBundle>> {
        self.bundle.load_full()
    }

    fn set(&self, bundle: TrustBundle) -> Result<bool, Error> {
        if self.bundle().is_some_and(|known| known.trusts_the_same(&bundle)) {
            return Ok(false);
        }
        foreign::write(&self.path, &bundle)?;
        self.bundle.store(Some(Arc::new(bundle)));
        Ok(true)
    }
}

/// Counts the changes of the trust bundle, over restarts too: whoever holds a bundle takes no older one.
#[derive(Debug)]
struct Published {
    path: PathBuf,
    last: Mutex<Option<Numbered>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Numbered {
    sequence: u64,
    sha256: String,
}

impl Published {
    fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("bundle.json");
        let text = file::read_private(&path, MAX_PUBLISHED_BYTES).map_err(Error::io("read", &path))?;
        let damaged = |_| Error::Unseal { name: "bundle.json".to_owned() };
        let last = text.map(|text| serde_json::from_slice(&text).map_err(damaged)).transpose()?;
        Ok(Self { path, last: Mutex::new(last) })
    }

    fn sequence_of(&self, document: &[u8]) -> Result<u64, Error> {
        let sha256 = super::sha256(document);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = last.as_ref().filter(|last| last.sha256 == sha256) {
            return Ok(same.sequence);
        }
        let sequence = last.as_ref().map_or(0, |last| last.sequence).saturating_add(1);
        let next = Numbered { sequence, sha256 };
        let text = serde_json::to_vec(&next).map_err(Error::Json)?;
        file::replace(&self.path, &text).map_err(Error::io("write", &self.path))?;
        *last = Some(next);
        Ok(sequence)
    }
}
