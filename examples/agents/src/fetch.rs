// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One HTTPS request on a TCP connection that the caller opened earlier: the connection that the daemon was
//! shown is the connection that carries the credential.

use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How the API wants to see the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presentation {
    /// `Authorization: Bearer …`
    Bearer,
    /// `X-Api-Key: …`
    ApiKey,
}

/// What the API said, and the connection, which stays open until this is dropped.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; null when it is not JSON.
    pub body: Value,
    _open: (SendRequest<Empty<Bytes>>, JoinSet<()>),
}

/// Sends `GET path` over TLS with the credential.
pub async fn get(
    stream: TcpStream,
    server_name: &str,
    ca: &Path,
    path: &str,
    presentation: Presentation,
    credential: &[u8],
) -> anyhow::Result<Answer> {
    tokio::time::timeout(TIMEOUT, get_untimed(stream, server_name, ca, path, presentation, credential))
        .await
        .context("the API did not answer in time")?
}

async fn get_untimed(
    stream: TcpStream,
    server_name: &str,
    ca: &Path,
    path: &str,
    presentation: Presentation,
    credential: &[u8],
) -> anyhow::Result<Answer> {
    stream.set_nonblocking(true).context("cannot make the socket non-blocking")?;
    let stream = tokio::net::TcpStream::from_std(stream).context("cannot register the socket")?;
    let name = ServerName::try_from(server_name.to_owned()).context("the server's name is not a host name")?;
    let stream =
        TlsConnector::from(crate::tls::trusting(ca)?).connect(name, stream).await.context("TLS handshake failed")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake failed")?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its failure is seen by the request that waits for the answer.
        drop(connection.await);
    });

    let (header, value) = credential_header(presentation, credential)?;
    let request = hyper::Request::get(path)
        .header(hyper::header::HOST, server_name)
        .header(header, value)
        .body(Empty::<Bytes>::new())
        .context("the path is not valid")?;
    let response = sender.send_request(request).await.context("the API did not answer")?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
        .collect()
        .await
        .map_err(|cause| anyhow::anyhow!("cannot read the API's answer: {cause}"))?
        .to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Answer { status, body, _open: (sender, driver) })
}

fn credential_header(presentation: Presentation, credential: &[u8]) -> anyhow::Result<(HeaderName, HeaderValue)> {
    let (name, text) = match presentation {
        Presentation::Bearer => (hyper::header::AUTHORIZATION, [b"Bearer ", credential].concat()),
        Presentation::ApiKey => (HeaderName::from_static("x-api-key"), credential.to_vec()),
    };
    // The cause is left out: it would say where in the secret the wrong byte is.
    let mut value =
        HeaderValue::from_bytes(&text).map_err(|_| anyhow::anyhow!("the credential cannot go in a header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}
