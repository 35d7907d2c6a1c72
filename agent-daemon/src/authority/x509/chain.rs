// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Chains of certificates, and whether they lead to a root.

use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring as algorithms};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

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
    let chain = der_sequence(chain).ok_or("it is not a chain of certificates")?;
    let certificates: Vec<CertificateDer<'_>> = chain.iter().map(|one| CertificateDer::from(one.as_slice())).collect();
    let (end, intermediates) = certificates.split_first().ok_or("there is no certificate")?;
    let roots: Vec<CertificateDer<'_>> = roots.iter().map(|root| CertificateDer::from(root.as_slice())).collect();
    let anchors: Vec<_> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let end = EndEntityCert::try_from(end).map_err(|error| error.to_string())?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let verified = end.verify_for_usage(ALGORITHMS, &anchors, intermediates, time, usage, None, None);
    verified.map(drop).map_err(|error| error.to_string())
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
