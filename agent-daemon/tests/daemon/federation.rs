// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bundles of other trust domains: who gets them, whose tokens they verify, and what is refused.

use std::time::Duration;

use agent_daemon::audit::Caller;
use agent_daemon::authority::{SigningKey, TrustBundle};
use agent_daemon::node::{Invalid, Known, Part, Wanted};
use agent_daemon::testing::{Setup, TestNode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ring::rand::SystemRandom;
use serde_json::{Value, json};

use super::served::until;

const AUDIENCE: &str = "https://reports.example";

fn setup(federates_with: &str) -> Setup {
    let base = super::spiffe::setup(1);
    let entries = base.entries.replace("groups", &format!("federates_with = [{federates_with}]\ngroups"));
    Setup { entries, ..base }
}

/// A partner's JWT key and X.509 authority.
struct Partner {
    key: SigningKey,
    root: Vec<u8>,
}

impl Partner {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().to_vec();
        Self { key: SigningKey::generate(&SystemRandom::new()).unwrap(), root }
    }

    fn document(&self, sequence: u64) -> Value {
        let mut jwt = serde_json::to_value(self.key.public_jwk()).unwrap();
        jwt["use"] = json!("jwt-svid");
        let x509 = json!({"use": "x509-svid", "kty": "EC", "x5c": [STANDARD.encode(&self.root)]});
        let unknown = json!({"use": "wit-svid", "kty": "OKP"});
        json!({"keys": [x509, jwt, unknown, {"kty": "EC"}], "spiffe_sequence": sequence, "more": 1})
    }

    fn bundle(&self, trust_domain: &str) -> TrustBundle {
        TrustBundle::parse(trust_domain.parse().unwrap(), self.document(1).to_string().as_bytes()).unwrap()
    }

    fn token(&self, t: &TestNode, change: impl FnOnce(&mut Value)) -> String {
        let now = t.node.clock.now().as_second();
        let mut claims = json!({"sub": "spiffe://partner.example/a", "aud": [AUDIENCE], "iat": now, "exp": now + 60});
        change(&mut claims);
        self.key.sign_jwt("JWT", &claims).unwrap()
    }
}

#[tokio::test]
async fn only_whoever_federates_with_a_trust_domain_gets_its_bundle() {
    let partner = Partner::new();
    for (federates_with, expected) in [("\"partner.example\"", 1), ("", 0), ("\"other.example\"", 0)] {
        let t = setup(federates_with).build();
        t.node.set_bundle(partner.bundle("partner.example"), Caller::default()).unwrap();
        let svids = t.node.x509_svids(&t.peer(), &Wanted::All, &[]).await.unwrap();
        assert_eq!(svids.bundles.foreign.len(), expected, "{federates_with}");
        for foreign in &svids.bundles.foreign {
            assert_eq!(foreign.x509, partner.root);
        }
        assert_eq!(t.last("bundle")["operation"], "set");
    }
}

#[tokio::test]
async fn a_change_of_a_bundle_wakes_the_streams_of_who_federates_with_it_and_its_removal_too() {
    let t = setup("\"partner.example\"").build();
    let peer = t.peer();
    let stream = t.node.open_stream(&peer).unwrap();
    let mut changes = t.node.changes();
    assert!(changes.tell(&t.node.bundles(&peer).await.unwrap(), Part::X509, t.node.clock.now()));
    let set = |partner: &Partner, name: &str, sequence| {
        let document = partner.document(sequence).to_string();
        let bundle = TrustBundle::parse(name.parse().unwrap(), document.as_bytes()).unwrap();
        t.node.set_bundle(bundle, Caller::default()).unwrap();
    };
    let mut partner = Partner::new();
    set(&partner, "partner.example", 1);
    assert!(t.node.wait(&stream, &mut changes, None).await);
    let bundles = t.node.bundles(&peer).await.unwrap();
    assert_eq!(bundles.foreign.len(), 1);
    assert!(changes.tell(&bundles, Part::X509, t.node.clock.now()));
    // None of these is anything to a caller that is told of authorities that sign certificates.
    set(&Partner::new(), "other.example", 1);
    set(&partner, "partner.example", 2);
    partner.key = Partner::new().key;
    set(&partner, "partner.example", 3);
    let sleeps = tokio::time::timeout(Duration::from_millis(300), t.node.wait(&stream, &mut changes, None)).await;
    assert!(sleeps.is_err(), "it woke for nothing");
    assert!(!changes.tell(&t.node.bundles(&peer).await.unwrap(), Part::X509, t.node.clock.now()));
    assert!(t.node.remove_bundle(&"partner.example".parse().unwrap(), Caller::default()).unwrap());
    assert!(t.node.wait(&stream, &mut changes, None).await);
    assert_eq!(t.node.bundles(&peer).await.unwrap().foreign.len(), 0);
    assert_eq!(t.last("bundle")["operation"], "remove");
}

