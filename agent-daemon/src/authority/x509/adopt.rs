// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether the certificate that somebody else made for a CA here is one that SVIDs can stand on.
//!
//! Nothing is believed about it: it has to be for our key and our trust domain, no longer than was asked for, and an
//! SVID below it has to verify as anybody else would verify it.

use jiff::{SignedDuration, Timestamp};
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use webpki::KeyUsage;
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::super::schedule::Life;
use super::chain::{self, MAX_CERTIFICATES, not_after, parse, uris};
use super::svid;
use crate::diagnostic::words;
use crate::identity::{SpiffeId, TrustDomain};

/// Certificates between an SVID and its root.
const MAX_PRESENTED: usize = 4;
/// Whoever signs has a clock of its own, and takes a moment.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);
/// For the certificate that is made to see whether one would verify.
const PROBE_LIFE: SignedDuration = SignedDuration::from_secs(1);
/// Whoever is asked at half of each life should not be asked all the time.
const SHORTEST_LIFE: SignedDuration = SignedDuration::from_secs(60);

/// What an upstream authority answered: certificates in any order, ours among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signed {
    /// DER. The self-signed ones among them are roots.
    pub certificates: Vec<Vec<u8>>,
    /// Roots that were named as such.
    pub roots: Vec<Vec<u8>>,
}

/// From a CA to what is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// The CA's own certificate first; nothing for one that is its own root.
    pub(super) presented: Vec<Vec<u8>>,
    /// Never empty. The one to which the way leads stands first: the CA itself, where it is its own root.
    pub(super) roots: Vec<Vec<u8>>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// When.
    pub(super) at: Timestamp,
    /// How long it was to live.
    pub(super) lifetime: SignedDuration,
    /// When the newest one that is held ends.
    pub(super) newest_ends_at: Option<Timestamp>,
}

/// The way from a key's certificate to the roots, if it is good for what a CA of ours does, and until when it is.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn judge(
    signed: &Signed,
    key: &[u8],
    trust_domain: &TrustDomain,
    asked: Option<Asked>,
    now: Timestamp,
) -> Result<(Path, Timestamp), String> {
    let count = signed.certificates.len().saturating_add(signed.roots.len());
    if count > MAX_CERTIFICATES {
        return Err(format!("{count} certificates are too many, at most {MAX_CERTIFICATES}"));
    }
    let mut roots: Vec<(&[u8], X509Certificate<'_>)> = Vec::new();
    let mut others: Vec<(&[u8], X509Certificate<'_>)> = Vec::new();
    for (place, bytes) in signed.roots.iter().chain(&signed.certificates).enumerate() {
        let certificate = parse(bytes).ok_or("what it sent is not a certificate")?;
        let is_root = place < signed.roots.len() || is_self_issued(&certificate);
        let list = if is_root { &mut roots } else { &mut others };
        if !list.iter().any(|(known, _)| known == bytes) {
            list.push((bytes, certificate));
        }
    }
    for (_, root) in &roots {
        let is_usable = matches!(root.public_key().parsed(), Ok(PublicKey::EC(_) | PublicKey::RSA(_)));
        if !is_usable {
            return Err(format!(
                "the key of the root {} is neither RSA nor of an elliptic curve",
                words(&root.subject().to_string())
            ));
        }
    }
    let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key)).map_err(|error| format!("its key: {error}"))?;
    let has_key =
        |(_, one): &&(&[u8], X509Certificate<'_>)| one.public_key().subject_public_key.data == key.public_key_raw();
    // A CA of files may be its own root.
    let own = others.iter().find(has_key).or_else(|| roots.iter().find(has_key));
    let (own, certificate) = own.ok_or("no certificate is for the key that was asked about")?;
    check_ca(certificate, trust_domain)?;
    let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(*own), key).map_err(|error| error.to_string())?;
    let others: Vec<Vec<u8>> = others.iter().map(|(bytes, _)| bytes.to_vec()).collect();
    let mut roots: Vec<Vec<u8>> = roots.iter().map(|(bytes, _)| bytes.to_vec()).collect();
    let found = probe(&issuer, certificate, &others, &roots, trust_domain, now)?;
    if found.between.len() > MAX_PRESENTED {
        return Err(format!("more than {MAX_PRESENTED} certificates lie between the CA and its root"));
    }
    // Another certificate for the same key may lead to a root too, and was not looked at.
    if found.between.first().unwrap_or(&found.root) != own {
        return Err("another certificate for the same key came with it".to_owned());
    }
    roots.sort_by_key(|root| *root != found.root);
    let ends_at = found.ends_at;
    if let Some(asked) = asked {
        check_life(certificate, ends_at, asked, now)?;
    }
    Ok((Path { presented: found.between, roots }, ends_at))
}

