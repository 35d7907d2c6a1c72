// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tables of cases that a person writes to test policies: `[[case]]` and the `[[destination]]` that they speak of.
//!
//! They go through the same evaluation as a real request. What a case does not say is not there (no connection, no
//! flags, no ancestors, no executable) or ordinary (uid 1000, 1970-01-01).

mod table;

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use self::table::{CaseTable, DestinationTable, Verb, enforce};
use super::{
    Action, CredentialContext, Destination, Effect, EvidenceContext, Policies, PolicyNearMiss, PreparedDestination,
    PreparedPrincipal, PreparedSession, Principal, Reason, Request,
};
use crate::{
    diagnostic::{Diagnostic, SourceFile},
    identity::document,
};

/// Most cases of a file.
const MAX_CASES: usize = 10_000;

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// From the file.
    pub name: String,
    /// Whether the decision is the expected one, and for the expected reason if the case names one.
    pub passed: bool,
    /// `allow` or `deny`, with the reason in brackets if the case names one.
    pub expected: String,
    /// `allow` or `deny`, with the reason in brackets.
    pub actual: String,
    /// Of the decision.
    pub policy_ids: Vec<Arc<str>>,
    /// Of the decision.
    pub errors: Vec<String>,
    /// Of a denial that no policy made.
    pub near_misses: Vec<PolicyNearMiss>,
}

impl Policies {
    /// Runs the cases of a file. Destinations come from its `[[destination]]` tables; a file without any may name
    /// any destination, which then has nothing but its name.
    ///
    /// # Errors
    /// Everything that is wrong with the file. Then no case was run.
    pub fn run_cases(&self, cases: &SourceFile) -> Result<Vec<CaseResult>, Vec<Diagnostic>> {
        self.run_cases_with(cases, &[])
    }

