// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::iter::successors;
use std::sync::Arc;

use super::Node;
use crate::credential::introspect::{Introspection, Liveness, Presented};
use crate::credential::{CredentialType, Lease, LeaseId};

impl Node {
    /// Whether a token of ours is good at this moment (RFC 7662). The kernel is asked, not our memory: a token
    /// is inactive as soon as its exec instance is gone, whether or not we have heard of it yet.
    pub fn introspect(&self, token: &str) -> Introspection {
        let jwt = &self.authority.jwt;
        let svid = || {
            let claims = jwt.verify_jwt(token).ok()?;
            Presented::from_claims(CredentialType::JwtSvid, &claims)
        };
        let Some(presented) = svid().or_else(|| self.presented_access(token)) else { return Introspection::INACTIVE };
        self.introspect_presented(presented)
    }

    /// An access token of ours by its signature, whatever else is to be said of it.
    pub(super) fn presented_access(&self, token: &str) -> Option<Presented> {
        let claims = self.authority.jwt.verify_access_token(token).ok()?;
        Presented::from_claims(CredentialType::AccessToken, &claims)
    }

    pub(super) fn introspect_presented(&self, presented: Presented) -> Introspection {
        let liveness = self.liveness(presented.lease_id());
        let lease = self.leases.lease(presented.lease_id());
        Introspection::new(presented, lease.as_deref(), liveness, self.clock.now())
    }

    /// Whether the holder of a lease is there, and the holders of all that it was exchanged for, one from the other.
    fn liveness(&self, id: &LeaseId) -> Liveness {
        let mut of_all = Liveness::Gone;
        for lease in self.exchanged_for(id) {
            of_all = match self.look_at(&lease) {
                Liveness::Live if lease.subject.as_ref().is_none_or(|subject| self.is_active(subject)) => {
                    Liveness::Live
                }
                Liveness::Live | Liveness::Gone => return Liveness::Gone,
                Liveness::Unknown => return Liveness::Unknown,
            };
        }
        of_all
    }

    /// A lease, then that of the token that it was exchanged for, and so on.
    pub(super) fn exchanged_for(&self, id: &LeaseId) -> impl Iterator<Item = Arc<Lease>> {
        successors(self.leases.lease(id), |lease| self.leases.lease(lease.subject.as_ref()?))
    }

    pub(super) fn is_active(&self, id: &LeaseId) -> bool {
        self.leases.lease(id).is_some_and(|lease| lease.is_live(self.clock.now()))
    }
}
