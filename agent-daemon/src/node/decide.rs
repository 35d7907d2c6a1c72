// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether an exec instance may have a credential for a destination, and on what grounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::ask::{Ask, ConnectionRef};
use super::draft;
use super::exchange::Subject;
use super::reach::reach;
use super::reason::{Denial, Reason};
use super::within::{Wanted, through, wants_approval, within};
use super::{Node, Refusal};
use crate::approval::Key;
use crate::attest::{Attested, Failure};
use crate::audit::DecisionRecord;
use crate::credential::access::Actors;
use crate::credential::address::{self, Matched, Observed, Verdict};
use crate::credential::{Binding, CredentialType, Destination, Lease, Mode, ObservedConnect};
use crate::diagnostic::with_sources;
use crate::identity::{Entry, SpiffeId};
use crate::policy::{self, Action, ConnectionContext, CredentialContext, PreparedPrincipal, Request};
use crate::process::{Connection, Tuple};
use crate::session::Session;
use crate::snapshot::Snapshot;

/// The grounds for issuing.
#[derive(Debug)]
pub(super) struct Grounds {
    /// Of the snapshot that they are taken from.
    pub(super) snapshot: u64,
    pub(super) entry: Arc<Entry>,
    pub(super) binding: Arc<Binding>,
    pub(super) audiences: Vec<Arc<str>>,
    pub(super) ttl: Duration,
    pub(super) connection: Option<(Connection, ConnectionContext)>,
    pub(super) on_behalf: Option<OnBehalf>,
}

/// On whose behalf something is issued.
#[derive(Debug)]
pub(super) struct OnBehalf {
    pub(super) session: Arc<Session>,
    /// Through whom.
    pub(super) actors: Actors,
    /// By which scopes it reaches the destination; none: no scopes bound it.
    pub(super) scopes: Option<Vec<Arc<str>>>,
    /// The lease of the token that it is exchanged for.
    pub(super) subject: Option<Arc<Lease>>,
}

/// A decision with its record, which says `deny` exactly when there are no grounds.
#[derive(Debug)]
pub(super) struct Verdicted {
    pub(super) record: DecisionRecord,
    pub(super) grounds: Option<Grounds>,
    /// The denial rests on something that may be there in a moment.
    pub(super) is_passing: bool,
}

impl Verdicted {
    pub(super) fn denied(mut record: DecisionRecord, denial: Denial) -> Self {
        record.reason = denial.reason.as_str().to_owned();
        record.detail = denial.detail;
        record.expected = denial.expected;
        record.actual = denial.actual;
        record.remediation = denial.remediation;
        Self { record, grounds: None, is_passing: denial.is_passing }
    }
}

impl Node {
    /// Decides. Issues nothing and records nothing.
    pub(super) async fn decide(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        ask: &Ask,
        decision_id: String,
        now: Timestamp,
    ) -> Result<Verdicted, Refusal> {
        let action = match (&ask.subject, &ask.renews) {
            (Some(_), _) => "exchange",
            (None, Some(_)) => "renew",
            (None, None) => "release",
        };
        let mut record = draft::draft(decision_id, action, attested, snapshot);
        record.destination = Some(ask.destination.clone());
        record.traceparent.clone_from(&ask.traceparent);
        match self.grounds(snapshot, attested, ask, now, &mut record).await? {
            Ok(grounds) => Ok(Verdicted { record, grounds: Some(grounds), is_passing: false }),
            Err(denial) => Ok(Verdicted::denied(record, denial)),
        }
    }

