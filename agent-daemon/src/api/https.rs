// SPDX-License-Identifier: Apache-2.0 OR MIT

//! HTTPS for other machines: the bundle endpoint of the trust domain, by both profiles of
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md>, and OIDC discovery.
//!
//! What it serves is public, so nobody is asked who they are.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authority::{Lasting, json, not_allowed, plain, response, serve_connection};
use super::door::{Door, Limits, Who};
use crate::authority::{self, der_sequence};
use crate::diagnostic::with_sources;
use crate::node::{Node, OwnMark};
use crate::web::{HttpsEndpoint, Identity, Seen, Serves, Shown, Shows, server_config};

/// Whoever does not finish its handshake loses its place.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// One request and its answer: nobody needs longer, and whoever is slow takes a place from others.
const CONNECTION: Lasting = Lasting { keep_alive: false, longest: Duration::from_secs(15) };
/// The part of all places that one network may take: a half of a half.
const PART_OF_ONE: usize = 4;
/// How often the certificate that is shown is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// By this path below the trust domain others know the endpoint.
const ENDPOINT_PATH: &str = "bundle-endpoint";

/// Bound, not serving yet.
#[derive(Debug)]
pub struct Listener {
    listener: std::net::TcpListener,
    address: SocketAddr,
    shown: Arc<Shown>,
    config: HttpsEndpoint,
    places: Arc<Semaphore>,
    door: Door,
}

impl Listener {
    /// Binds, and reads the certificate where it is in files.
    ///
    /// # Errors
    /// When the address cannot be bound, or the files are of no use.
    pub fn bind(config: HttpsEndpoint) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shown = Arc::new(Shown::default());
        if let Shows::Files(files) = &config.shows {
            files.show(&shown, &mut None).map_err(io::Error::other)?;
        }
        let places = Arc::new(Semaphore::new(config.max_connections));
        let connections = config.max_connections;
        let door = Door::new(Limits { connections, connections_of_one: connections.div_ceil(PART_OF_ONE) });
        Ok(Self { listener, address, shown, config, places, door })
    }

    /// As it was bound: with the port that was given.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is served.
    pub fn serves(&self) -> &Serves {
        &self.config.serves
    }

    /// Serves until cancelled. Connections run on `tracker` and end with `cancel` too.
    ///
    /// # Errors
    /// When no connection can be accepted any more.
    pub async fn run(self, node: Arc<Node>, cancel: CancellationToken, tracker: TaskTracker) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener)?;
        let tls = server_config(Arc::clone(&self.shown)).map_err(io::Error::other)?;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let serves = Arc::new(self.config.serves);
        let accepting = async {
            loop {
                // A place first: what has none waits in the kernel's bounded queue.
                let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
                let (stream, from) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        super::serve::after_accept_error(&error).await;
                        continue;
                    }
                };
                let entered = match self.door.enter(Who::from_address(from.ip())) {
                    Ok(entered) => entered,
                    Err(reason) => {
                        tracing::debug!(reason, "a connection of another machine was turned away");
                        continue;
                    }
                };
                let (node, serves, token) = (Arc::clone(&node), Arc::clone(&serves), cancel.clone());
                let acceptor = acceptor.clone();
                tracker.spawn(async move {
                    let shaken = tokio::select! {
                        () = token.cancelled() => return,
                        shaken = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)) => shaken,
                    };
                    match shaken {
                        Ok(Ok(stream)) => {
                            let answer = move |request: Request<Incoming>| {
                                let (node, serves) = (Arc::clone(&node), Arc::clone(&serves));
                                async move { answer(&node, &serves, &request) }
                            };
                            serve_connection(stream, token, CONNECTION, answer).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                    drop((entered, place));
                });
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = accepting => {}
            () = keep_shown(&self.shown, &self.config.shows, &node) => {}
        }
        Ok(())
    }
}

/// Shows the newest certificate, as long as the server runs.
async fn keep_shown(shown: &Arc<Shown>, shows: &Shows, node: &Arc<Node>) {
    let mut seen: Option<Seen> = None;
    let mut own: Option<OwnMark> = None;
    let mut last_error = None;
    loop {
        let (to, node) = (Arc::clone(shown), Arc::clone(node));
        let done = match shows {
            Shows::Files(files) => {
                let (files, mut so_far) = (files.clone(), seen);
                let done = tokio::task::spawn_blocking(move || files.show(&to, &mut so_far).map(|_| so_far)).await;
                done.map(|shown| shown.map(|so_far| seen = so_far).map_err(|error| with_sources(&error)))
            }
            Shows::Svid if own.as_ref().is_some_and(|own| node.is_current(own)) => Ok(Ok(())),
            Shows::Svid => {
                let done = tokio::task::spawn_blocking(move || show_svid(&to, &node)).await;
                done.map(|shown| shown.map(|made| own = Some(made)))
            }
        };
        match done.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => last_error = None,
            Err(error) if last_error.as_ref() != Some(&error) => {
                tracing::error!(%error, "the certificate of an HTTPS endpoint cannot be renewed");
                last_error = Some(error);
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn show_svid(shown: &Shown, node: &Node) -> Result<OwnMark, String> {
    let own = node.own_svid(ENDPOINT_PATH).map_err(|error| with_sources(&error))?;
    let chain = der_sequence(&own.svid.chain).ok_or("bug: our own chain cannot be read")?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    shown.show(Identity::new(chain, &own.svid.key).map_err(|error| with_sources(&error))?);
    Ok(own.mark())
}

fn answer(node: &Node, serves: &Serves, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let found = match serves {
        Serves::Bundle => matches!(path, "/" | "/bundle.json")
            .then(|| response(StatusCode::OK, "application/json", node.authority.bundle().document.clone())),
        Serves::Oidc { issuer } => oidc(node, issuer, path),
    };
    match (found, request.method()) {
        (None, _) => plain(StatusCode::NOT_FOUND, "there is nothing of that name\n"),
        (Some(found), &Method::GET) => found,
        (Some(_), _) => not_allowed("GET"),
    }
}

/// <https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfig>: below the path of the issuer.
fn oidc(node: &Node, issuer: &str, path: &str) -> Option<Response<Full<Bytes>>> {
    let base = issuer.trim_end_matches('/');
    let own = base.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let path = if own.is_empty() { path } else { path.strip_prefix('/')?.strip_prefix(own)? };
    let document = match path {
        "/.well-known/openid-configuration" => serde_json::to_vec(&json!({
            "issuer": issuer,
            "jwks_uri": format!("{base}/jwks.json"),
            // Nobody signs in here; the members have to be there.
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }))
        .map_err(authority::Error::Json),
        "/jwks.json" => node.authority.jwt.jwks(),
        _ => return None,
    };
    Some(match document {
        Ok(document) => json(StatusCode::OK, document),
        Err(error) => {
            tracing::error!(%error, "a document for verifiers cannot be written");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "it cannot be written\n")
        }
    })
}
