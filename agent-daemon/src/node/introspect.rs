// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::Node;
use crate::credential::CredentialType;
use crate::credential::introspect::{Introspection, Presented};

impl Node {
    /// Whether a token of ours is good at this moment (RFC 7662). The kernel is asked, not our memory: a token
    /// is inactive as soon as its exec instance is gone, whether or not we have heard of it yet.
    pub fn introspect(&self, token: &str) -> Introspection {
        let jwt = &self.authority.jwt;
        let of = |kind, claims| Presented::from_claims(kind, &claims);
        let svid = || jwt.verify_jwt(token).ok().and_then(|claims| of(CredentialType::JwtSvid, claims));
        let access = || jwt.verify_access_token(token).ok().and_then(|claims| of(CredentialType::AccessToken, claims));
        let Some(presented) = svid().or_else(access) else { return Introspection::INACTIVE };
        let lease = self.leases.lease(presented.lease_id());
        let Some(lease) = lease else { return Introspection::INACTIVE };
        let liveness = self.look_at(&lease);
        let lease = self.leases.lease(presented.lease_id());
        Introspection::new(presented, lease.as_deref(), liveness, self.clock.now())
    }
}
