// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Connections;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::{Trust, client_config};
use crate::diagnostic::with_sources;

/// From the first byte to the last of an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
const CONNECT_TIME: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Of what a server says when it refuses.
const MAX_WORDS: usize = 200;
const MAX_URL_BYTES: usize = 2048;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The TLS library refused what it was given.
    #[error("cannot use TLS")]
    Tls(#[source] rustls::Error),
    /// What the server would be believed by is not there.
    #[error("cannot use the roots: {0}")]
    Roots(String),
    /// The request could not be written.
    #[error("cannot write the request")]
    Request(#[source] http::Error),
    /// Nobody answers, or not as TLS and HTTP want it.
    #[error("no answer: {0}")]
    Connection(String),
    /// It took too long.
    #[error("no answer within {} s", ANSWER_TIME.as_secs())]
    Timeout,
    /// It broke off, or is too large.
    #[error("the answer is larger than {MAX_BODY_BYTES} bytes or broke off")]
    Body,
}

/// An address that may be called: https, or http on this machine alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url(Uri);

impl Url {
    /// With something behind its path.
    pub(crate) fn join(&self, path: &str) -> Result<Self, Error> {
        let text = format!("{}{path}", self.0.to_string().trim_end_matches('/'));
        let uri = text.parse::<Uri>().map_err(|error| Error::Request(error.into()))?;
        Ok(Self(uri))
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_URL_BYTES {
            return Err("it is too long");
        }
        let uri: Uri = text.parse().map_err(|_| "it is not an address")?;
        let host = uri.host().ok_or("it has no host")?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("it may not hold a user");
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match uri.scheme_str() {
            Some("https") => Ok(Self(uri)),
            Some("http") if address.is_ok_and(|address| address.is_loopback()) => Ok(Self(uri)),
            Some("http") => Err("http is only for a loopback address; use https"),
            _ => Err("it does not start with https://"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The beginning of it, for people; no control characters.
    pub(crate) fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        text.chars().filter(|character| !character.is_control()).take(MAX_WORDS).collect()
    }
}

/// Calls one server, each time on a connection of its own.
pub(crate) struct Client {
    connections: Connections<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// # Errors
    /// When there is nothing to believe the server by.
    pub(crate) fn new(trust: &Trust) -> Result<Self, Error> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIME));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(client_config(trust, None)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let connections = Connections::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { connections })
    }

    pub(crate) async fn get(&self, url: &Url, headers: &[(&'static str, &str)]) -> Result<Answer, Error> {
        self.send(Method::GET, url, headers, Bytes::new()).await
    }

    /// Sends JSON. Header values never appear in a log.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> Result<Answer, Error> {
        self.send(Method::POST, url, headers, body.into()).await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Answer, Error> {
        let mut request =
            Request::builder().method(method).uri(url.0.clone()).header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in headers {
            let mut value = header::HeaderValue::from_str(value).map_err(|error| Error::Request(error.into()))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).map_err(Error::Request)?;
        let answered = async {
            let answer =
                self.connections.request(request).await.map_err(|error| Error::Connection(with_sources(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_BODY_BYTES).collect().await.map_err(|_| Error::Body)?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        tokio::time::timeout(ANSWER_TIME, answered).await.unwrap_or(Err(Error::Timeout))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_leaves_this_machine() {
        for (text, is_good) in [
            ("https://bao.example:8200", true),
            ("https://bao.example/base", true),
            ("http://127.0.0.1:8200", true),
            ("http://[::1]:8200", true),
            ("http://localhost:8200", false),
            ("http://bao.example", false),
            ("http://127.0.0.1.example", false),
            ("https://user:word@bao.example", false),
            ("ftp://bao.example", false),
            ("/etc/passwd", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Url>().is_ok(), is_good, "{text}");
        }
        let base: Url = "https://bao.example/base/".parse().unwrap();
        assert_eq!(base.join("/v1/x").unwrap().to_string(), "https://bao.example/base/v1/x");
    }
}
