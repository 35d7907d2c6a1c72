// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What whoever speaks SPIFFE asks for: SVIDs for all of its identities, trust bundles, and whether a token is good.
//!
//! Each SVID is a release like any other: decided, recorded, and leased.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::Node;
use super::ask::{Ask, Refusal, Released};
use super::bundles::{Bundles, federates_with};
use super::decide::Verdicted;
use super::release::decision_id;
use crate::attest::{Attested, Peer};
use crate::authority::{self, Minted};
use crate::credential::destination::is_audience;
use crate::credential::{Binding, Cause, CredentialType, Delivery, Lease, one};
use crate::identity::{Entry, SpiffeId};
use crate::snapshot::Snapshot;

/// How far the clock of another trust domain may be ahead.
const FOREIGN_CLOCK_SECONDS: f64 = 60.0;

/// What one caller may ask for at once.
#[derive(Debug, Clone, Copy)]
pub struct SpiffeLimits {
    /// Audiences of one token.
    pub max_audiences: usize,
}

/// Which of a caller's X509-SVIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// That of every identity.
    All,
    /// The default identity's, if so, and those that are named.
    Some {
        /// Whether the default identity's is.
        default: bool,
        /// SPIFFE IDs.
        ids: Vec<String>,
    },
}

impl Wanted {
    fn takes(&self, place: usize, entry: &Entry) -> bool {
        match self {
            Self::All => true,
            Self::Some { default, ids } => {
                (*default && place == 0) || ids.iter().any(|id| entry.spiffe_id.as_str() == id)
            }
        }
    }
}

/// All SVIDs of one type of a caller, the default identity's first, and what verifies those of others.
#[derive(Debug)]
pub struct Svids {
    /// Each with the entry that gave the identity.
    pub svids: Vec<(Arc<Entry>, Released)>,
    /// The caller's default identity, whether or not it is among them.
    pub default: SpiffeId,
    /// Of the own trust domain and of foreign ones.
    pub bundles: Bundles,
    /// When to make new ones: about half of the shortest life.
    pub rotate_at: Timestamp,
}

/// Why a token is not good. Whoever asks learns no more than the words here.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Signature, form, audience, time or holder.
    #[error("the token is not valid: {0}")]
    Token(&'static str),
}

impl Node {
    /// New X509-SVIDs for every wanted identity of the caller that gets one; `held` are the leases of those that they
    /// replace.
    ///
    /// # Errors
    /// See [`Refusal`]. A denial only when there is none at all: then for what became of the first of them.
    pub async fn x509_svids(&self, peer: &Peer, wanted: &Wanted, held: &[Arc<Lease>]) -> Result<Svids, Refusal> {
        self.svids(peer, CredentialType::X509Svid, wanted, held).await
    }

    /// The same with WIT-SVIDs, for every identity.
    ///
    /// # Errors
    /// See [`Self::x509_svids`].
    pub async fn wit_svids(&self, peer: &Peer, held: &[Arc<Lease>]) -> Result<Svids, Refusal> {
        self.svids(peer, CredentialType::WitSvid, &Wanted::All, held).await
    }

    async fn svids(
        &self,
        peer: &Peer,
        kind: CredentialType,
        wanted: &Wanted,
        held: &[Arc<Lease>],
    ) -> Result<Svids, Refusal> {
        let snapshot = self.snapshot();
        let operation = if kind == CredentialType::WitSvid { "fetch_wit_svid" } else { "fetch_x509_svid" };
        let attested = self.admit(peer, operation, &snapshot).await?;
        let mut svids = Vec::new();
        let mut refused = None;
        let of_caller = identities(&attested).enumerate().filter(|(place, entry)| wanted.takes(*place, entry));
        for (_, entry) in of_caller {
            let Some(binding) = snapshot.catalog.svid_binding(&entry.spiffe_id, kind) else { continue };
            let replaces = held.iter().find(|lease| lease.spiffe_id == entry.spiffe_id).map(Arc::clone);
            match self.svid(peer, &snapshot, &attested, entry, binding, replaces).await {
                Ok(released) => svids.push((Arc::clone(entry), released)),
                Err(refusal @ Refusal::Denied { .. }) => refused = refused.or(Some(refusal)),
                // An answer without it would tell the caller that it lost that identity.
                Err(refusal) => return Err(self.take_back(svids, refusal)),
            }
        }
        if svids.is_empty() {
            return Err(match refused {
                Some(refusal) => refusal,
                None => self.nothing(&snapshot, &attested, kind, wanted).await,
            });
        }
        let default = attested.spiffe_id().cloned().ok_or(Refusal::Bug("bug: an SVID without an identity"))?;
        let bundles = self.bundles_of(&attested);
        let rotate_at = svids.iter().map(|(_, svid)| turn(&svid.lease)).collect::<Result<Vec<_>, _>>();
        let rotate_at = rotate_at.map_err(Refusal::Authority)?.into_iter().min();
        let rotate_at = rotate_at.ok_or(Refusal::Bug("bug: no SVID and no refusal"))?;
        Ok(Svids { svids, default, bundles, rotate_at })
    }

