// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::Node;
use super::peers::with_sources;

/// The clock may be set while nobody looks, so no wait is longer than this.
const LONGEST: SignedDuration = SignedDuration::from_secs(60);
/// After a failure; what signs now goes on signing.
const AFTER_FAILURE: Duration = Duration::from_secs(10);

impl Node {
    /// Makes keys, turns to them and forgets them when it is time, until cancelled.
    pub async fn rotate_keys(self: &Arc<Self>, cancel: CancellationToken) {
        loop {
            let node = Arc::clone(self);
            let rotated = tokio::task::spawn_blocking(move || node.authority.rotate(node.clock.now())).await;
            let wait = match rotated {
                Ok(Ok(())) => {
                    let next = self.authority.next_look(self.clock.now(), LONGEST);
                    Duration::try_from(next).unwrap_or_default()
                }
                Ok(Err(error)) => {
                    tracing::error!(error = %with_sources(&error), "keys could not be rotated; the old ones go on");
                    AFTER_FAILURE
                }
                Err(error) => {
                    tracing::error!(%error, "bug: the rotation of keys panicked");
                    AFTER_FAILURE
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}