#[tokio::test]
async fn a_foreign_token_is_good_only_by_the_bundle_of_its_own_trust_domain_for_whoever_federates_with_it() {
    let (partner, stranger) = (Partner::new(), Partner::new());
    let t = setup("\"partner.example\", \"stranger.example\"").build();
    t.node.set_bundle(partner.bundle("partner.example"), Caller::default()).unwrap();
    t.node.set_bundle(stranger.bundle("stranger.example"), Caller::default()).unwrap();
    t.node.set_bundle(partner.bundle("unnamed.example"), Caller::default()).unwrap();
    let peer = t.peer();
    let validate = async |token: &str| match t.node.validate(&peer, token, AUDIENCE).await.unwrap() {
        Ok((id, _)) => id.to_string(),
        Err(Invalid::Token(why)) => why.to_owned(),
    };
    let now = t.node.clock.now().as_second();
    assert_eq!(validate(&partner.token(&t, |_| {})).await, "spiffe://partner.example/a");
    // Others write a single audience without a list, and fractions of seconds.
    let lax = partner.token(&t, |claims| {
        claims["aud"] = json!(AUDIENCE);
        claims["exp"] = json!(now as f64 + 0.5);
    });
    assert_eq!(validate(&lax).await, "spiffe://partner.example/a");
    let with = |member: &'static str, value: Value| partner.token(&t, move |claims| claims[member] = value);
    for (token, expected) in [
        (stranger.token(&t, |_| {}), "key is unknown"),
        (with("sub", json!("spiffe://stranger.example/a")), "key is unknown"),
        (with("sub", json!("spiffe://unnamed.example/a")), "no bundle of its trust domain is for the caller"),
        // A partner's key never speaks for the own trust domain.
        (with("sub", json!("spiffe://example.org/agent/a")), "key is unknown"),
        (with("sub", json!("partner.example")), "its subject is no SPIFFE ID"),
        (with("aud", json!(["https://elsewhere.example"])), "it is for another audience"),
        (with("aud", json!({})), "it is for another audience"),
        (with("exp", json!(now)), "it is over"),
        (with("exp", Value::Null), "a time is no number"),
        (with("exp", json!("tomorrow")), "a time is no number"),
        (with("nbf", json!(now + 61)), "it is not good yet"),
        (with("iat", json!(now + 61)), "it is not good yet"),
        ("a.b".to_owned(), "not a compact JWS"),
    ] {
        assert_eq!(validate(&token).await, expected);
    }
    let endless = partner.token(&t, |claims| drop(claims.as_object_mut().unwrap().remove("exp")));
    assert_eq!(validate(&endless).await, "it has no end");
}

#[test]
fn what_is_wrong_with_a_bundle_is_said() {
    let partner = Partner::new();
    let parse =
        |document: &Value| TrustBundle::parse("partner.example".parse().unwrap(), document.to_string().as_bytes());
    let good = parse(&partner.document(7)).unwrap();
    assert_eq!((good.sequence, good.jwt_authorities, good.roots.len()), (Some(7), 1, 1), "what is unknown is left out");
    assert_eq!(parse(&json!({"keys": []})).unwrap().roots.len(), 0, "a trust domain without authorities is one");
    let with = |change: fn(&mut Value)| {
        let mut document = partner.document(1);
        change(&mut document);
        document
    };
    for (document, words) in [
        (json!([]), "it is no bundle"),
        (json!({}), "it is no bundle"),
        (json!({"keys": {}}), "it is no bundle"),
        (json!({"keys": vec![json!({}); 1025]}), "1025 keys are too many"),
        (with(|d| d["spiffe_sequence"] = json!(-1)), "it is no bundle"),
        (with(|d| d["keys"][0]["x5c"] = json!([])), "not exactly one certificate"),
        (with(|d| d["keys"][0]["x5c"] = json!(["AAAA"])), "cannot be read"),
        (with(|d| d["keys"][0]["x5c"] = json!(["!"])), "not base64"),
        (with(|d| d["keys"][1]["kid"] = json!("")), "has no kid"),
        (with(|d| d["keys"][2] = d["keys"][1].clone()), "two keys have the kid"),
    ] {
        let error = parse(&document).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("partner.example"), "{words}: {error}");
    }
    assert!(TrustBundle::parse("a.example".parse().unwrap(), &vec![b' '; 300_000]).is_err());
    let root = partner.document(1)["keys"][0].clone();
    assert_eq!(parse(&json!({"keys": vec![root; 64]})).unwrap().roots.len(), 64);
    // What another machine wrote does not fill a log.
    let long = "x".repeat(100_000);
    let key = json!({"use": "jwt-svid", "kid": long});
    for document in [json!({"keys": [key, key]}), json!({"keys": long}), json!(long)] {
        let error = parse(&document).unwrap_err().to_string();
        assert!(error.len() < 400, "{error}");
    }
}

