// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which identities get which source for which destination, and how.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    destination::{Destination, word},
    fields::{Fields, Placed},
    source::{CredentialType, Source},
};
use crate::identity::{SpiffeId, TrustDomain};

/// Identities of one binding.
pub const MAX_IDENTITIES: usize = 256;
/// The shortest life of a lease.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// The shortest life of a certificate, which ends on a whole second.
pub const MIN_X509_TTL: Duration = Duration::from_secs(2);
/// The longest life of a lease.
pub const MAX_TTL: Duration = Duration::from_secs(60 * 60);
/// The most releases one observed connection may carry at a time.
pub const MAX_RELEASES_PER_CONNECTION: u32 = 16;
const DEFAULT_TTL: Duration = Duration::from_secs(5 * 60);

/// A declared binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// What callers call it.
    pub name: Arc<str>,
    /// For what.
    pub destination: Arc<Destination>,
    /// To whom; never empty.
    pub identities: Vec<IdentityPattern>,
    /// From where.
    pub source: Arc<Source>,
    /// How.
    pub delivery: Delivery,
    /// Whether the caller must name a connection that it opened to the destination.
    pub observed_connect: ObservedConnect,
    /// How long a lease lives.
    pub ttl: Duration,
    /// How many live releases one observed connection carries.
    pub releases_per_connection: u32,
    /// Whether its tokens say what is known of their holder (the `att` claim).
    pub has_evidence: bool,
}

/// How the credential reaches the one who uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// Handed to the caller over gRPC.
    #[default]
    Release,
    /// Handed to whoever speaks SPIFFE: the Workload API.
    WorkloadApi,
}

impl Delivery {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::WorkloadApi => "workload-api",
        }
    }
}

/// Whether an observed connection is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObservedConnect {
    /// Nothing without one.
    Required,
    /// Checked when the caller names one.
    Optional,
}

impl ObservedConnect {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
        }
    }
}

/// A SPIFFE ID, or everything below a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentityPattern {
    /// An exact id has no `/` at its end; a prefix has.
    key: Arc<str>,
}

impl IdentityPattern {
    /// Whether it covers an id. A prefix covers whole segments below it and not the path itself.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if self.key.ends_with('/') { id.as_str().starts_with(&*self.key) } else { id.as_str() == &*self.key }
    }

    /// What the catalog files it under; see [`keys_of`].
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    fn parse(text: &str, trust_domain: &TrustDomain) -> Result<Self, (String, &'static str)> {
        const HELP: &str = "spiffe://TRUST-DOMAIN/path, or with /* at the end for everything below a path";
        let (exact, key) = match text.strip_suffix("/*") {
            Some(prefix) => (prefix, format!("{prefix}/")),
            None => (text, text.to_owned()),
        };
        let domain = format!("spiffe://{}", trust_domain.as_str());
        let whole_domain = exact == domain;
        if whole_domain && exact == text {
            return Err((format!("{text:?} names the trust domain, not a workload in it"), HELP));
        }
        if !whole_domain {
            let id: SpiffeId =
                exact.parse().map_err(|error| (format!("{text:?} is not a SPIFFE ID: {error}"), HELP))?;
            if id.trust_domain() != trust_domain {
                return Err((format!("{text:?} is not in the trust domain {}", trust_domain.as_str()), HELP));
            }
        }
        Ok(Self { key: key.into() })
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.key.ends_with('/') { "*" } else { "" };
        write!(f, "{}{star}", self.key)
    }
}

/// Every key under which a pattern that covers this id is filed.
pub(super) fn keys_of(id: &SpiffeId) -> impl Iterator<Item = &str> {
    let text = id.as_str();
    let path_at = "spiffe://".len();
    let prefixes = text.char_indices().filter(move |(at, character)| *character == '/' && *at >= path_at);
    prefixes.filter_map(|(at, _)| text.get(..=at)).chain([text])
}

/// What a binding refers to, looked up by the catalog.
pub(super) struct References {
    pub(super) name: Option<Arc<str>>,
    pub(super) destination: Option<Arc<Destination>>,
    pub(super) source: Option<Arc<Source>>,
}

