// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The token endpoint for local runtimes: RFC 8693 token exchange, over HTTP/2 on the agents' socket.
//!
//! Nobody authenticates with a secret: the client is the attested caller, and the actor of the new token is the client.
//! <https://www.rfc-editor.org/rfc/rfc8693#section-2> has the names of parameters and answers,
//! <https://www.rfc-editor.org/rfc/rfc6749#section-5.2> those of errors.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::authority::{json, response};
use super::form::{Form, Repeated, Unread};
use super::status::caller;
use super::stream::CallerInfo;
use crate::attest::Failure;
use crate::authority::{self, MAX_TOKEN_BYTES};
use crate::credential::destination::MAX_AUDIENCE_BYTES;
use crate::node::{ExchangeAsk, ExchangeError, Node, Refusal, Released};
use crate::session::{MAX_SCOPE_BYTES, MAX_SCOPES};

/// Where it is.
pub(super) const PATH: &str = "/token";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const TRACEPARENT_BYTES: usize = 64;

/// Why there is no token: a status, a word of the standards, and a sentence.
struct Refused {
    status: StatusCode,
    error: &'static str,
    description: String,
    retry_after: Option<u64>,
}

impl Refused {
    fn new(status: StatusCode, error: &'static str, description: impl Into<String>) -> Self {
        Self { status, error, description: description.into(), retry_after: None }
    }

    fn invalid(description: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    fn answer(self) -> Response<Full<Bytes>> {
        let body = json!({ "error": self.error, "error_description": self.description });
        let mut response = json(self.status, body.to_string().into_bytes());
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Repeated> for Refused {
    fn from(_: Repeated) -> Self {
        Self::invalid("a parameter is there twice")
    }
}

impl From<ExchangeError> for Refused {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Token(_) => Self::invalid(error.to_string()),
            ExchangeError::Scope => Self::new(StatusCode::BAD_REQUEST, "invalid_scope", error.to_string()),
            ExchangeError::Refused(refusal) => Self::from(refusal),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let busy = |retry_after, description: String| Self {
            retry_after,
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable", description)
        };
        let unavailable =
            |description: String| Self::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description);
        match refusal {
            Refusal::Caller(failure) => Self::from(&failure),
            Refusal::Denied { .. } => Self::new(StatusCode::BAD_REQUEST, "invalid_target", refusal.to_string()),
            Refusal::RateLimited { retry_after } => {
                busy(Some(retry_after.as_secs().saturating_add(1)), refusal.to_string())
            }
            Refusal::Leases(_) => busy(None, refusal.to_string()),
            Refusal::Unavailable { .. } | Refusal::Audit(_) | Refusal::TooSlow => unavailable(refusal.to_string()),
            Refusal::Authority(authority::Error::NoSigner { .. }) => unavailable("nothing can sign it now".to_owned()),
            Refusal::Sessions(_) | Refusal::Steps(_) | Refusal::Authority(_) | Refusal::Bug(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal error")
            }
        }
    }
}

impl From<&Failure> for Refused {
    fn from(failure: &Failure) -> Self {
        match failure {
            Failure::Unresolvable(_) | Failure::OriginatorGone(_) | Failure::OriginatorMismatch(_) => {
                Self::new(StatusCode::UNAUTHORIZED, "invalid_client", caller(failure))
            }
            Failure::Incomplete | Failure::Records(_) | Failure::Io { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", caller(failure))
            }
        }
    }
}

/// Answers one request.
pub(super) async fn exchange(
    State((node, time)): State<(Arc<Node>, Duration)>,
    request: Request<axum::body::Body>,
) -> Response<Full<Bytes>> {
    let (traceparent, known) = (traceparent(&request), request.extensions().get::<CallerInfo>().cloned());
    let form = Form::read(request).await;
    match exchanged((&node, time), known, form, traceparent).await {
        Ok(released) => answer(&released).unwrap_or_else(Refused::answer),
        Err(refused) => refused.answer(),
    }
}

async fn exchanged(
    (node, time): (&Node, Duration),
    known: Option<CallerInfo>,
    form: Result<Form, Unread>,
    traceparent: Option<String>,
) -> Result<Released, Refused> {
    let known = known.ok_or_else(|| Refused::from(&Failure::Unresolvable("a caller without a connection")))?;
    let peer = known.peer().await.map_err(|failure| Refused::from(&failure))?;
    let form = form.map_err(|Unread(status, text)| Refused::new(status, "invalid_request", text));
    let asked = match form.and_then(|form| ask(&form, traceparent)) {
        Ok(asked) => asked,
        Err(refused) => {
            node.refuse_request("exchange", "bad_request", &refused.description, &peer);
            return Err(refused);
        }
    };
    Ok(node.exchange(&peer, ExchangeAsk { time: Some(time), ..asked }).await?)
}

fn ask(form: &Form, traceparent: Option<String>) -> Result<ExchangeAsk, Refused> {
    let is_token = |kind: &str| matches!(kind, ACCESS_TOKEN | JWT);
    let is_exchange = form.value("grant_type")?.is_some_and(|grant| *grant == EXCHANGE);
    if !is_exchange {
        let description = format!("grant_type: only {EXCHANGE}");
        return Err(Refused::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", description));
    }
    if form.value("actor_token")?.is_some() {
        return Err(Refused::invalid("actor_token: who acts is the caller, whom the kernel attests"));
    }
    if !form.value("subject_token_type")?.is_some_and(|kind| is_token(&kind)) {
        return Err(Refused::invalid(format!("subject_token_type: {ACCESS_TOKEN} or {JWT}")));
    }
    if form.value("requested_token_type")?.is_some_and(|kind| !is_token(&kind)) {
        return Err(Refused::invalid(format!("requested_token_type: {ACCESS_TOKEN} or {JWT}")));
    }
    let token = form.value("subject_token")?.ok_or_else(|| Refused::invalid("subject_token: required"))?;
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refused::invalid("subject_token: too long"));
    }
    let mut targets = form.values("audience").chain(form.values("resource")).filter(|target| !target.is_empty());
    let target = targets.next().ok_or_else(|| Refused::invalid("audience or resource: required"))?;
    if targets.next().is_some() {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "invalid_target", "one audience or resource at a time"));
    }
    if target.len() > MAX_AUDIENCE_BYTES || target.chars().any(char::is_control) {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "invalid_target", "no destination has such a name"));
    }
    let scopes = form.value("scope")?.map(|scope| scopes(&scope)).transpose()?;
    Ok(ExchangeAsk { token, audience: target.as_str().into(), scopes, traceparent, time: None })
}

