// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What one exec instance may reach.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use super::super::within::{Wanted, within};
use super::{AT_ONCE, Node, PASSES, bump, governing};
use crate::attest::{Attested, Failure};
use crate::credential::Mode;
use crate::egress::{Class, Half};
use crate::policy::{Action, Request};
use crate::process::{Classified, ExecId, ExecInstance, Stamp, Verdict};
use crate::session::Session;
use crate::snapshot::Snapshot;

/// How long all may be looked at, at most, until what was said before is void.
const LOOKING: Duration = Duration::from_secs(1);
/// How long a record takes to become that of an image that was told of.
const BEGINNING: Duration = Duration::from_millis(1);
/// Looks at one that changes meanwhile.
const TRIES: usize = 10;

impl Node {
    /// Classifies everybody who is governed anew. After that nothing holds that was said before.
    pub(super) async fn classify_all(self: &Arc<Self>) {
        let Some((in_use, since)) = self.egress.moment(self.records().now()) else { return };
        let looking = async {
            for _ in 0..PASSES {
                // What was forked meanwhile has the class that its parent had.
                let left = self.governed(|instance| !is_since(instance, in_use, since));
                if left.is_empty() {
                    break;
                }
                self.classify_each(left).await;
            }
        };
        // Whoever takes long to look at, or forks faster than that, is not classified from here on, nor is what they fork:
        // how long what was said before holds must not be theirs to choose.
        if tokio::time::timeout(LOOKING, looking).await.is_err() {
            tracing::warn!("not all governed programs could be looked at in time; those reach nothing until they are");
        }
        let tables = &*self.egress.tables;
        match tables.void(in_use, since).and_then(|()| tables.void(in_use.other(), Stamp::NEVER)) {
            Ok(()) => {
                let mut state = self.egress.lock();
                (state.since, state.is_settled) = (since, true);
            }
            Err(error) => {
                tracing::error!(%error, "what was said of governed programs before could not be made void");
            }
        }
        self.egress.withdrawn.notify_one();
    }

    /// Whoever is in a session that is over reaches nothing, before anybody is looked at.
    pub(super) fn cut_off(&self) {
        let now = self.records().now();
        let mut members = Vec::new();
        let walked = self.records().processes(&mut |instance| {
            if instance.governed.is_some()
                && instance.session_id.is_some_and(|id| self.sessions().session(id).is_none())
            {
                members.push((instance.process.tgid, instance.id, (instance.euid, instance.egid)));
            }
        });
        if let Err(error) = walked {
            tracing::warn!(%error, "governed processes cannot be looked at");
        }
        for (tgid, exec_id, ids) in members {
            let mut state = self.egress.lock();
            let word = Classified { place: Class::nothing(state.in_use).in_record(), stamp: state.stamp(now), ids };
            if let Err(error) = self.egress.tables.classify(tgid, exec_id, word) {
                tracing::error!(%error, %exec_id, "a program in a session that is over could not be cut off");
            }
        }
    }

    /// Classifies those of whom no event told, or who have other ids than when they were.
    pub(super) async fn classify_missed(self: &Arc<Self>) {
        let (in_use, since) = {
            let state = self.egress.lock();
            (state.in_use, state.since)
        };
        let missed = self.governed(|instance| {
            let ids = self.attestor.effective_ids(instance.process.tgid).ok();
            let held = instance.governed.and_then(|governed| governed.class);
            !is_since(instance, in_use, since) || ids.is_some() && held.map(|word| word.ids) != ids
        });
        if !missed.is_empty() {
            self.classify_each(missed).await;
            self.egress.withdrawn.notify_one();
        }
    }

    async fn classify_each(self: &Arc<Self>, of: Vec<(u32, ExecId)>) {
        let one = |(tgid, exec_id)| self.classify(tgid, exec_id);
        stream::iter(of).map(one).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
    }

