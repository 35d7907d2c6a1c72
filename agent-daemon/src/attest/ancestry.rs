// SPDX-License-Identifier: Apache-2.0 OR MIT

//! As whom the ancestors of an exec instance could have asked: what it may never exceed in a session.
//!
//! Of a live one everything is read, as of any caller; of one that is over the kernel kept the record, if it was in a
//! session. Facts that cannot be had (any more) may have been anything, also where it made them unreadable itself: then
//! whatever identity it may have had counts, and all of them have to be permitted. Too much is refused that way and never
//! too little.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_ebpf::flags;

use super::attestor::{evidence_context, prepare};
use super::evidence::{Evidence, Lineage, LineageEntry, Program, fact};
use super::{Attested, Attestor, Failure, binary};
use crate::identity::{Entry, Fact, Provenance, SpiffeId};
use crate::policy::{EvidenceContext, Permitted, PreparedPrincipal};
use crate::process::{Ancestor, ExecId, ExecInstance, SessionId};
use crate::session::Session;
use crate::snapshot::Snapshot;

/// `CAP_SETGID` and `CAP_SETUID`: without them, without other ids to go back to and without a set-id image, nobody changes
/// who they are.
const CAN_CHANGE_IDS: u64 = 1 << 6 | 1 << 7;

/// Everything above an exec instance, nearest first, as far as the record holds it.
#[derive(Debug)]
pub struct Ancestry<P = Arc<PreparedPrincipal>> {
    /// One for each ancestor.
    pub above: Vec<Above<P>>,
    /// What was permitted to all of them.
    pub(crate) permitted: Permitted,
}

impl<P> Ancestry<P> {
    /// These.
    pub fn new(above: Vec<Above<P>>) -> Self {
        Self { above, permitted: Permitted::default() }
    }
}

/// One ancestor.
#[derive(Debug, Clone)]
pub struct Above<P = Arc<PreparedPrincipal>> {
    /// Which.
    pub id: ExecId,
    /// As whom it could have asked.
    pub authority: Authority<P>,
    /// Who it is, where that is certain.
    pub name: Option<SpiffeId>,
}

/// What is known of one ancestor.
#[derive(Debug, Clone)]
struct Standing {
    authority: Authority,
    name: Option<SpiffeId>,
}

impl Standing {
    const UNKNOWN: Self = Self { authority: Authority::Unknown, name: None };
}

/// As whom an ancestor could have asked.
#[derive(Debug, Clone)]
pub enum Authority<P = Arc<PreparedPrincipal>> {
    /// It has no identity, and so bounds nobody.
    Unregistered,
    /// Any of these.
    Registered(Vec<P>),
    /// Not all is known of it; it was one of these or none.
    OneOf(Vec<P>),
    /// Nothing is known of it.
    Unknown,
}

/// Why somebody may not have what an ancestor may not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Beyond {
    /// An ancestor may not have it, as any of its identities.
    #[error("its ancestor {0} may not have it, as any of its identities")]
    Refused(ExecId),
    /// An ancestor of which not all is known may have been somebody who may not have it.
    #[error("not all is known of its ancestor {0}, and one of the identities that it may have may not have it")]
    PossiblyRefused(ExecId),
    /// Nothing is known of an ancestor.
    #[error("nothing is known of its ancestor {0}")]
    Unknown(ExecId),
    /// The opener of its session is further above than the record reaches.
    #[error("the opener {0} of its session is further above than the kernel's record reaches")]
    TooDeep(ExecId),
}

impl<P> Ancestry<P> {
    /// Whether everybody from `asker` up to `top`, the opener of its outermost session, may have what it asks for, as
    /// `allows` says of one identity of one ancestor.
    ///
    /// # Errors
    /// The first on the way who may not, or of whom it is not known.
    pub fn permits(&self, asker: ExecId, top: ExecId, allows: impl Fn(ExecId, &P) -> bool) -> Result<(), Beyond> {
        if asker == top {
            return Ok(());
        }
        // First whether all are known: a word of policy can be overruled (audit mode), what is missing cannot.
        self.complete(top)?;
        for Above { id, authority, .. } in &self.above {
            let may = |principal: &P| allows(*id, principal);
            match authority {
                Authority::Unregistered => {}
                // It could have asked as any of its identities.
                Authority::Registered(principals) if principals.iter().any(may) => {}
                // It had one of these, and nobody knows which.
                Authority::OneOf(principals) if principals.iter().all(may) => {}
                Authority::Registered(_) => return Err(Beyond::Refused(*id)),
                Authority::OneOf(_) => return Err(Beyond::PossiblyRefused(*id)),
                Authority::Unknown => return Err(Beyond::Unknown(*id)),
            }
            if *id == top {
                break;
            }
        }
        Ok(())
    }

