// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Connections;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Trust;
use super::trust::client_config;
use crate::diagnostic::{with_sources, words};
use crate::url::Url;

/// From the first byte to the last of an answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
const CONNECT_TIME: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 1024 * 1024;

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

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The beginning of it, for people; no control characters.
    pub(crate) fn words(&self) -> String {
        words(&String::from_utf8_lossy(&self.body))
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
            Request::builder().method(method).uri(url.as_uri().clone()).header(header::ACCEPT, "application/json");
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
