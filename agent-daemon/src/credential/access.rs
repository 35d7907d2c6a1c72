// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The claims of an access token: on whose behalf, and through whom.
//!
//! <https://www.rfc-editor.org/rfc/rfc9068> gives the profile, <https://www.rfc-editor.org/rfc/rfc8693#section-4.1> the
//! `act` claim, <https://www.rfc-editor.org/rfc/rfc9493#section-3.2.3> the subject as its issuer calls it, and
//! <https://www.rfc-editor.org/rfc/rfc8417#section-2.2> `txn`.

use std::iter::successors;
use std::sync::Arc;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::att::Att;
use super::jwt::whole_seconds;
use super::lease::Lease;
use crate::identity::SpiffeId;
use crate::session::Session;

/// The `typ` of its header, so that no verifier takes it for a JWT-SVID.
pub const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// Who acts, the caller first, then whoever started it, up to the opener of its outermost session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actors {
    caller: Arc<str>,
    above: Vec<Arc<str>>,
}

impl Actors {
    /// The caller, below `above`, of which the nearest comes first.
    pub fn new(caller: Arc<str>, above: Vec<Arc<str>>) -> Self {
        Self { caller, above }
    }

    /// Those that a token of ours names.
    pub fn from_claim(act: &Value) -> Option<Self> {
        let levels = successors(Some(act), |level| level.get("act"));
        let mut names = levels.map(|level| level.get("sub").and_then(Value::as_str).map(Arc::from));
        let caller = names.next()??;
        Some(Self { caller, above: names.collect::<Option<_>>()? })
    }

    /// The caller.
    pub fn caller(&self) -> &str {
        &self.caller
    }

    /// The same below one more: what it was given to act with, it acts with in turn.
    pub fn below(&self, caller: &SpiffeId) -> Self {
        Self { caller: caller.as_str().into(), above: self.iter().map(Arc::clone).collect() }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.above.len().saturating_add(1)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        [&self.caller].into_iter().chain(&self.above)
    }
}

impl Serialize for Actors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Act { sub: &self.caller, above: &self.above }.serialize(serializer)
    }
}

/// One of them with everybody above it, as RFC 8693 nests them.
struct Act<'a> {
    sub: &'a str,
    above: &'a [Arc<str>],
}

impl Serialize for Act<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("sub", self.sub)?;
        if let Some((sub, above)) = self.above.split_first() {
            map.serialize_entry("act", &Act { sub, above })?;
        }
        map.end()
    }
}

/// The user as its issuer calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct SubjectId<'a> {
    format: &'static str,
    iss: &'a str,
    sub: &'a str,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessClaims<'a> {
    iss: &'a str,
    /// The user, by the name that it has here. Never a SPIFFE ID: no issuer of users can be called `spiffe`.
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_id: Option<SubjectId<'a>>,
    aud: &'a [Arc<str>],
    iat: i64,
    exp: i64,
    jti: &'a str,
    /// Who got the token: the first of `act`.
    client_id: &'a str,
    act: &'a Actors,
    /// Those of the session's scopes that reach the destination, or fewer, where it was exchanged for fewer; none where
    /// the session reaches all that policy permits.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// The session.
    sid: String,
    /// The decision that opened the outermost session: all that is done in it is one transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<&'a str>,
    /// What is known of the holder, where the binding says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    att: Option<Att>,
}

/// What the claims are made of.
#[derive(Debug)]
pub struct Access<'a> {
    /// Of the token.
    pub lease: &'a Lease,
    /// For whom the token is.
    pub audiences: &'a [Arc<str>],
    /// Who signs.
    pub issuer: &'a str,
    /// On whose behalf.
    pub session: &'a Session,
    /// Through whom.
    pub actors: &'a Actors,
    /// By which scopes it reaches its destination; none: no scopes bound it.
    pub scopes: Option<&'a [Arc<str>]>,
    /// Whether the token names its transaction.
    pub has_transaction: bool,
    /// What is known of the holder.
    pub att: Option<Att>,
}

impl<'a> From<Access<'a>> for AccessClaims<'a> {
    fn from(access: Access<'a>) -> Self {
        let Access { lease, audiences, issuer, session, actors, scopes, has_transaction, att } = access;
        let user = &*session.user;
        let sub_id = user.issuer.as_deref().map(|iss| SubjectId { format: "iss_sub", iss, sub: &user.subject });
        Self {
            iss: issuer,
            sub: &user.id,
            sub_id,
            aud: audiences,
            iat: whole_seconds(lease.issued_at),
            exp: whole_seconds(lease.expires_at),
            jti: lease.id.as_str(),
            client_id: lease.spiffe_id.as_str(),
            act: actors,
            scope: scopes.map(|scopes| scopes.join(" ")),
            sid: session.id.to_string(),
            txn: has_transaction.then(|| &*session.outermost().decision_id),
            att,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn actors_are_nested_from_the_caller_up() {
        let act = |above: &[&str]| {
            let actors = Actors::new("a".into(), above.iter().map(|one| Arc::from(*one)).collect());
            serde_json::to_string(&actors).unwrap()
        };
        assert_eq!(act(&[]), r#"{"sub":"a"}"#);
        assert_eq!(act(&["b", "c"]), r#"{"sub":"a","act":{"sub":"b","act":{"sub":"c"}}}"#);
    }

    #[test]
    fn actors_are_read_as_they_are_written_and_nothing_else_is_taken_for_them() {
        let actors = Actors::new("a".into(), vec!["b".into(), "c".into()]);
        let written = serde_json::to_value(&actors).unwrap();
        assert_eq!(Actors::from_claim(&written), Some(actors.clone()));
        let caller = "spiffe://example.org/d".parse().unwrap();
        let names: Vec<Arc<str>> = actors.below(&caller).iter().map(Arc::clone).collect();
        assert_eq!(names, ["spiffe://example.org/d", "a", "b", "c"].map(Arc::from));
        for other in [json!({}), json!({"sub": 1}), json!({"sub": "a", "act": {}}), json!("a"), json!(null)] {
            assert_eq!(Actors::from_claim(&other), None, "{other}");
        }
    }
}
