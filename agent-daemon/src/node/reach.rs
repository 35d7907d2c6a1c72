// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the scopes of a session, or of a token of it, reach.

use std::sync::Arc;

use super::exchange::Subject;
use super::reason::{Denial, Reason};
use crate::credential::Destination;
use crate::session::Session;

/// The scopes by which something reaches a destination; none where no scopes bound it.
pub(super) fn reach(
    session: Option<&Session>,
    subject: Option<&Subject>,
    destination: &Destination,
) -> Result<Option<Vec<Arc<str>>>, Denial> {
    let Some(session) = session else { return Ok(None) };
    // Those of a token are some of its session's, which may have none.
    let within = subject.and_then(|subject| subject.scopes.as_deref());
    let reaches = |scope: &Arc<str>| destination.name == *scope || destination.labels.contains(scope);
    let scopes: Option<Vec<Arc<str>>> = match within {
        Some(scopes) => Some(scopes.iter().filter(|scope| reaches(scope)).map(Arc::clone).collect()),
        None => {
            session.scopes_for(&destination.name, &destination.labels).map(|scopes| scopes.map(Arc::from).collect())
        }
    };
    let is_within = session.reaches(&destination.name, &destination.labels);
    if is_within && scopes.as_ref().is_none_or(|scopes| !scopes.is_empty()) {
        return Ok(scopes);
    }
    let detail = match within {
        Some(_) => "the scopes of the token that it shows do not reach the destination",
        None => "the session's scopes do not reach the destination",
    };
    let expected = format!("{} or one of its labels among the scopes", destination.name);
    let has = match within {
        Some(scopes) => scopes.join(", "),
        None => session.scopes.as_ref().map(|scopes| scopes.join(", ")).unwrap_or_default(),
    };
    Err(Denial::new(Reason::OutOfScope, detail).differing(expected, has))
}
