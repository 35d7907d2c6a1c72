// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Whether the certificate that somebody else made for a CA here is one that SVIDs can stand on.
//!
//! Nothing is believed about it: it has to be for our key and our trust domain, no longer than was asked for, and an
//! SVID below it has to verify as anybody else would verify it.

use jiff::{SignedDuration, Timestamp};
use rcgen::{Issuer, KeyPair};
use webpki::KeyUsage;
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::super::schedule::Life;
use super::chain::{self, MAX_CERTIFICATES, not_after, parse, uris};
use super::svid;
use crate::identity::{SpiffeId, TrustDomain};

/// Certificates between an SVID and its root.
const MAX_PRESENTED: usize = 4;
/// Whoever signs has a clock of its own, and takes a moment.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);
/// For the certificate that is made to see whether one would verify.
const PROBE_LIFE: SignedDuration = SignedDuration::from_secs(1);

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
    /// Never empty. A CA that is its own root stands first.
    pub(super) roots: Vec<Vec<u8>>,
}

impl Path {
    /// When the first certificate on the way from the CA to its root is over, the root included.
    pub(super) fn ends_at(&self) -> Option<Timestamp> {
        let presented = self.presented.iter().map(|one| parse(one)).collect::<Option<Vec<_>>>()?;
        let roots = self.roots.iter().map(|one| parse(one)).collect::<Option<Vec<_>>>()?;
        let root = match presented.last() {
            Some(last) => {
                let signers = roots.iter().filter(|root| root.subject().as_raw() == last.issuer().as_raw());
                signers.filter_map(not_after).max()?
            }
            None => not_after(roots.first()?)?,
        };
        presented.iter().map(not_after).chain([Some(root)]).collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

/// The way from a key's certificate to the roots, if it is good for what a CA of ours does, and until when it is.
///
/// `asked` is the longest life that was asked for.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn path(
    signed: &Signed,
    public_key: &[u8],
    trust_domain: &TrustDomain,
    asked: Option<Timestamp>,
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
    let has_key = |certificate: &X509Certificate<'_>| certificate.public_key().subject_public_key.data == public_key;
    let own = others.iter().find(|(_, certificate)| has_key(certificate));
    let (mut presented, mut issuer) = (Vec::new(), None);
    let first = match (own, roots.iter().find(|(_, root)| has_key(root))) {
        (Some(own), _) => {
            presented.push(own);
            issuer = Some(own.1.issuer());
            own
        }
        // A CA of files may be its own root.
        (None, Some(root)) => root,
        (None, None) => return Err("no certificate is for the key that was asked about".to_owned()),
    };
    check_ca(&first.1, trust_domain, asked)?;
    while let Some(name) = issuer {
        if roots.iter().any(|(_, root)| root.subject().as_raw() == name.as_raw()) {
            break;
        }
        let next = others.iter().find(|(_, other)| other.subject().as_raw() == name.as_raw());
        let next = next.ok_or_else(|| format!("nothing leads to a root: the certificate of {name} is missing"))?;
        if presented.len() >= MAX_PRESENTED {
            return Err(format!("more than {MAX_PRESENTED} certificates lie between the CA and its root"));
        }
        issuer = Some(next.1.issuer());
        presented.push(next);
    }
    for (_, root) in &roots {
        let is_usable = matches!(root.public_key().parsed(), Ok(PublicKey::EC(_) | PublicKey::RSA(_)));
        if !is_usable {
            return Err(format!("the key of the root {} is neither RSA nor of an elliptic curve", root.subject()));
        }
    }
    let presented = presented.iter().map(|(bytes, _)| bytes.to_vec()).collect();
    let mut roots: Vec<Vec<u8>> = roots.iter().map(|(bytes, _)| bytes.to_vec()).collect();
    roots.sort_by_key(|root| root != first.0);
    let path = Path { presented, roots };
    let ends_at = path.ends_at().ok_or("the end of its validity is no time")?;
    if ends_at <= now {
        return Err(format!("it, or what is above it, is over since {ends_at}"));
    }
    Ok((path, ends_at))
}

fn check_ca(
    certificate: &X509Certificate<'_>,
    trust_domain: &TrustDomain,
    asked: Option<Timestamp>,
) -> Result<(), String> {
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
            let uri: String = uri.chars().take(200).collect();
            return Err(format!("the certificate is for {uri:?} and not for spiffe://{trust_domain}"));
        }
    }
    let ends_at = not_after(certificate).ok_or("the end of its validity is no time")?;
    if asked.is_some_and(|asked| ends_at.duration_since(asked) > CLOCK_TOLERANCE) {
        return Err("the certificate is good for longer than was asked for".to_owned());
    }
    Ok(())
}

/// Whether an SVID that this CA signs would verify, now.
pub(super) fn probe(
    issuer: &Issuer<'static, KeyPair>,
    path: &Path,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<(), String> {
    let spiffe_id: SpiffeId =
        format!("spiffe://{trust_domain}/probe").parse().map_err(|_| "the trust domain is no SPIFFE ID".to_owned())?;
    let until = now.saturating_add(PROBE_LIFE).unwrap_or(now);
    let subject =
        svid::Subject { spiffe_id: &spiffe_id, dns_names: &[], serial: &[1; 16], begins_at: now, ends_at: until };
    let leaf = svid::issue(issuer, &path.presented.concat(), Life { begins_at: now, ends_at: until }, &subject);
    let leaf = leaf.map_err(|error| format!("nothing can be signed with it: {error}"))?;
    chain::verify(&leaf.chain, &path.roots, KeyUsage::client_auth(), now)
        .map_err(|error| format!("what it signs would not verify: {error}"))
}

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw()
}
