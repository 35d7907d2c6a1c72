// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is made once it is decided: the credential, and its lease, which nobody holds yet.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::Node;
use super::decide::{Grounds, OnBehalf};
use crate::attest::{Attested, Peer};
use crate::audit::DecisionRecord;
use crate::authority::{self, Subject, WitKey, X509Svid};
use crate::credential::access::{ACCESS_TOKEN_TYPE, Access, AccessClaims};
use crate::credential::att::{Att, LineageDigest, Measured};
use crate::credential::jwt::Claims;
use crate::credential::lease::State;
use crate::credential::wit::{WIT_TYPE, WitClaims};
use crate::credential::{Basis, Lease, LeaseId, SourceKind};
use crate::process::ExecId;

/// A credential and its lease, not granted yet.
pub(super) struct Made {
    pub(super) secret: Zeroizing<Vec<u8>>,
    pub(super) chain: Vec<u8>,
    pub(super) lease: Lease,
}

impl Node {
    /// The credential and its lease; none when the secret that the operator promised is not there.
    pub(super) fn make(
        &self,
        peer: &Peer,
        attested: &Attested,
        grounds: &Grounds,
        record: &DecisionRecord,
        now: Timestamp,
    ) -> Result<Option<Made>, authority::Error> {
        let (x509, jwt) = (&self.authority.x509, &self.authority.jwt);
        let made = match &grounds.binding.source.kind {
            SourceKind::JwtSvid => {
                let signer = jwt.signer(now)?;
                let lease = lease_for(peer, attested, grounds, record, now, signer.ends_at)?;
                let mut claims = Claims::new(&lease, &grounds.audiences, self.identity.issuer.as_deref());
                claims.att = grounds.binding.has_evidence.then(|| self.att(attested, record));
                let token = signer.key.sign_jwt("JWT", &claims)?;
                Made { secret: Zeroizing::new(token.into_bytes()), chain: Vec::new(), lease }
            }
            SourceKind::AccessToken => {
                let OnBehalf { session, actors, scopes, .. } =
                    grounds.on_behalf.as_ref().ok_or(authority::Error::Nobody)?;
                let signer = jwt.signer(now)?;
                let lease = lease_for(peer, attested, grounds, record, now, signer.ends_at)?;
                let issuer = self.identity.token_issuer();
                let claims = AccessClaims::from(Access {
                    lease: &lease,
                    audiences: &grounds.audiences,
                    issuer: &issuer,
                    session,
                    actors,
                    scopes: scopes.as_deref(),
                    has_transaction: self.identity.names_transactions,
                    att: grounds.binding.has_evidence.then(|| self.att(attested, record)),
                });
                let token = signer.key.sign_jwt(ACCESS_TOKEN_TYPE, &claims)?;
                Made { secret: Zeroizing::new(token.into_bytes()), chain: Vec::new(), lease }
            }
            SourceKind::X509Svid => {
                let mut lease = lease_for(peer, attested, grounds, record, now, x509.ends_at(now)?)?;
                // In whole seconds, as the certificate: what rotates it must not think that it lives longer.
                lease.expires_at = Timestamp::from_second(lease.expires_at.as_second()).unwrap_or(lease.expires_at);
                let subject = Subject {
                    spiffe_id: &lease.spiffe_id,
                    dns_names: &grounds.entry.dns_names,
                    serial: &lease.id.to_bytes(),
                    begins_at: now,
                    ends_at: lease.expires_at,
                };
                let X509Svid { chain, key } = x509.issue(&subject, now)?;
                Made { secret: key, chain, lease }
            }
            SourceKind::WitSvid => {
                let wit = self.authority.wit.as_ref().ok_or(authority::Error::NoSigner { what: "WIT-SVIDs" })?;
                let signer = wit.signer(now)?;
                let lease = lease_for(peer, attested, grounds, record, now, signer.ends_at)?;
                let key = WitKey::generate()?;
                let token = signer.key.sign_jwt(WIT_TYPE, &WitClaims::new(&lease, &key.public))?;
                Made { secret: key.private, chain: token.into_bytes(), lease }
            }
            SourceKind::Static { secret } => {
                let Some(secret) = self.secrets.secret(secret)? else { return Ok(None) };
                let lease = lease_for(peer, attested, grounds, record, now, Timestamp::MAX)?;
                Made { secret, chain: Vec::new(), lease }
            }
        };
        Ok(Some(made))
    }

    /// The same facts as in the record, so that the two can be held against each other.
    fn att(&self, attested: &Attested, record: &DecisionRecord) -> Att {
        let exec = &record.exec;
        let ancestors = record.lineage.iter().map(|entry| ExecId(entry.exec_id));
        Att {
            exec_id: ExecId(exec.exec_id).to_string(),
            boot_id: self.identity.boot_id.clone(),
            exe: measured(exec.sha256.as_ref(), exec.sha256_provenance.as_ref()),
            script: measured(exec.script_sha256.as_ref(), exec.script_provenance.as_ref()),
            lineage: LineageDigest::new(ancestors, attested.lineage.is_complete),
            policy_generation: record.policy_generation.clone(),
        }
    }
}

fn measured(sha256: Option<&String>, source: Option<&String>) -> Option<Measured> {
    Some(Measured { sha256: sha256?.clone(), source: source?.clone() })
}

/// A lease that ends with its binding's time, or with whoever signs for it.
fn lease_for(
    peer: &Peer,
    attested: &Attested,
    grounds: &Grounds,
    record: &DecisionRecord,
    now: Timestamp,
    until: Timestamp,
) -> Result<Lease, authority::Error> {
    let ttl = SignedDuration::try_from(grounds.ttl).unwrap_or(SignedDuration::MAX);
    let session = grounds.on_behalf.as_ref().map(|on_behalf| &on_behalf.session);
    let until = session.map_or(until, |session| until.min(session.expires_at));
    let subject = grounds.on_behalf.as_ref().and_then(|on_behalf| on_behalf.subject.as_deref());
    let until = subject.map_or(until, |subject| until.min(subject.expires_at));
    let binding = &grounds.binding;
    Ok(Lease {
        id: LeaseId::generate(authority::fill_random)?,
        exec_id: peer.exec_id,
        tgid: peer.process.tgid,
        uid: attested.evidence.uid,
        spiffe_id: grounds.entry.spiffe_id.clone(),
        destination: Arc::clone(&binding.destination.name),
        binding: Arc::clone(&binding.name),
        credential_type: binding.source.credential_type(),
        cookie: grounds.connection.as_ref().map(|(connection, _)| connection.cookie),
        session: session.map(|session| session.id),
        subject: subject.map(|subject| subject.id.clone()),
        issued_at: now,
        expires_at: now.saturating_add(ttl).unwrap_or(until).min(until),
        decision_id: record.decision_id.as_str().into(),
        basis: Arc::new(Basis {
            audiences: grounds.audiences.clone(),
            connection: grounds.connection.as_ref().map(|(_, context)| context.clone()),
            approved: match record.approval {
                Some(_) => record.approval_policy_ids.iter().map(|id| id.as_str().into()).collect(),
                None => Vec::new(),
            },
        }),
        state: State::Active,
    })
}
