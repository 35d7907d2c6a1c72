// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is served to other machines, where, and as whom.

use std::net::SocketAddr;
use std::path::PathBuf;

/// A certificate in files that somebody else keeps fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, the end first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// By what callers believe a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shows {
    /// A certificate of the web.
    Files(CertificateFiles),
    /// An X509-SVID of the own trust domain.
    Svid,
}

/// What a server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serves {
    /// The trust bundle.
    Bundle,
    /// The discovery document of this issuer, and its keys.
    Oidc {
        /// As in the tokens.
        issuer: String,
    },
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsEndpoint {
    /// Where.
    pub listen: SocketAddr,
    /// As whom.
    pub shows: Shows,
    /// What.
    pub serves: Serves,
    /// Connections at once.
    pub max_connections: usize,
}
