// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A CA that signs here: its key, its certificate, and the way from there to what others trust.

use std::fmt;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use ring::rand::SystemRandom;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::super::Error;
use super::super::generations::Generation;
use super::super::key::generate_pkcs8;
use super::super::schedule::Life;
use super::Origin;
use super::adopt::Path;
use super::chain::der_sequence;
use crate::identity::TrustDomain;

/// One CA, ready to sign.
pub(super) struct Ca {
    /// Of its generation; those of files have none.
    pub(super) number: u32,
    pub(super) life: Life,
    pub(super) origin: Origin,
    issuer: Issuer<'static, KeyPair>,
    presented: Vec<u8>,
    /// What verifies it, DER; never empty.
    pub(super) roots: Vec<Vec<u8>>,
}

impl Ca {
    /// Of a key and the way to what is trusted.
    ///
    /// # Errors
    /// When the library does not take the key or the certificate.
    pub(super) fn new(number: u32, life: Life, origin: Origin, key: &[u8], path: Path) -> Result<Self, Error> {
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key)).map_err(Error::Certificate)?;
        let certificate = path.presented.first().or(path.roots.first());
        let certificate = certificate.ok_or(Error::Crypto { operation: "read a CA without a certificate" })?;
        let certificate = CertificateDer::from(certificate.as_slice());
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(Error::Certificate)?;
        Ok(Self { number, life, origin, issuer, presented: path.presented.concat(), roots: path.roots })
    }

    pub(super) fn read(generation: &Generation) -> Result<Self, Error> {
        let damaged = || Error::Unseal { name: format!("CA {}", generation.number) };
        let stored = Stored::read(&generation.content).ok_or_else(damaged)?;
        // The file's own time, not the certificate's, which begins a little earlier.
        let life = Life { begins_at: generation.created_at, ends_at: stored.ends_at };
        Self::new(generation.number, life, stored.origin, stored.key, stored.path)
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What goes behind every certificate that it signs: the way to the root, DER one after the other.
    pub(super) fn presented(&self) -> &[u8] {
        &self.presented
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("number", &self.number)
            .field("life", &self.life)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A CA as it is sealed: who made it, when it ends, the key, how many certificates are presented, those, and the
/// roots.
pub(super) struct Stored<'a> {
    pub(super) origin: Origin,
    pub(super) ends_at: Timestamp,
    pub(super) key: &'a [u8],
    pub(super) path: Path,
}

impl<'a> Stored<'a> {
    pub(super) fn write(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let too_large = || Error::Crypto { operation: "write a CA" };
        let key_length = u16::try_from(self.key.len()).map_err(|_| too_large())?;
        let presented = u8::try_from(self.path.presented.len()).map_err(|_| too_large())?;
        let certificates = || self.path.presented.iter().chain(&self.path.roots);
        let size = certificates().map(Vec::len).sum::<usize>().saturating_add(self.key.len()).saturating_add(12);
        // The whole capacity at once: a vector that grows leaves copies of a key behind.
        let mut content = Zeroizing::new(Vec::with_capacity(size));
        content.push(self.origin.code());
        content.extend_from_slice(&self.ends_at.as_second().to_be_bytes());
        content.extend_from_slice(&key_length.to_be_bytes());
        content.extend_from_slice(self.key);
        content.push(presented);
        certificates().for_each(|certificate| content.extend_from_slice(certificate));
        Ok(content)
    }

    fn read(content: &'a [u8]) -> Option<Self> {
        let (origin, rest) = content.split_first()?;
        let (ends_at, rest) = rest.split_first_chunk::<8>()?;
        let ends_at = Timestamp::from_second(i64::from_be_bytes(*ends_at)).ok()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (presented, certificates) = rest.split_first()?;
        let mut presented_ones = der_sequence(certificates)?;
        let roots = presented_ones.split_off((*presented).into());
        let path = Path { presented: presented_ones, roots };
        (!path.roots.is_empty()).then_some(Self { origin: Origin::from_code(*origin)?, ends_at, key, path })
    }
}

/// A CA that nobody else signed, in the form in which it is sealed.
pub(super) fn generate(trust_domain: &TrustDomain, life: Life) -> Result<Zeroizing<Vec<u8>>, Error> {
    let document = generate_pkcs8(&SystemRandom::new())?;
    let key = key_pair(&document)?;
    let mut params = params(trust_domain, &key)?;
    params.not_before = moment(super::svid::backdated(life.begins_at))?;
    params.not_after = moment(life.ends_at)?;
    let certificate = params.self_signed(&key).map_err(Error::Certificate)?;
    let path = Path { presented: Vec::new(), roots: vec![certificate.der().to_vec()] };
    Stored { origin: Origin::Embedded, ends_at: life.ends_at, key: &document, path }.write()
}

/// Asks for a certificate with everything that a CA of ours has. PEM.
pub(super) fn request(trust_domain: &TrustDomain, key: &[u8]) -> Result<String, Error> {
    let key = key_pair(key)?;
    let request = params(trust_domain, &key)?.serialize_request(&key).map_err(Error::Certificate)?;
    request.pem().map_err(Error::Certificate)
}

fn key_pair(document: &[u8]) -> Result<KeyPair, Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(document), &PKCS_ECDSA_P256_SHA256)
        .map_err(Error::Certificate)
}

/// One trust domain may have many nodes with a CA each, and each has several in its life: the name tells them apart.
fn params(trust_domain: &TrustDomain, key: &KeyPair) -> Result<CertificateParams, Error> {
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
    Ok(params)
}

/// Rounded down to whole seconds, as certificates have them.
pub(super) fn moment(time: Timestamp) -> Result<OffsetDateTime, Error> {
    OffsetDateTime::from_unix_timestamp(time.as_second())
        .map_err(|_| Error::Crypto { operation: "write a time into a certificate" })
}
