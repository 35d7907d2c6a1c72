// SPDX-License-Identifier: Apache-2.0 OR MIT

//! By what the other side of a TLS connection is believed.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::crypto::{self, CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use webpki::KeyUsage;

use super::Error;
use crate::authority::{spiffe_id, verify};
use crate::identity::SpiffeId;

/// A file of roots is smaller than this.
const MAX_ROOTS_BYTES: u64 = 4 * 1024 * 1024;

/// By what a server is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The roots of this machine, and the name in the address.
    System,
    /// The roots in a file, and the name in the address.
    File(PathBuf),
    /// The authorities of its trust domain, and its SPIFFE ID; the address means nothing.
    Spiffe {
        /// DER.
        roots: Vec<Vec<u8>>,
        /// Whom it has to be.
        id: SpiffeId,
    },
}

/// As whom a server is called, or a caller is met.
pub(crate) struct Identity(CertifiedKey);

impl Identity {
    /// Of a chain, the end first, and a key (PKCS#8, DER), which the caller wipes.
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Result<Self, Error> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let key = any_supported_type(&der).map_err(Error::Tls)?;
        Ok(Self(CertifiedKey::new(chain, key)))
    }

    pub(crate) fn into_certified(self) -> CertifiedKey {
        self.0
    }
}

/// Reads files; blocks for a moment.
pub(crate) fn client_config(trust: &Trust, identity: Option<Identity>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?;
    let builder = match trust {
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(Error::Roots("this machine has no roots (ca-certificates)".to_owned()));
            }
            builder.with_root_certificates(roots)
        }
        Trust::File(path) => {
            let wrong = |why: String| Error::Roots(format!("{}: {why}", path.display()));
            let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
            if size > MAX_ROOTS_BYTES {
                return Err(wrong(format!("more than {MAX_ROOTS_BYTES} bytes")));
            }
            let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let blocks = pem::parse_many(&text).map_err(|error| wrong(error.to_string()))?;
            let mut roots = RootCertStore::empty();
            let certificates = blocks.into_iter().filter(|block| block.tag() == "CERTIFICATE");
            roots.add_parsable_certificates(certificates.map(|block| CertificateDer::from(block.into_contents())));
            if roots.is_empty() {
                return Err(wrong("no certificates".to_owned()));
            }
            builder.with_root_certificates(roots)
        }
        Trust::Spiffe { roots, id } => {
            let verifier = SpiffeServer { roots: roots.clone(), id: id.clone(), provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    match identity {
        Some(Identity(key)) => Ok(builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))),
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Takes one SPIFFE ID of one trust domain for the server and nobody else.
#[derive(Debug)]
struct SpiffeServer {
    roots: Vec<Vec<u8>>,
    id: SpiffeId,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for SpiffeServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = spiffe_id(end_entity).map_err(|why| rustls::Error::General(format!("the server's SVID: {why}")))?;
        if found != self.id {
            return Err(rustls::Error::General(format!("the server is {found} and not {}", self.id)));
        }
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let now = Timestamp::from_second(seconds).map_err(|_| rustls::Error::FailedToGetCurrentTime)?;
        let chain = [end_entity].into_iter().chain(intermediates).flat_map(|one| one.iter().copied());
        verify(&chain.collect::<Vec<u8>>(), &self.roots, KeyUsage::server_auth(), now)
            .map_err(|why| rustls::Error::General(format!("the server's SVID does not verify: {why}")))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
