// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon's public side as an API sees it: `GET /jwks.json` and `POST /introspect` (RFC 7662), over a Unix
//! socket or loopback HTTP.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::token::Jwks;

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Where the authority listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// `unix:/path`
    Unix(PathBuf),
    /// `http://127.0.0.1:port`; loopback only, since nothing protects the answer on the way.
    Loopback(SocketAddr),
}

/// What introspection said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    /// True only when the token is good at this moment.
    pub active: bool,
    /// The subject, when active.
    pub sub: Option<String>,
    /// The token's id, when active.
    pub jti: Option<String>,
}

/// The authority could not be asked, or its answer was not one.
#[derive(Debug)]
pub struct Unavailable(String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the token authority is unavailable: {}", self.0)
    }
}

impl std::error::Error for Unavailable {}

impl FromStr for Authority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || format!("expected unix:/path or http://127.0.0.1:port, found {text}");
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(expected()) };
        }
        let address: SocketAddr = text
            .strip_prefix("http://")
            .and_then(|rest| rest.trim_end_matches('/').parse().ok())
            .ok_or_else(expected)?;
        if address.ip().is_loopback() { Ok(Self::Loopback(address)) } else { Err(expected()) }
    }
}

impl Authority {
    /// The keys that sign tokens now. Fetched for every request: an API under load would keep them for a while.
    pub async fn jwks(&self) -> Result<Jwks, Unavailable> {
        let body = self.exchange(Method::GET, "/jwks.json", Bytes::new()).await?;
        Jwks::parse(&body).map_err(Unavailable)
    }

    /// Whether this token is still good. Anything but a clear answer is an error, never "active".
    ///
    /// The token must have been checked for its form: it goes into a form body as it is.
    pub async fn introspect(&self, token: &str) -> Result<Introspection, Unavailable> {
        let body = self.exchange(Method::POST, "/introspect", Bytes::from(format!("token={token}"))).await?;
        let answer: Value =
            serde_json::from_slice(&body).map_err(|_| Unavailable("introspection did not answer JSON".into()))?;
        let active = answer
            .get("active")
            .and_then(Value::as_bool)
            .ok_or_else(|| Unavailable("introspection did not say whether the token is active".into()))?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Introspection { active, sub: text("sub"), jti: text("jti") })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Unavailable> {
        let asked = async {
            match self {
                Self::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(|cause| Unavailable(cause.to_string()))?;
                    exchange_on(TokioIo::new(stream), method, path, body).await
                }
                Self::Loopback(address) => {
                    let stream = TcpStream::connect(address).await.map_err(|cause| Unavailable(cause.to_string()))?;
                    exchange_on(TokioIo::new(stream), method, path, body).await
                }
            }
        };
        tokio::time::timeout(TIMEOUT, asked).await.map_err(|_| Unavailable("no answer in time".into()))?
    }
}

async fn exchange_on<S>(stream: S, method: Method, path: &str, body: Bytes) -> Result<Bytes, Unavailable>
where
    S: Read + Write + Unpin + Send + 'static,
{
    let failed = |cause: hyper::Error| Unavailable(cause.to_string());
    let (mut sender, connection) = http1::handshake(stream).await.map_err(failed)?;
    // Dropped with this future, and the connection with it.
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Full::new(body))
        .map_err(|cause| Unavailable(cause.to_string()))?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(Unavailable(format!("{path} answered {}", response.status())));
    }
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
        .collect()
        .await
        .map_err(|_| Unavailable(format!("{path} answered more than {MAX_BODY_BYTES} bytes or broke off")))?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_unix_socket_or_loopback_is_an_authority() {
        let cases = [
            ("unix:/run/a.sock", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080/", true),
            ("unix:a.sock", false),
            ("http://10.0.0.1:8080", false),
            ("https://127.0.0.1:8080", false),
            ("http://localhost:8080", false),
        ];
        for (text, accepted) in cases {
            assert_eq!(text.parse::<Authority>().is_ok(), accepted, "{text}");
        }
    }
}
