// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys that are made, turned to and forgotten when it is time, and a CA that somebody else signs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::federate::bundle_record;
use crate::audit::{AuthorityRecord, Outcome, Record};
use crate::authority::{Error, NewCa, Origin};
use crate::diagnostic::with_sources;
use crate::upstream::Followed;

/// The clock may be set while nobody looks, so no wait is longer than this.
const LONGEST: SignedDuration = SignedDuration::from_secs(60);
/// How often an upstream is asked what it trusts.
const FOLLOW: Duration = Duration::from_secs(30);
/// After a failure; what signs now goes on signing. Doubled with every further one.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
const LONGEST_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// From when somebody missed a signer to the look for one.
const AFTER_MISSED: Duration = Duration::from_secs(5);
/// What is in files costs nothing to look at.
const AFTER_FILES: Duration = Duration::from_secs(5);
/// An upstream that signs what cannot be used keeps a certificate each time, so it is not asked all the time as long as
/// there is a CA.
const LONGEST_AFTER_REFUSAL: Duration = Duration::from_secs(3600);
/// For a whole conversation with an upstream, with the files that it takes.
const UPSTREAM_TIME: Duration = Duration::from_secs(60);

/// What went wrong the last time, so that the log says it once.
#[derive(Debug, Default)]
struct Failing {
    error: Option<String>,
    times: u32,
}

impl Failing {
    fn wait(&self, longest: Duration) -> Duration {
        AFTER_FAILURE.saturating_mul(2_u32.saturating_pow(self.times.saturating_sub(1))).min(longest)
    }
}

fn later(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or(now)
}

async fn in_time<T>(origin: Origin, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(UPSTREAM_TIME, asked).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", UPSTREAM_TIME.as_secs());
        Err(Error::Upstream { origin, reason })
    })
}

impl Node {
    /// Makes keys, turns to them and forgets them when it is time, and speaks with the upstream, until cancelled. A
    /// reload lets both look again.
    pub async fn rotate_keys(self: &Arc<Self>, cancel: CancellationToken) {
        // Beside each other: an upstream that hangs must not keep a key here from its turn.
        tokio::select! {
            () = cancel.cancelled() => {}
            ((), ()) = async { tokio::join!(self.keep_rotating(), self.keep_asking()) } => {}
        }
    }

    async fn keep_rotating(self: &Arc<Self>) {
        let mut failing = Failing::default();
        let mut snapshots = self.snapshots.subscribe();
        loop {
            let rotated = self.blocking(|node| node.authority.rotate(node.clock.now())).await;
            self.record_new();
            let longest = match &rotated {
                // Whoever mends a file waits for it; nobody is burdened by looking again.
                Err(Error::Refused { .. } | Error::Io { .. }) => AFTER_FILES,
                Ok(()) | Err(_) => LONGEST_AFTER_FAILURE,
            };
            self.note(&mut failing, rotated);
            let longest = if failing.times > 0 { failing.wait(longest) } else { Duration::MAX };
            // The clock was set: who asks need not wait until it is looked at anyway. A clock that is set back in a moment
            // finds its keys again, and nobody makes this look all the time.
            let missed = async {
                self.signer_missed.notified().await;
                tokio::time::sleep(AFTER_MISSED).await;
            };
            // Each arm is cancel-safe: a permit and a reload stay until they were seen.
            tokio::select! {
                () = self.adopted.notified() => {}
                () = missed => {}
                _ = self.wait_for_turn(&mut snapshots, longest) => {}
            }
        }
    }

    async fn keep_asking(self: &Arc<Self>) {
        let Some(origin) = self.upstream.as_ref().map(|upstream| upstream.origin()) else { return };
        let (mut asking, mut following) = (Failing::default(), Failing::default());
        let (mut ask_at, mut follow_at) = (Instant::now(), Instant::now());
        let mut snapshots = self.snapshots.subscribe();
        loop {
            if self.authority.x509.is_due(self.clock.now()) && ask_at <= Instant::now() {
                let asked = self.ask().await;
                let longest = match &asked {
                    Err(Error::Refused { .. }) if self.authority.x509.ends_at(self.clock.now()).is_ok() => {
                        LONGEST_AFTER_REFUSAL
                    }
                    Ok(()) | Err(_) => LONGEST_AFTER_FAILURE,
                };
                self.note(&mut asking, asked);
                ask_at = later(if asking.times > 0 { asking.wait(longest) } else { Duration::ZERO });
            }
            if origin.has_bundle() && follow_at <= Instant::now() {
                let followed = self.follow_upstream().await;
                self.note(&mut following, followed);
                follow_at = later(if following.times > 0 { following.wait(FOLLOW) } else { FOLLOW });
            }
            let mut longest = AFTER_FILES;
            for at in [Some(ask_at), origin.has_bundle().then_some(follow_at)].into_iter().flatten() {
                let left = at.saturating_duration_since(Instant::now());
                longest = if left.is_zero() { longest } else { longest.min(left) };
            }
            if self.wait_for_turn(&mut snapshots, longest).await {
                (ask_at, follow_at) = (Instant::now(), Instant::now());
            }
        }
    }

