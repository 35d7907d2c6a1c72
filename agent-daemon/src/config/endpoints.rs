// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is served to other machines over HTTPS.

use std::path::Path;

use super::Checks;
use super::file::ConfigFile;
use super::upstreams::needed;
use super::value::FilePath;
use super::words::BundleProfile;
use crate::web::{CertificateFiles, HttpsEndpoint, Serves, Shows};

impl ConfigFile {
    /// The listeners. What is missing is reported, and stands empty here.
    pub(super) fn https(&self, base: &Path, checks: &mut Checks<'_>) -> Vec<HttpsEndpoint> {
        let mut listeners = Vec::new();
        let bundle = &self.bundle_endpoint;
        if let Some(listen) = bundle.listen {
            let files = ("bundle_endpoint", bundle.certificate_file.as_ref(), bundle.key_file.as_ref());
            let shows = match bundle.profile {
                BundleProfile::Spiffe => Shows::Svid,
                BundleProfile::Web => shown_files(files, base, checks),
            };
            let max_connections = bundle.max_connections.usize();
            listeners.push(HttpsEndpoint { listen, shows, serves: Serves::Bundle, max_connections });
        }
        let oidc = &self.oidc;
        if let Some(listen) = oidc.listen {
            let shows = shown_files(("oidc", oidc.certificate_file.as_ref(), oidc.key_file.as_ref()), base, checks);
            let issuer = self.issuer.as_ref().map(|issuer| issuer.0.clone()).unwrap_or_default();
            if !issuer.starts_with("https://") || issuer.contains(['?', '#']) {
                let message = "OIDC discovery needs an issuer that starts with https://, without ? and #".to_owned();
                checks.error(&["oidc", "listen"], message, "issuer = \"https://issuer.example.org\" at the top");
            }
            let max_connections = oidc.max_connections.usize();
            listeners.push(HttpsEndpoint { listen, shows, serves: Serves::Oidc { issuer }, max_connections });
        }
        listeners
    }
}

fn shown_files(
    (table, certificate, key): (&'static str, Option<&FilePath>, Option<&FilePath>),
    base: &Path,
    checks: &mut Checks<'_>,
) -> Shows {
    let certificate = needed(certificate, [table, "certificate_file"], checks);
    let key = needed(key, [table, "key_file"], checks);
    let below = |path: Option<FilePath>| path.map(|path| path.below(base)).unwrap_or_default();
    Shows::Files(CertificateFiles { certificate: below(certificate), key: below(key) })
}