impl Binding {
    pub(super) fn parse(
        mut fields: Fields<'_, '_>,
        references: References,
        trust_domain: &TrustDomain,
    ) -> Option<Self> {
        let identities = identities(&mut fields, trust_domain);
        let ways = [Delivery::Release, Delivery::WorkloadApi].map(|way| (way.as_str(), way));
        let delivery = word(&mut fields, "delivery", Delivery::Release, &ways);
        // Whoever speaks SPIFFE has no words to name a connection.
        let default = match delivery {
            Some(Delivery::WorkloadApi) => ObservedConnect::Optional,
            Some(Delivery::Release) | None => ObservedConnect::Required,
        };
        let words = [("required", ObservedConnect::Required), ("optional", ObservedConnect::Optional)];
        let observed_connect = word(&mut fields, "observed_connect", default, &words);
        if delivery == Some(Delivery::WorkloadApi) && observed_connect == Some(ObservedConnect::Required) {
            let message = "no connection can be named over the Workload API";
            fields.error(fields.at(), message, "remove observed_connect, or set delivery = \"release\"");
        }
        if let (Some(delivery), Some(source)) = (delivery, &references.source) {
            check_delivery(&mut fields, delivery, source, references.destination.as_deref());
        }
        if let Some(destination) = &references.destination
            && observed_connect == Some(ObservedConnect::Required)
            && !destination.is_observable()
        {
            let message =
                format!("no connection to {:?} can be observed: it has neither hosts nor cidrs", destination.name);
            fields.error(fields.at(), message, "give the destination one, or set observed_connect = \"optional\"");
        }
        let ttl = ttl(&mut fields);
        if let (Some(ttl), Some(source)) = (ttl, &references.source)
            && matches!(source.credential_type(), CredentialType::X509Svid | CredentialType::WitSvid)
            && ttl < MIN_X509_TTL
        {
            let message = format!("the ttl of {} is out of range", one(source.credential_type()));
            fields.error(fields.at(), message, "from 2s to 1h");
        }
        let releases = releases_per_connection(&mut fields);
        let evidence = fields.flag("evidence");
        if let (Some(Placed { value: true, at }), Some(source)) = (&evidence, &references.source)
            && !matches!(source.credential_type(), CredentialType::JwtSvid | CredentialType::AccessToken)
        {
            let help = "remove it, or use a source of type jwt-svid or access-token";
            fields.error(*at, "evidence is a claim of a token, and this source gives none", help);
        }
        if !fields.finish() {
            return None;
        }
        Some(Self {
            has_evidence: evidence.is_some_and(|evidence| evidence.value),
            name: references.name?,
            destination: references.destination?,
            identities,
            source: references.source?,
            delivery: delivery?,
            observed_connect: observed_connect?,
            ttl: ttl?,
            releases_per_connection: releases?,
        })
    }
}

/// As a person says it.
pub(crate) fn one(kind: CredentialType) -> String {
    let article = if matches!(kind, CredentialType::X509Svid | CredentialType::AccessToken) { "an" } else { "a" };
    format!("{article} {}", kind.as_str())
}

/// Not every kind of credential can go every way.
fn check_delivery(fields: &mut Fields<'_, '_>, delivery: Delivery, source: &Source, destination: Option<&Destination>) {
    match (delivery, source.credential_type()) {
        (Delivery::Release, kind @ (CredentialType::X509Svid | CredentialType::WitSvid)) => {
            let help = "set delivery = \"workload-api\"";
            fields.error(fields.at(), format!("{} is not handed out by release", one(kind)), help);
        }
        (Delivery::WorkloadApi, CredentialType::Static) => {
            let help = "set delivery = \"release\"";
            fields.error(fields.at(), "the Workload API has no words for a static secret", help);
        }
        (Delivery::WorkloadApi, CredentialType::AccessToken) => {
            let help = "set delivery = \"release\"";
            fields.error(fields.at(), "the Workload API gives SVIDs, and an access-token is none", help);
        }
        (Delivery::Release, CredentialType::JwtSvid | CredentialType::AccessToken)
            if destination.is_some_and(|destination| destination.takes_any_audience()) =>
        {
            let help = "give the destination an audience, or set delivery = \"workload-api\"";
            fields.error(fields.at(), "a token that is released needs one audience, and the destination has any", help);
        }
        (Delivery::Release, CredentialType::JwtSvid | CredentialType::AccessToken | CredentialType::Static)
        | (Delivery::WorkloadApi, CredentialType::JwtSvid | CredentialType::X509Svid | CredentialType::WitSvid) => {}
    }
}

