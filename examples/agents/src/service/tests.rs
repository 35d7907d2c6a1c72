// SPDX-License-Identifier: Apache-2.0 OR MIT

use http_body_util::{BodyExt, Limited};
use hyper::header::HeaderValue;

use super::*;
use crate::token::tests::{Minter, NOW, claims, expected, header as token_header};

/// An authority on loopback that knows one set of keys and gives one answer to every introspection.
struct FakeAuthority {
    address: Authority,
    _tasks: JoinSet<()>,
}

async fn authority(jwks: Value, introspection: (StatusCode, String)) -> FakeAuthority {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Authority::Loopback(listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (jwks, introspection) = (jwks.to_string(), introspection.clone());
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (jwks, introspection) = (jwks.clone(), introspection.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let (status, body) = match (parts.method, parts.uri.path()) {
                        (Method::GET, "/jwks.json") => (StatusCode::OK, jwks),
                        (Method::POST, "/introspect") => {
                            let form = Limited::new(body, 16 * 1024).collect().await.unwrap().to_bytes();
                            assert!(form.starts_with(b"token=ey"));
                            introspection
                        }
                        _ => (StatusCode::NOT_FOUND, String::new()),
                    };
                    let mut response = Response::new(Full::new(Bytes::from(body)));
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                }
            });
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        }
    });
    FakeAuthority { address, _tasks: tasks }
}

fn api(authority: &FakeAuthority) -> Api {
    let api_key = Some(ApiKey::new(b"correct horse").unwrap());
    Api { expected: expected(), authority: authority.address.clone(), api_key, now: || NOW }
}