    async fn grounds(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        ask: &Ask,
        now: Timestamp,
        record: &mut DecisionRecord,
    ) -> Result<Result<Grounds, Denial>, Refusal> {
        let acting = match (&ask.subject, &ask.standing) {
            (Some(subject), _) => Ok(Some(Arc::clone(&subject.session))),
            (None, Some(lease)) => self.released_in(lease),
            (None, None) => self.acting_in(&attested.evidence.instance, ask.session),
        };
        let session = match acting {
            Ok(session) => session,
            Err(denial) => return Ok(Err(denial)),
        };
        record.subject_lease_id = ask.subject.as_ref().map(|subject| subject.lease.id.to_string());
        if let Some(session) = &session {
            record.session_id = Some(session.id.to_string());
            record.user = Some(session.user.id.to_string());
            record.step = self.step_of(session, &attested.evidence.instance, None, ask.traceparent.as_deref());
        }
        let (principal, entry) = match principal(attested, ask.spiffe_id.as_deref()) {
            Ok(found) => found,
            Err(denial) => {
                let near = attested.near_misses(&snapshot.entries);
                let nearest = near.first().and_then(|miss| miss.differences.first());
                let denial = match nearest {
                    Some(difference) if denial.reason == Reason::NoIdentity => {
                        let actual = if difference.actual.is_empty() { "nothing" } else { &difference.actual };
                        denial.differing(&difference.expected, actual)
                    }
                    _ => denial,
                };
                record.near_misses = draft::near_misses(near);
                return Ok(Err(denial));
            }
        };
        record.spiffe_id = Some(entry.spiffe_id.to_string());
        record.entry_id = Some(entry.id.as_str().to_owned());
        let Some(destination) = snapshot.catalog.destination(&ask.destination) else {
            let detail = match ask.audiences.first() {
                Some(audience) => format!("no declared destination has the audience {audience:?}"),
                None => format!("no destination {:?} is declared", ask.destination),
            };
            return Ok(Err(Denial::new(Reason::NoDestination, detail).remedy("declare it, or ask for one that is")));
        };
        let bindings = snapshot.catalog.bindings_for(
            &destination.name,
            &entry.spiffe_id,
            Some(ask.delivery),
            ask.binding.as_deref(),
        );
        let fits = |binding: &&&Arc<Binding>| {
            ask.subject.is_none() || binding.source.credential_type() == CredentialType::AccessToken
        };
        let Some(binding) = bindings.iter().find(fits) else {
            let detail = match &ask.binding {
                Some(name) => {
                    format!("no binding {name:?} gives {} a credential for {}", entry.spiffe_id, destination.name)
                }
                None => format!("no binding gives {} a credential for {}", entry.spiffe_id, destination.name),
            };
            let remedy = "add the identity to a binding of this destination";
            return Ok(Err(Denial::new(Reason::NoBinding, detail).remedy(remedy)));
        };
        record.binding = Some(binding.name.to_string());
        let scopes = match reach(session.as_deref(), ask.subject.as_deref(), destination) {
            Ok(scopes) => scopes,
            Err(denial) => return Ok(Err(denial)),
        };
        if binding.source.credential_type() == CredentialType::AccessToken && session.is_none() {
            let detail = "the credential is on behalf of a user, and the process acts in no session";
            let remedy = "start it with agentctl run, or open a session (OpenSession)";
            return Ok(Err(Denial::new(Reason::SessionRequired, detail).remedy(remedy)));
        }
        let audiences = match binding.source.credential_type() {
            // Good towards everybody who trusts the trust domain.
            CredentialType::X509Svid | CredentialType::WitSvid => Vec::new(),
            CredentialType::JwtSvid | CredentialType::AccessToken | CredentialType::Static => {
                if ask.audiences.is_empty() { vec![Arc::clone(&destination.audience)] } else { ask.audiences.clone() }
            }
        };
        record.audience = (!audiences.is_empty()).then(|| audiences.join(", "));
        record.credential_type = Some(binding.source.credential_type().as_str().to_owned());
        let observed = match &ask.standing {
            // Proved when it was released, and need not be there any more; but it has to have been.
            Some(lease)
                if lease.basis.connection.is_none() && binding.observed_connect == ObservedConnect::Required =>
            {
                let detail = "the binding releases only for an observed connection, and it was released without one";
                return Ok(Err(Denial::new(Reason::ConnectionRequired, detail)));
            }
            Some(_) => None,
            None => match self.observed(attested, ask, binding, destination, record).await? {
                Ok(observed) => observed,
                Err(denial) => return Ok(Err(denial)),
            },
        };
        if let (Some(session), Some((connection, _))) = (&session, &observed) {
            let instance = &attested.evidence.instance;
            record.step = self.step_of(session, instance, Some(connection), ask.traceparent.as_deref());
        }
        let credential = CredentialContext {
            binding: Arc::clone(&binding.name),
            credential_type: binding.source.credential_type().as_str().into(),
            delivery: binding.delivery.as_str().into(),
            audiences: audiences.clone(),
            ttl_seconds: u32::try_from(binding.ttl.as_secs()).unwrap_or(u32::MAX),
        };
        let prepared =
            snapshot.destination(&destination.name).ok_or(Refusal::Bug("bug: a destination is not prepared"))?;
        let observed = observed.map(|(connection, matched)| {
            let context = connection_context(&connection, &matched);
            (connection, context)
        });
        let proved = ask.standing.as_ref().and_then(|lease| lease.basis.connection.as_ref());
        let action = Action::Release {
            destination: prepared,
            connection: observed.as_ref().map(|(_, context)| context).or(proved),
            credential: &credential,
            renewal: ask.renews.is_some(),
            session: session.as_ref().map(|session| &session.prepared),
        };
        let request = Request { principal, action, now };
        let mut wanted = Wanted::default();
        if let Err(denial) = apply_policy(snapshot, &request, destination, record, &mut wanted) {
            return Ok(Err(denial));
        }
        let mut on_behalf = None;
        if let Some(session) = &session {
            let permitted = match &ask.subject {
                None => {
                    self.for_itself(snapshot, attested, session, (&entry.spiffe_id, &request, &mut wanted), record)
                        .await?
                }
                Some(subject) => {
                    self.in_exchange(snapshot, attested, subject, (&entry.spiffe_id, &request, &mut wanted), record)
                        .await?
                }
            };
            let actors = match permitted {
                (actors, Ok(())) => actors,
                (actors, Err(denial)) => match overruled(denial, destination, record) {
                    Ok(()) => actors,
                    Err(denial) => return Ok(Err(denial)),
                },
            };
            let subject = ask.subject.as_ref().map(|subject| Arc::clone(&subject.lease));
            on_behalf = Some(OnBehalf { session: Arc::clone(session), actors, scopes, subject });
        }
        record.approval_policy_ids = wanted.into_ids();
        if let Err(denial) = given(ask, record).or_else(|denial| overruled(denial, destination, record)) {
            return Ok(Err(denial));
        }
        let (entry, binding, ttl) = (Arc::clone(entry), Arc::clone(binding), binding.ttl);
        let snapshot = snapshot.number;
        Ok(Ok(Grounds { snapshot, entry, binding, audiences, ttl, connection: observed, on_behalf }))
    }

