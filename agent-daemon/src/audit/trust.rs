// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the audit log says of CAs and of trust bundles.

use jiff::Timestamp;
use serde::Serialize;

use super::record::{Caller, Outcome};

/// See [`super::Record::Authority`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct AuthorityRecord {
    /// `deny` means that what was there goes on.
    pub outcome: Outcome,
    /// Who signs the CA: `embedded`, `disk`, `openbao`, `spire`.
    pub upstream: String,
    /// Of this daemon itself, when it is about such an SVID and not about a CA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Until when the new CA, or that SVID, is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Timestamp>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// See [`super::Record::Bundle`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct BundleRecord {
    /// `deny` means that what was known goes on.
    pub outcome: Outcome,
    /// `fetch`, `set`, `remove`, or `follow` of the own one that an upstream has.
    pub operation: String,
    /// Whose bundle.
    pub trust_domain: String,
    /// Where it was fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Of what is known now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Of what is known now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Who asked, when it was the admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Caller>,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
