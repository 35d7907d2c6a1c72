// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::super::Error;
use super::super::key::generate_pkcs8;
use super::super::schedule::Life;
use super::ca::moment;
use crate::identity::SpiffeId;

/// A verifier whose clock is a little behind must not refuse what was issued a moment ago.
const BACKDATE: SignedDuration = SignedDuration::from_secs(10);

/// <https://www.secg.org/sec1-v2.pdf> section 2.3.3
const POINT_BYTES: usize = 65;
const NOT_COMPRESSED: u8 = 4;

/// For whom a certificate is.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The only URI in it.
    pub spiffe_id: &'a SpiffeId,
    /// From the registration entry.
    pub dns_names: &'a [Arc<str>],
    /// Ties the certificate to its lease.
    pub serial: &'a [u8],
    /// From when.
    pub begins_at: Timestamp,
    /// Until when; in whole seconds, rounded down.
    pub ends_at: Timestamp,
}

/// A certificate with its private key. Prints neither.
pub struct X509Svid {
    /// The certificate and the intermediates, DER one after the other.
    pub chain: Vec<u8>,
    /// PKCS#8, DER.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("X509Svid(\"...\")")
    }
}

/// What a certificate says of its key; the private half never gets near the writer of certificates.
struct PublicKey(Vec<u8>);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// Makes a key and a certificate for it.
pub(super) fn issue(
    issuer: &Issuer<'_, impl SigningKey>,
    presented: &[u8],
    life: Life,
    subject: &Subject<'_>,
) -> Result<X509Svid, Error> {
    if subject.ends_at > life.ends_at {
        return Err(Error::Outlives { ends_at: life.ends_at });
    }
    let key = generate_pkcs8(&SystemRandom::new())?;
    let public = PublicKey(public_half(&key)?.to_vec());
    let certificate = params(subject)?.signed_by(&public, issuer).map_err(Error::Certificate)?;
    Ok(X509Svid { chain: [certificate.der(), presented].concat(), key })
}

/// The public half of a P-256 key that was just made. It stands at the end, as a point that is not compressed; to read
/// the key would derive it a second time.
///
/// <https://www.rfc-editor.org/rfc/rfc5915#section-3>
fn public_half(pkcs8: &[u8]) -> Result<&[u8; POINT_BYTES], Error> {
    let point = pkcs8.last_chunk().filter(|point: &&[u8; POINT_BYTES]| point.first() == Some(&NOT_COMPRESSED));
    point.ok_or(Error::Crypto { operation: "read a key that was just made" })
}

fn params(subject: &Subject<'_>) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, subject.spiffe_id.trust_domain().as_str());
    let uri = subject.spiffe_id.as_str().try_into().map_err(Error::Certificate)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    for name in subject.dns_names {
        params.subject_alt_names.push(SanType::DnsName((&**name).try_into().map_err(Error::Certificate)?));
    }
    params.serial_number = Some(SerialNumber::from_slice(subject.serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = moment(backdated(subject.begins_at))?;
    params.not_after = moment(subject.ends_at)?;
    Ok(params)
}

pub(super) fn backdated(begins_at: Timestamp) -> Timestamp {
    begins_at.saturating_sub(BACKDATE).unwrap_or(begins_at)
}