    /// Finds out what an exec instance may reach and says so to the kernel. Whoever cannot be looked at reaches nothing.
    pub(in crate::node) async fn classify(self: &Arc<Self>, tgid: u32, exec_id: ExecId) {
        // Once more when what operators wrote was read anew meanwhile.
        for _ in 0..TRIES {
            // Taken before anything is looked at: what changes afterwards makes this void.
            let (snapshot, stamp) = {
                let mut state = self.egress.lock();
                let stamp = state.stamp(self.records().now());
                let Some((_, of)) = &state.compiled else { return };
                (Arc::clone(of), stamp)
            };
            let instance = match self.records().process(tgid) {
                Ok(Some(instance)) if instance.id == exec_id && instance.governed.is_some() => instance,
                // The kernel says that it begins a moment before its record does.
                Ok(Some(instance)) if instance.id < exec_id && instance.governed.is_some() => {
                    tokio::time::sleep(BEGINNING).await;
                    continue;
                }
                Ok(_) => return,
                Err(error) => return tracing::warn!(%error, %exec_id, "a governed process cannot be looked at"),
            };
            let (euid, egid) = (instance.euid, instance.egid);
            let session = instance.session_id;
            let found = self.verdicts(&snapshot, instance).await;
            let mut state = self.egress.lock();
            let Some((compiled, of)) = &mut state.compiled else { return };
            // It may have come into another session, or what operators wrote was read anew.
            let now = self.records().current(tgid).ok().flatten();
            if !Arc::ptr_eq(of, &snapshot) || now.is_some_and(|now| now.session_id != session) {
                continue;
            }
            let tables = &*self.egress.tables;
            let (class, ids) = match found {
                Ok((verdicts, ids)) => match compiled.class(tables, &verdicts) {
                    Ok(class) => (class, ids),
                    Err(error) => {
                        tracing::error!(%error, %exec_id, "the kernel does not take a class");
                        (Class::nothing(compiled.half()), ids)
                    }
                },
                Err(failure) => {
                    bump(&self.counters.egress_unclassified);
                    tracing::debug!(%failure, %exec_id, "nothing is known of a governed program, so it reaches nothing");
                    (Class::nothing(compiled.half()), (euid, egid))
                }
            };
            let word = Classified { place: class.in_record(), stamp, ids };
            if let Err(error) = tables.classify(tgid, exec_id, word) {
                tracing::error!(%error, %exec_id, "a governed program could not be classified");
            }
            return;
        }
    }

    /// A verdict for each declared destination, and the ids that it holds for.
    async fn verdicts(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        instance: ExecInstance,
    ) -> Result<(Vec<Verdict>, (u32, u32)), Failure> {
        let ids = self.attestor.effective_ids(instance.process.tgid).ok();
        let attested = self.attestor.attest(snapshot, instance, ids).await?;
        if let Some((entry, settings)) = governing(&attested) {
            let instance = &attested.evidence.instance;
            self.put_under(entry, settings, instance.process.tgid, instance.id)?;
        }
        let count = snapshot.catalog.destinations().len();
        let ids = (attested.evidence.uid, attested.evidence.gid);
        let Ok(session) = self.acting_in(&attested.evidence.instance, None) else {
            // Its session is over, or its lineage knows nothing of it.
            return Ok((vec![Verdict::Deny; count], ids));
        };
        let ancestry = match &session {
            Some(session) => {
                let ancestry = self.ancestry(snapshot, &attested, session).await;
                Some(ancestry.map_err(|_| Failure::Unresolvable("its ancestors cannot be looked at"))?)
            }
            None => None,
        };
        let now = self.clock.now();
        let mut verdicts = Vec::with_capacity(count);
        for destination in snapshot.catalog.destinations() {
            let reaches = session.as_ref().is_none_or(|one| one.reaches(&destination.name, &destination.labels));
            let of_session = |session: &Arc<Session>, request: &Request<'_>| {
                let Some(ancestry) = &ancestry else { return false };
                let asker = attested.evidence.instance.id;
                let mut wanted = Wanted::default();
                let permitted = within(snapshot, (asker, ancestry), session, request, &mut wanted);
                // What takes a person's word is not permitted ahead of it.
                permitted.is_ok() && wanted.into_ids().is_empty()
            };
            let is_permitted = reaches
                && destination.is_observable()
                && snapshot.destination(&destination.name).is_some_and(|prepared| {
                    attested.principals.iter().any(|principal| {
                        let session_prepared = session.as_ref().map(|session| &session.prepared);
                        let action = Action::Connect { destination: prepared, session: session_prepared };
                        let request = Request { principal, action, now };
                        snapshot.policies.evaluate(&request).is_allow()
                            && session.as_ref().is_none_or(|session| of_session(session, &request))
                    })
                });
            verdicts.push(match (is_permitted, destination.mode) {
                (true, _) => Verdict::Allow,
                (false, Mode::Audit) => Verdict::Audit,
                (false, Mode::Enforce) => Verdict::Deny,
            });
        }
        Ok((verdicts, ids))
    }

    /// Evidence of an exec instance that is there, as somebody may want to write of it.
    pub(super) async fn attested_now(self: &Arc<Self>, tgid: u32, exec_id: ExecId) -> Option<Arc<Attested>> {
        let instance = self.records().process(tgid).ok().flatten().filter(|instance| instance.id == exec_id)?;
        self.attestor.attest(&self.snapshot(), instance, None).await.ok()
    }
}

/// Whether somebody was classified by the tables that are in use, and no earlier than at some moment.
fn is_since(instance: &ExecInstance, in_use: Half, since: Stamp) -> bool {
    let word = instance.governed.and_then(|governed| governed.class);
    word.is_some_and(|word| word.stamp >= since && Class::of_record(word.place).half == in_use)
}