#[tokio::test]
async fn the_own_bundle_is_not_set_and_one_that_cannot_be_fetched_is_recorded_once() {
    let federation = r#"
        [[federation]]
        trust_domain = "partner.example"
        url = "http://127.0.0.1:1/bundle"
        profile = "https_web"

        [[federation]]
        trust_domain = "other.example"
        url = "https://192.0.2.1/bundle"
        profile = "https_spiffe"
        endpoint_id = "spiffe://other.example/endpoint"
    "#;
    let base = setup("\"partner.example\"");
    // There are no roots of the web in a test, and the file need not be there: this one speaks plainly on loopback.
    let t = Setup { entries: base.entries.clone() + federation, ..base }.build();
    let refused = t.node.set_bundle(Partner::new().bundle("example.org"), Caller::default());
    assert!(refused.unwrap_err().to_string().contains("the own trust domain"));
    let known = |name: &str| t.node.federation(&name.parse().unwrap()).unwrap_or_default();
    let cancel = tokio_util::sync::CancellationToken::new();
    tokio::select! {
        () = t.node.federate(cancel.clone()) => {}
        () = until("both were tried", || known("partner.example").error.is_some() && known("other.example").error.is_some()) => {}
    }
    let Known { error, next_at, .. } = known("other.example");
    assert!(error.unwrap().contains("agentctl spiffe bundle set"));
    assert!(next_at.unwrap() > t.node.clock.now());
    let records = t.records_of("bundle");
    assert!(records.iter().all(|record| record["outcome"] == "deny"), "{records:?}");
    t.clock.advance(Duration::from_secs(5));
    tokio::select! {
        () = t.node.federate(cancel) => {}
        () = until("it was tried again", || known("other.example").next_at > next_at) => {}
    }
    assert_eq!(t.records_of("bundle").len(), records.len(), "one record for one thing that is wrong");
}

/// Answers each request with the next of these, and with the last for ever.
fn serve(answers: Vec<String>) -> std::net::SocketAddr {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (served, mut stream) in listener.incoming().flatten().enumerate() {
            let mut request = Vec::new();
            let mut part = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut part) {
                    Ok(length) if length > 0 => request.extend_from_slice(&part[..length]),
                    _ => break,
                }
            }
            let answer = answers.get(served).or(answers.last()).cloned().unwrap_or_default();
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    address
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn what_an_endpoint_answers_wrongly_is_refused_and_the_last_good_bundle_goes_on() {
    let partner = Partner::new();
    let good = |sequence| answer("200 OK", &partner.document(sequence).to_string());
    let elsewhere = serve(vec![good(99)]);
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\nContent-Length: 0\r\n\r\n");
    let large = answer("200 OK", &format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(300_000)));
    let endless = answer("200 OK", &"x".repeat(1_100_000));
    let steps = [
        (good(5), None, 5),
        (good(4), Some("older than what is known (sequence 4 after 5)"), 5),
        (moved, Some("it answered 302"), 5),
        (answer("500 Oops", "{}"), Some("it answered 500"), 5),
        (answer("200 OK", "[]"), Some("it is no bundle"), 5),
        (large, Some("more than 262144 bytes"), 5),
        (endless, Some("larger than 1048576 bytes"), 5),
        ("nonsense".to_owned(), Some("no answer"), 5),
        (good(6), None, 6),
    ];
    let endpoint = serve(steps.iter().map(|(answer, ..)| answer.clone()).collect());
    let federation = format!(
        "[[federation]]\ntrust_domain = \"partner.example\"\nurl = \"http://{endpoint}/\"\nprofile = \"https_web\"\n"
    );
    let base = setup("\"partner.example\"");
    // A file of roots, because a test has none of the web; nobody is believed by it here.
    let roots = tempfile::NamedTempFile::new().unwrap();
    let pem = KeyPair::generate().and_then(|key| CertificateParams::default().self_signed(&key)).unwrap().pem();
    std::fs::write(roots.path(), pem).unwrap();
    let web_roots = Some(roots.path().to_owned());
    let t = Setup { entries: base.entries.clone() + &federation, web_roots, ..base }.build();
    let domain = "partner.example".parse().unwrap();
    for (place, (_, error, sequence)) in steps.iter().enumerate() {
        let before = t.node.federation(&domain).and_then(|known| known.next_at);
        let cancel = tokio_util::sync::CancellationToken::new();
        tokio::select! {
            () = t.node.federate(cancel) => {}
            () = until("it was fetched", || t.node.federation(&domain).is_some_and(|known| known.next_at > before)) => {}
        }
        let known = t.node.federation(&domain).unwrap();
        assert!(known.error.as_deref().unwrap_or_default().contains(error.unwrap_or_default()), "{place}: {known:?}");
        assert_eq!(known.error.is_some(), error.is_some(), "{place}: {known:?}");
        assert_eq!(t.node.foreign.bundle(&domain).unwrap().sequence, Some(*sequence), "{place}");
        t.clock.advance(Duration::from_secs(301));
    }
    let outcomes: Vec<Value> = t.records_of("bundle").iter().map(|record| record["outcome"].clone()).collect();
    assert_eq!((outcomes.first(), outcomes.last()), (Some(&json!("allow")), Some(&json!("allow"))));
    assert_eq!(outcomes.len(), steps.len(), "each is news");
}