    /// Ends what was made for an answer that is not given.
    fn take_back(&self, svids: Vec<(Arc<Entry>, Released)>, refusal: Refusal) -> Refusal {
        for (_, svid) in svids {
            self.record_ended(self.leases.end(&svid.lease.id, Cause::GivenBack, self.clock.now()));
        }
        refusal
    }

    async fn svid(
        &self,
        peer: &Peer,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        entry: &Entry,
        binding: &Binding,
        replaces: Option<Arc<Lease>>,
    ) -> Result<Released, Refusal> {
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let now = self.clock.now();
        // One that is over, or that an operator ended, is not renewed: the new one stands for itself.
        let replaces = replaces.and_then(|old| self.leases.lease(&old.id)).filter(|old| old.is_live(now));
        let ask = Ask { renews: replaces.as_ref().map(|old| old.id.clone()), ..ask(binding, entry, Vec::new()) };
        let verdicted = self.decide(snapshot, attested, &ask, decision_id()?, now).await?;
        self.conclude(peer, attested, slot, verdicted, replaces, now).await
    }

    /// A JWT-SVID for these audiences, for one identity of the caller or for each.
    ///
    /// # Errors
    /// See [`Refusal`]. Where all identities are asked for, a denial only when there is none at all.
    pub async fn jwt_svids(
        &self,
        peer: &Peer,
        audiences: &[Arc<str>],
        spiffe_id: Option<&str>,
    ) -> Result<Vec<(Arc<Entry>, Released)>, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, "fetch_jwt_svid", &snapshot).await?;
        let mut svids = Vec::new();
        let mut refused = None;
        let wanted = |entry: &&Arc<Entry>| spiffe_id.is_none_or(|id| entry.spiffe_id.as_str() == id);
        for entry in identities(&attested).filter(wanted) {
            match self.token(peer, &snapshot, &attested, entry, audiences).await {
                Ok(released) => svids.push((Arc::clone(entry), released)),
                Err(refusal @ Refusal::Denied { .. }) => refused = refused.or(Some(refusal)),
                Err(refusal) => return Err(self.take_back(svids, refusal)),
            }
        }
        if svids.is_empty() {
            return Err(match refused {
                Some(refusal) => refusal,
                None => {
                    let ask = Ask { spiffe_id: spiffe_id.map(str::to_owned), ..Ask::default() };
                    self.refused(&snapshot, &attested, ask).await
                }
            });
        }
        Ok(svids)
    }

    /// One token. Each of its audiences has to be permitted; the record of the first names them all.
    async fn token(
        &self,
        peer: &Peer,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        entry: &Entry,
        audiences: &[Arc<str>],
    ) -> Result<Released, Refusal> {
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let now = self.clock.now();
        let mut all: Option<Verdicted> = None;
        for audience in audiences {
            let catalog = &snapshot.catalog;
            let jwt = |id: &SpiffeId, audience: &str| {
                catalog.token_binding(id, audience, Delivery::WorkloadApi, CredentialType::JwtSvid)
            };
            let named = vec![Arc::clone(audience)];
            let ask = match jwt(&entry.spiffe_id, audience) {
                Some(binding) => ask(binding, entry, named),
                None => {
                    let destination = catalog.destination_of(audience).map(|destination| destination.name.to_string());
                    let destination = destination.unwrap_or_default();
                    Ask { destination, audiences: named, ..identity(entry) }
                }
            };
            let one = self.decide(snapshot, attested, &ask, decision_id()?, now).await?;
            all = Some(match (all, one) {
                (None, one) => one,
                (Some(_), one) if one.grounds.is_none() => one,
                (Some(all), one) => joined(all, one),
            });
            if all.as_ref().is_some_and(|all| all.grounds.is_none()) {
                break;
            }
        }
        let verdicted = all.ok_or(Refusal::Bug("bug: a token without an audience"))?;
        self.conclude(peer, attested, slot, verdicted, None, now).await
    }

    /// Whether a token is good for an audience, and what it says. Only callers with an identity may ask.
    ///
    /// # Errors
    /// The outer one refuses the caller, the inner one the token.
    pub async fn validate(
        &self,
        peer: &Peer,
        token: &str,
        audience: &str,
    ) -> Result<Result<(SpiffeId, authority::Claims), Invalid>, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.admit(peer, "validate_jwt_svid", &snapshot).await?;
        if attested.entries.is_empty() {
            return Err(self.refused(&snapshot, &attested, Ask::default()).await);
        }
        let validated = self.validated(&attested, token, audience);
        self.answer_only_if_same(peer, "validate_jwt_svid")?;
        if let Err(Invalid::Token(why)) = &validated {
            self.refuse_request("validate_jwt_svid", "invalid_token", why, peer);
        }
        Ok(validated)
    }

    fn validated(
        &self,
        attested: &Attested,
        token: &str,
        audience: &str,
    ) -> Result<(SpiffeId, authority::Claims), Invalid> {
        let invalid = |error: authority::Error| match error {
            authority::Error::Token { reason } => Invalid::Token(reason),
            _ => Invalid::Token("it cannot be read"),
        };
        // Whose keys verify it is said by the token; whether those are trusted, by the caller's entries.
        let claimed = subject(&authority::unverified_claims(token).map_err(invalid)?)?;
        let is_own = claimed.trust_domain() == &self.identity.trust_domain;
        let (claims, minted) = if is_own {
            self.authority.verify_jwt(token).map_err(invalid)?
        } else {
            let domain = federates_with(attested).into_iter().find(|domain| *domain == claimed.trust_domain());
            let bundle = domain.and_then(|domain| self.foreign.bundle(domain));
            let bundle = bundle.ok_or(Invalid::Token("no bundle of its trust domain is for the caller"))?;
            (bundle.verify_jwt(token).map_err(invalid)?, Minted::Elsewhere)
        };
        if minted == Minted::Elsewhere {
            check_times(&claims, self.clock.now())?;
        }
        let named = |aud: &serde_json::Value| match aud {
            // RFC 7519 section 4.1.3 allows a single one without a list; ours never are.
            serde_json::Value::String(one) => minted == Minted::Elsewhere && one == audience,
            serde_json::Value::Array(all) => all.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        if !claims.get("aud").is_some_and(named) {
            return Err(Invalid::Token("it is for another audience"));
        }
        // Ours to know: it ends with its holder and not only with time.
        if minted == Minted::Here && !self.introspect(token).is_active() {
            return Err(Invalid::Token("it is over"));
        }
        Ok((claimed, claims))
    }

    /// Whether these can be the audiences of a token, by number and form.
    ///
    /// # Errors
    /// What is wrong with them, for the caller.
    pub fn check_audiences(&self, audiences: &[String]) -> Result<(), String> {
        let limit = self.spiffe.max_audiences;
        if audiences.is_empty() {
            return Err("audience: required".to_owned());
        }
        if audiences.len() > limit {
            return Err(format!("audience: at most {limit} in one token"));
        }
        if audiences.iter().any(|audience| !is_audience(audience)) {
            return Err("audience: empty, too long, or with blanks in it".to_owned());
        }
        Ok(())
    }

    /// The caller has identities, but none of them gets what it asks for; or it has none.
    async fn nothing(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        kind: CredentialType,
        wanted: &Wanted,
    ) -> Refusal {
        let found = identities(attested).enumerate().find(|(place, entry)| wanted.takes(*place, entry));
        let entry = found.map(|(_, entry)| entry);
        let ask = match (entry, wanted) {
            (Some(entry), _) => identity(entry),
            (None, Wanted::Some { ids, .. }) => Ask { spiffe_id: ids.first().cloned(), ..Ask::default() },
            (None, Wanted::All) => Ask::default(),
        };
        match self.denial(snapshot, attested, ask).await {
            Ok((slot, mut verdicted)) => {
                if entry.is_some() {
                    verdicted.record.reason = super::Reason::NoBinding.as_str().to_owned();
                    verdicted.record.detail =
                        format!("no binding gives this identity {} over the Workload API", one(kind));
                    verdicted.record.destination = None;
                    verdicted.record.remediation =
                        Some("add a binding with delivery = \"workload-api\" that names it".to_owned());
                }
                self.denied(slot, verdicted).await
            }
            Err(refusal) => refusal,
        }
    }

    /// Records what is known to be denied.
    pub(super) async fn refused(&self, snapshot: &Arc<Snapshot>, attested: &Arc<Attested>, ask: Ask) -> Refusal {
        match self.denial(snapshot, attested, ask).await {
            Ok((slot, verdicted)) => self.denied(slot, verdicted).await,
            Err(refusal) => refusal,
        }
    }

    async fn denial(
        &self,
        snapshot: &Arc<Snapshot>,
        attested: &Arc<Attested>,
        ask: Ask,
    ) -> Result<(crate::audit::Slot, Verdicted), Refusal> {
        let slot = self.log.reserve().map_err(|error| self.audit_refused(error))?;
        let ask = Ask { delivery: Delivery::WorkloadApi, ..ask };
        let mut verdicted = self.decide(snapshot, attested, &ask, decision_id()?, self.clock.now()).await?;
        if verdicted.grounds.take().is_some() {
            return Err(Refusal::Bug("bug: what is denied would be allowed"));
        }
        Ok((slot, verdicted))
    }
}