fn identities(fields: &mut Fields<'_, '_>, trust_domain: &TrustDomain) -> Vec<IdentityPattern> {
    let given = fields.texts("identities", MAX_IDENTITIES);
    if given.is_empty() {
        fields.error(fields.at(), "the binding has no identities", "identities = [\"spiffe://…\"]");
    }
    let mut identities = Vec::with_capacity(given.len());
    for Placed { value, at } in given {
        match IdentityPattern::parse(&value, trust_domain) {
            Ok(pattern) if identities.contains(&pattern) => {}
            Ok(pattern) => identities.push(pattern),
            Err((message, help)) => fields.error(at, message, help),
        }
    }
    identities
}

fn ttl(fields: &mut Fields<'_, '_>) -> Option<Duration> {
    let Some(given) = fields.text("ttl") else { return Some(DEFAULT_TTL) };
    match parse_duration(&given.value) {
        Some(ttl) if (MIN_TTL..=MAX_TTL).contains(&ttl) => Some(ttl),
        Some(_) => {
            fields.error(given.at, format!("ttl {:?} is out of range", given.value), "from 1s to 1h");
            None
        }
        None => {
            let message = format!("ttl {:?} is not a duration", given.value);
            fields.error(given.at, message, "a whole number with s, m or h: \"90s\", \"5m\", \"1h\"");
            None
        }
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

fn releases_per_connection(fields: &mut Fields<'_, '_>) -> Option<u32> {
    let Some(given) = fields.integer("releases_per_connection") else { return Some(1) };
    let fits = given.value.and_then(|number| u32::try_from(number).ok());
    let fits = fits.filter(|number| (1..=MAX_RELEASES_PER_CONNECTION).contains(number));
    if fits.is_none() {
        fields.error(given.at, "releases_per_connection is out of range", "from 1 to 16");
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, expected) in [
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("1h", Some(3600)),
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("5", None),
            ("5 m", None),
            ("+5m", None),
            ("-5m", None),
            ("1.5h", None),
            ("1h30m", None),
            ("5M", None),
            ("5µ", None),
            ("99999999999999999999h", None),
            ("18446744073709551615h", None),
        ] {
            assert_eq!(parse_duration(text), expected.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn patterns_cover_whole_segments_only() {
        let domain: TrustDomain = "example.org".parse().unwrap();
        for (pattern, id, expected) in [
            ("spiffe://example.org/agent/a", "spiffe://example.org/agent/a", true),
            ("spiffe://example.org/agent/a", "spiffe://example.org/agent/a/b", false),
            ("spiffe://example.org/agent/a", "spiffe://example.org/agent/ab", false),
            ("spiffe://example.org/tools/*", "spiffe://example.org/tools/x", true),
            ("spiffe://example.org/tools/*", "spiffe://example.org/tools/x/y", true),
            ("spiffe://example.org/tools/*", "spiffe://example.org/tools", false),
            ("spiffe://example.org/tools/*", "spiffe://example.org/toolsmith", false),
            ("spiffe://example.org/tools/*", "spiffe://example.org/other/tools/x", false),
            ("spiffe://example.org/*", "spiffe://example.org/anything", true),
            ("spiffe://example.org/*", "spiffe://example.org.evil/anything", false),
        ] {
            let pattern = IdentityPattern::parse(pattern, &domain).unwrap();
            let id: SpiffeId = id.parse().unwrap();
            assert_eq!(pattern.matches(&id), expected, "{pattern} {id}");
            assert_eq!(keys_of(&id).any(|key| key == pattern.key()), expected, "keys: {pattern} {id}");
        }
    }

    #[test]
    fn patterns_that_could_cover_more_than_meant_are_refused() {
        let domain: TrustDomain = "example.org".parse().unwrap();
        for text in [
            "",
            "*",
            "/*",
            "spiffe://*",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://example.org/tools*",
            "spiffe://example.org/*/x",
            "spiffe://example.org/tools/*/*",
            "spiffe://example.org//*",
            "spiffe://other.org/agent",
            "spiffe://other.org/*",
            "spiffe://example.org.evil/*",
            "https://example.org/agent",
        ] {
            assert!(IdentityPattern::parse(text, &domain).is_err(), "{text:?}");
        }
    }
}
