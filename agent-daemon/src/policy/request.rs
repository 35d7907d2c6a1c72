// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a decision is about, in plain types, and how it is put into Cedar's.
//!
//! Building entities costs more than evaluating, so what stays the same is prepared once: an identity with the
//! evidence of its exec instance, and a destination. Each is checked with the schema then; a request is checked
//! when it is asked.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use cedar_policy::{Context, Entities, Entity, EntityUid, RestrictedExpression};
use jiff::Timestamp;

use super::{Error, schema::vocabulary};
use crate::identity::{Fact, IdentityKind, Provenance, SpiffeId};

/// Most facts, and most ancestors, that a decision looks at.
pub const MAX_FACTS: usize = 1024;

/// The identity that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name.
    pub spiffe_id: SpiffeId,
    /// What it is.
    pub kind: IdentityKind,
    /// The groups of its registration entry.
    pub groups: Vec<Arc<str>>,
    /// The id of its registration entry.
    pub entry: Arc<str>,
}

/// A program or a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramContext {
    /// As the kernel resolved it.
    pub path: String,
    /// 64 hexadecimal digits, when it was measured.
    pub sha256: Option<String>,
    /// That of the weakest part: a measured file whose name comes from argv is claimed.
    pub provenance: Provenance,
}

/// What is known of the exec instance that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceContext {
    /// Unique per boot.
    pub exec_id: u64,
    /// As the record holds it.
    pub uid: u32,
    /// As the record holds it.
    pub gid: u32,
    /// Older than the kernel programs.
    pub seeded: bool,
    /// For example `memfd`.
    pub flags: Vec<Arc<str>>,
    /// Everything known; policy sees claimed facts apart from the others.
    pub facts: Vec<Fact>,
    /// Identities of ancestors, as far as they are known.
    pub lineage: Vec<SpiffeId>,
    /// Whether no ancestor is missing.
    pub lineage_complete: bool,
    /// How many ancestors.
    pub depth: u32,
    /// The executable.
    pub exe: Option<ProgramContext>,
    /// What an interpreter runs.
    pub script: Option<ProgramContext>,
    /// Path of the control group.
    pub cgroup: Option<String>,
    /// Inode of the PID namespace.
    pub pid_ns: u32,
    /// Inode of the mount namespace.
    pub mnt_ns: u32,
    /// Inode of the network namespace.
    pub net_ns: u32,
    /// Inode of the user namespace.
    pub user_ns: u32,
}

/// A connection that the daemon proved to be the asker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionContext {
    /// Of the other end.
    pub address: IpAddr,
    /// Of the other end.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: Arc<str>,
    /// The hook that saw it.
    pub hook: Arc<str>,
    /// Of the thread that opened it.
    pub uid: u32,
    /// Of the thread that opened it.
    pub gid: u32,
    /// `cidr` or `resolved`.
    pub matched_by: Arc<str>,
}

/// What would be released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialContext {
    /// Name of the credential binding.
    pub binding: Arc<str>,
    /// `jwt-svid` or `static`.
    pub credential_type: Arc<str>,
    /// How long it would live.
    pub ttl_seconds: u32,
}

/// A declared service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destination {
    /// Unique.
    pub name: String,
    /// Of the tokens minted for it.
    pub audience: String,
    /// Its names.
    pub hosts: Vec<String>,
    /// Its ports.
    pub ports: Vec<u16>,
    /// `enforce` or `audit`.
    pub mode: String,
    /// Free words for policies.
    pub labels: Vec<String>,
    /// Groups that policies speak of.
    pub groups: Vec<String>,
}

/// An identity and the evidence for it, ready for any number of decisions.
///
/// Holds what the evidence said when it was made: whoever keeps one makes a new one when the record changed.
#[derive(Debug, Clone)]
pub struct PreparedPrincipal {
    pub(super) uid: EntityUid,
    pub(super) evidence: EntityUid,
    // The principal's own uid and its groups: what a policy's scope can name it by.
    pub(super) names: Vec<EntityUid>,
    pub(super) entities: Entities,
}

