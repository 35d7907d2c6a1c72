// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In which session an exec instance acts, and that it never has more there than those above it.

use std::cell::Cell;
use std::sync::Arc;

use super::decide::{Denial, Reason};
use super::{Node, Refusal};
use crate::attest::{Attested, Beyond};
use crate::policy::{self, PreparedPrincipal, Request};
use crate::process::ExecInstance;
use crate::session::{HandleDigest, NotActing, Session};
use crate::snapshot::Snapshot;

impl Node {
    /// The session that a request is made in; see [`crate::session::Sessions::acting`].
    pub(super) fn acting_in(
        &self,
        asker: &ExecInstance,
        handle: Option<HandleDigest>,
    ) -> Result<Option<Arc<Session>>, Denial> {
        self.sessions().acting(asker, handle).map_err(|error| {
            let reason = match error {
                NotActing::Ended(_) | NotActing::UnknownHandle => Reason::SessionEnded,
                NotActing::NotBelow { .. } | NotActing::Outside { .. } => Reason::SessionNotYours,
            };
            Denial::new(reason, error.to_string())
        })
    }

    /// Whether everybody from the asker up to the opener of its outermost session may have what it asks for.
    pub(super) async fn within_ancestors(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        session: &Session,
        request: &Request<'_>,
    ) -> Result<Result<(), Denial>, Refusal> {
        let (asker, top) = (attested.evidence.instance.id, session.outermost().opener);
        if asker == top {
            return Ok(Ok(()));
        }
        let ancestry = self.attestor.ancestry_of(snapshot, attested).await?;
        let failed = Cell::new(false);
        let allows = |principal: &Arc<PreparedPrincipal>| {
            let decision = snapshot.policies.evaluate(&Request { principal, ..*request });
            failed.set(failed.get() || decision.reason == policy::Reason::Error);
            decision.is_allow()
        };
        let Err(beyond) = ancestry.permits(asker, top, allows) else { return Ok(Ok(())) };
        let permit = "permit it to the ancestor, too: a tool never has more than what started it";
        let (reason, remedy) = match beyond {
            // What could not be evaluated is no plain word of policy.
            Beyond::Refused(_) | Beyond::PossiblyRefused(_) if failed.get() => (Reason::PolicyError, permit),
            Beyond::Refused(_) | Beyond::PossiblyRefused(_) => (Reason::AncestorNotPermitted, permit),
            Beyond::Unknown(_) => (
                Reason::AncestorUnknown,
                "let what starts tools live on, or have the tool enter the session (EnterSession)",
            ),
            Beyond::TooDeep(_) => (Reason::SessionTooDeep, "start tools from fewer programs in a row"),
        };
        Ok(Err(Denial::new(reason, beyond.to_string()).remedy(remedy)))
    }
}
