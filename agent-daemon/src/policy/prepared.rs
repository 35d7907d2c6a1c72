// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How plain types are put into Cedar's.
//!
//! Building entities costs more than evaluating, so what stays the same is prepared once: an identity with the
//! evidence of its exec instance, and a destination. Each is checked with the schema then; a request is checked
//! when it is built.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{Context, Entities, Entity, EntityUid, RestrictedExpression};

use super::{
    Action, ConnectionContext, CredentialContext, Destination, Error, EvidenceContext, MAX_FACTS, Principal,
    ProgramContext, Request, SessionContext, answers::Answers, memo, schema::vocabulary,
};
use crate::identity::{Fact, Provenance};

/// An identity and the evidence for it, ready for any number of decisions. Cheap to clone.
///
/// Holds what the evidence said when it was made: whoever keeps one makes a new one when the record changed.
#[derive(Debug, Clone)]
pub struct PreparedPrincipal(Arc<PrincipalEntities>);

#[derive(Debug)]
struct PrincipalEntities {
    uid: EntityUid,
    evidence: EntityUid,
    // The principal's own uid and its groups, written as Cedar writes them: what a policy's scope can name it by.
    names: Vec<String>,
    entities: Entities,
    answers: Answers,
}

/// A destination, ready for any number of decisions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PreparedDestination(Arc<DestinationEntity>);

#[derive(Debug)]
pub(super) struct DestinationEntity {
    uid: EntityUid,
    names: Vec<String>,
    entity: Entity,
}

/// A session and its user, ready for any number of decisions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PreparedSession(Arc<SessionEntities>);

#[derive(Debug)]
pub(super) struct SessionEntities {
    uid: EntityUid,
    user: EntityUid,
    // The user's uid and its groups, written as Cedar writes them.
    names: Vec<String>,
    entities: [Entity; 2],
}

/// A request in Cedar's form, checked with the schema.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) request: cedar_policy::Request,
    pub(super) entities: Entities,
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
        let names = [&uid].into_iter().chain(&groups).map(EntityUid::to_string).collect();
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
        let answers = Answers::default();
        Ok(Self(Arc::new(PrincipalEntities { uid, evidence: exec_instance, names, entities, answers })))
    }

    /// Whether it is the very same.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn names(&self) -> &[String] {
        &self.0.names
    }

    pub(super) fn answers(&self) -> &Answers {
        &self.0.answers
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
        let names = [&uid].into_iter().chain(&groups).map(EntityUid::to_string).collect();
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
        Ok(Self(Arc::new(DestinationEntity { uid, names, entity })))
    }

    pub(super) fn names(&self) -> &[String] {
        &self.0.names
    }

    pub(super) fn shared(&self) -> Arc<DestinationEntity> {
        Arc::clone(&self.0)
    }

    pub(super) fn is(&self, other: &Arc<DestinationEntity>) -> bool {
        Arc::ptr_eq(&self.0, other)
    }
}

impl PreparedSession {
    /// Builds and checks the entities.
    ///
    /// # Errors
    /// Only by a bug.
    pub fn new(session: &SessionContext) -> Result<Self, Error> {
        let words = vocabulary();
        let user = &session.user;
        let user_uid = words.user(&user.id);
        let groups: HashSet<EntityUid> = user.groups.iter().map(|group| words.group(group)).collect();
        let names = [&user_uid].into_iter().chain(&groups).map(EntityUid::to_string).collect();
        let mut attributes = HashMap::from([
            ("subject".to_owned(), string(&user.subject)),
            ("verified_by".to_owned(), string(&user.verified_by)),
        ]);
        for (name, value) in [("issuer", &user.issuer), ("name", &user.name)] {
            attributes.extend(value.as_ref().map(|value| (name.to_owned(), string(value))));
        }
        let user = entity("the user", user_uid.clone(), attributes, groups)?;
        let mut attributes = HashMap::from([
            ("id".to_owned(), string(&session.id)),
            ("user".to_owned(), RestrictedExpression::new_entity_uid(user_uid.clone())),
            ("depth".to_owned(), long(session.depth)),
            ("opener".to_owned(), string(&session.opener)),
            ("bound".to_owned(), RestrictedExpression::new_bool(session.is_bound)),
        ]);
        for (name, value) in [("agent", &session.agent), ("purpose", &session.purpose)] {
            attributes.extend(value.as_ref().map(|value| (name.to_owned(), string(value))));
        }
        attributes.extend(session.scopes.as_ref().map(|scopes| ("scopes".to_owned(), set(scopes))));
        let uid = words.session(&session.id);
        let session = entity("the session", uid.clone(), attributes, HashSet::new())?;
        let entities = [user, session];
        conforming("the session or its user", entities.clone())?;
        Ok(Self(Arc::new(SessionEntities { uid, user: user_uid, names, entities })))
    }