fn subject(claims: &authority::Claims) -> Result<SpiffeId, Invalid> {
    let subject = claims.get("sub").and_then(|sub| sub.as_str()).and_then(|sub| sub.parse::<SpiffeId>().ok());
    subject.ok_or(Invalid::Token("its subject is no SPIFFE ID"))
}

/// A token of somebody else: <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#3-jwt-claims>.
fn check_times(claims: &authority::Claims, now: Timestamp) -> Result<(), Invalid> {
    let seconds =
        |name: &str| claims.get(name).map(|value| value.as_f64().ok_or(Invalid::Token("a time is no number")));
    let now = now.as_duration().as_secs_f64();
    let exp = seconds("exp").transpose()?.ok_or(Invalid::Token("it has no end"))?;
    if exp <= now {
        return Err(Invalid::Token("it is over"));
    }
    for name in ["nbf", "iat"] {
        if seconds(name).transpose()?.is_some_and(|from| from > now + FOREIGN_CLOCK_SECONDS) {
            return Err(Invalid::Token("it is not good yet"));
        }
    }
    Ok(())
}

/// Each identity once, by its most specific entry.
fn identities(attested: &Attested) -> impl Iterator<Item = &Arc<Entry>> {
    let entries = &attested.entries;
    let is_first =
        |place: usize, entry: &Entry| entries.iter().take(place).all(|earlier| earlier.spiffe_id != entry.spiffe_id);
    entries.iter().enumerate().filter(move |(place, entry)| is_first(*place, entry)).map(|(_, entry)| entry)
}

