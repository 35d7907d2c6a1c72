// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fetches the trust bundles of other trust domains and keeps the last good ones.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::audit::{self, BundleRecord, Caller, Outcome, Record};
use crate::authority::{self, TrustBundle};
use crate::diagnostic::with_sources;
use crate::identity::{Federation, Profile, TrustDomain};
use crate::web::{Client, Trust};

/// A bundle that does not say how often to look.
const USUAL: SignedDuration = SignedDuration::from_secs(300);
/// Whatever it says: not more seldom.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// After a failure; doubled with every further one.
const AFTER_FAILURE: SignedDuration = SignedDuration::from_secs(2);
const LONGEST_AFTER_FAILURE: SignedDuration = SignedDuration::from_secs(60);
/// The clock may be set while nobody looks, so no wait is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is known of the bundle of one trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// When it was last fetched.
    pub fetched_at: Option<Timestamp>,
    /// When it is fetched again.
    pub next_at: Option<Timestamp>,
    /// Why it could not be fetched the last time.
    pub error: Option<String>,
    failures: u32,
    /// From the last one to the next.
    wait: SignedDuration,
}

/// How bundles are fetched.
#[derive(Debug, Clone)]
pub struct Fetching {
    /// The roots by which endpoints of the web are believed; without, those of the machine.
    pub web_roots: Option<PathBuf>,
    /// Whatever a bundle says: not more often.
    pub min_refresh: Duration,
}

/// How the fetching of all of them goes.
#[derive(Debug)]
pub(super) struct Federations {
    how: Fetching,
    known: Mutex<HashMap<TrustDomain, (Federation, Known)>>,
}

impl Federations {
    pub(super) fn new(how: Fetching) -> Self {
        Self { how, known: Mutex::default() }
    }

    /// Those that are to be fetched now, and when the next one is. What is no longer asked for is forgotten.
    fn due(&self, wanted: &[Federation], now: Timestamp) -> (Vec<Federation>, Option<Timestamp>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (federation, _)| wanted.contains(federation));
        let mut due = Vec::new();
        let mut next = None;
        for federation in wanted {
            let fresh = || (federation.clone(), Known::default());
            let (_, one) = known.entry(federation.trust_domain.clone()).or_insert_with(fresh);
            // A clock that was set back must not make it wait for longer than it would have.
            let at = one.next_at.filter(|at| *at > now && at.duration_since(now) <= one.wait);
            match at {
                None => due.push(federation.clone()),
                Some(at) => next = Some(next.map_or(at, |next: Timestamp| next.min(at))),
            }
        }
        (due, next)
    }

    /// Notes how it went; says whether that is news.
    fn note(&self, federation: &Federation, fetched: Result<Option<Duration>, String>, now: Timestamp) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, one)) = known.get_mut(&federation.trust_domain) else { return false };
        let (wait, is_news) = match fetched {
            Ok(hint) => {
                one.fetched_at = Some(now);
                one.failures = 0;
                let hint = hint.and_then(|hint| SignedDuration::try_from(hint).ok()).unwrap_or(USUAL);
                let shortest = SignedDuration::try_from(self.how.min_refresh).unwrap_or(LONGEST);
                (hint.max(shortest).min(LONGEST), one.error.take().is_some())
            }
            Err(error) => {
                let wait = AFTER_FAILURE.saturating_mul(2_i32.saturating_pow(one.failures)).min(LONGEST_AFTER_FAILURE);
                one.failures = one.failures.saturating_add(1);
                let is_news = one.error.as_ref() != Some(&error);
                one.error = Some(error);
                (wait, is_news)
            }
        };
        one.wait = wait;
        one.next_at = now.saturating_add(wait).ok();
        is_news
    }
}