    /// Whether something is known of everybody up to `top`.
    ///
    /// # Errors
    /// The first of whom nothing is, or that `top` is further above.
    pub fn complete(&self, top: ExecId) -> Result<(), Beyond> {
        for Above { id, authority, .. } in &self.above {
            if matches!(authority, Authority::Unknown) {
                return Err(Beyond::Unknown(*id));
            }
            if *id == top {
                return Ok(());
            }
        }
        Err(Beyond::TooDeep(top))
    }
}

impl<P> Authority<P> {
    fn registered(principals: Vec<P>) -> Self {
        if principals.is_empty() { Self::Unregistered } else { Self::Registered(principals) }
    }
}

/// What an ancestor is taken for is looked at again after this; who may change its user is noticed so late.
const KEPT: Duration = Duration::from_secs(1);
/// Identities that an ancestor may have had. When there are more, nothing is known of it.
const MAX_POSSIBLE: usize = 32;
/// Sessions of one exec instance of which it is kept.
const MAX_LATELY: usize = 8;
/// Ended ancestors whose identities are kept. What is not there is found again.
const CACHE: usize = 4096;

/// What is known of ended ancestors, which does not change any more, by their ids: for a snapshot.
#[derive(Debug, Default)]
pub(super) struct EndedCache(Mutex<HashMap<ExecId, (u64, Standing)>>);

impl EndedCache {
    fn find(&self, id: ExecId, snapshot: u64) -> Option<Standing> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(&id).filter(|(of, _)| *of == snapshot).map(|(_, standing)| standing.clone())
    }

    fn keep(&self, id: ExecId, snapshot: u64, standing: &Standing) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE {
            cache.clear();
        }
        cache.insert(id, (snapshot, standing.clone()));
    }
}

/// The ancestry of an attested exec instance in some of its sessions, as it was a moment ago.
#[derive(Debug, Default)]
pub(super) struct Lately(Mutex<VecDeque<(Instant, SessionId, Arc<Ancestry>)>>);

impl Lately {
    fn find(&self, session: SessionId) -> Option<Arc<Ancestry>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lately = kept.iter().filter(|(at, of, _)| *of == session && at.elapsed() < KEPT);
        lately.next().map(|(_, _, ancestry)| Arc::clone(ancestry))
    }

    /// Not what may be known in a moment.
    fn keep(&self, session: SessionId, ancestry: &Arc<Ancestry>) {
        if ancestry.above.iter().all(|above| !matches!(above.authority, Authority::Unknown)) {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|(_, of, _)| *of != session);
            if kept.len() >= MAX_LATELY {
                kept.pop_front();
            }
            kept.push_back((Instant::now(), session, Arc::clone(ancestry)));
        }
    }
}