fn scopes(text: &Zeroizing<String>) -> Result<Vec<Arc<str>>, Refused> {
    let scopes: Vec<Arc<str>> = text.split(' ').filter(|scope| !scope.is_empty()).map(Arc::from).collect();
    let is_fine = |scope: &Arc<str>| scope.len() <= MAX_SCOPE_BYTES && !scope.chars().any(char::is_control);
    if scopes.len() > MAX_SCOPES || !scopes.iter().all(is_fine) {
        return Err(Refused::new(StatusCode::BAD_REQUEST, "invalid_scope", "scope: too many or too long"));
    }
    Ok(scopes)
}

/// Of the request, where it is one: it is only a claim.
fn traceparent<B>(request: &Request<B>) -> Option<String> {
    let value = request.headers().get("traceparent")?.to_str().ok()?;
    (value.len() <= TRACEPARENT_BYTES).then(|| value.to_owned())
}

fn answer(released: &Released) -> Result<Response<Full<Bytes>>, Refused> {
    let bug = || Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal error");
    let token = std::str::from_utf8(&released.secret).map_err(|_| bug())?;
    let lease = &released.lease;
    let seconds = lease.expires_at.duration_since(lease.issued_at).as_secs();
    let mut body = Map::new();
    body.insert("access_token".to_owned(), token.into());
    body.insert("issued_token_type".to_owned(), ACCESS_TOKEN.into());
    body.insert("token_type".to_owned(), "Bearer".into());
    body.insert("expires_in".to_owned(), seconds.into());
    body.extend(released.scopes.as_ref().map(|scopes| ("scope".to_owned(), scopes.join(" ").into())));
    let body = serde_json::to_vec(&Value::Object(body)).map_err(|_| bug())?;
    Ok(response(StatusCode::OK, "application/json", body.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(form: &str) -> Result<ExchangeAsk, (StatusCode, &'static str)> {
        let form = Form::from(form.as_bytes());
        ask(&form, None).map_err(|refused| (refused.status, refused.error))
    }

    const GOOD: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=a.b.c\
        &subject_token_type=urn:ietf:params:oauth:token-type:access_token";

    #[test]
    fn a_request_in_the_words_of_the_standard_is_understood() {
        let ask = asked(&format!("{GOOD}&resource=https%3A%2F%2Fapi.example%2F&scope=a+b&other=1")).unwrap();
        assert_eq!((ask.token.as_str(), &*ask.audience), ("a.b.c", "https://api.example/"));
        assert_eq!(ask.scopes, Some(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn whatever_else_is_asked_for_is_refused_by_its_name() {
        let bad = StatusCode::BAD_REQUEST;
        for (form, error) in [
            (String::new(), "unsupported_grant_type"),
            (GOOD.replace("token-exchange", "device_code"), "unsupported_grant_type"),
            (GOOD.to_owned(), "invalid_request"),
            (format!("{GOOD}&audience=a&audience=b"), "invalid_target"),
            (format!("{GOOD}&audience=a&resource=b"), "invalid_target"),
            (format!("{GOOD}&audience={}", "a".repeat(MAX_AUDIENCE_BYTES + 1)), "invalid_target"),
            (format!("{GOOD}&audience=a%00"), "invalid_target"),
            (format!("{GOOD}&audience=a&actor_token=x&actor_token_type=y"), "invalid_request"),
            (format!("{GOOD}&audience=a&subject_token=again"), "invalid_request"),
            (
                format!("{GOOD}&audience=a&requested_token_type=urn:ietf:params:oauth:token-type:saml2"),
                "invalid_request",
            ),
            (format!("{GOOD}&audience=a").replace(":access_token", ":id_token"), "invalid_request"),
            (format!("{GOOD}&audience=a").replace("a.b.c", ""), "invalid_request"),
            (format!("{GOOD}&audience=a").replace("a.b.c", &"a".repeat(MAX_TOKEN_BYTES + 1)), "invalid_request"),
            (format!("{GOOD}&audience=a&scope={}", "a".repeat(MAX_SCOPE_BYTES + 1)), "invalid_scope"),
            (format!("{GOOD}&audience=a&scope={}", "a+".repeat(MAX_SCOPES + 1)), "invalid_scope"),
        ] {
            assert_eq!(asked(&form).map(|_| ()), Err((bad, error)), "{form}");
        }
    }
}
