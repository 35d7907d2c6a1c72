// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The HTTP endpoint for those who check tokens.

use agent_daemon::testing::Setup;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::served::{Served, soon};
use super::{release, token};

/// Status and body of one request.
async fn http(served: &Served, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(&served.verifiers).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon("it answers", stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

async fn introspect(served: &Served, form: &str) -> (u16, String) {
    let head = "POST /introspect HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let kind = "Content-Type: application/x-www-form-urlencoded";
    http(served, &format!("{head}{kind}\r\nContent-Length: {}\r\n\r\n{form}", form.len())).await
}

#[tokio::test]
async fn the_key_set_and_introspection_agree_with_what_was_released() {
    let served = Served::new(Setup::default());
    let token = token(&release(&served.t).await);
    let (status, jwks) = http(&served, "GET /jwks.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!((status, jwks.as_bytes()), (200, served.t.node.authority.jwt.jwks().unwrap().as_slice()));
    assert!(!jwks.contains("\"d\""), "no private key");
    let (status, bundle) = http(&served, "GET /bundle.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let bundle: Value = serde_json::from_str(&bundle).unwrap();
    let uses: Vec<&str> = bundle["keys"].as_array().unwrap().iter().map(|key| key["use"].as_str().unwrap()).collect();
    assert_eq!((status, uses), (200, vec!["x509-svid", "jwt-svid"]));
    let (status, body) = introspect(&served, &format!("token={token}")).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["active"], &body["token_type"]), (200, &true.into(), &"Bearer".into()));
    assert_eq!(body["sub"], "spiffe://example.org/agent/a");
    let _lost = served.t.kernel.exit(served.t.tgid);
    let (status, body) = introspect(&served, &format!("token={token}")).await;
    assert_eq!((status, body.as_str()), (200, r#"{"active":false}"#), "and it tells nothing else");
}

#[tokio::test]
async fn everything_else_is_refused() {
    let served = Served::new(Setup::default());
    let close = "Host: x\r\nConnection: close\r\n";
    for (expected, request) in [
        (404, format!("GET / HTTP/1.1\r\n{close}\r\n")),
        (404, format!("GET /../etc/passwd HTTP/1.1\r\n{close}\r\n")),
        (405, format!("POST /jwks.json HTTP/1.1\r\n{close}Content-Length: 0\r\n\r\n")),
        (405, format!("PUT /bundle.json HTTP/1.1\r\n{close}Content-Length: 0\r\n\r\n")),
        (405, format!("GET /introspect?token=x HTTP/1.1\r\n{close}\r\n")),
        (415, format!("POST /introspect HTTP/1.1\r\n{close}Content-Length: 7\r\n\r\ntoken=x")),
        (400, "nonsense\r\n\r\n".to_owned()),
    ] {
        assert_eq!(http(&served, &request).await.0, expected, "{request}");
    }
    assert_eq!(introspect(&served, "").await.0, 400);
    assert_eq!(introspect(&served, "token=a&token=b").await.0, 400);
    assert_eq!(introspect(&served, &format!("token={}", "x".repeat(20_000))).await.0, 413);
    let (status, body) = introspect(&served, "token=x").await;
    assert_eq!((status, body.as_str()), (200, r#"{"active":false}"#));
}

#[tokio::test]
async fn verifiers_that_say_nothing_hold_up_neither_others_nor_the_end() {
    let served = Served::new(Setup::default());
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(UnixStream::connect(&served.verifiers).await.unwrap());
    }
    let (status, _) = http(&served, "GET /jwks.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status, 200);
    served.stop().await;
    drop(silent);
}
