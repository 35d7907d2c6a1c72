// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Chains of certificates, and whether they lead to a root.

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring as algorithms};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::diagnostic::words;
use crate::identity::SpiffeId;

/// Certificates that somebody may send at once, roots among them.
pub(crate) const MAX_CERTIFICATES: usize = 32;
/// Of one certificate.
const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;

/// What any verifier that trusts this node may use.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

/// Certificates that stand one behind the other.
pub(crate) fn der_sequence(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(bytes).ok()?;
        let (one, _) = bytes.split_at_checked(bytes.len().checked_sub(rest.len())?)?;
        certificates.push(one.to_vec());
        if certificates.len() > MAX_CERTIFICATES {
            return None;
        }
        bytes = rest;
    }
    Some(certificates)
}

/// A chain (the end first, DER one after the other) against roots.
pub(crate) fn verify(chain: &[u8], roots: &[Vec<u8>], usage: KeyUsage, now: Timestamp) -> Result<(), String> {
    let mut chain = der_sequence(chain).ok_or("it is not a chain of certificates")?.into_iter();
    let end = chain.next().ok_or("there is no certificate")?;
    verify_for(&end, &chain.collect::<Vec<_>>(), roots, usage, now, |_, _| ()).map_err(|error| error.to_string())
}

/// From a certificate to a root.
pub(super) struct Way {
    /// Those between, the one that signed the certificate first.
    pub(super) between: Vec<Vec<u8>>,
    pub(super) root: Vec<u8>,
    /// When the first on the way is over, the root included and the certificate not.
    pub(super) ends_at: Timestamp,
}

/// Why there is none.
pub(super) enum NoWay {
    /// Nothing signed it, or what signed it, as far as can be seen.
    NoRoot,
    /// In words.
    Other(String),
}

/// One that a verifier who trusts these roots would take.
pub(super) fn way(
    end: &[u8],
    others: &[Vec<u8>],
    roots: &[Vec<u8>],
    usage: KeyUsage,
    now: Timestamp,
) -> Result<Way, NoWay> {
    let (between, place) =
        verify_for(end, others, roots, usage, now, |between, place| (between, place)).map_err(|error| match error {
            webpki::Error::UnknownIssuer => NoWay::NoRoot,
            error => NoWay::Other(error.to_string()),
        })?;
    let no_time = || NoWay::Other("the end of a validity is no time".to_owned());
    let der = roots.get(place).ok_or_else(no_time)?;
    let root = parse(der).ok_or_else(no_time)?;
    // A root that was signed again for the same key is the same root: who trusts both goes on with the other.
    let same = roots.iter().filter_map(|other| parse(other)).filter(|other| {
        other.subject().as_raw() == root.subject().as_raw() && other.public_key().raw == root.public_key().raw
    });
    let has_begun = |root: &X509Certificate<'_>| root.validity().not_before.timestamp() <= now.as_second();
    let root_end = same.filter(has_begun).filter_map(|root| not_after(&root)).max();
    let root_end = root_end
        .ok_or_else(|| NoWay::Other(format!("the root {} is not good yet", words(&root.subject().to_string()))))?;
    if root_end <= now {
        return Err(NoWay::Other(format!("the root {} is over since {root_end}", words(&root.subject().to_string()))));
    }
    let ends = between.iter().map(|one| parse(one).and_then(|one| not_after(&one)));
    let ends = ends.chain([Some(root_end)]).collect::<Option<Vec<_>>>().ok_or_else(no_time)?;
    let ends_at = ends.into_iter().min().ok_or_else(no_time)?;
    Ok(Way { between, root: der.clone(), ends_at })
}

/// Hands on the certificates between the end and the root, and the place of the root.
fn verify_for<T>(
    end: &[u8],
    others: &[Vec<u8>],
    roots: &[Vec<u8>],
    usage: KeyUsage,
    now: Timestamp,
    found: impl FnOnce(Vec<Vec<u8>>, usize) -> T,
) -> Result<T, webpki::Error> {
    let others: Vec<CertificateDer<'_>> = others.iter().map(|one| CertificateDer::from(one.as_slice())).collect();
    let roots: Vec<CertificateDer<'_>> = roots.iter().map(|root| CertificateDer::from(root.as_slice())).collect();
    let anchors = roots.iter().enumerate();
    let (places, anchors): (Vec<usize>, Vec<_>) =
        anchors.filter_map(|(place, root)| Some((place, anchor_from_trusted_cert(root).ok()?))).unzip();
    let end = CertificateDer::from(end);
    let end = EndEntityCert::try_from(&end)?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let path = end.verify_for_usage(ALGORITHMS, &anchors, &others, time, usage, None, None)?;
    let place = anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
    let place = place.and_then(|place| places.get(place)).copied().ok_or(webpki::Error::UnknownIssuer)?;
    Ok(found(path.intermediate_certificates().map(|one| one.der().to_vec()).collect(), place))
}

pub(super) fn parse(bytes: &[u8]) -> Option<X509Certificate<'_>> {
    let bytes = Some(bytes).filter(|bytes| bytes.len() <= MAX_CERTIFICATE_BYTES)?;
    let (rest, certificate) = x509_parser::parse_x509_certificate(bytes).ok()?;
    rest.is_empty().then_some(certificate)
}

pub(super) fn not_after(certificate: &X509Certificate<'_>) -> Option<Timestamp> {
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

pub(super) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Option<Vec<&'a str>> {
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.map(|names| names.value.general_names.iter());
    Some(
        names
            .into_iter()
            .flatten()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect(),
    )
}

/// Whose a certificate is, if it is an X509-SVID.
///
/// # Errors
/// Why it is none.
pub(crate) fn spiffe_id(certificate: &[u8]) -> Result<SpiffeId, &'static str> {
    let certificate = parse(certificate).ok_or("it is not a certificate")?;
    let constraints = certificate.basic_constraints().map_err(|_| "its extensions cannot be read")?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("it is the certificate of a CA");
    }
    let uris = uris(&certificate).ok_or("its names cannot be read")?;
    let [uri] = uris.as_slice() else { return Err("it has not exactly one URI") };
    uri.parse().map_err(|_| "its URI is no SPIFFE ID")
}
