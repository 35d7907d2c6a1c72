// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::{Error, JwtAuthority, Sealer, TrustBundle, X509Authority};
use crate::identity::TrustDomain;

/// How keys are kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Of every SVID.
    pub trust_domain: TrustDomain,
    /// From the making of a JWT key to its end.
    pub jwt_key_lifetime: Duration,
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
    /// Signs certificates.
    pub x509: X509Authority,
    config: Config,
    bundle: watch::Sender<Arc<TrustBundle>>,
}

impl Authority {
    /// Opens the keys in a private directory and makes what is missing.
    ///
    /// # Errors
    /// When a file cannot be read or written, or was changed.
    pub fn open(directory: &Path, sealer: &Sealer, config: Config, now: Timestamp) -> Result<Self, Error> {
        let jwt = JwtAuthority::open(directory, sealer, config.jwt_key_lifetime, now)?;
        let x509 = X509Authority::open(directory, sealer, config.trust_domain.clone(), config.ca_lifetime, now)?;
        let bundle = watch::Sender::new(Arc::new(bundle_of(&jwt, &x509, &config)?));
        Ok(Self { jwt, x509, config, bundle })
    }

    /// Rotates what is due, and publishes what changed. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read or written; what was there goes on.
    pub fn rotate(&self, now: Timestamp) -> Result<(), Error> {
        // Both are tried: a failure of one must not keep the other from its turn.
        let rotated = [self.jwt.rotate(now), self.x509.rotate(now)];
        if rotated.iter().any(|rotated| matches!(rotated, Ok(true))) {
            self.bundle.send_replace(Arc::new(bundle_of(&self.jwt, &self.x509, &self.config)?));
        }
        rotated.into_iter().try_for_each(|rotated| rotated.map(drop))
    }

    /// How long until [`Self::rotate`] has something to do, at most `longest`.
    pub fn next_look(&self, now: Timestamp, longest: SignedDuration) -> SignedDuration {
        self.jwt.next_look(now, longest).min(self.x509.next_look(now, longest))
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

fn bundle_of(jwt: &JwtAuthority, x509: &X509Authority, config: &Config) -> Result<TrustBundle, Error> {
    let sequence = jwt.sequence().saturating_add(x509.sequence());
    TrustBundle::new(config.trust_domain.clone(), &x509.roots(), &jwt.public_keys(), sequence, config.refresh_hint)
}
