// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys that are made, turned to and forgotten when it is time, and a CA that somebody else signs.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::audit::{AuthorityRecord, Outcome, Record};
use crate::authority::{Error, NewCa, Origin, Rotated};
use crate::diagnostic::with_sources;

/// The clock may be set while nobody looks, so no wait is longer than this.
const LONGEST: SignedDuration = SignedDuration::from_secs(60);
/// After a failure; what signs now goes on signing. Doubled with every further one.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
const LONGEST_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// What is in files costs nothing to look at.
const AFTER_FILES: Duration = Duration::from_secs(5);

/// What went wrong the last time, so that the log says it once.
#[derive(Debug, Default)]
struct Failing {
    error: Option<String>,
    times: u32,
}

impl Failing {
    fn wait(&self) -> Duration {
        AFTER_FAILURE.saturating_mul(2_u32.saturating_pow(self.times.saturating_sub(1))).min(LONGEST_AFTER_FAILURE)
    }
}

impl Node {
    /// Makes keys, turns to them and forgets them when it is time, until cancelled.
    pub async fn rotate_keys(self: &Arc<Self>, cancel: CancellationToken) {
        let mut failing = Failing::default();
        loop {
            let rotated = tokio::select! {
                () = cancel.cancelled() => return,
                rotated = self.rotate_once() => rotated,
            };
            let wait = match rotated {
                Ok(new) => {
                    failing = Failing::default();
                    if let Some(new) = new {
                        self.record_ca(new);
                    }
                    let next = self.authority.next_look(self.clock.now(), LONGEST);
                    Duration::try_from(next).unwrap_or_default()
                }
                Err(error) => {
                    self.record_failure(&mut failing, &error);
                    match error {
                        // Whoever mends a file waits for it; nobody is burdened by looking again.
                        Error::Refused { origin: Origin::Disk, .. } | Error::Io { .. } => {
                            failing.wait().min(AFTER_FILES)
                        }
                        _ => failing.wait(),
                    }
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Rotates what is due, and asks the upstream where that takes one.
    ///
    /// # Errors
    /// When something was due and could not be had; what was there goes on.
    pub async fn rotate_once(self: &Arc<Self>) -> Result<Option<NewCa>, Error> {
        let rotated = self.blocking(|node| node.authority.rotate(node.clock.now())).await?;
        let Some(upstream) = self.upstream.as_ref().filter(|_| rotated.is_due) else { return Ok(rotated.new) };
        let request = self.authority.x509.request(self.clock.now())?;
        let signed = upstream.sign(&request).await?;
        let adopted = self.blocking(move |node| node.authority.adopt(&request, &signed, node.clock.now())).await?;
        Ok(adopted.new)
    }

    async fn blocking(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<Rotated, Error> + Send + 'static,
    ) -> Result<Rotated, Error> {
        let node = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&node)).await;
        done.unwrap_or(Err(Error::Crypto { operation: "rotate keys: bug, it panicked" }))
    }

    fn record_ca(&self, new: NewCa) {
        tracing::info!(upstream = %new.origin, ends_at = %new.ends_at, "a new CA");
        self.record_authority(AuthorityRecord {
            outcome: Outcome::Allow,
            upstream: new.origin.as_str().to_owned(),
            ends_at: Some(new.ends_at),
            error: None,
        });
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
            ends_at: None,
            error: Some(text.clone()),
        });
        failing.error = Some(text);
    }

    fn record_authority(&self, record: AuthorityRecord) {
        if let Err(error) = self.log.append(&Record::Authority(record)) {
            tracing::error!(error = %with_sources(&error), "a change of the CA could not be recorded");
        }
    }
}
