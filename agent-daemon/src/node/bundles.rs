// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which trust bundles a caller gets, and what the streams that tell of them wait for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::ask::{Ask, Refusal};
use super::{Node, Stream};
use crate::attest::{Attested, Peer};
use crate::authority::{ForeignChange, TrustBundle};
use crate::identity::TrustDomain;

/// The clock may be set while a stream waits, so no wait is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A rotation that could not be made is tried again this soon, as long as what was given out is good.
const SHORTEST_WAIT: Duration = Duration::from_millis(200);

/// The bundles that a caller gets.
#[derive(Debug, Clone)]
pub struct Bundles {
    /// Of the own trust domain.
    pub own: Arc<TrustBundle>,
    /// Of those that the caller's entries name, as far as they are known.
    pub foreign: Vec<Arc<TrustBundle>>,
    /// Those that the caller's entries name.
    federates_with: Vec<TrustDomain>,
}

/// Which authorities of a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Those that sign certificates.
    X509,
    /// Those that sign tokens.
    Jwt,
    /// Those that sign tokens that need a proof.
    Wit,
}

impl Part {
    /// It.
    pub fn of(self, bundle: &TrustBundle) -> &Bytes {
        match self {
            Self::X509 => &bundle.x509,
            Self::Jwt => &bundle.jwks,
            Self::Wit => &bundle.wit,
        }
    }
}

impl Bundles {
    /// All of them, the own one first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        [&self.own].into_iter().chain(&self.foreign)
    }

    fn says_the_same(&self, other: &Self, part: Part) -> bool {
        let told = |bundles: &Self| bundles.all().map(|one| (one.trust_domain.clone(), part.of(one).clone())).collect();
        let (one, other): (Vec<_>, Vec<_>) = (told(self), told(other));
        one == other
    }
}

/// What a stream waits for.
#[derive(Debug)]
pub struct Changes {
    snapshots: watch::Receiver<u64>,
    bundles: watch::Receiver<Arc<TrustBundle>>,
    foreign: watch::Receiver<ForeignChange>,
    told: Option<(Bundles, Part)>,
    told_at: Option<Timestamp>,
}

impl Changes {
    /// What the stream told of bundles: as long as its caller gets the same, a change of others is none. Says whether
    /// it is news.
    pub fn tell(&mut self, bundles: &Bundles, part: Part, now: Timestamp) -> bool {
        let is_news = self.told.as_ref().is_none_or(|(told, of)| *of != part || !told.says_the_same(bundles, part));
        self.told = Some((bundles.clone(), part));
        self.told_at = Some(now);
        is_news
    }
}

impl Node {
    /// The bundles that the caller gets. Public keys need no decision, only an identity.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn bundles(&self, peer: &Peer) -> Result<Bundles, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, "fetch_bundles", &snapshot).await?;
        if attested.entries.is_empty() {
            return Err(self.refused(&snapshot, &attested, Ask::default()).await);
        }
        self.answer_only_if_same(peer, "fetch_bundles")?;
        Ok(self.bundles_of(&attested))
    }

    pub(super) fn bundles_of(&self, attested: &Attested) -> Bundles {
        self.bundles_for(federates_with(attested).into_iter().cloned().collect())
    }

    fn bundles_for(&self, federates_with: Vec<TrustDomain>) -> Bundles {
        let foreign = federates_with.iter().filter_map(|domain| self.foreign.bundle(domain)).collect();
        Bundles { own: self.authority.bundle(), foreign, federates_with }
    }

    fn is_news(&self, changes: &Changes) -> bool {
        changes
            .told
            .as_ref()
            .is_some_and(|(told, part)| !told.says_the_same(&self.bundles_for(told.federates_with.clone()), *part))
    }

    /// What streams wait for, from now on.
    pub fn changes(&self) -> Changes {
        Changes {
            snapshots: self.snapshots.subscribe(),
            bundles: self.authority.bundles(),
            foreign: self.foreign.changes(),
            told: None,
            told_at: None,
        }
    }

    /// Waits until there is something new to say, or the time has come. False when the stream is over.
    pub async fn wait(&self, stream: &Stream, changes: &mut Changes, rotate_at: Option<Timestamp>) -> bool {
        loop {
            let left = rotate_at.map_or(LONGEST_WAIT, |at| {
                let left = at.duration_since(self.clock.now());
                Duration::try_from(left).unwrap_or_default().clamp(SHORTEST_WAIT, LONGEST_WAIT)
            });
            // Each arm is cancel-safe: what changed stays marked until it was seen.
            let changed = tokio::select! {
                biased;
                () = stream.ended() => return false,
                changed = changes.snapshots.changed() => return changed.is_ok(),
                changed = changes.bundles.changed() => changed,
                changed = changes.foreign.changed() => changed,
                () = tokio::time::sleep(left) => Ok(()),
            };
            if changed.is_err() {
                return false;
            }
            // A partner that changes its bundle all the time costs only those who federate with it.
            if self.is_news(changes) {
                return true;
            }
            // The clock was set back: what was given may not be good yet.
            if changes.told_at.is_some_and(|told_at| self.clock.now() < told_at) {
                return true;
            }
            if rotate_at.is_some_and(|at| at <= self.clock.now()) {
                return true;
            }
        }
    }
}

/// Every trust domain that one of the caller's entries names, once, in order.
pub(super) fn federates_with(attested: &Attested) -> BTreeSet<&TrustDomain> {
    attested.entries.iter().flat_map(|entry| &entry.federates_with).collect()
}