impl Attestor {
    /// As whom the ancestors of an attested exec instance could have asked, up to the opener of its outermost session. Never
    /// fails for an ancestor: what cannot be read of it is unknown.
    ///
    /// # Errors
    /// When the daemon is stopping.
    pub async fn ancestry_of(
        self: &Arc<Self>,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        session: &Arc<Session>,
    ) -> Result<Arc<Ancestry>, Failure> {
        if let Some(known) = attested.ancestry.find(session.id) {
            return Ok(known);
        }
        let slot = self.slot().await?;
        let (this, snapshot) = (Arc::clone(self), Arc::clone(snapshot));
        let (of, session) = (Arc::clone(attested), Arc::clone(session));
        let found = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            // Another request may have looked while this one waited.
            of.ancestry.find(session.id).unwrap_or_else(|| {
                let ancestry = Arc::new(this.ancestry(&snapshot, &of.evidence.instance, &session));
                of.ancestry.keep(session.id, &ancestry);
                ancestry
            })
        });
        found
            .await
            .map_err(|error| Failure::Io { operation: "look at the ancestors", source: std::io::Error::other(error) })
    }

    fn ancestry(&self, snapshot: &Snapshot, instance: &ExecInstance, session: &Session) -> Ancestry {
        let (top, sessions) = (session.outermost().opener, session.chain().map(|one| one.id).collect::<Vec<_>>());
        let mut above = Vec::new();
        // What is above the opener is nothing to the session.
        for ancestor in &instance.ancestors {
            let Standing { authority, name } = self.standing(snapshot, ancestor, &sessions);
            above.push(Above { id: ancestor.id, authority, name });
            if ancestor.id == top {
                break;
            }
        }
        Ancestry::new(above)
    }

    /// `sessions` are those that the asker is in.
    fn standing(&self, snapshot: &Snapshot, ancestor: &Ancestor, sessions: &[SessionId]) -> Standing {
        match self.records().process(ancestor.tgid) {
            Err(_) => return Standing::UNKNOWN,
            Ok(Some(instance)) if instance.id == ancestor.id => {
                // As the user that it is now.
                let attested = self.effective_ids(ancestor.tgid).ok().and_then(|ids| {
                    let known = self.cached(ancestor.id, snapshot.number, instance.session_id, Some(ids));
                    known.or_else(|| self.attest_blocking(snapshot, instance, Some(ids)).ok())
                });
                if let Some(attested) = attested {
                    return self.of_live(snapshot, &attested, sessions);
                }
                // It may have ended meanwhile; then the kernel kept it.
            }
            Ok(_) => {}
        }
        if let Some(known) = self.ended.find(ancestor.id, snapshot.number) {
            return known;
        }
        match self.records().ended(ancestor.id) {
            Ok(Some(instance)) if !instance.flags.has(flags::INCOMPLETE) => {
                let standing = self.of_ended(snapshot, instance);
                self.ended.keep(ancestor.id, snapshot.number, &standing);
                standing
            }
            Ok(_) | Err(_) => Standing::UNKNOWN,
        }
    }

    /// One that lives is who it is, unless it can have made some of its facts unreadable, or came into a session that the
    /// asker is not in: it was somebody else when it started what led to the asker.
    fn of_live(&self, snapshot: &Snapshot, attested: &Attested, sessions: &[SessionId]) -> Standing {
        let (evidence, lineage) = (&attested.evidence, &attested.lineage);
        let instance = &evidence.instance;
        // As whom it started what led to the asker is known only if it cannot have been anybody else then.
        let ids_changed = (evidence.uid, evidence.gid) != (instance.euid, instance.egid);
        let has_ids = !ids_changed && !may_change_ids(instance);
        let has_session = evidence.instance.session_id.is_none_or(|id| sessions.contains(&id));
        let is_known = |entry: &Entry, kind: &str| match kind {
            "unix:path" => evidence.exe.is_some(),
            "unix:sha256" => evidence.exe.as_ref().is_some_and(|exe| exe.sha256.is_some()),
            "script:path" | "script:sha256" => is_script_known(&evidence.instance, evidence.script.as_ref(), entry),
            "cgroup:path" => evidence.cgroup.is_some(),
            "lineage:spiffe_id" => {
                let is_named = |above: &LineageEntry| above.is_alive || above.spiffe_id.is_some();
                lineage.is_complete && lineage.entries.iter().all(is_named)
            }
            "session:user" | "session:agent" => has_session,
            kind if kind.starts_with("unix:") => has_ids,
            // Flags.
            _ => true,
        };
        let possible = snapshot.entries.possible(&attested.facts, is_known);
        if possible.iter().all(|entry| attested.entries.iter().any(|own| Arc::ptr_eq(own, entry))) {
            let name = attested.entries.first().map(|entry| entry.spiffe_id.clone());
            return Standing { authority: Authority::registered(attested.principals.clone()), name };
        }
        let name = certain(&possible, attested.entries.first());
        Standing { authority: one_of(&possible, &evidence_context(evidence, lineage, &attested.facts)), name }
    }

    /// Every identity that an exec instance that is over may have had.
    fn of_ended(&self, snapshot: &Snapshot, instance: ExecInstance) -> Standing {
        let mut facts: Vec<Fact> =
            instance.flags.names().filter_map(|name| fact("exec", name, Provenance::Kernel)).collect();
        let has_ids = !may_change_ids(&instance);
        if has_ids {
            facts.extend(fact("unix:uid", instance.euid, Provenance::Kernel));
            facts.extend(fact("unix:gid", instance.egid, Provenance::Kernel));
        }
        let program = binary::read_ended(&instance, self.is_home(&instance), self.measurer());
        if let Some(program) = &program {
            let sha256 = program.sha256.as_ref();
            facts.extend(sha256.and_then(|sha256| fact("unix:sha256", sha256, program.provenance)));
            if program.path_provenance == Provenance::Kernel {
                facts.extend(fact("unix:path", &program.path, Provenance::Kernel));
            }
        }
        let is_known = |entry: &Entry, kind: &str| match kind {
            "unix:uid" | "unix:gid" => has_ids,
            "unix:path" => program.as_ref().is_some_and(|program| program.path_provenance == Provenance::Kernel),
            "unix:sha256" => program.as_ref().is_some_and(|program| program.sha256.is_some()),
            "script:path" | "script:sha256" => is_script_known(&instance, None, entry),
            kind => kind.starts_with("exec:"),
        };
        let possible: Vec<_> = snapshot.entries.possible(&facts, is_known).into_iter().map(Arc::clone).collect();
        let (uid, gid) = (instance.euid, instance.egid);
        let (real_uid, real_gid) = (instance.uid, instance.gid);
        let evidence = Evidence {
            uid,
            gid,
            real_uid,
            real_gid,
            instance,
            exe: program,
            script: None,
            cgroup: None,
            facts: facts.clone(),
            missing: vec!["it is over".to_owned()],
        };
        let authority =
            one_of(&possible.iter().collect::<Vec<_>>(), &evidence_context(&evidence, &Lineage::default(), &facts));
        let name = certain(&possible.iter().collect::<Vec<_>>(), snapshot.entries.matching(&facts).first().copied());
        Standing { authority, name }
    }
}