    pub(super) fn names(&self) -> &[String] {
        &self.0.names
    }

    pub(super) fn shared(&self) -> Arc<SessionEntities> {
        Arc::clone(&self.0)
    }

    pub(super) fn is(&self, other: &Arc<SessionEntities>) -> bool {
        Arc::ptr_eq(&self.0, other)
    }
}

impl Request<'_> {
    /// Cedar's form.
    pub(super) fn build(&self) -> Result<Built, Error> {
        let words = vocabulary();
        let principal = &*self.principal.0;
        let mut fields =
            vec![("evidence".to_owned(), RestrictedExpression::new_entity_uid(principal.evidence.clone()))];
        if !matches!(self.action, Action::Connect { .. }) {
            fields.push(("now".to_owned(), memo::datetime(self.now)));
        }
        let mut entities = principal.entities.clone();
        let (action, resource) = match self.action {
            Action::Release { destination, connection, credential, renewal, session } => {
                fields.push(("credential".to_owned(), credential.record()?));
                fields.push(("renewal".to_owned(), RestrictedExpression::new_bool(renewal)));
                if let Some(connection) = connection {
                    fields.push(("connection".to_owned(), connection.record()?));
                }
                entities = about(entities, &mut fields, destination, session)?;
                (&words.release, &destination.0.uid)
            }
            Action::Connect { destination, session } => {
                entities = about(entities, &mut fields, destination, session)?;
                (&words.connect, &destination.0.uid)
            }
            Action::ActFor { session, lifetime_seconds } => {
                fields.push(("session".to_owned(), RestrictedExpression::new_entity_uid(session.0.uid.clone())));
                fields.push(("lifetime_seconds".to_owned(), long(lifetime_seconds)));
                entities = entities
                    .add_entities(session.0.entities.clone(), None)
                    .map_err(|source| Error::Entity { what: "the session", source: Box::new(source) })?;
                (&words.act_for, &session.0.user)
            }
            Action::Attest => (&words.attest, &words.node),
        };
        let context = Context::from_pairs(fields).map_err(|source| Error::Context(Box::new(source)))?;
        let request = cedar_policy::Request::new(
            principal.uid.clone(),
            action.clone(),
            resource.clone(),
            context,
            Some(&words.schema),
        )
        .map_err(|source| Error::Request(Box::new(source)))?;
        Ok(Built { request, entities })
    }
}

/// Adds the destination, and the session where there is one.
fn about(
    entities: Entities,
    fields: &mut Vec<(String, RestrictedExpression)>,
    destination: &PreparedDestination,
    session: Option<&PreparedSession>,
) -> Result<Entities, Error> {
    if let Some(session) = session {
        fields.push(("session".to_owned(), RestrictedExpression::new_entity_uid(session.0.uid.clone())));
    }
    let of_session = session.into_iter().flat_map(|session| session.0.entities.clone());
    // All were checked with the schema when they were prepared.
    entities
        .add_entities([destination.0.entity.clone()].into_iter().chain(of_session), None)
        .map_err(|source| Error::Entity { what: "the destination", source: Box::new(source) })
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

impl ConnectionContext {
    fn record(&self) -> Result<RestrictedExpression, Error> {
        record(vec![
            ("observed", RestrictedExpression::new_bool(true)),
            ("address", memo::address(self.address)),
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
            ("delivery", string(&self.delivery)),
            ("audiences", set(&self.audiences)),
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
