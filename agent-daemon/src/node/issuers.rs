// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tokens of users, and the keys of those who issue them
//! (<https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation>,
//! <https://openid.net/specs/openid-connect-discovery-1_0.html>).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::authority::{Claims, VerifyingKey};
use crate::diagnostic::{with_sources, words};
use crate::identity::Issuer;
use crate::session::{MAX_GROUPS, User, Verified};
use crate::snapshot::Snapshot;
use crate::url::Url;
use crate::web::{Client, Trust};

/// Keys older than this are fetched again before a token is believed: so long a revoked key may still be good.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// Where the issuer cannot be reached, its last keys are good for so long.
const STALE: Duration = Duration::from_secs(60 * 60);
/// An issuer is not asked more often, whatever callers show.
const BETWEEN_FETCHES: Duration = Duration::from_secs(10);
/// By how much the clocks of issuer and node may differ.
const SKEW: SignedDuration = SignedDuration::from_secs(30);
const MAX_KEYS: usize = 64;
const MAX_SUBJECT_BYTES: usize = 255;
const MAX_NAME_BYTES: usize = 256;
const MAX_GROUP_BYTES: usize = 256;
/// Of ID tokens and of access tokens (RFC 9068).
const TYPES: &[Option<&str>] = &[None, Some("JWT"), Some("at+jwt"), Some("application/at+jwt")];

/// Why a token is not good. Never holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the token is not good: {0}")]
    Invalid(&'static str),
    #[error("the token is of an issuer that nobody named")]
    UnknownIssuer,
    /// It may be there in a moment.
    #[error("the issuer {name} cannot be asked for its keys: {why}")]
    IssuerDown { name: Box<str>, why: String },
}

/// The keys of all issuers. One task fetches them, whoever asks: a caller that leaves does not stop it.
#[derive(Debug)]
pub(super) struct Issuers {
    /// By which they are believed; none: by those of the machine.
    roots: Option<PathBuf>,
    /// By id.
    known: Mutex<HashMap<Box<str>, Keys>>,
    /// Somebody waits for keys.
    wanted: Notify,
}

#[derive(Debug)]
struct Keys {
    issuer: Arc<Issuer>,
    keys: Arc<[VerifyingKey]>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    error: Option<String>,
    /// Dropped when the keys that somebody waits for are there, or cannot be had.
    awaited: Option<watch::Sender<()>>,
    is_fetching: bool,
}

/// What a caller finds.
enum Found {
    Known(Arc<[VerifyingKey]>),
    Wait(watch::Receiver<()>),
    Down(String),
}

impl Keys {
    fn new(issuer: &Arc<Issuer>) -> Self {
        Self {
            issuer: Arc::clone(issuer),
            keys: Arc::new([]),
            fetched: None,
            tried: None,
            error: None,
            awaited: None,
            is_fetching: false,
        }
    }

    /// The keys, if they are good for this one, or what to wait for.
    fn find(&mut self, kid: Option<&str>) -> Found {
        let is_there = kid.is_none_or(|kid| self.keys.iter().any(|key| key.kid() == kid));
        if is_there && self.fetched.is_some_and(|at| at.elapsed() < FRESH) {
            return Found::Known(Arc::clone(&self.keys));
        }
        if self.awaited.is_none() && self.tried.is_none_or(|at| at.elapsed() >= BETWEEN_FETCHES) {
            self.tried = Some(Instant::now());
            self.awaited = Some(watch::channel(()).0);
        }
        self.awaited.as_ref().map_or_else(|| self.last(), |awaited| Found::Wait(awaited.subscribe()))
    }

    /// What is known from the last time.
    fn last(&self) -> Found {
        match self.fetched {
            Some(at) if at.elapsed() < STALE => Found::Known(Arc::clone(&self.keys)),
            _ => Found::Down(self.error.clone().unwrap_or_else(|| "it was asked just now".to_owned())),
        }
    }

