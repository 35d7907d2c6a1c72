// SPDX-License-Identifier: Apache-2.0 OR MIT

//! X509-SVIDs of this daemon itself, by which other machines know it.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::Node;
use crate::audit::{self, AuthorityRecord, Outcome, Record};
use crate::authority::{self, Subject, X509Svid};
use crate::identity::{RESERVED_PATH, SpiffeId};

const LIFE: SignedDuration = SignedDuration::from_hours(1);
const SERIAL_BYTES: usize = 16;

/// One, with what it stands on.
#[derive(Debug)]
pub struct OwnSvid {
    /// Certificate and key.
    pub svid: X509Svid,
    mark: OwnMark,
}

impl OwnSvid {
    /// What is left of it when its key is where it is used: the key is wiped.
    pub fn mark(self) -> OwnMark {
        self.mark
    }
}

/// What one stands on.
#[derive(Debug)]
pub struct OwnMark {
    begins_at: Timestamp,
    ends_at: Timestamp,
    issuer_ends_at: Timestamp,
    authorities: Bytes,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// It cannot be signed.
    #[error(transparent)]
    Authority(#[from] authority::Error),
    /// It cannot be recorded.
    #[error(transparent)]
    Audit(#[from] audit::Error),
    /// The name cannot be one.
    #[error("bug: {0} is no name of this daemon")]
    Name(String),
}

impl Node {
    /// Makes one, and records that. No entry can have the name. Blocks.
    ///
    /// # Errors
    /// When it cannot be signed or recorded.
    pub fn own_svid(&self, name: &str) -> Result<OwnSvid, OwnError> {
        let spiffe_id = format!("spiffe://{}{RESERVED_PATH}{name}", self.identity.trust_domain);
        let spiffe_id: SpiffeId = spiffe_id.parse().map_err(|_| OwnError::Name(spiffe_id.clone()))?;
        // Before it is made: what cannot be recorded is not done.
        let _slot = self.log.reserve()?;
        let mut serial = [0; SERIAL_BYTES];
        authority::fill_random(&mut serial)?;
        let now = self.clock.now();
        let authorities = self.authority.bundle().x509.clone();
        let issuer_ends_at = self.authority.x509.ends_at(now)?;
        let ends_at = now.saturating_add(LIFE).unwrap_or(issuer_ends_at).min(issuer_ends_at);
        let subject = Subject { spiffe_id: &spiffe_id, dns_names: &[], serial: &serial, begins_at: now, ends_at };
        let svid = self.authority.x509.issue(&subject, now)?;
        self.log.append(&Record::Authority(AuthorityRecord {
            outcome: Outcome::Allow,
            upstream: self.authority.x509.origin().as_str().to_owned(),
            spiffe_id: Some(spiffe_id.to_string()),
            ends_at: Some(ends_at),
            error: None,
        }))?;
        Ok(OwnSvid { svid, mark: OwnMark { begins_at: now, ends_at, issuer_ends_at, authorities } })
    }

    /// Whether one need not be made anew: it is in its first half, and stands on what others trust now.
    pub fn is_current(&self, own: &OwnMark) -> bool {
        let now = self.clock.now();
        let half = own.ends_at.duration_since(own.begins_at) / 2;
        // A clock that was set back must not keep it for longer than its life.
        let is_young = now >= own.begins_at && now.duration_since(own.begins_at) < half;
        is_young
            && self.authority.x509.ends_at(now).is_ok_and(|ends_at| ends_at == own.issuer_ends_at)
            && self.authority.bundle().x509 == own.authorities
    }
}
