// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether a presented token is still good: the answer of RFC 7662.
//!
//! <https://www.rfc-editor.org/rfc/rfc7662#section-2.2>: an inactive token's answer tells nothing else, not even why.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    lease::{Lease, LeaseId},
    source::CredentialType,
};

/// The claims of a token whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    sub: String,
    aud: Vec<String>,
    exp: i64,
    iat: Option<i64>,
    iss: Option<String>,
    lease_id: LeaseId,
    /// The identity that it was given to.
    holder: String,
    kind: CredentialType,
    further: Map<String, Value>,
}

/// What an access token says beyond a JWT-SVID, and an answer about it, too.
const OF_ACCESS_TOKENS: [&str; 7] = ["client_id", "scope", "act", "sub_id", "sid", "txn", "att"];

/// Whether the exec instance that holds the lease still is, as the kernel's map says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It is, unchanged.
    Live,
    /// It exited, runs another image or changed its uid.
    Gone,
    /// The map could not be read.
    Unknown,
}

/// The answer's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Introspection {
    active: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

/// What an active token's answer tells besides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Details {
    token_type: &'static str,
    sub: String,
    aud: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    jti: String,
    #[serde(flatten)]
    further: Map<String, Value>,
}

impl Presented {
    /// Takes the claims that an answer needs. [`None`] when one is missing or of another form: no token of ours.
    pub fn from_claims(kind: CredentialType, claims: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| claims.get(key).and_then(Value::as_str);
        let aud = match claims.get("aud")? {
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many.iter().map(|one| one.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
        };
        let (holder, names): (_, &[&str]) = match kind {
            CredentialType::AccessToken => ("client_id", &OF_ACCESS_TOKENS),
            CredentialType::JwtSvid => ("sub", &[]),
            CredentialType::X509Svid | CredentialType::WitSvid | CredentialType::Static => return None,
        };
        let further = names.iter().filter_map(|name| Some(((*name).to_owned(), claims.get(*name)?.clone())));
        Some(Self {
            holder: text(holder)?.to_owned(),
            kind,
            further: further.collect(),
            sub: text("sub")?.to_owned(),
            aud,
            exp: claims.get("exp")?.as_i64()?,
            iat: claims.get("iat").and_then(Value::as_i64),
            iss: text("iss").map(str::to_owned),
            lease_id: LeaseId::parse(text("jti")?).ok()?,
        })
    }

    /// Which lease to look up.
    pub fn lease_id(&self) -> &LeaseId {
        &self.lease_id
    }

    /// For whom it is.
    pub fn audiences(&self) -> &[String] {
        &self.aud
    }

    /// What an access token says besides.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.further.get(name)
    }
}

impl Introspection {
    /// For whatever is not an active token of ours.
    pub const INACTIVE: Self = Self { active: false, details: None };

    /// The answer for a token. Active only when everything says so: the lease is the token's and live, the holder is
    /// live, and the token itself has not expired. On doubt inactive.
    pub fn new(presented: Presented, lease: Option<&Lease>, liveness: Liveness, now: Timestamp) -> Self {
        let is_its_lease = |lease: &&Lease| {
            lease.id == presented.lease_id
                && lease.spiffe_id.as_str() == presented.holder
                && lease.credential_type == presented.kind
        };
        let lease_is_live = lease.filter(is_its_lease).is_some_and(|lease| lease.is_live(now));
        let token_is_live = now.as_second() < presented.exp;
        if !(lease_is_live && token_is_live && liveness == Liveness::Live) {
            return Self::INACTIVE;
        }
        let Presented { sub, aud, exp, iat, iss, lease_id, further, .. } = presented;
        let jti = lease_id.as_str().to_owned();
        Self { active: true, details: Some(Details { token_type: "Bearer", sub, aud, iss, exp, iat, jti, further }) }
    }

    /// What it says.
    pub fn is_active(&self) -> bool {
        self.active
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            jwt::Claims,
            lease::{Cause, State, tests::lease},
        },
        *,
    };

    fn presented(lease: &Lease) -> Presented {
        let claims = serde_json::to_value(Claims::new(lease, &["https://reports.internal".into()], None)).unwrap();
        Presented::from_claims(CredentialType::JwtSvid, claims.as_object().unwrap()).unwrap()
    }

    fn just_after(lease: &Lease) -> Timestamp {
        lease.issued_at + jiff::SignedDuration::from_secs(1)
    }

    #[test]
    fn a_live_lease_of_a_live_holder_is_active() {
        let lease = lease(1, 7);
        let answer = Introspection::new(presented(&lease), Some(&lease), Liveness::Live, just_after(&lease));
        let expected = serde_json::json!({
            "active": true,
            "token_type": "Bearer",
            "sub": "spiffe://example.org/agent/a",
            "aud": ["https://reports.internal"],
            "exp": lease.expires_at.as_second(),
            "iat": lease.issued_at.as_second(),
            "jti": lease.id.as_str(),
        });
        assert!(answer.is_active());
        assert_eq!(serde_json::to_value(answer).unwrap(), expected);
    }

    #[test]
    fn any_doubt_makes_it_inactive_and_tells_nothing_else() {
        let good = lease(1, 7);
        let now = just_after(&good);
        let with = |change: &dyn Fn(&mut Lease)| {
            let mut lease = good.clone();
            change(&mut lease);
            Some(lease)
        };
        let ended = State::Ended { cause: Cause::Revoked, at: now };
        let other_id: crate::identity::SpiffeId = "spiffe://example.org/agent/b".parse().unwrap();
        let cases: Vec<(&str, Option<Lease>, Liveness, Timestamp)> = vec![
            ("no lease", None, Liveness::Live, now),
            ("ended", with(&|lease| lease.state = ended), Liveness::Live, now),
            ("expired but not swept", Some(good.clone()), Liveness::Live, good.expires_at),
            ("lease expires before the token", with(&|lease| lease.expires_at = now), Liveness::Live, now),
            (
                "token expires before the lease",
                with(&|lease| lease.expires_at = Timestamp::MAX),
                Liveness::Live,
                good.expires_at,
            ),
            ("holder gone", Some(good.clone()), Liveness::Gone, now),
            ("holder unknown", Some(good.clone()), Liveness::Unknown, now),
            ("another lease", Some(lease(2, 7)), Liveness::Live, now),
            ("another identity", with(&|lease| lease.spiffe_id = other_id.clone()), Liveness::Live, now),
            ("no token", with(&|lease| lease.credential_type = CredentialType::Static), Liveness::Live, now),
        ];
        for (case, lease, liveness, now) in cases {
            let answer = Introspection::new(presented(&good), lease.as_ref(), liveness, now);
            assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"active":false}"#, "{case}");
        }
    }

    #[test]
    fn claims_of_another_form_are_not_ours() {
        let good = serde_json::to_value(Claims::new(&lease(1, 7), &["a".into()], None)).unwrap();
        for (key, value) in [
            ("sub", Value::Null),
            ("sub", 1.into()),
            ("aud", Value::Null),
            ("aud", serde_json::json!(["a", 1])),
            ("exp", "1".into()),
            ("exp", serde_json::json!(1.5)),
            ("jti", "short".into()),
            ("jti", Value::Null),
        ] {
            let mut claims = good.as_object().unwrap().clone();
            claims.insert(key.to_owned(), value.clone());
            assert_eq!(Presented::from_claims(CredentialType::JwtSvid, &claims), None, "{key} = {value}");
            claims.remove(key);
            assert_eq!(Presented::from_claims(CredentialType::JwtSvid, &claims), None, "no {key}");
        }
    }
}