fn check_ca(certificate: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Result<(), String> {
    let unreadable = |_| "its extensions cannot be read".to_owned();
    let constraints = certificate.basic_constraints().map_err(unreadable)?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("the certificate is not one of a CA".to_owned());
    }
    let usage = certificate.key_usage().map_err(unreadable)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("the certificate does not allow to sign certificates".to_owned());
    }
    // The library that writes what the CA signs gives up on others in a way that takes the caller with it.
    if certificate.subject().iter().any(|part| part.iter().count() != 1) {
        return Err("a part of the certificate's subject has not exactly one value".to_owned());
    }
    for uri in uris(certificate).ok_or("its names cannot be read")? {
        let fits = uri.parse::<SpiffeId>().is_ok_and(|id| id.trust_domain() == trust_domain && id.path().is_empty());
        if !fits {
            return Err(format!("the certificate is for {:?} and not for spiffe://{trust_domain}", words(uri)));
        }
    }
    Ok(())
}

/// `ends_at` is the end of the whole way to the root.
fn check_life(
    certificate: &X509Certificate<'_>,
    ends_at: Timestamp,
    asked: Asked,
    now: Timestamp,
) -> Result<(), String> {
    let own_end = not_after(certificate).ok_or("the end of its validity is no time")?;
    let last = asked.at.saturating_add(asked.lifetime).unwrap_or(Timestamp::MAX);
    if own_end.duration_since(last) > CLOCK_TOLERANCE {
        return Err("the certificate is good for longer than was asked for".to_owned());
    }
    // Those of an issuer that ends soon would all end with it, each of them due at half of what is left.
    if asked.newest_ends_at.is_some_and(|newest| ends_at <= newest) {
        return Err(format!("it ends at {ends_at}, no later than the one before it: what is above it ends too soon"));
    }
    let shortest = SHORTEST_LIFE.min(asked.lifetime / 2);
    if ends_at.duration_since(now) < shortest {
        return Err(format!("it ends at {ends_at}, in less than {} s", shortest.as_secs()));
    }
    Ok(())
}

/// Whether SVIDs that this CA signs would verify, now: to servers and to clients. The way that a verifier took.
fn probe(
    issuer: &Issuer<'_, KeyPair>,
    certificate: &X509Certificate<'_>,
    others: &[Vec<u8>],
    roots: &[Vec<u8>],
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<chain::Way, String> {
    let spiffe_id: SpiffeId =
        format!("spiffe://{trust_domain}/probe").parse().map_err(|_| "the trust domain is no SPIFFE ID".to_owned())?;
    let until = now.saturating_add(PROBE_LIFE).unwrap_or(now);
    let subject =
        svid::Subject { spiffe_id: &spiffe_id, dns_names: &[], serial: &[1; 16], begins_at: now, ends_at: until };
    let leaf = svid::issue(issuer, &[], Life { begins_at: now, ends_at: until }, &subject);
    let leaf = leaf.map_err(|error| format!("nothing can be signed with it: {error}"))?;
    let named = parse(&leaf.chain).is_some_and(|leaf| leaf.issuer().as_raw() == certificate.subject().as_raw());
    if !named {
        return Err("its subject names something twice (OU, DC), which what it signs could not repeat".to_owned());
    }
    let way = |usage| {
        chain::way(&leaf.chain, others, roots, usage, now).map_err(|error| match error {
            chain::NoWay::NoRoot => {
                format!(
                    "nothing leads to a root: what is above {} is missing",
                    words(&certificate.issuer().to_string())
                )
            }
            chain::NoWay::Other(error) => format!("what it signs would not verify: {error}"),
        })
    };
    way(KeyUsage::server_auth())?;
    way(KeyUsage::client_auth())
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}
