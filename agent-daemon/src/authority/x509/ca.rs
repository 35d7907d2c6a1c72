// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A CA of our own: a P-256 key and the self-signed certificate of the trust domain.

use std::fmt;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::rand::SystemRandom;
use rustls_pki_types::PrivatePkcs8KeyDer;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::super::Error;
use super::super::generations::Generation;
use super::super::key::generate_pkcs8;
use super::super::schedule::Life;
use crate::identity::TrustDomain;

/// The key's length stands before it, the certificate after it.
const LENGTH_BYTES: usize = 2;

/// One CA, ready to sign.
pub(super) struct LocalCa {
    pub(super) number: u32,
    pub(super) life: Life,
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
}

impl LocalCa {
    /// A new one, in the form in which it is sealed.
    pub(super) fn generate(trust_domain: &TrustDomain, life: Life) -> Result<Zeroizing<Vec<u8>>, Error> {
        let document = generate_pkcs8(&SystemRandom::new())?;
        let key = key_pair(&document)?;
        let certificate = params(trust_domain, life, &key)?.self_signed(&key).map_err(Error::Certificate)?;
        let length = u16::try_from(document.len()).map_err(|_| Error::Crypto { operation: "write a CA key" })?;
        let size = LENGTH_BYTES.saturating_add(document.len()).saturating_add(certificate.der().len());
        let mut content = Zeroizing::new(Vec::with_capacity(size));
        content.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(&document);
        content.extend_from_slice(certificate.der());
        Ok(content)
    }

    /// What [`Self::generate`] made.
    pub(super) fn read(generation: &Generation, trust_domain: &TrustDomain) -> Result<Self, Error> {
        let damaged = || Error::Unseal { name: format!("CA {}", generation.number) };
        let (length, rest) = generation.content.split_first_chunk::<LENGTH_BYTES>().ok_or_else(damaged)?;
        let (document, certificate) = rest.split_at_checked(u16::from_be_bytes(*length).into()).ok_or_else(damaged)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| damaged())?;
        let moment =
            |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).map_err(|_| damaged());
        let validity = parsed.validity();
        // The file's own time, not the certificate's, which begins a little earlier.
        let life = Life { begins_at: generation.created_at, ends_at: moment(validity.not_after)? };
        let key = key_pair(document)?;
        let params = params(trust_domain, life, &key)?;
        Ok(Self {
            number: generation.number,
            life,
            issuer: Issuer::new(params, key),
            certificate: certificate.to_vec(),
        })
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// DER.
    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").field("number", &self.number).field("life", &self.life).finish_non_exhaustive()
    }
}

fn key_pair(document: &[u8]) -> Result<KeyPair, Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(document), &PKCS_ECDSA_P256_SHA256)
        .map_err(Error::Certificate)
}

/// One trust domain may have many nodes with a CA each, and each has several in its life: the name tells them apart.
fn params(trust_domain: &TrustDomain, life: Life, key: &KeyPair) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let fingerprint: String = params.key_identifier(key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, format!("agent-daemon {fingerprint}"));
    let uri = format!("spiffe://{trust_domain}").try_into().map_err(Error::Certificate)?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    // What is below a CA of ours are SVIDs, never another CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = moment(super::svid::backdated(life.begins_at))?;
    params.not_after = moment(life.ends_at)?;
    Ok(params)
}

/// Rounded down to whole seconds, as certificates have them.
pub(super) fn moment(time: Timestamp) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(time.as_second())
        .map_err(|_| Error::Crypto { operation: "write a time into a certificate" })
}
