// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tables of cases that a person writes to test policies: `[[case]]` and the `[[destination]]` that they speak of.
//!
//! They go through the same evaluation as a real request. What a case does not say is not there (no connection, no
//! flags, no ancestors, no executable) or ordinary (uid 1000, 1970-01-01).

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde::Deserialize;
use toml::Spanned;

use super::{
    Action, ConnectionContext, CredentialContext, Destination, Effect, EvidenceContext, Policies, PolicyNearMiss,
    PreparedDestination, PreparedPrincipal, Principal, ProgramContext, Reason, Request,
};
use crate::{
    diagnostic::{Diagnostic, SourceFile},
    identity::{Fact, IdentityKind, Provenance, Selector, SpiffeId, document},
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseTable {
    name: String,
    principal: Spanned<SpiffeIdText>,
    #[serde(default = "agent")]
    kind: KindText,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    entry: Option<String>,
    action: Verb,
    #[serde(default)]
    resource: Option<Spanned<String>>,
    expect: Expect,
    #[serde(default)]
    reason: Option<ReasonText>,
    // A fixed time, so that a case means the same tomorrow.
    #[serde(default)]
    now: Option<Timestamp>,
    #[serde(default)]
    renewal: bool,
    #[serde(default)]
    evidence: EvidenceTable,
    #[serde(default)]
    connection: Option<ConnectionTable>,
    #[serde(default)]
    credential: CredentialTable,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Release,
    Attest,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum ReasonText {
    Permit,
    Forbid,
    NoPermit,
    Error,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
enum ProvenanceText {
    #[default]
    Kernel,
    Measured,
    Orchestrator,
    Claimed,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct SpiffeIdText(SpiffeId);

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct SelectorText(Selector);

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct KindText(IdentityKind);

fn agent() -> KindText {
    KindText(IdentityKind::Agent)
}

impl TryFrom<String> for SpiffeIdText {
    type Error = crate::identity::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for SelectorText {
    type Error = crate::identity::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for KindText {
    type Error = crate::identity::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EvidenceTable {
    exec_id: u64,
    uid: u32,
    gid: u32,
    seeded: bool,
    flags: Vec<String>,
    selectors: Vec<SelectorText>,
    claimed: Vec<SelectorText>,
    lineage: Vec<SpiffeIdText>,
    lineage_complete: bool,
    depth: Option<u32>,
    exe: Option<ProgramTable>,
    script: Option<ProgramTable>,
    cgroup: Option<String>,
    pid_ns: u32,
    mnt_ns: u32,
    net_ns: u32,
    user_ns: u32,
}

impl Default for EvidenceTable {
    fn default() -> Self {
        Self {
            exec_id: 1,
            uid: 1000,
            gid: 1000,
            seeded: false,
            flags: Vec::new(),
            selectors: Vec::new(),
            claimed: Vec::new(),
            lineage: Vec::new(),
            lineage_complete: true,
            depth: None,
            exe: None,
            script: None,
            cgroup: None,
            pid_ns: 0,
            mnt_ns: 0,
            net_ns: 0,
            user_ns: 0,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgramTable {
    path: String,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    provenance: ProvenanceText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionTable {
    address: IpAddr,
    port: u16,
    #[serde(default = "tcp")]
    protocol: String,
    #[serde(default)]
    hook: Option<String>,
    #[serde(default)]
    uid: Option<u32>,
    #[serde(default)]
    gid: Option<u32>,
    #[serde(default = "cidr")]
    matched_by: String,
}

fn tcp() -> String {
    "tcp".into()
}

fn cidr() -> String {
    "cidr".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CredentialTable {
    binding: String,
    #[serde(rename = "type")]
    credential_type: String,
    ttl_seconds: u32,
}

impl Default for CredentialTable {
    fn default() -> Self {
        Self { binding: "default".into(), credential_type: "jwt-svid".into(), ttl_seconds: 300 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationTable {
    name: String,
    #[serde(default)]
    audience: Option<String>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default = "enforce")]
    mode: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
}

fn enforce() -> String {
    "enforce".into()
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
            spiffe_id,
        };
        let evidence = EvidenceContext::from(case.evidence);
        let principal = PreparedPrincipal::new(&principal, &evidence)
            .map_err(|error| Diagnostic::error_at(file, at, error.to_string()))?;
        let connection = case.connection.map(|table| table.into_context(&evidence));
        let credential = CredentialContext {
            binding: case.credential.binding.into(),
            credential_type: case.credential.credential_type.into(),
            ttl_seconds: case.credential.ttl_seconds,
        };
        let action = match &destination {
            Some(destination) => Action::Release {
                destination,
                connection: connection.as_ref(),
                credential: &credential,
                renewal: case.renewal,
            },
            None => Action::Attest,
        };
        let request = Request { principal: &principal, action, now: case.now.unwrap_or(Timestamp::UNIX_EPOCH) };
        let decision = self.evaluate(&request);
        let effect = Effect::from(case.expect);
        let reason = case.reason.map(Reason::from);
        let near_misses = match decision.reason {
            Reason::NoPermit => self.near_misses(&request),
            Reason::Permit | Reason::Forbid | Reason::Error => Vec::new(),
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
    /// None for `attest`, which is about this node.
    fn destination(
        &self,
        file: &SourceFile,
        offset: usize,
        destinations: &HashMap<String, Destination>,
    ) -> Result<Option<PreparedDestination>, Diagnostic> {
        let named = match (self.action, &self.resource) {
            (Verb::Attest, None) => return Ok(None),
            (Verb::Attest, Some(resource)) => {
                let message = "attest is about this node and takes no resource";
                return Err(Diagnostic::error_at(file, resource.span().start, message));
            }
            (Verb::Release, None) => {
                return Err(Diagnostic::error_at(file, offset, "missing field `resource`")
                    .with_help("name the destination that the credential is for"));
            }
            (Verb::Release, Some(resource)) => resource,
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

impl ConnectionTable {
    /// What the case does not say is as if the process had not changed its ids since.
    fn into_context(self, evidence: &EvidenceContext) -> ConnectionContext {
        let version = if self.address.to_canonical().is_ipv4() { 4 } else { 6 };
        let call = if self.protocol == "udp" { "sendmsg" } else { "connect" };
        ConnectionContext {
            address: self.address,
            port: self.port,
            protocol: self.protocol.into(),
            hook: self.hook.unwrap_or_else(|| format!("{call}{version}")).into(),
            uid: self.uid.unwrap_or(evidence.uid),
            gid: self.gid.unwrap_or(evidence.gid),
            matched_by: self.matched_by.into(),
        }
    }
}

impl From<EvidenceTable> for EvidenceContext {
    fn from(table: EvidenceTable) -> Self {
        let firm = table.selectors.into_iter().map(|text| Fact { selector: text.0, provenance: Provenance::Kernel });
        let claimed = table.claimed.into_iter().map(|text| Fact { selector: text.0, provenance: Provenance::Claimed });
        let depth = table.depth.unwrap_or_else(|| u32::try_from(table.lineage.len()).unwrap_or(u32::MAX));
        Self {
            exec_id: table.exec_id,
            uid: table.uid,
            gid: table.gid,
            seeded: table.seeded,
            flags: table.flags.into_iter().map(Arc::from).collect(),
            facts: firm.chain(claimed).collect(),
            lineage: table.lineage.into_iter().map(|text| text.0).collect(),
            lineage_complete: table.lineage_complete,
            depth,
            exe: table.exe.map(ProgramContext::from),
            script: table.script.map(ProgramContext::from),
            cgroup: table.cgroup,
            pid_ns: table.pid_ns,
            mnt_ns: table.mnt_ns,
            net_ns: table.net_ns,
            user_ns: table.user_ns,
        }
    }
}

impl From<ProgramTable> for ProgramContext {
    fn from(table: ProgramTable) -> Self {
        let provenance = match table.provenance {
            ProvenanceText::Kernel => Provenance::Kernel,
            ProvenanceText::Measured => Provenance::Measured,
            ProvenanceText::Orchestrator => Provenance::Orchestrator,
            ProvenanceText::Claimed => Provenance::Claimed,
        };
        Self { path: table.path, sha256: table.sha256, provenance }
    }
}

impl From<DestinationTable> for Destination {
    fn from(table: DestinationTable) -> Self {
        Self {
            audience: table.audience.unwrap_or_else(|| table.name.clone()),
            name: table.name,
            hosts: table.hosts,
            ports: table.ports,
            mode: table.mode,
            labels: table.labels,
            groups: table.groups,
        }
    }
}

impl From<Expect> for Effect {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Allow => Self::Allow,
            Expect::Deny => Self::Deny,
        }
    }
}

impl From<ReasonText> for Reason {
    fn from(reason: ReasonText) -> Self {
        match reason {
            ReasonText::Permit => Self::Permit,
            ReasonText::Forbid => Self::Forbid,
            ReasonText::NoPermit => Self::NoPermit,
            ReasonText::Error => Self::Error,
        }
    }
}
