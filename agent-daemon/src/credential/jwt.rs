// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The claims of a minted JWT-SVID.
//!
//! <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md> asks for `sub`, `aud` and `exp`.

use std::sync::Arc;

use serde::Serialize;

use super::{att::Att, lease::Lease};

/// What is signed. There is no `nbf`: it would be `iat`, and make a verifier whose clock is a little behind refuse a
/// token that was asked for a moment ago.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claims<'a> {
    /// Who signed it, where an issuer is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<&'a str>,
    /// The SPIFFE ID it speaks for.
    pub sub: &'a str,
    /// The destination's audience, and no other; several only where a caller of the Workload API may name several.
    pub aud: &'a [Arc<str>],
    /// Whole seconds since the epoch, rounded down.
    pub iat: i64,
    /// Whole seconds since the epoch, rounded down: the token never outlives its lease.
    pub exp: i64,
    /// The lease's id.
    pub jti: &'a str,
    /// What is known of the holder, where the binding says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub att: Option<Att>,
}

impl<'a> Claims<'a> {
    /// The claims for a lease.
    pub fn new(lease: &'a Lease, audiences: &'a [Arc<str>], issuer: Option<&'a str>) -> Self {
        Self {
            iss: issuer,
            sub: lease.spiffe_id.as_str(),
            aud: audiences,
            iat: whole_seconds(lease.issued_at),
            exp: whole_seconds(lease.expires_at),
            jti: lease.id.as_str(),
            att: None,
        }
    }
}

/// Rounded down, also before the epoch.
pub(super) fn whole_seconds(time: jiff::Timestamp) -> i64 {
    let seconds = time.as_second();
    if time.subsec_nanosecond() < 0 { seconds.saturating_sub(1) } else { seconds }
}

#[cfg(test)]
mod tests {
    use super::{super::lease::tests::lease, *};

    #[test]
    fn claims_are_the_lease_and_nothing_else() {
        let mut lease = lease(1, 7);
        lease.issued_at = "2026-01-02T03:04:05.999Z".parse().unwrap();
        lease.expires_at = "2026-01-02T03:09:05.999Z".parse().unwrap();
        let audiences = ["https://reports.internal".into()];
        let claims = Claims::new(&lease, &audiences, None);
        let expected = serde_json::json!({
            "sub": "spiffe://example.org/agent/a",
            "aud": ["https://reports.internal"],
            "iat": 1_767_323_045,
            "exp": 1_767_323_345,
            "jti": lease.id.as_str(),
        });
        assert_eq!(serde_json::to_value(&claims).unwrap(), expected);
        let claims = Claims::new(&lease, &audiences, Some("https://node.example"));
        assert_eq!(serde_json::to_value(&claims).unwrap()["iss"], "https://node.example");
    }

    #[test]
    fn a_token_never_outlives_its_lease() {
        for expires_at in ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.999999999Z", "1969-12-31T23:59:59.5Z"] {
            let mut lease = lease(1, 7);
            lease.expires_at = expires_at.parse().unwrap();
            let claims = Claims::new(&lease, &[], None);
            assert!(jiff::Timestamp::from_second(claims.exp).unwrap() <= lease.expires_at, "{expires_at}");
        }
    }
}