    /// The same, with destinations that are declared elsewhere. A table of the file wins over one of the same name.
    ///
    /// # Errors
    /// As [`Self::run_cases`].
    pub fn run_cases_with(
        &self,
        cases: &SourceFile,
        declared: &[Destination],
    ) -> Result<Vec<CaseResult>, Vec<Diagnostic>> {
        let allowed = ["case", "destination"];
        let mut diagnostics = Vec::new();
        let tables = document::tables::<DestinationTable>(cases, "destination", &allowed, &mut diagnostics);
        if !diagnostics.is_empty() {
            // The same text is read again for the cases: what is wrong with its shape would be said twice.
            return Err(diagnostics);
        }
        let mut destinations: HashMap<String, Destination> =
            declared.iter().map(|declared| (declared.name.clone(), declared.clone())).collect();
        destinations.extend(tables.into_iter().map(|table| {
            let table = table.into_inner();
            (table.name.clone(), table.into())
        }));
        let tables = document::tables::<CaseTable>(cases, "case", &allowed, &mut diagnostics);
        if tables.len() > MAX_CASES {
            let message = format!("{} cases are too many, at most {MAX_CASES} are run", tables.len());
            diagnostics.push(Diagnostic::error_at(cases, 0, message));
            return Err(diagnostics);
        }
        let mut results = Vec::new();
        for table in tables {
            let offset = table.span().start;
            match self.run(cases, offset, table.into_inner(), &destinations) {
                Ok(result) => results.push(result),
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
        if diagnostics.is_empty() { Ok(results) } else { Err(diagnostics) }
    }

    fn run(
        &self,
        file: &SourceFile,
        offset: usize,
        case: CaseTable,
        destinations: &HashMap<String, Destination>,
    ) -> Result<CaseResult, Diagnostic> {
        let at = case.principal.span().start;
        let destination = case.destination(file, offset, destinations)?;
        let spiffe_id = case.principal.into_inner().0;
        let principal = Principal {
            entry: case.entry.unwrap_or_else(|| "test".into()).into(),
            kind: case.kind.0,
            groups: case.groups.into_iter().map(Arc::from).collect(),
            spiffe_id: spiffe_id.clone(),
        };
        let evidence = EvidenceContext::from(case.evidence);
        let principal = PreparedPrincipal::new(&principal, &evidence)
            .map_err(|error| Diagnostic::error_at(file, at, error.to_string()))?;
        let connection = case.connection.map(|table| table.into_context(&evidence));
        let credential = CredentialContext {
            binding: case.credential.binding.into(),
            credential_type: case.credential.credential_type.into(),
            delivery: case.credential.delivery.into(),
            audiences: case.credential.audiences.into_iter().map(Arc::from).collect(),
            ttl_seconds: case.credential.ttl_seconds,
        };
        let lifetime_seconds = case.session.as_ref().map_or(0, |session| session.lifetime_seconds);
        let session = case.session.map(|session| PreparedSession::new(&session.into_context(&spiffe_id))).transpose();
        let session = session.map_err(|error| Diagnostic::error_at(file, at, error.to_string()))?;
        let action = match (case.action, &destination, &session) {
            (Verb::ActFor, _, Some(session)) => Action::ActFor { session, lifetime_seconds },
            (Verb::ActFor, _, None) => {
                return Err(Diagnostic::error_at(file, offset, "missing field `session`")
                    .with_help("say on whose behalf: session = { user = \"corp:alice\" }"));
            }
            (Verb::Release, Some(destination), session) => Action::Release {
                destination,
                connection: connection.as_ref(),
                credential: &credential,
                renewal: case.renewal,
                session: session.as_ref(),
            },
            (Verb::Connect, Some(destination), session) => Action::Connect { destination, session: session.as_ref() },
            (Verb::Release | Verb::Connect | Verb::Attest, _, _) => Action::Attest,
        };
        let request = Request { principal: &principal, action, now: case.now.unwrap_or(Timestamp::UNIX_EPOCH) };
        let (decision, _) = self.evaluate_anew(&request);
        let effect = Effect::from(case.expect);
        let reason = case.reason.map(Reason::from);
        let near_misses = match decision.reason {
            Reason::NoPermit => self.near_misses(&request),
            Reason::Permit | Reason::NeedsApproval | Reason::Forbid | Reason::Error => Vec::new(),
        };
        Ok(CaseResult {
            name: case.name,
            passed: decision.effect == effect && reason.is_none_or(|reason| reason == decision.reason),
            expected: match reason {
                Some(reason) => format!("{effect} ({reason})"),
                None => effect.to_string(),
            },
            actual: format!("{} ({})", decision.effect, decision.reason),
            policy_ids: decision.policy_ids,
            errors: decision.errors,
            near_misses,
        })
    }
}

impl CaseTable {
    /// None for `attest`, which is about this node, and `actFor`, which is about the session's user.
    fn destination(
        &self,
        file: &SourceFile,
        offset: usize,
        destinations: &HashMap<String, Destination>,
    ) -> Result<Option<PreparedDestination>, Diagnostic> {
        let named = match (self.action, &self.resource) {
            (Verb::Attest | Verb::ActFor, None) => return Ok(None),
            (Verb::Attest, Some(resource)) => {
                let message = "attest is about this node and takes no resource";
                return Err(Diagnostic::error_at(file, resource.span().start, message));
            }
            (Verb::ActFor, Some(resource)) => {
                let message = "actFor is about the user of the session and takes no resource";
                return Err(Diagnostic::error_at(file, resource.span().start, message));
            }
            (Verb::Release | Verb::Connect, None) => {
                return Err(Diagnostic::error_at(file, offset, "missing field `resource`")
                    .with_help("name the destination that the credential or the connection is for"));
            }
            (Verb::Release | Verb::Connect, Some(resource)) => resource,
        };
        let name = named.get_ref();
        let destination = match destinations.get(name) {
            Some(destination) => destination.clone(),
            None if destinations.is_empty() => {
                Destination { name: name.clone(), audience: name.clone(), mode: enforce(), ..Destination::default() }
            }
            None => {
                let mut known: Vec<&str> = destinations.keys().map(String::as_str).collect();
                known.sort_unstable();
                let message = format!("unknown destination {name:?}");
                return Err(Diagnostic::error_at(file, named.span().start, message)
                    .with_help(format!("known are {}", known.join(", "))));
            }
        };
        PreparedDestination::new(&destination)
            .map(Some)
            .map_err(|error| Diagnostic::error_at(file, named.span().start, error.to_string()))
    }
}
