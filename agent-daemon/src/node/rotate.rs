// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys that are made, turned to and forgotten when it is time, and a CA that somebody else signs.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::audit::{AuthorityRecord, Outcome, Record};
use crate::authority::{Error, NewCa, Origin};
use crate::diagnostic::with_sources;

/// The clock may be set while nobody looks, so no wait is longer than this.
const LONGEST: SignedDuration = SignedDuration::from_secs(60);
/// How often an upstream is asked what it trusts.
const FOLLOW: SignedDuration = SignedDuration::from_secs(30);
/// After a failure; what signs now goes on signing. Doubled with every further one.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
const LONGEST_AFTER_FAILURE: Duration = Duration::from_secs(60);
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

async fn in_time<T>(origin: Origin, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(UPSTREAM_TIME, asked).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", UPSTREAM_TIME.as_secs());
        Err(Error::Upstream { origin, reason })
    })
}

impl Node {
    /// Makes keys, turns to them and forgets them when it is time, until cancelled. A reload lets it look again.
    pub async fn rotate_keys(self: &Arc<Self>, cancel: CancellationToken) {
        let mut failing = Failing::default();
        let mut snapshots = self.snapshots.subscribe();
        loop {
            let rotated = tokio::select! {
                () = cancel.cancelled() => return,
                rotated = self.rotate_once() => rotated,
            };
            let wait = match rotated {
                Ok(()) => {
                    failing = Failing::default();
                    let follows = self.upstream.as_ref().is_some_and(|upstream| upstream.origin().has_bundle());
                    let longest = if follows { FOLLOW } else { LONGEST };
                    let next = self.authority.next_look(self.clock.now(), longest);
                    Duration::try_from(next).unwrap_or_default()
                }
                Err(error) => {
                    self.record_failure(&mut failing, &error);
                    match error {
                        // Whoever mends a file waits for it; nobody is burdened by looking again.
                        Error::Refused { origin: Origin::Disk, .. } | Error::Io { .. } => failing.wait(AFTER_FILES),
                        Error::Refused { .. } if self.authority.x509.ends_at(self.clock.now()).is_ok() => {
                            let next = self.authority.next_look(self.clock.now(), SignedDuration::MAX);
                            failing.wait(LONGEST_AFTER_REFUSAL).min(Duration::try_from(next).unwrap_or_default())
                        }
                        _ => failing.wait(LONGEST_AFTER_FAILURE),
                    }
                }
            };
            // Each arm is cancel-safe: a reload stays marked until it was seen.
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = snapshots.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Rotates what is due, asks the upstream where that takes one, and records every new CA.
    ///
    /// # Errors
    /// When something was due and could not be had; what was there goes on.
    pub async fn rotate_once(self: &Arc<Self>) -> Result<(), Error> {
        let rotated = self.rotate_and_ask().await;
        self.record_new();
        rotated?;
        self.follow_upstream().await
    }

    async fn rotate_and_ask(self: &Arc<Self>) -> Result<(), Error> {
        let is_due = self.blocking(|node| node.authority.rotate(node.clock.now())).await?;
        let Some(upstream) = self.upstream.as_ref().filter(|_| is_due) else { return Ok(()) };
        let request = self.authority.x509.request(self.clock.now())?;
        let signed = in_time(upstream.origin(), upstream.sign(&request)).await?;
        self.blocking(move |node| node.authority.adopt(&request, &signed, node.clock.now())).await
    }

    /// Gives the upstream the keys of this node, and trusts what it trusts.
    async fn follow_upstream(self: &Arc<Self>) -> Result<(), Error> {
        let Some(upstream) = &self.upstream else { return Ok(()) };
        let keys = self.authority.jwt.published();
        let Some(bundle) = in_time(upstream.origin(), upstream.follow(&keys)).await? else { return Ok(()) };
        let sequence = bundle.sequence;
        if self.blocking(move |node| node.authority.follow(bundle)).await? {
            tracing::info!(upstream = %upstream.origin(), ?sequence, "the upstream trusts something else");
        }
        Ok(())
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

    /// Once for each thing that is wrong, however often it is met.
    fn record_failure(&self, failing: &mut Failing, error: &Error) {
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