    fn note(&mut self, fetched: Result<Arc<[VerifyingKey]>, String>) {
        (self.awaited, self.is_fetching) = (None, false);
        match fetched {
            Ok(keys) => (self.keys, self.fetched, self.error) = (keys, Some(Instant::now()), None),
            Err(why) => {
                tracing::warn!(issuer = %self.issuer.name, why, "the keys of an issuer cannot be fetched");
                self.error = Some(why);
            }
        }
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Issuers {
    pub(super) fn new(roots: Option<PathBuf>) -> Self {
        Self { roots, known: Mutex::default(), wanted: Notify::new() }
    }

    /// The user whom a token names. `nonce` is what the runtime asked the issuer to put into it.
    pub(super) async fn user(
        &self,
        snapshot: &Snapshot,
        token: &str,
        nonce: Option<&str>,
        now: Timestamp,
    ) -> Result<User, TokenError> {
        let unverified = svid_verifier::Jws::parse(token, TYPES).map_err(invalid)?;
        let kid = unverified.kid.clone();
        let claimed = unverified.claims().map_err(invalid)?;
        let issuer = claimed.get("iss").and_then(Value::as_str).unwrap_or_default();
        let issuer = snapshot.issuers.iter().find(|known| *known.id == *issuer).ok_or(TokenError::UnknownIssuer)?;
        let keys = self.keys(issuer, kid.as_deref()).await?;
        let claims = svid_verifier::verify(&keys, token, TYPES).map_err(invalid)?;
        check(issuer, &claims, nonce, now)?;
        user(issuer, &claims)
    }

    /// The keys of an issuer, fetched anew where they are old or do not hold the one that is asked for. Nobody waits whose
    /// key is known.
    async fn keys(&self, issuer: &Arc<Issuer>, kid: Option<&str>) -> Result<Arc<[VerifyingKey]>, TokenError> {
        let found = self.lock().entry(issuer.id.clone()).or_insert_with(|| Keys::new(issuer)).find(kid);
        let found = match found {
            Found::Wait(mut awaited) => {
                self.wanted.notify_one();
                // Nothing is ever sent: it is over when the sender is gone.
                let _over = awaited.changed().await;
                self.lock().get(&issuer.id).map(Keys::last)
            }
            found => Some(found),
        };
        match found {
            Some(Found::Known(keys)) => Ok(keys),
            Some(Found::Down(why)) => Err(TokenError::IssuerDown { name: issuer.name.clone(), why }),
            Some(Found::Wait(_)) | None => {
                Err(TokenError::IssuerDown { name: issuer.name.clone(), why: "it is being asked".to_owned() })
            }
        }
    }

    /// Fetches keys as they are wanted, until cancelled.
    pub(super) async fn run(&self, cancel: CancellationToken) {
        let mut running = FuturesUnordered::new();
        loop {
            // Each arm is cancel-safe: what is running goes on in its place.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wanted.notified() => {
                    for keys in self.lock().values_mut() {
                        if keys.awaited.is_some() && !keys.is_fetching {
                            keys.is_fetching = true;
                            let (issuer, roots) = (Arc::clone(&keys.issuer), self.roots.clone());
                            running.push(async move {
                                let fetched = fetch(&issuer, roots).await;
                                (issuer, fetched)
                            });
                        }
                    }
                }
                Some((issuer, fetched)) = running.next(), if !running.is_empty() => {
                    if let Some(keys) = self.lock().get_mut(&issuer.id) {
                        keys.note(fetched);
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Keys>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(issuer: &Issuer, roots: Option<PathBuf>) -> Result<Arc<[VerifyingKey]>, String> {
    let trust = roots.map_or(Trust::System, Trust::File);
    let client = tokio::task::spawn_blocking(move || Client::new(&trust)).await;
    let client = client.map_err(|error| error.to_string())?.map_err(|error| with_sources(&error))?;
    let discovery: Discovery = get(&client, &issuer.url.join("/.well-known/openid-configuration")?).await?;
    if discovery.issuer != *issuer.id {
        return Err(format!("it calls itself {}", words(&discovery.issuer)));
    }
    let jwks: Url = discovery.jwks_uri.parse().map_err(|why| format!("its jwks_uri is of no use: {why}"))?;
    let set: KeySet = get(&client, &jwks).await?;
    if set.keys.len() > MAX_KEYS {
        return Err(format!("it has {} keys, more than {MAX_KEYS}", set.keys.len()));
    }
    let signs = |key: &&Value| key.get("use").and_then(Value::as_str).is_none_or(|usage| usage == "sig");
    let keys: Vec<_> = set.keys.iter().filter(signs).filter_map(VerifyingKey::from_jwk).collect();
    if keys.is_empty() { Err("none of its keys can be used".to_owned()) } else { Ok(keys.into()) }
}

async fn get<T: serde::de::DeserializeOwned>(client: &Client, url: &Url) -> Result<T, String> {
    let answer = client.get(url, &[]).await.map_err(|error| with_sources(&error))?;
    if answer.status != StatusCode::OK {
        return Err(format!("{url} answered {}", answer.status.as_u16()));
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("{url}: {}", words(&error.to_string())))
}

fn invalid(error: svid_verifier::Invalid) -> TokenError {
    TokenError::Invalid(error.0)
}

/// What stands in a verified token has to be meant for us, now.
fn check(issuer: &Issuer, claims: &Claims, nonce: Option<&str>, now: Timestamp) -> Result<(), TokenError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(&issuer.id) {
        return Err(TokenError::Invalid("it is of another issuer"));
    }
    // Of a logout or another event: <https://www.rfc-editor.org/rfc/rfc8417#section-2.2>.
    if claims.contains_key("events") {
        return Err(TokenError::Invalid("it is no token of a user"));
    }
    // Somebody acts for the user already, and whoever opens a session with it would take that one's place unseen.
    if claims.contains_key("act") {
        return Err(TokenError::Invalid("it was given to somebody who acts for the user"));
    }
    let audiences: Vec<&str> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return Err(TokenError::Invalid("it has no audience")),
    };
    let is_ours = |name: &str| issuer.audiences.iter().any(|audience| **audience == *name);
    if !audiences.iter().any(|audience| is_ours(audience)) {
        return Err(TokenError::Invalid("it is for another audience"));
    }
    let may_hold = |party: &str| is_ours(party) || issuer.authorized_parties.iter().any(|known| **known == *party);
    if text("azp").is_some_and(|party| !may_hold(party)) {
        return Err(TokenError::Invalid("it was issued to another party"));
    }
    if nonce.is_some() && text("nonce") != nonce {
        return Err(TokenError::Invalid("its nonce is another one"));
    }
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => {
            let seconds = value.as_f64().filter(|seconds| seconds.abs() < 1e11);
            let seconds = seconds.ok_or(TokenError::Invalid("a time in it is none"))?;
            let at = SignedDuration::try_from_secs_f64(seconds).ok().and_then(|at| Timestamp::from_duration(at).ok());
            at.map(Some).ok_or(TokenError::Invalid("a time in it is none"))
        }
    };
    let ends = time("exp")?.ok_or(TokenError::Invalid("it has no end"))?;
    if ends.saturating_add(SKEW).unwrap_or(ends) <= now {
        return Err(TokenError::Invalid("it has expired"));
    }
    for begins in [time("nbf")?, time("iat")?].into_iter().flatten() {
        if begins.saturating_sub(SKEW).unwrap_or(begins) > now {
            return Err(TokenError::Invalid("it is not valid yet"));
        }
    }
    Ok(())
}

fn user(issuer: &Issuer, claims: &Claims) -> Result<User, TokenError> {
    let is_plain = |text: &&str| !text.is_empty() && !text.chars().any(char::is_control);
    let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(is_plain);
    let subject = text("sub").filter(|subject| subject.len() <= MAX_SUBJECT_BYTES);
    let subject = subject.ok_or(TokenError::Invalid("it names no user"))?;
    // For people alone: users choose it themselves at many issuers.
    let name = ["preferred_username", "email", "name"].into_iter().find_map(text);
    let name = name.filter(|name| name.len() <= MAX_NAME_BYTES);
    let groups = groups(issuer, claims)?;
    Ok(User {
        id: format!("{}:{subject}", issuer.name).into(),
        verified: Verified::Oidc,
        issuer: Some(issuer.id.clone()),
        subject: subject.into(),
        name: name.map(Into::into),
        groups,
    })
}

/// Whole or not at all: a `forbid` may be about one that would be left out.
fn groups(issuer: &Issuer, claims: &Claims) -> Result<Box<[Box<str>]>, TokenError> {
    let Some(name) = &issuer.groups_claim else { return Ok(Box::default()) };
    // <https://openid.net/specs/openid-connect-core-1_0.html#AggregatedDistributedClaims>: they are somewhere else.
    if claims.get("_claim_names").is_some_and(|elsewhere| elsewhere.get(&**name).is_some()) {
        return Err(TokenError::Invalid("its groups are not in it"));
    }
    let Some(found) = claims.get(&**name) else { return Ok(Box::default()) };
    let found = found.as_array().ok_or(TokenError::Invalid("its groups are no list"))?;
    if found.len() > MAX_GROUPS {
        return Err(TokenError::Invalid("its user is in too many groups"));
    }
    let is_good = |group: &&str| (1..=MAX_GROUP_BYTES).contains(&group.len()) && !group.chars().any(char::is_control);
    let named = |group: &Value| group.as_str().filter(is_good).map(|group| format!("{}:{group}", issuer.name).into());
    found.iter().map(|group| named(group).ok_or(TokenError::Invalid("one of its groups is no name"))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issuer() -> Issuer {
        Issuer {
            name: "corp".into(),
            id: "https://idp.example".into(),
            url: "https://idp.example".parse().unwrap(),
            audiences: vec!["agent-daemon".into()],
            authorized_parties: vec!["portal".into()],
            groups_claim: Some("groups".into()),
        }
    }

    fn claims(change: Value) -> Claims {
        let mut claims = json!({
            "iss": "https://idp.example", "sub": "248", "aud": "agent-daemon", "exp": 1060, "iat": 1000,
            "email": "ada@example.org", "groups": ["staff"],
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let Value::Object(mut claims) = claims else { unreachable!() };
        claims.retain(|_, value| !value.is_null());
        claims
    }

    fn verdict(change: Value, nonce: Option<&str>) -> Result<User, TokenError> {
        let now = Timestamp::from_second(1010).unwrap();
        check(&issuer(), &claims(change.clone()), nonce, now).and_then(|()| user(&issuer(), &claims(change)))
    }

    #[test]
    fn a_good_token_gives_a_user_with_names_that_say_whose() {
        let user = verdict(json!({}), None).unwrap();
        assert_eq!(&*user.id, "corp:248");
        assert_eq!(user.name.as_deref(), Some("ada@example.org"));
        assert_eq!(*user.groups, ["corp:staff".into()]);
        for change in [
            json!({"aud": ["other", "agent-daemon"]}),
            json!({"azp": "portal"}),
            json!({"azp": "agent-daemon"}),
            json!({"exp": 981}),
            json!({"iat": 1040}),
            json!({"exp": 1060.5}),
        ] {
            verdict(change.clone(), None).unwrap_or_else(|error| panic!("{change}: {error}"));
        }
        assert!(verdict(json!({"nonce": "n"}), Some("n")).is_ok());
    }

    #[test]
    fn every_way_to_be_wrong_is_refused() {
        for (change, words) in [
            (json!({"iss": "https://idp.example/"}), "another issuer"),
            (json!({"aud": "other"}), "another audience"),
            (json!({"aud": null}), "no audience"),
            (json!({"aud": []}), "another audience"),
            (json!({"azp": "stranger"}), "another party"),
            (json!({"exp": 980}), "expired"),
            (json!({"exp": null}), "no end"),
            (json!({"exp": "1060"}), "a time in it is none"),
            (json!({"exp": 1e300}), "a time in it is none"),
            (json!({"nbf": 1041}), "not valid yet"),
            (json!({"iat": 1041}), "not valid yet"),
            (json!({"sub": null}), "names no user"),
            (json!({"sub": ""}), "names no user"),
            (json!({"sub": "a\nb"}), "names no user"),
            (json!({"sub": "x".repeat(256)}), "names no user"),
            (json!({"groups": "staff"}), "are no list"),
            (json!({"groups": ["staff", 5]}), "is no name"),
            (json!({"groups": ["staff", "a\u{7}"]}), "is no name"),
            (json!({"groups": null, "_claim_names": {"groups": "src1"}}), "are not in it"),
            (json!({"events": {}}), "no token of a user"),
            (json!({"act": {"sub": "somebody"}}), "somebody who acts for the user"),
            (json!({"groups": (0..65).map(|n| n.to_string()).collect::<Vec<_>>()}), "too many groups"),
        ] {
            let error = verdict(change.clone(), None).unwrap_err().to_string();
            assert!(error.contains(words), "{change}: {error}");
        }
        assert!(verdict(json!({}), Some("n")).unwrap_err().to_string().contains("nonce"));
        assert!(verdict(json!({"nonce": "m"}), Some("n")).is_err());
    }
}