/// A destination, ready for any number of decisions.
#[derive(Debug, Clone)]
pub struct PreparedDestination {
    pub(super) uid: EntityUid,
    pub(super) names: Vec<EntityUid>,
    pub(super) entity: Entity,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// A credential for a destination.
    Release {
        /// For which.
        destination: &'a PreparedDestination,
        /// The proved connection, if one was named.
        connection: Option<&'a ConnectionContext>,
        /// What would be released.
        credential: &'a CredentialContext,
        /// Whether it takes the place of one that the asker holds.
        renewal: bool,
    },
    /// Who is on the other end of a connection.
    Attest,
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks.
    pub principal: &'a PreparedPrincipal,
    /// For what.
    pub action: Action<'a>,
    /// When.
    pub now: Timestamp,
}

impl PreparedPrincipal {
    /// Builds and checks the entities.
    ///
    /// # Errors
    /// [`Error::TooMany`], or a bug.
    pub fn new(principal: &Principal, evidence: &EvidenceContext) -> Result<Self, Error> {
        let words = vocabulary();
        let uid = words.workload(principal.spiffe_id.as_str());
        let groups: HashSet<EntityUid> = principal.groups.iter().map(|group| words.group(group)).collect();
        let names = [uid.clone()].into_iter().chain(groups.iter().cloned()).collect();
        let attributes = HashMap::from([
            ("spiffe_id".to_owned(), string(principal.spiffe_id.as_str())),
            ("kind".to_owned(), string(principal.kind.as_str())),
            ("trust_domain".to_owned(), string(principal.spiffe_id.trust_domain().as_str())),
            ("entry".to_owned(), string(&principal.entry)),
        ]);
        let workload = entity("the principal", uid.clone(), attributes, groups)?;
        let exec_instance = words.exec_instance(evidence.exec_id);
        let evidence = entity("the evidence", exec_instance.clone(), evidence.attributes()?, HashSet::new())?;
        let entities = conforming("the principal or its evidence", [workload, evidence])?;
        Ok(Self { uid, evidence: exec_instance, names, entities })
    }
}

impl PreparedDestination {
    /// Builds and checks the entity.
    ///
    /// # Errors
    /// Only by a bug.
    pub fn new(destination: &Destination) -> Result<Self, Error> {
        let words = vocabulary();
        let uid = words.destination(&destination.name);
        let groups: HashSet<EntityUid> = destination.groups.iter().map(|group| words.group(group)).collect();
        let names = [uid.clone()].into_iter().chain(groups.iter().cloned()).collect();
        let ports = destination.ports.iter().map(|port| RestrictedExpression::new_long(i64::from(*port)));
        let attributes = HashMap::from([
            ("name".to_owned(), string(&destination.name)),
            ("audience".to_owned(), string(&destination.audience)),
            ("hosts".to_owned(), set(&destination.hosts)),
            ("ports".to_owned(), RestrictedExpression::new_set(ports)),
            ("mode".to_owned(), string(&destination.mode)),
            ("labels".to_owned(), set(&destination.labels)),
        ]);
        let entity = entity("the destination", uid.clone(), attributes, groups)?;
        conforming("the destination", [entity.clone()])?;
        Ok(Self { uid, names, entity })
    }
}

impl EvidenceContext {
    fn attributes(&self) -> Result<HashMap<String, RestrictedExpression>, Error> {
        for (what, actual) in
            [("facts", self.facts.len()), ("ancestors", self.lineage.len()), ("flags", self.flags.len())]
        {
            if actual > MAX_FACTS {
                return Err(Error::TooMany { what, limit: MAX_FACTS, actual });
            }
        }
        let (claimed, firm): (Vec<&Fact>, Vec<&Fact>) =
            self.facts.iter().partition(|fact| fact.provenance == Provenance::Claimed);
        let selectors = |facts: Vec<&Fact>| {
            RestrictedExpression::new_set(facts.into_iter().map(|fact| string(fact.selector.as_str())))
        };
        let lineage = self.lineage.iter().map(|id| string(id.as_str()));
        let mut attributes = HashMap::from([
            ("exec_id".to_owned(), string(&self.exec_id.to_string())),
            ("uid".to_owned(), long(self.uid)),
            ("gid".to_owned(), long(self.gid)),
            ("seeded".to_owned(), RestrictedExpression::new_bool(self.seeded)),
            ("flags".to_owned(), set(&self.flags)),
            ("selectors".to_owned(), selectors(firm)),
            ("claimed".to_owned(), selectors(claimed)),
            ("lineage".to_owned(), RestrictedExpression::new_set(lineage)),
            ("lineage_complete".to_owned(), RestrictedExpression::new_bool(self.lineage_complete)),
            ("depth".to_owned(), long(self.depth)),
            ("pid_ns".to_owned(), long(self.pid_ns)),
            ("mnt_ns".to_owned(), long(self.mnt_ns)),
            ("net_ns".to_owned(), long(self.net_ns)),
            ("user_ns".to_owned(), long(self.user_ns)),
        ]);
        for (name, program) in [("exe", &self.exe), ("script", &self.script)] {
            if let Some(program) = program {
                attributes.insert(name.to_owned(), program.record()?);
            }
        }
        if let Some(cgroup) = &self.cgroup {
            attributes.insert("cgroup".to_owned(), string(cgroup));
        }
        Ok(attributes)
    }
}

