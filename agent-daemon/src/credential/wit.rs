// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The claims of a minted WIT-SVID. Experimental, as its specification:
//! <https://github.com/spiffe/spiffe/blob/main/standards/WIT-SVID.md> on its experimental branch.

use serde::Serialize;
use serde_json::Value;

use super::jwt::whole_seconds;
use super::lease::Lease;

/// Of such a token, in its header: nobody who expects another kind takes it for one.
pub const WIT_TYPE: &str = "wit+jwt";
/// A verifier whose clock is a little behind has to refuse what is not good yet.
const BACKDATE_SECONDS: i64 = 10;

/// What is signed. There is no `iss`: with one that OIDC discovery finds, somebody might take it without its proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WitClaims<'a> {
    /// The SPIFFE ID it speaks for.
    pub sub: &'a str,
    /// The key that has to be proved.
    pub cnf: Confirmation<'a>,
    /// Whole seconds since the epoch, rounded down.
    pub iat: i64,
    /// A little earlier.
    pub nbf: i64,
    /// Whole seconds since the epoch, rounded down: the token never outlives its lease.
    pub exp: i64,
    /// The lease's id.
    pub jti: &'a str,
}

/// RFC 7800.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confirmation<'a> {
    /// The public key.
    pub jwk: &'a Value,
}

impl<'a> WitClaims<'a> {
    /// The claims for a lease.
    pub fn new(lease: &'a Lease, key: &'a Value) -> Self {
        let issued_at = whole_seconds(lease.issued_at);
        Self {
            sub: lease.spiffe_id.as_str(),
            cnf: Confirmation { jwk: key },
            iat: issued_at,
            nbf: issued_at.saturating_sub(BACKDATE_SECONDS),
            exp: whole_seconds(lease.expires_at),
            jti: lease.id.as_str(),
        }
    }
}