fn may_change_ids(instance: &ExecInstance) -> bool {
    (instance.capabilities | instance.permitted) & CAN_CHANGE_IDS != 0
        || instance.flags.has(flags::SETUID)
        || instance.uid != instance.euid
        || instance.gid != instance.egid
}

/// The default identity, where it is that whatever else is found out: both lists begin with the entry that asks for most.
fn certain(possible: &[&Arc<Entry>], matching: Option<&Arc<Entry>>) -> Option<SpiffeId> {
    let first = possible.first()?;
    matching.filter(|entry| Arc::ptr_eq(first, entry)).map(|entry| entry.spiffe_id.clone())
}

/// A script that the kernel started counts as what it was measured as, and may have been anything where it cannot be any
/// more. One that only stands in the arguments counts where an entry takes the process's word, and that may change.
fn is_script_known(instance: &ExecInstance, script: Option<&Program>, entry: &Entry) -> bool {
    match script {
        Some(script) if script.provenance != Provenance::Claimed => true,
        _ => !instance.flags.has(flags::SCRIPT) && !entry.accept_claimed,
    }
}

fn one_of(possible: &[&Arc<Entry>], context: &EvidenceContext) -> Authority {
    if possible.is_empty() {
        return Authority::Unregistered;
    }
    if possible.len() > MAX_POSSIBLE {
        return Authority::Unknown;
    }
    let principals: Vec<_> = possible.iter().filter_map(|entry| prepare(entry, context)).collect();
    // One that cannot be asked for must not be left out.
    if principals.len() == possible.len() { Authority::OneOf(principals) } else { Authority::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_counts_before_what_policy_says() {
        let above = |id, authority| Above { id: ExecId(id), authority, name: None };
        let of = |far: Authority<()>| {
            Ancestry::new(vec![
                above(9, Authority::Registered(vec![()])),
                above(8, far),
                above(7, Authority::Unregistered),
            ])
        };
        let asked = |ancestry: &Ancestry<()>, top| ancestry.permits(ExecId(10), ExecId(top), |_, ()| false);
        assert_eq!(asked(&of(Authority::Unregistered), 7), Err(Beyond::Refused(ExecId(9))));
        assert_eq!(asked(&of(Authority::Unknown), 7), Err(Beyond::Unknown(ExecId(8))));
        assert_eq!(asked(&of(Authority::Unregistered), 1), Err(Beyond::TooDeep(ExecId(1))));
        assert_eq!(
            asked(&of(Authority::Unknown), 9),
            Err(Beyond::Refused(ExecId(9))),
            "what is above the opener is nothing"
        );
    }
}