impl ProgramContext {
    fn record(&self) -> Result<RestrictedExpression, Error> {
        let mut fields = vec![("path", string(&self.path)), ("provenance", string(self.provenance.as_str()))];
        fields.extend(self.sha256.as_deref().map(|sha256| ("sha256", string(sha256))));
        record(fields)
    }
}

impl Request<'_> {
    /// Cedar's form, checked with the schema.
    pub(super) fn build(&self) -> Result<(cedar_policy::Request, Entities), Error> {
        let words = vocabulary();
        let mut fields = vec![
            ("evidence".to_owned(), RestrictedExpression::new_entity_uid(self.principal.evidence.clone())),
            (
                "now".to_owned(),
                RestrictedExpression::new_datetime(self.now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()),
            ),
        ];
        let entities = self.principal.entities.clone();
        let (action, resource, entities) = match self.action {
            Action::Release { destination, connection, credential, renewal } => {
                fields.push(("credential".to_owned(), credential.record()?));
                fields.push(("renewal".to_owned(), RestrictedExpression::new_bool(renewal)));
                if let Some(connection) = connection {
                    fields.push(("connection".to_owned(), connection.record()?));
                }
                // Both were checked with the schema when they were prepared.
                let entities = entities
                    .add_entities([destination.entity.clone()], None)
                    .map_err(|source| Error::Entity { what: "the destination", source: Box::new(source) })?;
                (&words.release, &destination.uid, entities)
            }
            Action::Attest => (&words.attest, &words.node, entities),
        };
        let context = Context::from_pairs(fields).map_err(|source| Error::Context(Box::new(source)))?;
        let principal = self.principal.uid.clone();
        let request =
            cedar_policy::Request::new(principal, action.clone(), resource.clone(), context, Some(&words.schema))
                .map_err(|source| Error::Request(Box::new(source)))?;
        Ok((request, entities))
    }
}

impl ConnectionContext {
    fn record(&self) -> Result<RestrictedExpression, Error> {
        record(vec![
            ("observed", RestrictedExpression::new_bool(true)),
            ("address", RestrictedExpression::new_ip(self.address.to_canonical().to_string())),
            ("port", long(u32::from(self.port))),
            ("protocol", string(&self.protocol)),
            ("hook", string(&self.hook)),
            ("uid", long(self.uid)),
            ("gid", long(self.gid)),
            ("matched_by", string(&self.matched_by)),
        ])
    }
}

impl CredentialContext {
    fn record(&self) -> Result<RestrictedExpression, Error> {
        record(vec![
            ("binding", string(&self.binding)),
            ("type", string(&self.credential_type)),
            ("ttl_seconds", long(self.ttl_seconds)),
        ])
    }
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn long(number: u32) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::from(number))
}

fn set<T: AsRef<str>>(texts: &[T]) -> RestrictedExpression {
    RestrictedExpression::new_set(texts.iter().map(|text| string(text.as_ref())))
}

fn record(fields: Vec<(&str, RestrictedExpression)>) -> Result<RestrictedExpression, Error> {
    RestrictedExpression::new_record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)))
        .map_err(|source| Error::Context(Box::new(source)))
}

fn entity(
    what: &'static str,
    uid: EntityUid,
    attributes: HashMap<String, RestrictedExpression>,
    parents: HashSet<EntityUid>,
) -> Result<Entity, Error> {
    Entity::new(uid, attributes, parents).map_err(|source| Error::Attribute { what, source: Box::new(source) })
}

fn conforming(what: &'static str, entities: impl IntoIterator<Item = Entity>) -> Result<Entities, Error> {
    Entities::from_entities(entities, Some(&vocabulary().schema))
        .map_err(|source| Error::Entity { what, source: Box::new(source) })
}
