// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The HTTP endpoint for those who verify what we mint: the key set (RFC 7517), the SPIFFE trust bundle and
//! introspection (RFC 7662), on a Unix socket or the loopback interface.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::form::{Form, Unread};
use crate::node::Node;

const HEADER_BYTES: usize = 16 * 1024;
const HEADER_TIME: Duration = Duration::from_secs(5);
const MAX_CONNECTION_TIME: Duration = Duration::from_secs(300);
/// For the last answer to be read. Whoever never reads would otherwise keep its place for ever.
const FAREWELL_TIME: Duration = Duration::from_secs(5);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket that every local process may reach.
    Unix(PathBuf),
    /// A loopback address.
    Loopback(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => write!(f, "http://{address}"),
        }
    }
}

/// Where, and how many at once.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub address: Address,
    /// Connections at once.
    pub max_connections: usize,
}

/// Bound, not serving yet.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
enum Socket {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

enum Polled {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(config: &Config) -> io::Result<Self> {
        let (socket, address) = match &config.address {
            Address::Unix(path) => (Socket::Unix(super::serve::bind(path, 0o666)?), config.address.clone()),
            Address::Loopback(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let bound = listener.local_addr()?;
                (Socket::Tcp(listener), Address::Loopback(bound))
            }
        };
        Ok(Self { socket, address, places: Arc::new(Semaphore::new(config.max_connections)) })
    }

    /// As it was bound: with the port that was given.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Serves until cancelled. Connections run on `tracker` and end with `cancel` too.
    ///
    /// # Errors
    /// When no connection can be accepted any more.
    pub async fn run(self, node: Arc<Node>, cancel: CancellationToken, tracker: TaskTracker) -> io::Result<()> {
        let socket = match self.socket {
            Socket::Unix(listener) => Polled::Unix(UnixListener::from_std(listener)?),
            Socket::Tcp(listener) => Polled::Tcp(TcpListener::from_std(listener)?),
        };
        loop {
            // A place first: what has none waits in the kernel's bounded queue.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return Ok(()) };
            let (node, token) = (Arc::clone(&node), cancel.clone());
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                accepted = accept(&socket) => match accepted {
                    Ok(Accepted::Unix(io)) => {
                        tracker.spawn(async move { connection(io, node, token).await; drop(place); });
                    }
                    Ok(Accepted::Tcp(io)) => {
                        tracker.spawn(async move { connection(io, node, token).await; drop(place); });
                    }
                    Err(error) => super::serve::after_accept_error(&error).await,
                }
            }
        }
    }
}

enum Accepted {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

async fn accept(socket: &Polled) -> io::Result<Accepted> {
    match socket {
        Polled::Unix(listener) => listener.accept().await.map(|(io, _)| Accepted::Unix(io)),
        Polled::Tcp(listener) => listener.accept().await.map(|(io, _)| Accepted::Tcp(io)),
    }
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin, node: Arc<Node>, cancel: CancellationToken) {
    let answer = move |request| {
        let node = Arc::clone(&node);
        async move { answer(&node, request).await }
    };
    let lasting = Lasting { keep_alive: true, longest: MAX_CONNECTION_TIME };
    serve_connection(io, cancel, lasting, answer).await;
}

/// How long a connection stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lasting {
    /// Whether it may carry more than one request.
    pub(super) keep_alive: bool,
    /// In all.
    pub(super) longest: Duration,
}

/// One connection, bounded in time and in what it may send.
pub(super) async fn serve_connection<F: Future<Output = Response<Full<Bytes>>>>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    cancel: CancellationToken,
    lasting: Lasting,
    answer: impl Fn(Request<Incoming>) -> F,
) {
    let service = service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(lasting.keep_alive)
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let finished = tokio::select! {
        result = connection.as_mut() => Some(result),
        () = tokio::time::sleep(lasting.longest) => None,
        () = cancel.cancelled() => None,
    };
    let result = match finished {
        Some(result) => result,
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(FAREWELL_TIME, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a verifier's connection ended early");
    }
}

async fn answer(node: &Arc<Node>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/jwks.json") => match node.authority.jwt.jwks() {
            Ok(jwks) => json(StatusCode::OK, jwks),
            Err(error) => {
                tracing::error!(%error, "the key set cannot be written");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the key set cannot be written\n")
            }
        },
        (&Method::GET, "/bundle.json") => {
            response(StatusCode::OK, "application/json", node.authority.bundle().document.clone())
        }
        (&Method::POST, "/introspect") => introspect(node, request).await,
        (_, "/jwks.json" | "/bundle.json") => not_allowed("GET"),
        (_, "/introspect") => not_allowed("POST"),
        _ => plain(StatusCode::NOT_FOUND, "there are /jwks.json, /bundle.json and /introspect\n"),
    }
}

async fn introspect(node: &Arc<Node>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let form = match Form::read(request).await {
        Ok(form) => form,
        Err(Unread(status, text)) => return plain(status, text),
    };
    let Ok(Some(token)) = form.value("token") else {
        return json(StatusCode::BAD_REQUEST, br#"{"error":"invalid_request"}"#.to_vec());
    };
    match serde_json::to_vec(&node.introspect(&token)) {
        Ok(body) => json(StatusCode::OK, body),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the answer cannot be written\n"),
    }
}

pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    response(status, "application/json", body.into())
}

pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain", Bytes::from_static(text.as_bytes()))
}

pub(super) fn not_allowed(method: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "that method is not for this path\n");
    response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static(method));
    response
}

pub(super) fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
