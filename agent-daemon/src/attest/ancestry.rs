// SPDX-License-Identifier: Apache-2.0 OR MIT

//! As whom the ancestors of an exec instance could have asked: what it may never exceed in a session.
//!
//! Of a live one everything is read, as of any caller. Of one that is over the kernel kept the record, if it was in a
//! session, and not all facts can be had any more. What cannot be had may have been anything: then whatever identity it
//! may have had counts, and all of them have to be permitted. Too much is refused that way and never too little.

use std::sync::Arc;

use agent_ebpf::flags;

use super::attestor::{evidence_context, prepare};
use super::evidence::{Evidence, Lineage, fact};
use super::{Attestor, binary};
use crate::identity::{Fact, Provenance};
use crate::policy::PreparedPrincipal;
use crate::process::{Ancestor, ExecId, ExecInstance};
use crate::snapshot::Snapshot;

/// `CAP_SETGID` and `CAP_SETUID`: without them, and without a set-id image, nobody changes who they are.
const CAN_CHANGE_IDS: u64 = 1 << 6 | 1 << 7;

/// Everything above an exec instance, nearest first, as far as the record holds it.
#[derive(Debug, Clone)]
pub struct Ancestry<P = Arc<PreparedPrincipal>> {
    /// One for each ancestor.
    pub above: Vec<Above<P>>,
}

/// One ancestor.
#[derive(Debug, Clone)]
pub struct Above<P = Arc<PreparedPrincipal>> {
    /// Which.
    pub id: ExecId,
    /// As whom it could have asked.
    pub authority: Authority<P>,
}

/// As whom an ancestor could have asked.
#[derive(Debug, Clone)]
pub enum Authority<P = Arc<PreparedPrincipal>> {
    /// It has no identity, and so bounds nobody.
    Unregistered,
    /// Any of these.
    Registered(Vec<P>),
    /// It is over, and was one of these or none.
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
    /// An ancestor that is over may have been somebody who may not have it.
    #[error("its ancestor {0} is over, and one of the identities that it may have had may not have it")]
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
    /// `allows` says of one identity.
    ///
    /// # Errors
    /// The first on the way who may not, or of whom it is not known.
    pub fn permits(&self, asker: ExecId, top: ExecId, allows: impl Fn(&P) -> bool) -> Result<(), Beyond> {
        if asker == top {
            return Ok(());
        }
        for Above { id, authority } in &self.above {
            match authority {
                Authority::Unregistered => {}
                // It could have asked as any of its identities.
                Authority::Registered(principals) if principals.iter().any(&allows) => {}
                // It had one of these, and nobody knows which.
                Authority::OneOf(principals) if principals.iter().all(&allows) => {}
                Authority::Registered(_) => return Err(Beyond::Refused(*id)),
                Authority::OneOf(_) => return Err(Beyond::PossiblyRefused(*id)),
                Authority::Unknown => return Err(Beyond::Unknown(*id)),
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

impl Attestor {
    /// The ancestors of an exec instance. Never fails: what cannot be read is unknown. Blocks.
    pub fn ancestry(&self, snapshot: &Snapshot, instance: &ExecInstance) -> Ancestry {
        let above = instance
            .ancestors
            .iter()
            .map(|ancestor| Above { id: ancestor.id, authority: self.authority(snapshot, ancestor) });
        Ancestry { above: above.collect() }
    }

    fn authority(&self, snapshot: &Snapshot, ancestor: &Ancestor) -> Authority {
        match self.records().process(ancestor.tgid) {
            Err(_) => return Authority::Unknown,
            Ok(Some(instance)) if instance.id == ancestor.id => {
                if let Some(known) = self.cached(ancestor.id, snapshot.number, instance.session_id, None) {
                    return Authority::registered(known.principals.clone());
                }
                return match self.attest_blocking(snapshot, instance, None) {
                    Ok(attested) => Authority::registered(attested.principals.clone()),
                    // It may have ended meanwhile; then the kernel kept it.
                    Err(_) => self.authority_of_ended(snapshot, ancestor.id),
                };
            }
            Ok(_) => {}
        }
        self.authority_of_ended(snapshot, ancestor.id)
    }

    fn authority_of_ended(&self, snapshot: &Snapshot, id: ExecId) -> Authority {
        match self.records().ended(id) {
            Ok(Some(instance)) if !instance.flags.has(flags::INCOMPLETE) => self.possible(snapshot, instance),
            Ok(_) | Err(_) => Authority::Unknown,
        }
    }

    /// Every identity that an exec instance that is over may have had.
    fn possible(&self, snapshot: &Snapshot, instance: ExecInstance) -> Authority {
        let mut facts: Vec<Fact> =
            instance.flags.names().filter_map(|name| fact("exec", name, Provenance::Kernel)).collect();
        let may_change_ids = instance.capabilities & CAN_CHANGE_IDS != 0 || instance.flags.has(flags::SETUID);
        if !may_change_ids {
            facts.extend(fact("unix:uid", instance.euid, Provenance::Kernel));
            facts.extend(fact("unix:gid", instance.egid, Provenance::Kernel));
        }
        let is_home = self.is_home(&instance);
        let program = binary::read_ended(&instance, is_home, self.measurer());
        if let Some(program) = &program {
            facts.extend(fact("unix:path", &program.path, program.path_provenance));
            let sha256 = program.sha256.as_ref();
            facts.extend(sha256.and_then(|sha256| fact("unix:sha256", sha256, program.provenance)));
        }
        let is_known = |kind: &str| match kind {
            "unix:uid" | "unix:gid" => !may_change_ids,
            "unix:path" => program.is_some(),
            "unix:sha256" => program.as_ref().is_some_and(|program| program.sha256.is_some()),
            kind => kind.starts_with("exec:"),
        };
        let possible: Vec<_> = snapshot.entries.possible(&facts, is_known).into_iter().map(Arc::clone).collect();
        if possible.is_empty() {
            return Authority::Unregistered;
        }
        let (uid, gid) = (instance.euid, instance.egid);
        let (real_uid, real_gid) = (instance.uid, instance.gid);
        let facts_of_evidence = facts.clone();
        let evidence = Evidence {
            uid,
            gid,
            real_uid,
            real_gid,
            instance,
            exe: program,
            script: None,
            cgroup: None,
            facts: facts_of_evidence,
            missing: vec!["it is over".to_owned()],
        };
        let context = evidence_context(&evidence, &Lineage::default(), &facts);
        let wanted = possible.len();
        let principals: Vec<_> = possible.iter().filter_map(|entry| prepare(entry, &context)).collect();
        // One that cannot be asked for must not be left out.
        if principals.len() == wanted { Authority::OneOf(principals) } else { Authority::Unknown }
    }
}