    /// Until a key has its turn, at most so long. Says whether it was a reload that ended it.
    async fn wait_for_turn(&self, snapshots: &mut watch::Receiver<u64>, longest: Duration) -> bool {
        let next = self.authority.next_look(self.clock.now(), LONGEST);
        let wait = Duration::try_from(next).unwrap_or_default().min(longest);
        // Cancel-safe: a reload stays marked until it was seen.
        tokio::time::timeout(wait, snapshots.changed()).await.is_ok_and(|changed| changed.is_ok())
    }

    /// Rotates what is due, asks the upstream where that takes one and follows it, and records every new CA.
    ///
    /// # Errors
    /// What could not be had; what was there goes on.
    pub async fn rotate_once(self: &Arc<Self>) -> Result<(), Error> {
        let rotated = self.blocking(|node| node.authority.rotate(node.clock.now())).await;
        let is_due = self.upstream.is_some() && self.authority.x509.is_due(self.clock.now());
        let asked = if is_due { self.ask().await } else { Ok(()) };
        self.record_new();
        let followed = self.follow_upstream().await;
        rotated.and(asked).and(followed)
    }

    /// Asks the upstream for a CA.
    async fn ask(self: &Arc<Self>) -> Result<(), Error> {
        let Some(upstream) = &self.upstream else { return Ok(()) };
        let request = self.authority.x509.request(self.clock.now())?;
        let signed = in_time(upstream.origin(), upstream.sign(&request)).await?;
        let adopted = self.blocking(move |node| node.authority.adopt(&request, &signed, node.clock.now())).await;
        self.record_new();
        // It has turns of its own.
        self.adopted.notify_one();
        adopted
    }

    /// Gives the upstream the keys of this node, and trusts what it trusts.
    async fn follow_upstream(self: &Arc<Self>) -> Result<(), Error> {
        let Some(upstream) = &self.upstream else { return Ok(()) };
        let keys = self.authority.jwt.published();
        let Followed { bundle, error } = in_time(upstream.origin(), async { Ok(upstream.follow(&keys).await) }).await?;
        if let Some(bundle) = bundle {
            let told = bundle.clone();
            if self.blocking(move |node| node.authority.follow(bundle, node.clock.now())).await? {
                tracing::info!(upstream = %upstream.origin(), sequence = ?told.sequence, "the upstream trusts something else");
                self.record_bundle(bundle_record("follow", &told.trust_domain, Some(&told), None));
            }
            self.record_new();
        }
        error.map_or(Ok(()), Err)
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let node = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&node)).await;
        done.unwrap_or(Err(Error::Crypto { operation: "rotate keys: bug, it panicked" }))
    }

    /// What cannot be recorded now is recorded later.
    fn record_new(&self) {
        for new in self.authority.x509.unrecorded() {
            let NewCa { origin, ends_at } = new;
            let recorded = self.record_authority(AuthorityRecord {
                outcome: Outcome::Allow,
                upstream: origin.as_str().to_owned(),
                ends_at: Some(ends_at),
                ..AuthorityRecord::default()
            });
            if !recorded {
                return;
            }
            tracing::info!(upstream = %origin, %ends_at, "a new CA");
            self.authority.x509.recorded(&new);
        }
    }

    /// What is wrong is recorded once, however often it is met.
    fn note(&self, failing: &mut Failing, done: Result<(), Error>) {
        let Err(error) = &done else {
            *failing = Failing::default();
            return;
        };
        let text = with_sources(error);
        failing.times = failing.times.saturating_add(1);
        if failing.error.as_ref() == Some(&text) {
            return tracing::debug!(error = %text, "keys still could not be rotated");
        }
        tracing::error!(error = %text, "keys could not be rotated; the old ones go on");
        let origin = self.upstream.as_ref().map_or(Origin::Embedded, |upstream| upstream.origin());
        let upstream = match error {
            Error::Refused { origin, .. } | Error::Upstream { origin, .. } => *origin,
            _ => origin,
        };
        self.record_authority(AuthorityRecord {
            outcome: Outcome::Deny,
            upstream: upstream.as_str().to_owned(),
            error: Some(text.clone()),
            ..AuthorityRecord::default()
        });
        failing.error = Some(text);
    }

    /// Says whether it is done.
    fn record_authority(&self, record: AuthorityRecord) -> bool {
        let recorded = self.log.append(&Record::Authority(record));
        if let Err(error) = &recorded {
            tracing::error!(error = %with_sources(error), "a change of the CA could not be recorded");
        }
        recorded.is_ok()
    }
}
