// SPDX-License-Identifier: Apache-2.0 OR MIT

//! TLS for the example API: a certificate authority that lives as long as the process, and clients that trust
//! nothing else. The crypto provider is named explicitly; nothing depends on a process-wide default.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A server configuration and the PEM of the authority that signed its certificate.
pub struct Served {
    /// For the listener.
    pub config: Arc<ServerConfig>,
    /// What clients must trust.
    pub ca_pem: String,
}

/// Makes an authority and a certificate for `localhost`; both keys exist only in memory.
pub fn serve_localhost() -> anyhow::Result<Served> {
    let ca_key = KeyPair::generate().context("cannot make the authority's key")?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "example API authority");
    let ca_certificate = ca.self_signed(&ca_key).context("cannot sign the authority's certificate")?;

    let leaf_key = KeyPair::generate().context("cannot make the server's key")?;
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, "example API");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Clients that check strictly (Python 3.13 and later) want it.
    leaf.use_authority_key_identifier_extension = true;
    let leaf_certificate = leaf
        .signed_by(&leaf_key, &Issuer::from_params(&ca, &ca_key))
        .context("cannot sign the server's certificate")?;

    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf_certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der())),
        )?;
    Ok(Served { config: Arc::new(config), ca_pem: ca_certificate.pem() })
}

/// A client that trusts only the authorities in this PEM file.
pub fn trusting(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("cannot read {}", ca.display()))? {
        roots.add(certificate.with_context(|| format!("{} is not PEM", ca.display()))?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "{} holds no certificate", ca.display());
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
