// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The claims of an access token: on whose behalf, and through whom.
//!
//! <https://www.rfc-editor.org/rfc/rfc9068> gives the profile, <https://www.rfc-editor.org/rfc/rfc8693#section-4.1> the
//! `act` claim, <https://www.rfc-editor.org/rfc/rfc9493#section-3.2.3> the subject as its issuer calls it, and
//! <https://www.rfc-editor.org/rfc/rfc8417#section-2.2> `txn`.

use std::sync::Arc;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::att::Att;
use super::destination::Destination;
use super::jwt::whole_seconds;
use super::lease::Lease;
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
    /// Those of the session's scopes that reach the destination; none where the session reaches all that policy permits.
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
    /// For what.
    pub destination: &'a Destination,
    /// Whether the token names its transaction.
    pub has_transaction: bool,
    /// What is known of the holder.
    pub att: Option<Att>,
}

impl<'a> From<Access<'a>> for AccessClaims<'a> {
    fn from(access: Access<'a>) -> Self {
        let Access { lease, audiences, issuer, session, actors, destination, has_transaction, att } = access;
        let user = &*session.user;
        let sub_id = user.issuer.as_deref().map(|iss| SubjectId { format: "iss_sub", iss, sub: &user.subject });
        let scopes = session.scopes_for(&destination.name, &destination.labels);
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
            scope: scopes.map(|scopes| scopes.collect::<Vec<_>>().join(" ")),
            sid: session.id.to_string(),
            txn: has_transaction.then(|| &*session.outermost().decision_id),
            att,
        }
    }
}

#[cfg(test)]
mod tests {
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
}
