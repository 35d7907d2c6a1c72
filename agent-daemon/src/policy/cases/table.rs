// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The form of a file of cases, and what is assumed where it says nothing.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde::Deserialize;
use toml::Spanned;

use crate::{
    identity::{Fact, IdentityKind, Provenance, Selector, SpiffeId},
    policy::{
        ConnectionContext, Destination, Effect, EvidenceContext, ProgramContext, Reason, SessionContext, UserContext,
    },
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseTable {
    pub(super) name: String,
    pub(super) principal: Spanned<SpiffeIdText>,
    #[serde(default = "agent")]
    pub(super) kind: KindText,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    #[serde(default)]
    pub(super) entry: Option<String>,
    pub(super) action: Verb,
    #[serde(default)]
    pub(super) resource: Option<Spanned<String>>,
    pub(super) expect: Expect,
    #[serde(default)]
    pub(super) reason: Option<ReasonText>,
    // A fixed time, so that a case means the same tomorrow.
    #[serde(default)]
    pub(super) now: Option<Timestamp>,
    #[serde(default)]
    pub(super) renewal: bool,
    #[serde(default)]
    pub(super) evidence: EvidenceTable,
    #[serde(default)]
    pub(super) connection: Option<ConnectionTable>,
    #[serde(default)]
    pub(super) credential: CredentialTable,
    #[serde(default)]
    pub(super) session: Option<SessionTable>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    Release,
    Connect,
    Attest,
    #[serde(rename = "actFor")]
    ActFor,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub(super) enum ReasonText {
    Permit,
    Forbid,
    NoPermit,
    Error,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProvenanceText {
    #[default]
    Kernel,
    Measured,
    Orchestrator,
    Claimed,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct SpiffeIdText(pub(super) SpiffeId);

#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct SelectorText(pub(super) Selector);

#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct KindText(pub(super) IdentityKind);

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
pub(super) struct EvidenceTable {
    pub(super) exec_id: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) seeded: bool,
    pub(super) flags: Vec<String>,
    pub(super) selectors: Vec<SelectorText>,
    pub(super) claimed: Vec<SelectorText>,
    pub(super) lineage: Vec<SpiffeIdText>,
    pub(super) lineage_complete: bool,
    pub(super) depth: Option<u32>,
    pub(super) exe: Option<ProgramTable>,
    pub(super) script: Option<ProgramTable>,
    pub(super) cgroup: Option<String>,
    pub(super) pid_ns: u32,
    pub(super) mnt_ns: u32,
    pub(super) net_ns: u32,
    pub(super) user_ns: u32,
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
pub(super) struct ProgramTable {
    pub(super) path: String,
    #[serde(default)]
    pub(super) sha256: Option<String>,
    #[serde(default)]
    pub(super) provenance: ProvenanceText,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConnectionTable {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    #[serde(default = "tcp")]
    pub(super) protocol: String,
    #[serde(default)]
    pub(super) hook: Option<String>,
    #[serde(default)]
    pub(super) uid: Option<u32>,
    #[serde(default)]
    pub(super) gid: Option<u32>,
    #[serde(default = "cidr")]
    pub(super) matched_by: String,
}

fn tcp() -> String {
    "tcp".into()
}

fn cidr() -> String {
    "cidr".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionTable {
    /// As policies name the user: `corp:248289761001`.
    pub(super) user: String,
    #[serde(default = "oidc")]
    pub(super) verified_by: String,
    #[serde(default)]
    pub(super) issuer: Option<String>,
    #[serde(default)]
    pub(super) subject: Option<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) groups: Vec<String>,
    #[serde(default)]
    pub(super) agent: Option<String>,
    #[serde(default)]
    pub(super) purpose: Option<String>,
    #[serde(default)]
    pub(super) scopes: Option<Vec<String>>,
    #[serde(default)]
    pub(super) depth: u32,
    #[serde(default)]
    pub(super) opener: Option<String>,
    #[serde(default = "yes")]
    pub(super) bound: bool,
    #[serde(default = "an_hour")]
    pub(super) lifetime_seconds: u32,
}

fn oidc() -> String {
    "oidc".into()
}

fn yes() -> bool {
    true
}

fn an_hour() -> u32 {
    3600
}

impl SessionTable {
    /// What the case does not say is as if the asker had opened it.
    pub(super) fn into_context(self, asker: &SpiffeId) -> SessionContext {
        SessionContext {
            id: "s0000000000000001".to_owned(),
            user: UserContext {
                subject: self.subject.unwrap_or_else(|| self.user.clone()),
                id: self.user,
                verified_by: self.verified_by,
                issuer: self.issuer,
                name: self.name,
                groups: self.groups,
            },
            agent: self.agent,
            purpose: self.purpose,
            scopes: self.scopes,
            depth: self.depth,
            opener: self.opener.unwrap_or_else(|| asker.to_string()),
            is_bound: self.bound,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CredentialTable {
    pub(super) binding: String,
    #[serde(rename = "type")]
    pub(super) credential_type: String,
    pub(super) delivery: String,
    pub(super) audiences: Vec<String>,
    pub(super) ttl_seconds: u32,
}

impl Default for CredentialTable {
    fn default() -> Self {
        Self {
            binding: "default".into(),
            credential_type: "jwt-svid".into(),
            delivery: "release".into(),
            audiences: Vec::new(),
            ttl_seconds: 300,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DestinationTable {
    pub(super) name: String,
    #[serde(default)]
    pub(super) audience: Option<String>,
    #[serde(default)]
    pub(super) hosts: Vec<String>,
    #[serde(default)]
    pub(super) ports: Vec<u16>,
    #[serde(default = "enforce")]
    pub(super) mode: String,
    #[serde(default)]
    pub(super) labels: Vec<String>,
    #[serde(default)]
    pub(super) groups: Vec<String>,
}

pub(super) fn enforce() -> String {
    "enforce".into()
}

impl ConnectionTable {
    /// What the case does not say is as if the process had not changed its ids since.
    pub(super) fn into_context(self, evidence: &EvidenceContext) -> ConnectionContext {
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