fn headers(values: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in values {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn said(value: Value) -> (StatusCode, String) {
    (StatusCode::OK, value.to_string())
}

#[tokio::test]
async fn a_good_and_active_token_gets_the_report() {
    let minter = Minter::new();
    let authority = authority(minter.jwks(), said(json!({"active": true, "jti": "lease-1"}))).await;
    let shown = headers(&[("authorization", &format!("Bearer {}", minter.mint(&token_header(), &claims())))]);
    let (status, body) = api(&authority).answer(&Method::GET, "/reports/today", &shown).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["served_to"], "spiffe://example.org/agent/report-writer");
    assert_eq!(body["jti"], "lease-1");
}

#[tokio::test]
async fn only_a_clear_active_lets_a_token_through() {
    let minter = Minter::new();
    let cases = [
        (said(json!({"active": false})), StatusCode::UNAUTHORIZED, "inactive"),
        (said(json!({"active": true, "jti": "lease-2"})), StatusCode::UNAUTHORIZED, "inactive"),
        (said(json!({"active": true, "sub": "spiffe://example.org/x"})), StatusCode::UNAUTHORIZED, "inactive"),
        (said(json!({"active": "true"})), StatusCode::SERVICE_UNAVAILABLE, "authority_unavailable"),
        (said(json!({})), StatusCode::SERVICE_UNAVAILABLE, "authority_unavailable"),
        ((StatusCode::OK, "yes".into()), StatusCode::SERVICE_UNAVAILABLE, "authority_unavailable"),
        (
            (StatusCode::INTERNAL_SERVER_ERROR, json!({"active": true}).to_string()),
            StatusCode::SERVICE_UNAVAILABLE,
            "authority_unavailable",
        ),
        ((StatusCode::OK, " ".repeat(70_000)), StatusCode::SERVICE_UNAVAILABLE, "authority_unavailable"),
    ];
    let shown = headers(&[("authorization", &format!("Bearer {}", minter.mint(&token_header(), &claims())))]);
    for (introspection, status, reason) in cases {
        let what = introspection.1.chars().take(60).collect::<String>();
        let authority = authority(minter.jwks(), introspection).await;
        let answer = api(&authority).answer(&Method::GET, "/reports/today", &shown).await;
        assert_eq!((answer.0, &answer.1["reason"]), (status, &json!(reason)), "{what}");
    }
}

#[tokio::test]
async fn a_token_that_fails_its_checks_is_refused_with_the_reason() {
    let minter = Minter::new();
    let authority = authority(minter.jwks(), said(json!({"active": true}))).await;
    let api = api(&authority);
    let good = minter.mint(&token_header(), &claims());
    let foreign = Minter::new().mint(&token_header(), &claims());
    let mut late = claims();
    late["exp"] = json!(NOW - 1);
    let late = minter.mint(&token_header(), &late);
    let cases = [
        (vec![], "missing_token"),
        (vec![format!("Basic {good}")], "missing_token"),
        (vec![good.clone()], "missing_token"),
        (vec![format!("Bearer {good}"), format!("Bearer {good}")], "missing_token"),
        (vec!["Bearer nonsense".to_owned()], "malformed_token"),
        (vec![format!("Bearer {foreign}")], "bad_signature"),
        (vec![format!("Bearer {late}")], "expired"),
    ];
    for (values, reason) in cases {
        let shown: Vec<_> = values.iter().map(|value| ("authorization", value.as_str())).collect();
        let (status, body) = api.answer(&Method::GET, "/reports/today", &headers(&shown)).await;
        assert_eq!((status, &body["reason"]), (StatusCode::UNAUTHORIZED, &json!(reason)), "{values:?}");
    }
}

#[tokio::test]
async fn nobody_is_let_in_when_the_authority_is_away() {
    let minter = Minter::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Authority::Loopback(listener.local_addr().unwrap());
    drop(listener);
    let api = Api { expected: expected(), authority: address, api_key: None, now: || NOW };
    let shown = headers(&[("authorization", &format!("Bearer {}", minter.mint(&token_header(), &claims())))]);
    let (status, _) = api.answer(&Method::GET, "/reports/today", &shown).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_static_path_takes_exactly_its_key() {
    let authority = authority(json!({"keys": []}), said(json!({"active": true}))).await;
    let api = api(&authority);
    let cases: [(&[(&str, &str)], StatusCode); 5] = [
        (&[("x-api-key", "correct horse")], StatusCode::OK),
        (&[("x-api-key", "correct hors")], StatusCode::UNAUTHORIZED),
        (&[("x-api-key", "")], StatusCode::UNAUTHORIZED),
        (&[("x-api-key", "correct horse"), ("x-api-key", "correct horse")], StatusCode::UNAUTHORIZED),
        (&[], StatusCode::UNAUTHORIZED),
    ];
    for (shown, expected) in cases {
        assert_eq!(api.answer(&Method::GET, "/static", &headers(shown)).await.0, expected, "{shown:?}");
    }
    let without = Api { api_key: None, ..api };
    let shown = headers(&[("x-api-key", "correct horse")]);
    assert_eq!(without.answer(&Method::GET, "/static", &shown).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let authority = authority(json!({"keys": []}), said(json!({"active": true}))).await;
    let api = api(&authority);
    for (method, path, expected) in [
        (Method::POST, "/reports/today", StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/reports", StatusCode::NOT_FOUND),
        (Method::GET, "//reports/today", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(api.answer(&method, path, &HeaderMap::new()).await.0, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn the_api_answers_over_tls_to_a_client_that_trusts_its_authority() {
    let minter = Minter::new();
    let authority = authority(minter.jwks(), said(json!({"active": true}))).await;
    let served = crate::tls::serve_localhost().unwrap();
    let ca = std::env::temp_dir().join(format!("example-agents-{}-ca.pem", std::process::id()));
    std::fs::write(&ca, &served.ca_pem).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(serve(listener, TlsAcceptor::from(served.config), Arc::new(api(&authority)), std::future::pending()));

    let token = minter.mint(&token_header(), &claims());
    let call = |name: &'static str| {
        let (ca, token) = (ca.clone(), token.clone());
        async move {
            let stream = std::net::TcpStream::connect(address).unwrap();
            let how = crate::fetch::Presentation::Bearer;
            crate::fetch::get(stream, name, &ca, "/reports/today", how, token.as_bytes()).await
        }
    };
    let good = call("localhost").await.unwrap();
    let wrong_name = call("other.example").await;
    std::fs::remove_file(&ca).unwrap();
    assert_eq!((good.status, &good.body["jti"]), (200, &json!("lease-1")));
    assert!(wrong_name.is_err());
}
