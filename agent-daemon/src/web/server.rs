// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What this daemon shows to whoever calls it over TLS, and may be replaced while it serves.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::crypto;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{CertificateFiles, Error, Identity};
use crate::authority::file;
use crate::authority::given::{Given, Kind, MAX_PEM_BYTES};

/// The certificate that is shown now; none until there is one.
#[derive(Debug, Default)]
pub(crate) struct Shown(ArcSwapOption<CertifiedKey>);

impl Shown {
    /// From now on: a chain, the end first, and its key.
    pub(crate) fn set(&self, chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), Error> {
        let certified = CertifiedKey::from_der(chain, key, &crypto::ring::default_provider()).map_err(Error::Tls)?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }

    /// From now on.
    pub(crate) fn show(&self, identity: Identity) {
        self.0.store(Some(Arc::new(identity.into_certified())));
    }
}

#[derive(Debug)]
struct Resolver(Arc<Shown>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.0.load_full()
    }
}

/// For servers that ask nobody who they are: what they serve is public.
pub(crate) fn server_config(shown: Arc<Shown>) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(Resolver(shown)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What shows that the files are others.
pub(crate) type Seen = [file::Seen; 2];

impl CertificateFiles {
    /// Shows what is in the files, when they are not those that were seen last. Blocks.
    pub(crate) fn show(&self, shown: &Shown, seen: &mut Option<Seen>) -> Result<bool, Error> {
        let wrong = |path: &Path, error: &dyn std::fmt::Display| Error::Roots(format!("{}: {error}", path.display()));
        let open = |path: &Path, kind| Given::open(path, kind).map_err(|error| wrong(path, &error));
        let (certificate, key) = (open(&self.certificate, Kind::Public)?, open(&self.key, Kind::Secret)?);
        let found = [certificate.seen, key.seen];
        if *seen == Some(found) {
            return Ok(false);
        }
        let read = |path: &Path, given: Given| given.read(MAX_PEM_BYTES).map_err(|error| wrong(path, &error));
        let (chain, key) = (read(&self.certificate, certificate)?, read(&self.key, key)?);
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| wrong(&self.certificate, &error))?;
        if chain.is_empty() {
            return Err(wrong(&self.certificate, &"it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| wrong(&self.key, &error))?;
        shown.set(chain, key)?;
        *seen = Some(found);
        Ok(true)
    }
}