fn identity(entry: &Entry) -> Ask {
    Ask { spiffe_id: Some(entry.spiffe_id.to_string()), delivery: Delivery::WorkloadApi, ..Ask::default() }
}

fn ask(binding: &Binding, entry: &Entry, audiences: Vec<Arc<str>>) -> Ask {
    Ask {
        destination: binding.destination.name.to_string(),
        binding: Some(binding.name.to_string()),
        audiences,
        ..identity(entry)
    }
}

/// One token for what both allow, no longer than either.
fn joined(mut all: Verdicted, one: Verdicted) -> Verdicted {
    if let (Some(grounds), Some(other)) = (&mut all.grounds, one.grounds) {
        grounds.audiences.extend(other.audiences);
        grounds.ttl = grounds.ttl.min(other.ttl);
        all.record.audience = Some(grounds.audiences.join(", "));
        all.record.detail = format!("{}; by binding {} too", all.record.detail, other.binding.name);
    }
    all
}

/// About half of a life: a little sooner or later, so that those who came together do not come back together.
fn turn(lease: &Lease) -> Result<Timestamp, authority::Error> {
    let mut random = [0; 1];
    authority::fill_random(&mut random)?;
    let [random] = random;
    let life = lease.expires_at.duration_since(lease.issued_at);
    // From 45 to 55 percent, in steps of a 2560th.
    let part = life.saturating_mul(1152_i32.saturating_add(i32::from(random))) / 2560;
    Ok(lease.issued_at.saturating_add(part.max(SignedDuration::ZERO)).unwrap_or(lease.expires_at))
}
