// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether what was released would be released again, now that something else holds.
//!
//! The same decision is made again, with what was asked for then and what is known of the holder now. What it refuses ends,
//! and with it the holder's connections to what it was for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use super::Node;
use super::ask::Ask;
use super::exchange::ExchangeError;
use super::reason::{Denial, Reason};
use crate::credential::{Cause, Lease, LeaseId};
use crate::session::Session;
use crate::snapshot::Snapshot;

/// Leases that are looked at at once.
const AT_ONCE: usize = 8;
/// Leases that are read from the registry under one lock.
const PAGE: usize = 256;
/// When something could not be found out, it is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long one lease may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of a lease.
#[derive(Debug)]
enum Standing {
    /// It would be granted again.
    Holds,
    /// It would not, for this reason.
    Falls(String),
    /// It cannot be said now, or its holder is another one by now, with whom it ends anyway.
    Unknown,
}

impl Node {
    /// Ends leases that what operators wrote does not permit any more, each time that it is read anew, until cancelled.
    pub async fn keep_standing(&self, cancel: CancellationToken) {
        // A lease ends and is recorded without a wait between, so a look can be left anywhere.
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.look_at_changes() => {}
        }
    }

    async fn look_at_changes(&self) {
        let mut snapshots = self.snapshots.subscribe();
        // The one before the first of those by which something could not be found out.
        let mut before = self.snapshot();
        let mut in_use = Arc::clone(&before);
        // What an earlier run released was released by what it had read.
        let mut unknown = self.look_at_leases(&before, None).await;
        loop {
            // Every arm is cancel-safe: a change stays noted.
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if unknown.is_empty() {
                        before = in_use;
                    }
                    in_use = self.snapshot();
                    unknown = self.look_at_leases(&before, None).await;
                }
                () = tokio::time::sleep(AGAIN), if !unknown.is_empty() => {
                    unknown = self.look_at_leases(&before, Some(&unknown)).await;
                }
            }
        }
    }

    /// Looks at all active leases, or at some. Says of which nothing could be said.
    async fn look_at_leases(&self, before: &Arc<Snapshot>, only: Option<&HashSet<LeaseId>>) -> HashSet<LeaseId> {
        let (mut unknown, mut last) = (HashSet::new(), None);
        loop {
            let page = self.leases.page(last.as_ref(), PAGE);
            let Some(end) = page.last() else { return unknown };
            last = Some(end.id.clone());
            let wanted = page.into_iter().filter(|lease| only.is_none_or(|only| only.contains(&lease.id)));
            let looked = stream::iter(wanted).map(|lease| async move {
                let is_known = self.look_whether(&lease, before).await;
                (lease, is_known)
            });
            let mut looked = std::pin::pin!(looked.buffer_unordered(AT_ONCE));
            while let Some((lease, is_known)) = looked.next().await {
                if !is_known {
                    unknown.insert(lease.id.clone());
                }
            }
        }
    }

    /// Ends a lease if it would not be granted now.
    pub(super) async fn look_whether_it_stands(&self, lease: &Arc<Lease>) {
        let _is_known = self.look_whether(lease, &self.snapshot()).await;
    }

    /// False when it cannot be said. `before` tells where a destination was that is not there any more.
    async fn look_whether(&self, lease: &Arc<Lease>, before: &Arc<Snapshot>) -> bool {
        let snapshot = self.snapshot();
        // A holder that takes long to look at must not be waited for by all.
        let looked = tokio::time::timeout(PATIENCE, self.standing(&snapshot, lease)).await;
        let detail = match looked.unwrap_or(Standing::Unknown) {
            Standing::Holds => return true,
            Standing::Unknown => return !self.is_active(&lease.id),
            Standing::Falls(detail) => detail,
        };
        tracing::info!(lease = lease.id.as_str(), detail, "what was released is withdrawn");
        let ended = self.leases.end(&lease.id, Cause::Withdrawn, self.clock.now());
        let is_there = snapshot.catalog.destination(&lease.destination).is_some();
        self.forfeit(ended, if is_there { &snapshot } else { before }, Some(&detail));
        true
    }

    async fn standing(&self, snapshot: &Arc<Snapshot>, lease: &Arc<Lease>) -> Standing {
        let named = snapshot.catalog.bindings().iter().find(|binding| binding.name == lease.binding);
        let Some(binding) = named.filter(|binding| binding.source.credential_type() == lease.credential_type) else {
            return Standing::Falls(format!(
                "no binding {:?} gives a {} any more",
                lease.binding,
                lease.credential_type.as_str()
            ));
        };
        let Ok(Some(instance)) = self.records().process(lease.tgid) else { return Standing::Unknown };
        let Ok(ids) = self.attestor.effective_ids(lease.tgid) else { return Standing::Unknown };
        if instance.id != lease.exec_id || ids.0 != lease.uid {
            return Standing::Unknown;
        }
        let Ok(attested) = self.attestor.attest(snapshot, instance, Some(ids)).await else { return Standing::Unknown };
        let subject = match &lease.subject {
            None => None,
            Some(subject) => match self.subject_of(snapshot, lease, subject).await {
                Ok(subject) => Some(Arc::new(subject)),
                Err(ExchangeError::Refused(_)) => return Standing::Unknown,
                Err(error) => return Standing::Falls(error.to_string()),
            },
        };
        let mut ask = Ask {
            destination: lease.destination.to_string(),
            delivery: binding.delivery,
            audiences: lease.basis.audiences.clone(),
            binding: Some(lease.binding.to_string()),
            spiffe_id: Some(lease.spiffe_id.to_string()),
            subject,
            standing: Some(Arc::clone(lease)),
            ..Ask::default()
        };
        // Whichever it was: a release, or the renewal of one.
        let mut fell = None;
        for renews in [None, Some(lease.id.clone())] {
            ask.renews = renews;
            let decided = self.decide(snapshot, &attested, &ask, String::new(), self.clock.now()).await;
            match decided {
                Ok(verdicted) if verdicted.grounds.is_some() => return Standing::Holds,
                Ok(verdicted) if verdicted.is_passing => return Standing::Unknown,
                Ok(verdicted) => {
                    fell = fell.or(Some(format!("{}: {}", verdicted.record.reason, verdicted.record.detail)));
                }
                Err(_) => return Standing::Unknown,
            }
        }
        fell.map_or(Standing::Unknown, Standing::Falls)
    }

    /// The session in which something was released.
    pub(super) fn released_in(&self, lease: &Lease) -> Result<Option<Arc<Session>>, Denial> {
        let Some(id) = lease.session else { return Ok(None) };
        let over = || Denial::new(Reason::SessionEnded, format!("the session {id} is over"));
        self.sessions().session(id).map(Some).ok_or_else(over)
    }
}
