// SPDX-License-Identifier: Apache-2.0 OR MIT

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::*;

pub(crate) const NOW: u64 = 1_800_000_000;
pub(crate) const AUDIENCE: &str = "https://reports.example";
pub(crate) const SUBJECT: &str = "spiffe://example.org/agent/report-writer";

/// An authority's signing key.
pub(crate) struct Minter {
    key: EcdsaKeyPair,
}

impl Minter {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self { key: EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap() }
    }

    pub(crate) fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        }]})
    }

    fn keys(&self) -> Jwks {
        Jwks::parse(self.jwks().to_string().as_bytes()).unwrap()
    }

    pub(crate) fn mint(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

pub(crate) fn header() -> Value {
    json!({"alg": "ES256", "typ": "JWT", "kid": "k1"})
}

pub(crate) fn claims() -> Value {
    json!({"sub": SUBJECT, "aud": [AUDIENCE], "iat": NOW - 10, "exp": NOW + 60, "jti": "lease-1"})
}

pub(crate) fn expected() -> Expected {
    Expected { audience: AUDIENCE.into(), trust_domain: "example.org".into(), issuer: None }
}

fn with(mut value: Value, member: &str, to: Value) -> Value {
    value[member] = to;
    value
}

fn without(mut value: Value, member: &str) -> Value {
    value.as_object_mut().unwrap().remove(member);
    value
}

#[test]
fn a_good_token_is_accepted() {
    let minter = Minter::new();
    for claims in [claims(), with(claims(), "aud", json!(AUDIENCE)), with(claims(), "nbf", json!(NOW))] {
        let accepted = check(&minter.mint(&header(), &claims), &minter.keys(), &expected(), NOW).unwrap();
        assert_eq!(accepted, Claims { sub: SUBJECT.into(), jti: "lease-1".into(), exp: NOW + 60 });
    }
}

#[test]
fn each_wrong_claim_is_refused() {
    let minter = Minter::new();
    let cases = [
        (with(claims(), "aud", json!("https://other.example")), Refusal::Audience),
        (with(claims(), "aud", json!([])), Refusal::Audience),
        (with(claims(), "aud", json!([["https://reports.example"]])), Refusal::Audience),
        (without(claims(), "aud"), Refusal::Audience),
        (with(claims(), "exp", json!(NOW)), Refusal::Expired),
        (with(claims(), "exp", json!(-1)), Refusal::Malformed),
        (with(claims(), "exp", json!("1900000000")), Refusal::Malformed),
        (without(claims(), "exp"), Refusal::Malformed),
        (with(claims(), "nbf", json!(NOW + 1)), Refusal::NotYetValid),
        (with(claims(), "nbf", json!("soon")), Refusal::Malformed),
        (with(claims(), "sub", json!("spiffe://example.org.evil.net/agent")), Refusal::Subject),
        (with(claims(), "sub", json!("spiffe://example.org")), Refusal::Subject),
        (with(claims(), "sub", json!("spiffe://other.org/agent")), Refusal::Subject),
        (with(claims(), "sub", json!("report-writer")), Refusal::Subject),
        (without(claims(), "sub"), Refusal::Malformed),
        (without(claims(), "jti"), Refusal::Malformed),
        (with(claims(), "jti", json!("")), Refusal::Malformed),
        (json!([1]), Refusal::Malformed),
    ];
    for (claims, refusal) in cases {
        let token = minter.mint(&header(), &claims);
        assert_eq!(check(&token, &minter.keys(), &expected(), NOW), Err(refusal), "{claims}");
    }
}

#[test]
fn each_wrong_header_is_refused() {
    let minter = Minter::new();
    let cases = [
        (with(header(), "alg", json!("none")), Refusal::Algorithm),
        (with(header(), "alg", json!("HS256")), Refusal::Algorithm),
        (with(header(), "alg", json!("es256")), Refusal::Algorithm),
        (without(header(), "alg"), Refusal::Algorithm),
        (with(header(), "kid", json!("k2")), Refusal::UnknownKey),
        (without(header(), "kid"), Refusal::UnknownKey),
        (with(header(), "typ", json!("at+jwt")), Refusal::Malformed),
        (with(header(), "typ", json!(1)), Refusal::Malformed),
        (with(header(), "crit", json!(["b64"])), Refusal::Malformed),
    ];
    for (header, refusal) in cases {
        let token = minter.mint(&header, &claims());
        assert_eq!(check(&token, &minter.keys(), &expected(), NOW), Err(refusal), "{header}");
    }
}

#[test]
fn an_unsigned_token_is_refused() {
    let minter = Minter::new();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = json!({"alg": "none", "kid": "k1"});
    for (header, refusal) in [(none, Refusal::Algorithm), (header(), Refusal::Signature)] {
        let token = format!("{}.{}.", encode(&header), encode(&claims()));
        assert_eq!(check(&token, &minter.keys(), &expected(), NOW), Err(refusal));
    }
}

#[test]
fn another_key_with_the_same_id_is_refused() {
    let token = Minter::new().mint(&header(), &claims());
    assert_eq!(check(&token, &Minter::new().keys(), &expected(), NOW), Err(Refusal::Signature));
}

#[test]
fn changed_claims_under_an_old_signature_are_refused() {
    let minter = Minter::new();
    let token = minter.mint(&header(), &claims());
    let parts: Vec<&str> = token.split('.').collect();
    let changed = URL_SAFE_NO_PAD.encode(with(claims(), "sub", json!("spiffe://example.org/admin")).to_string());
    let forged = format!("{}.{changed}.{}", parts[0], parts[2]);
    assert_eq!(check(&forged, &minter.keys(), &expected(), NOW), Err(Refusal::Signature));
}

#[test]
fn an_issuer_is_required_when_one_is_expected() {
    let minter = Minter::new();
    let expected = Expected { issuer: Some("https://node.example".into()), ..expected() };
    let cases = [
        (with(claims(), "iss", json!("https://node.example")), None),
        (with(claims(), "iss", json!("https://other.example")), Some(Refusal::Issuer)),
        (claims(), Some(Refusal::Issuer)),
    ];
    for (claims, refusal) in cases {
        let token = minter.mint(&header(), &claims);
        assert_eq!(check(&token, &minter.keys(), &expected, NOW).err(), refusal, "{claims}");
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let long = format!("{}.{}.{}", "a".repeat(4096), "b".repeat(4096), "c");
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\u{0}.\u{0}.\u{0}", "e30.e30.%%", long.as_str()] {
        let refusal = check(text, &Jwks::default(), &expected(), NOW).unwrap_err();
        assert!(matches!(refusal, Refusal::Malformed | Refusal::Algorithm), "{text}: {refusal}");
    }
}

#[test]
fn a_broken_key_set_is_refused_and_a_foreign_key_is_passed_over() {
    let good = Minter::new().jwks()["keys"][0].clone();
    let set = |keys: Value| Jwks::parse(json!({ "keys": keys }).to_string().as_bytes());
    for keys in [
        json!([with(good.clone(), "x", json!("AA"))]),
        json!([good.clone(), good.clone()]),
        json!(vec![good.clone(); MAX_KEYS + 1]),
        json!("none"),
    ] {
        assert!(set(keys).is_err());
    }
    assert!(Jwks::parse(b"<html>").is_err());
    let passed_over = [("kty", "RSA"), ("crv", "P-384"), ("alg", "none"), ("use", "enc")];
    for (member, value) in passed_over {
        assert!(set(json!([with(good.clone(), member, json!(value))])).unwrap().0.is_empty(), "{member}");
    }
}
