// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The example API: what a service behind a destination has to do with the credentials it is shown.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::{hmac, rand};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Unavailable};
use crate::token::{self, Claims, Expected, Refusal};

const MAX_CONNECTIONS: usize = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// A static key, kept only as a tag under a random key: comparing tags takes the same time for every guess.
pub struct ApiKey {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl ApiKey {
    /// The key that callers of `/static` must show.
    pub fn new(secret: &[u8]) -> anyhow::Result<Self> {
        anyhow::ensure!(!secret.is_empty(), "the API key is empty");
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("no random numbers"))?;
        let tag = hmac::sign(&key, secret);
        Ok(Self { key, tag })
    }

    fn fits(&self, shown: &[u8]) -> bool {
        hmac::verify(&self.key, shown, self.tag.as_ref()).is_ok()
    }
}

/// The API's rules.
pub struct Api {
    /// What tokens must say.
    pub expected: Expected,
    /// Who signs them and knows whether they still hold.
    pub authority: Authority,
    /// For `/static`; without one that path refuses everybody.
    pub api_key: Option<ApiKey>,
    /// Seconds since 1970.
    pub now: fn() -> u64,
}

enum Denial {
    Refused(Refusal),
    Unavailable(Unavailable),
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unavailable> for Denial {
    fn from(cause: Unavailable) -> Self {
        Self::Unavailable(cause)
    }
}

impl Api {
    /// Answers one request. Bodies are never read: nothing here takes one.
    pub async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> (StatusCode, Value) {
        match (method, path) {
            (&Method::GET, "/reports/today") => match self.bearer(headers).await {
                Ok(claims) => {
                    let report = json!({"title": "Orders today", "orders": 42, "open": 7});
                    (StatusCode::OK, json!({"report": report, "served_to": claims.sub, "jti": claims.jti}))
                }
                Err(Denial::Refused(refusal)) => (StatusCode::UNAUTHORIZED, json!({"reason": refusal.reason()})),
                Err(Denial::Unavailable(cause)) => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    json!({"reason": "authority_unavailable", "detail": cause.to_string()}),
                ),
            },
            (&Method::GET, "/static") => {
                let shown = single(headers, "x-api-key");
                match (&self.api_key, shown) {
                    (Some(key), Some(shown)) if key.fits(shown) => (StatusCode::OK, json!({"report": "static"})),
                    _ => (StatusCode::UNAUTHORIZED, json!({"reason": "wrong_api_key"})),
                }
            }
            (_, "/reports/today" | "/static") => {
                (StatusCode::METHOD_NOT_ALLOWED, json!({"reason": "method_not_allowed"}))
            }
            _ => (StatusCode::NOT_FOUND, json!({"reason": "not_found"})),
        }
    }

    async fn bearer(&self, headers: &HeaderMap) -> Result<Claims, Denial> {
        let shown = single(headers, header::AUTHORIZATION.as_str()).ok_or(Refusal::Missing)?;
        let shown = std::str::from_utf8(shown).map_err(|_| Refusal::Malformed)?;
        let token = match shown.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token,
            _ => return Err(Refusal::Missing.into()),
        };
        let keys = self.authority.jwks().await?;
        let claims = token::check(token, &keys, &self.expected, (self.now)())?;
        // Last, because only a token with a good signature is worth asking about.
        let said = self.authority.introspect(token).await?;
        let same = said.sub.is_none_or(|sub| sub == claims.sub) && said.jti.is_none_or(|jti| jti == claims.jti);
        if said.active && same { Ok(claims) } else { Err(Refusal::Inactive.into()) }
    }
}

/// The header's value when it is there exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { Some(first.as_bytes()) }
}

/// Accepts and answers until `stop` is ready. Connections beyond the limit wait in the kernel's backlog.
pub async fn serve(listener: TcpListener, tls: TlsAcceptor, api: Arc<Api>, stop: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        while connections.try_join_next().is_some() {}
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = accept => accepted,
        };
        let (Ok(slot), Ok((stream, _))) = accepted else {
            // Most likely out of file descriptors: let others finish first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (tls, api) = (tls.clone(), Arc::clone(&api));
        connections.spawn(async move {
            let _slot = slot;
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await else { return };
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let api = Arc::clone(&api);
                async move {
                    let (status, body) = api.answer(request.method(), request.uri().path(), request.headers()).await;
                    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
                    *response.status_mut() = status;
                    let json = header::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    Ok::<_, Infallible>(response)
                }
            });
            // A client that breaks off harms only itself.
            drop(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .max_buf_size(MAX_HEADER_BYTES)
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

#[cfg(test)]
mod tests;
