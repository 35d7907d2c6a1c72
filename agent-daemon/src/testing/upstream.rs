// SPDX-License-Identifier: Apache-2.0 OR MIT

//! An authority above the node's, which signs rightly or wrongly, or not at all.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use super::FakeClock;
use crate::authority::{CaRequest, Error, Origin, Signed};
use crate::clock::Clock as _;
use crate::upstream::Upstream;

/// How it signs.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The URI in the certificate.
    pub uri: String,
    /// Whether it is a CA's.
    pub is_ca: bool,
    /// How long it lives, in place of what was asked for.
    pub life: Option<Duration>,
    /// Whether it is for another key.
    pub other_key: bool,
    /// Whether the root goes with it.
    pub with_root: bool,
    /// Why it does not sign.
    pub fails: Option<String>,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            uri: format!("spiffe://{}", super::TRUST_DOMAIN),
            is_ca: true,
            life: None,
            other_key: false,
            with_root: true,
            fails: None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct FakeUpstream {
    clock: Arc<FakeClock>,
    began_at: Timestamp,
    root: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    signing: Mutex<Signing>,
    asked: AtomicU32,
}

impl FakeUpstream {
    /// Its root lives for so long.
    pub fn new(clock: Arc<FakeClock>, life: Duration) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "upstream");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = moment(clock.now()) - Duration::from_secs(60);
        params.not_after = moment(clock.now()) + life;
        let certificate = params.self_signed(&key).expect("a root").der().to_vec();
        let began_at = clock.now();
        Self {
            clock,
            began_at,
            root: Issuer::new(params, key),
            certificate,
            signing: Mutex::default(),
            asked: AtomicU32::new(0),
        }
    }

    /// When it was made.
    pub fn began_at(&self) -> Timestamp {
        self.began_at
    }

    /// Its root, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// From now on.
    pub fn set(&self, signing: Signing) {
        *self.signing.lock().unwrap_or_else(PoisonError::into_inner) = signing;
    }

    /// How often it was asked.
    pub fn asked(&self) -> u32 {
        // ORDER: a count that nothing depends on.
        self.asked.load(Ordering::Relaxed)
    }

    /// What it says to a request.
    ///
    /// # Errors
    /// When it is to fail.
    pub fn answer(&self, request: &CaRequest) -> Result<Signed, Error> {
        // ORDER: a count that nothing depends on.
        self.asked.fetch_add(1, Ordering::Relaxed);
        let signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reason) = signing.fails {
            return Err(Error::Upstream { origin: self.origin(), reason });
        }
        let asked = CertificateSigningRequestParams::from_pem(&request.csr_pem).expect("a request");
        let mut params = asked.params;
        params.subject_alt_names = vec![SanType::URI(signing.uri.as_str().try_into().expect("a URI"))];
        if !signing.is_ca {
            params.is_ca = IsCa::ExplicitNoCa;
        }
        params.not_before = moment(self.clock.now()) - Duration::from_secs(10);
        params.not_after = moment(self.clock.now()) + signing.life.unwrap_or(request.lifetime);
        let other = KeyPair::generate().expect("a key");
        let certificate = if signing.other_key {
            params.signed_by(&other, &self.root)
        } else {
            params.signed_by(&asked.public_key, &self.root)
        };
        let mut certificates = vec![certificate.expect("a certificate").der().to_vec()];
        if signing.with_root {
            certificates.push(self.certificate.clone());
        }
        Ok(Signed { certificates, roots: Vec::new() })
    }
}

impl Upstream for Arc<FakeUpstream> {
    fn origin(&self) -> Origin {
        FakeUpstream::origin(self)
    }

    fn sign<'a>(&'a self, request: &'a CaRequest) -> BoxFuture<'a, Result<Signed, Error>> {
        Box::pin(async move { self.answer(request) })
    }
}

impl FakeUpstream {
    /// It passes for an OpenBao.
    pub fn origin(&self) -> Origin {
        Origin::OpenBao
    }
}

fn moment(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).expect("a time")
}