    /// Whether everybody above the caller may have what it asks for, and who acts.
    async fn for_itself(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        session: &Arc<Session>,
        (caller, request, wanted): (&SpiffeId, &Request<'_>, &mut Wanted),
        record: &mut DecisionRecord,
    ) -> Result<(Actors, Result<(), Denial>), Refusal> {
        let ancestry = self.ancestry(snapshot, attested, session).await?;
        let asker = attested.evidence.instance.id;
        let actors = self.actors(asker, caller, &ancestry, session);
        record.actors = actors.iter().map(ToString::to_string).collect();
        Ok((actors, within(snapshot, (asker, &ancestry), session, request, wanted)))
    }

    /// The same where the caller shows a token: everybody through whom it came counts, too, and stays named.
    async fn in_exchange(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        subject: &Subject,
        (caller, request, wanted): (&SpiffeId, &Request<'_>, &mut Wanted),
        record: &mut DecisionRecord,
    ) -> Result<(Actors, Result<(), Denial>), Refusal> {
        let instance = &attested.evidence.instance;
        let actors = match subject.lease.exec_id == instance.id {
            true => subject.actors.clone(),
            false => subject.actors.below(caller),
        };
        record.actors = actors.iter().map(ToString::to_string).collect();
        let session = &subject.session;
        let ancestry = match session.holds(instance.id, &instance.ancestors) {
            true => Some(self.ancestry(snapshot, attested, session).await?),
            false => None,
        };
        Ok((actors, through(snapshot, (instance.id, ancestry.as_deref()), subject, request, wanted)))
    }

    /// The connection that was named, proved to be this exec instance's own and to go to the destination.
    async fn observed(
        &self,
        attested: &Attested,
        ask: &Ask,
        binding: &Binding,
        destination: &Destination,
        record: &mut DecisionRecord,
    ) -> Result<Result<Option<(Connection, Matched)>, Denial>, Refusal> {
        let Some(named) = ask.connection else {
            return Ok(match binding.observed_connect {
                ObservedConnect::Optional => Ok(None),
                ObservedConnect::Required => Err(Denial::new(
                    Reason::ConnectionRequired,
                    "the binding releases only for an observed connection, and none was named",
                )
                .remedy("connect first, then ask and name the socket by its cookie or addresses")),
            });
        };
        let instance = &attested.evidence.instance;
        let found = self.connection(named, instance.process.tgid)?;
        let Some(connection) = found else {
            let detail = "the kernel has no record of such a connection";
            return Ok(Err(
                Denial::new(Reason::ConnectionUnknown, detail).remedy("name a socket that is connected now")
            ));
        };
        if connection.exec_id != instance.id {
            record.connection = Some(draft::connection(&connection, String::new()));
            let detail = "another exec instance opened the connection";
            return Ok(Err(Denial::new(Reason::ConnectionNotYours, detail)
                .differing(format!("opened by {}", instance.id), format!("opened by {}", connection.exec_id))
                .remedy("let the exec instance that uses the credential open its own connection")));
        }
        // The hook sees the attempt; what counts is a connection that somebody answered.
        if !connection.is_open {
            record.connection = Some(draft::connection(&connection, String::new()));
            let detail = "the connection is not established";
            return Ok(Err(Denial::new(Reason::ConnectionNotOpen, detail).remedy("ask when connect has succeeded")));
        }
        let verdict = address::evaluate(Observed::from(&connection), destination, &self.resolver).await;
        Ok(match verdict {
            Ok(Verdict::Matched(matched)) => {
                let matched_by = match &matched {
                    Matched::Cidr(network) => format!("cidr {network}"),
                    Matched::Resolved { host } => format!("resolved {host}"),
                };
                record.connection = Some(draft::connection(&connection, matched_by));
                Ok(Some((connection, matched)))
            }
            Ok(Verdict::Mismatch(mismatch)) => {
                record.connection = Some(draft::connection(&connection, String::new()));
                let detail = format!("the connection does not go to {}", destination.name);
                Err(Denial::new(Reason::ConnectionElsewhere, detail).differing(mismatch.expected, mismatch.actual))
            }
            Err(error) => {
                record.connection = Some(draft::connection(&connection, String::new()));
                let mut denial = Denial::new(Reason::ResolveFailed, with_sources(&error));
                denial.is_passing = true;
                Err(denial)
            }
        })
    }

    /// A recorded connection by either name; addresses are looked up in the network namespace that this process
    /// is in.
    pub(super) fn connection(&self, named: ConnectionRef, tgid: u32) -> Result<Option<Connection>, Failure> {
        let cookie = match named {
            ConnectionRef::Cookie(cookie) => Some(cookie),
            ConnectionRef::Tuple { local, remote } => {
                let net_ns = self
                    .attestor
                    .network(tgid)
                    .map_err(|source| Failure::Io { operation: "read the network namespace", source })?;
                self.records().cookie(&Tuple { local: canonical(local), remote: canonical(remote), net_ns })?
            }
        };
        Ok(cookie.map_or(Ok(None), |cookie| self.records().connection(cookie))?)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(super) fn principal<'a>(
    attested: &'a Attested,
    wanted: Option<&str>,
) -> Result<(&'a PreparedPrincipal, &'a Arc<Entry>), Denial> {
    let mut own = attested.principals.iter().zip(&attested.entries);
    match wanted {
        None => own.next().map(|(principal, entry)| (&**principal, entry)).ok_or_else(|| {
            Denial::new(Reason::NoIdentity, "no registration entry matches this process")
                .remedy("give it a registration entry, or see what keeps the nearest one from matching (agentctl ps, with its exec id)")
        }),
        Some(wanted) if attested.entries.is_empty() => Err(Denial::new(
            Reason::NoIdentity,
            format!("no registration entry matches this process, let alone {wanted}"),
        )),
        Some(wanted) => own
            .find(|(_, entry)| entry.spiffe_id.as_str() == wanted)
            .map(|(principal, entry)| (&**principal, entry))
            .ok_or_else(|| {
                Denial::new(Reason::IdentityNotYours, format!("the process does not have the identity {wanted}"))
            }),
    }
}

fn connection_context(connection: &Connection, matched: &Matched) -> ConnectionContext {
    ConnectionContext {
        address: connection.remote.ip(),
        port: connection.remote.port(),
        protocol: connection.protocol.to_string().into(),
        hook: connection.hook.as_str().into(),
        uid: connection.uid,
        gid: connection.gid,
        matched_by: matched.as_str().into(),
    }
}

/// Whether a person gave the word that is wanted, if one is: for the very same, and nothing else.
fn given(ask: &Ask, record: &mut DecisionRecord) -> Result<(), Denial> {
    if record.approval_policy_ids.is_empty() {
        return Ok(());
    }
    if let Some(lease) = &ask.standing {
        let is_given = |id: &String| lease.basis.approved.iter().any(|approved| **approved == **id);
        let is_given = record.approval_policy_ids.iter().all(is_given);
        return if is_given { Ok(()) } else { Err(wants_approval(&record.approval_policy_ids)) };
    }
    let given = ask.approval.as_ref().filter(|given| Key::of(record).is_some_and(|own| own == given.key));
    let Some(given) = given else { return Err(wants_approval(&record.approval_policy_ids)) };
    record.approval = Some(given.facts.clone());
    if record.reason == Reason::Allowed.as_str() {
        record.detail = "policy permits what a person approved".to_owned();
    }
    Ok(())
}

/// Asks policy, and writes its answer into the record.
fn apply_policy(
    snapshot: &Snapshot,
    request: &Request<'_>,
    destination: &Destination,
    record: &mut DecisionRecord,
    wanted: &mut Wanted,
) -> Result<(), Denial> {
    let decision = snapshot.policies.evaluate(request);
    record.policy_ids = decision.policy_ids.iter().map(ToString::to_string).collect();
    if wanted.permits(&decision) {
        record.reason = Reason::Allowed.as_str().to_owned();
        record.detail = "policy permits".to_owned();
        return Ok(());
    }
    let ids = record.policy_ids.join(", ");
    let denial = match decision.reason {
        policy::Reason::Forbid => Denial::new(Reason::PolicyForbid, format!("policy forbids: {ids}")),
        policy::Reason::NeedsApproval | policy::Reason::Error | policy::Reason::Permit => {
            Denial::new(Reason::PolicyError, format!("a policy could not be evaluated: {}", decision.errors.join("; ")))
        }
        policy::Reason::NoPermit => {
            let near = snapshot.policies.near_misses(request);
            let denial = match near.first() {
                Some(miss) => Denial::new(
                    Reason::PolicyNoPermit,
                    format!("no policy permits; {} would if its condition held", miss.policy_id),
                )
                .differing(miss.condition.clone(), "false"),
                None => Denial::new(Reason::PolicyNoPermit, "no policy permits this identity this destination"),
            };
            record.policy_near_misses = draft::policy_near_misses(near);
            denial.remedy("add a permit, or meet the condition (agentctl explain)")
        }
    };
    overruled(denial, destination, record)
}

/// Only what policy plainly said may be overruled by audit mode, never an error and never a fact that is missing.
fn overruled(denial: Denial, destination: &Destination, record: &mut DecisionRecord) -> Result<(), Denial> {
    let is_plain = matches!(
        denial.reason,
        Reason::PolicyForbid | Reason::PolicyNoPermit | Reason::AncestorNotPermitted | Reason::ApprovalRequired
    );
    if destination.mode != Mode::Audit || !is_plain {
        return Err(denial);
    }
    record.audit_mode = true;
    record.reason = denial.reason.as_str().to_owned();
    record.detail = format!("{}; the destination is in audit mode", denial.detail);
    record.expected = denial.expected;
    record.actual = denial.actual;
    Ok(())
}