impl Node {
    /// Fetches every bundle when it is time, until cancelled.
    pub async fn federate(self: &Arc<Self>, cancel: CancellationToken) {
        let mut snapshots = self.snapshots.subscribe();
        loop {
            let snapshot = self.snapshot();
            let (due, next) = self.federations.due(&snapshot.federations, self.clock.now());
            let fetches = join_all(due.iter().map(|federation| self.fetch_and_note(federation)));
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = fetches => {}
            }
            if !due.is_empty() {
                continue;
            }
            let wait = next.map_or(LONGEST_WAIT, |next| {
                Duration::try_from(next.duration_since(self.clock.now())).unwrap_or_default().min(LONGEST_WAIT)
            });
            // Each arm is cancel-safe: a reload stays marked until it was seen.
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn fetch_and_note(self: &Arc<Self>, federation: &Federation) {
        let fetched = self.fetch(federation).await;
        let (hint, news) = match fetched {
            Ok((bundle, is_changed)) => (Ok(bundle.refresh_hint), is_changed.then_some(bundle)),
            Err(error) => (Err(error), None),
        };
        let is_news = self.federations.note(federation, hint.clone(), self.clock.now());
        let (domain, url) = (&federation.trust_domain, federation.url.to_string());
        match (hint, news) {
            (Ok(_), Some(bundle)) => {
                tracing::info!(trust_domain = %domain, sequence = ?bundle.sequence, "a new trust bundle");
                self.record_bundle(bundle_record("fetch", domain, Some(&bundle), Some(url)));
            }
            (Ok(_), None) => {}
            (Err(error), _) if is_news => {
                tracing::warn!(trust_domain = %domain, url, %error, "the trust bundle could not be fetched");
                let record = bundle_record("fetch", domain, None, Some(url));
                self.record_bundle(BundleRecord { outcome: Outcome::Deny, error: Some(error), ..record });
            }
            (Err(error), _) => {
                tracing::debug!(trust_domain = %domain, %error, "the trust bundle still cannot be fetched");
            }
        }
    }

    /// The bundle as it is now, and whether that was news.
    async fn fetch(self: &Arc<Self>, federation: &Federation) -> Result<(TrustBundle, bool), String> {
        let trust = match &federation.profile {
            Profile::Web => self.federations.how.web_roots.clone().map_or(Trust::System, Trust::File),
            Profile::Spiffe(id) => {
                let domain = id.trust_domain();
                let bundle = match domain == &self.identity.trust_domain {
                    true => Some(self.authority.bundle()),
                    false => self.foreign.bundle(domain),
                };
                let bundle = bundle.ok_or_else(|| {
                    format!("nothing is known of {domain} yet: agentctl spiffe bundle set gives its first bundle")
                })?;
                Trust::Spiffe { roots: bundle.roots.clone(), id: id.clone() }
            }
        };
        let client = tokio::task::spawn_blocking(move || Client::new(&trust)).await;
        let client = client.map_err(|error| error.to_string())?.map_err(|error| with_sources(&error))?;
        let answer = client.get(&federation.url, &[]).await.map_err(|error| with_sources(&error))?;
        if answer.status != StatusCode::OK {
            return Err(format!("it answered {}", answer.status.as_u16()));
        }
        let bundle = TrustBundle::parse(federation.trust_domain.clone(), &answer.body);
        let bundle = bundle.map_err(|error| error.to_string())?;
        let (node, kept, federation) = (Arc::clone(self), bundle.clone(), federation.clone());
        let is_changed = tokio::task::spawn_blocking(move || {
            node.foreign.put_fetched(kept, || node.snapshot().federations.contains(&federation))
        });
        let is_changed = is_changed.await.map_err(|error| error.to_string())?.map_err(|error| with_sources(&error))?;
        Ok((bundle, is_changed))
    }

    /// How the fetching of a trust domain's bundle goes; none where it is not fetched.
    pub fn federation(&self, trust_domain: &TrustDomain) -> Option<Known> {
        let known = self.federations.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(trust_domain).map(|(_, known)| known.clone())
    }

    /// Keeps a bundle that an operator gives. Blocks.
    ///
    /// # Errors
    /// When it is of no use, cannot be written, or cannot be recorded.
    pub fn set_bundle(&self, bundle: TrustBundle, by: Caller) -> Result<bool, SetError> {
        if bundle.trust_domain == self.identity.trust_domain {
            let reason = "it is the own trust domain, whose bundle is made here".to_owned();
            return Err(authority::Error::Bundle { trust_domain: bundle.trust_domain, reason }.into());
        }
        // Before anything is written: what cannot be recorded is not done.
        let _slot = self.log.reserve()?;
        let is_changed = self.foreign.put(bundle.clone())?;
        let record = bundle_record("set", &bundle.trust_domain, Some(&bundle), None);
        self.log.append(&Record::Bundle(BundleRecord { by: Some(by), ..record }))?;
        Ok(is_changed)
    }

    /// Forgets the bundle of a trust domain. Blocks.
    ///
    /// # Errors
    /// When it cannot be removed, or that cannot be recorded.
    pub fn remove_bundle(&self, trust_domain: &TrustDomain, by: Caller) -> Result<bool, SetError> {
        let _slot = self.log.reserve()?;
        let removed = self.foreign.remove(trust_domain)?;
        if removed {
            let record = bundle_record("remove", trust_domain, None, None);
            self.log.append(&Record::Bundle(BundleRecord { by: Some(by), ..record }))?;
        }
        Ok(removed)
    }

    pub(super) fn record_bundle(&self, record: BundleRecord) {
        if let Err(error) = self.log.append(&Record::Bundle(record)) {
            tracing::error!(error = %with_sources(&error), "a change of a trust bundle could not be recorded");
        }
    }
}

/// Why a bundle was not set or removed.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// It is of no use, or cannot be kept.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// It cannot be recorded.
    #[error(transparent)]
    Audit(#[from] audit::Error),
}

pub(super) fn bundle_record(
    operation: &str,
    trust_domain: &TrustDomain,
    bundle: Option<&TrustBundle>,
    url: Option<String>,
) -> BundleRecord {
    BundleRecord {
        outcome: Outcome::Allow,
        operation: operation.to_owned(),
        trust_domain: trust_domain.to_string(),
        url,
        sequence: bundle.and_then(|bundle| bundle.sequence),
        sha256: bundle.map(TrustBundle::sha256),
        by: None,
        error: None,
    }
}
