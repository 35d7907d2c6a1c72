// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::Arc;

use super::Node;
use super::ask::{ConnectionRef, Refusal};
use super::draft;
use super::reason::Reason;
use super::release::decision_id;
use crate::attest::{Attested, Failure, Peer};
use crate::audit::Outcome;
use crate::policy::{self, Action, Request};
use crate::process::Connection;

/// Who is on the other end.
#[derive(Debug)]
pub struct Opener {
    /// The connection as the kernel saw it opened.
    pub connection: Connection,
    /// Its opener; none when that exec instance ended.
    pub attested: Option<Arc<Attested>>,
}

impl Node {
    /// Who the caller is.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn attest(&self, peer: &Peer) -> Result<Arc<Attested>, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, "attest", &snapshot).await?;
        self.answer_only_if_same(peer, "attest")?;
        Ok(attested)
    }

    /// Who opened a connection. Policy must permit the caller the action `attest`; the answer is recorded.
    ///
    /// # Errors
    /// See [`Refusal`]. An unknown connection is a denial that says no more.
    pub async fn attest_connection(&self, peer: &Peer, named: ConnectionRef) -> Result<Opener, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, "attest_connection", &snapshot).await?;
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let now = self.clock.now();
        let mut record = draft::draft(decision_id()?, "attest_connection", &attested, &snapshot);
        let decision_id: Arc<str> = record.decision_id.as_str().into();
        let denied = |decision_id| Refusal::Denied { decision_id };
        let (Some(principal), Some(entry)) = (attested.principals.first(), attested.entries.first()) else {
            record.reason = Reason::NoIdentity.as_str().to_owned();
            record.detail = "no registration entry matches this process".to_owned();
            record.near_misses = draft::near_misses(attested.near_misses(&snapshot.entries));
            self.commit_denied(slot, record).await?;
            return Err(denied(decision_id));
        };
        if let Err(denial) = self.acting_in(&attested.evidence.instance, None) {
            record.reason = denial.reason.as_str().to_owned();
            record.detail = denial.detail;
            self.commit_denied(slot, record).await?;
            return Err(denied(decision_id));
        }
        record.spiffe_id = Some(entry.spiffe_id.to_string());
        record.entry_id = Some(entry.id.as_str().to_owned());
        let decision = snapshot.policies.evaluate(&Request { principal, action: Action::Attest, now });
        record.policy_ids = decision.policy_ids.iter().map(ToString::to_string).collect();
        if !decision.is_allow() {
            let reason = match decision.reason {
                policy::Reason::Forbid => Reason::PolicyForbid,
                policy::Reason::NoPermit => Reason::PolicyNoPermit,
                policy::Reason::NeedsApproval | policy::Reason::Error | policy::Reason::Permit => Reason::PolicyError,
            };
            record.reason = reason.as_str().to_owned();
            record.detail = "policy does not permit the action attest".to_owned();
            self.commit_denied(slot, record).await?;
            return Err(denied(decision_id));
        }
        let Some(connection) = self.connection(named, peer.process.tgid)? else {
            record.reason = Reason::ConnectionUnknown.as_str().to_owned();
            record.detail = "the kernel has no record of such a connection".to_owned();
            self.commit_denied(slot, record).await?;
            return Err(denied(decision_id));
        };
        let opener = self.records().process(connection.tgid).map_err(Failure::from)?;
        let opener = match opener.filter(|instance| instance.id == connection.exec_id) {
            // By the ids it has now: what is known from before may be of the user it was then.
            Some(instance) => match self.attestor.effective_ids(instance.process.tgid) {
                Ok(ids) => self.attestor.attest(&snapshot, instance, Some(ids)).await.ok(),
                Err(_) => None,
            },
            None => None,
        };
        record.outcome = Outcome::Allow;
        record.reason = Reason::Allowed.as_str().to_owned();
        record.detail = match opener.as_ref().and_then(|opener| opener.spiffe_id()) {
            Some(id) => format!("the opener is {} with identity {id}", connection.exec_id),
            None => format!("the opener is {}", connection.exec_id),
        };
        record.connection = Some(draft::connection(&connection, String::new()));
        self.commit(slot, record, now).await.map_err(|error| self.audit_refused(error))?;
        self.answer_only_if_same(peer, "attest_connection")?;
        Ok(Opener { connection, attested: opener })
    }

    /// The last look at a caller before it is answered.
    pub(super) fn answer_only_if_same(&self, peer: &Peer, action: &'static str) -> Result<(), Refusal> {
        peer.recheck(self.records()).map(drop).map_err(|failure| {
            self.refuse_peer(action, &failure, peer);
            Refusal::Caller(failure)
        })
    }
}
