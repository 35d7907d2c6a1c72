// SPDX-License-Identifier: Apache-2.0 OR MIT

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;
const URI: &str = "https://reports.example/month";
const ID: &str = "spiffe://example.org/agent/a";
/// RFC 7517 appendix A.2: the P-256 key there.
const WORKLOAD_KEY: &str = r#"{"kty":"EC","crv":"P-256","alg":"ES256",
    "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    "d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#;

struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &SystemRandom::new()).unwrap())
    }

    fn bundles(&self) -> Bundles {
        let point = self.0.public_key().as_ref();
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "issuer", "x": x, "y": y}]});
        let mut bundles = Bundles::default();
        bundles.set("spiffe://example.org", keys.to_string().as_bytes()).unwrap();
        bundles
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn token(&self, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let mut key: Value = serde_json::from_str(WORKLOAD_KEY).unwrap();
        key.as_object_mut().unwrap().remove("d");
        let mut header = json!({"alg": "ES256", "kid": "issuer", "typ": "wit+jwt"});
        let mut claims = json!({"sub": ID, "exp": NOW + 600, "nbf": NOW, "jti": "t", "cnf": {"jwk": key}});
        change(&mut header, &mut claims);
        self.sign(&header, &claims)
    }
}

/// What becomes of a token and a proof made for it.
fn judge(issuer: &Issuer, token: &str, proof: &str) -> Result<Caller, &'static str> {
    let request = Request { token, proof, audiences: &[URI], ..Request::default() };
    verify(&issuer.bundles(), &request, NOW, &mut Seen::new(10)).map_err(|Invalid(reason)| reason)
}

fn prove(token: &str) -> String {
    Holder::new(token.to_owned(), WORKLOAD_KEY).unwrap().prove(URI, NOW + 10, None, &[]).unwrap()
}

#[test]
fn a_token_with_its_proof_is_good_and_every_change_of_the_token_is_found() {
    let issuer = Issuer::new();
    let token = issuer.token(|_, _| {});
    let caller = judge(&issuer, &token, &prove(&token)).unwrap();
    let expected = Caller { spiffe_id: ID.to_owned(), jti: Some("t".to_owned()), token_expires_at: NOW + 600 };
    assert_eq!(caller, expected);
    type Change = fn(&mut Value, &mut Value);
    let cases: [(Change, &str); 18] = [
        (|header, _| header["typ"] = json!("JWT"), "it is another type of token"),
        (|header, _| drop(header.as_object_mut().unwrap().remove("typ")), "it is another type of token"),
        (|header, _| header["kid"] = json!("other"), "key is unknown"),
        (|header, _| drop(header.as_object_mut().unwrap().remove("kid")), "header names no key"),
        (|header, _| header["alg"] = json!("none"), "algorithm is not one of its key"),
        (|header, _| header["crit"] = json!(["x"]), "header demands an extension"),
        (|_, claims| claims["sub"] = json!("spiffe://other.example/a"), "its trust domain is unknown"),
        (|_, claims| claims["sub"] = json!("spiffe://example.org"), "its subject is no SPIFFE ID"),
        (|_, claims| claims["sub"] = json!("spiffe://example.org/a/../b"), "its subject is no SPIFFE ID"),
        (|_, claims| claims["exp"] = json!(NOW), "it is over"),
        (|_, claims| drop(claims.as_object_mut().unwrap().remove("exp")), "it has no end"),
        (|_, claims| claims["exp"] = json!("tomorrow"), "a time is no number"),
        (|_, claims| claims["nbf"] = json!(NOW + 1), "it is not good yet"),
        (|_, claims| drop(claims.as_object_mut().unwrap().remove("cnf")), "it confirms no key"),
        (|_, claims| claims["cnf"]["jwk"]["d"] = json!("x"), "it confirms a key that is not public"),
        (|_, claims| drop(claims["cnf"]["jwk"].as_object_mut().unwrap().remove("alg")), "its key has no algorithm"),
        (|_, claims| claims["cnf"]["jwk"]["kty"] = json!("oct"), "its key cannot be used here"),
        (
            |_, claims| claims["cnf"]["jwk"]["alg"] = json!("ES384"),
            "the proof is not made by the algorithm of the token's key",
        ),
    ];
    for (change, reason) in cases {
        let token = issuer.token(change);
        assert_eq!(judge(&issuer, &token, &prove(&token)), Err(reason));
    }
    let stranger = Issuer::new();
    assert_eq!(judge(&stranger, &token, &prove(&token)), Err("signature does not fit"));
}

#[test]
fn a_token_without_a_proof_for_this_request_is_nobodys() {
    let issuer = Issuer::new();
    let token = issuer.token(|_, _| {});
    let other = issuer.token(|_, claims| claims["jti"] = json!("u"));
    let hash = proof::hash(&token);
    let good = json!({"aud": URI, "exp": NOW + 10, "jti": "p", "wth": hash});
    let header = json!({"alg": "ES256", "typ": "wpt+jwt"});
    // By a key of its own, which a thief of the token has and the token does not confirm.
    assert_eq!(judge(&issuer, &token, &issuer.sign(&header, &good)), Err("signature does not fit"));
    for (proof, reason) in [
        ("", "not a compact JWS"),
        (token.as_str(), "it is another type of token"),
        (prove(&other).as_str(), "the proof is for another token"),
    ] {
        assert_eq!(judge(&issuer, &token, proof), Err(reason));
    }
    let holder = Holder::new(token.clone(), WORKLOAD_KEY).unwrap();
    for (audience, expires_at, reason) in [
        ("https://elsewhere.example/month", NOW + 10, "the proof is for another request"),
        (URI, NOW, "the proof is over"),
        (URI, NOW + 301, "the proof is good for too long"),
    ] {
        assert_eq!(judge(&issuer, &token, &holder.prove(audience, expires_at, None, &[]).unwrap()), Err(reason));
    }
    // The workload itself, with claims that are not as they should be.
    let workload = Holder::new(token.clone(), WORKLOAD_KEY).unwrap();
    for (member, value, reason) in [
        ("aud", json!([URI, "https://elsewhere.example"]), "the proof is for another request"),
        ("aud", json!({}), "the proof is for another request"),
        ("exp", Value::Null, "a time is no number"),
        ("jti", json!(""), "a claim is missing"),
        ("jti", json!("x".repeat(257)), "the id of the proof is too long"),
        ("wth", json!(7), "a claim is missing"),
        ("tth", json!("x"), "the proof does not cover the transaction"),
        ("oth", json!({"x": "y"}), "the proof does not cover the other tokens"),
        ("oth", json!([]), "the proof does not cover the other tokens"),
    ] {
        let mut claims = good.clone();
        claims[member] = value;
        let proof = workload.sign(&header, &claims).unwrap();
        assert_eq!(judge(&issuer, &token, &proof), Err(reason), "{member}");
    }
    let single = workload.sign(&header, &json!({"aud": [URI], "exp": NOW + 10, "jti": "p", "wth": hash})).unwrap();
    judge(&issuer, &token, &single).unwrap();
}

#[test]
fn other_tokens_of_the_request_are_covered_all_or_it_is_refused() {
    let issuer = Issuer::new();
    let token = issuer.token(|_, _| {});
    let holder = Holder::new(token.clone(), WORKLOAD_KEY).unwrap();
    let user: &[(&str, &str)] = &[("x-user-token", " abc ")];
    let proof = holder.prove(URI, NOW + 10, Some("txn"), user).unwrap();
    let good = Request { token: &token, proof: &proof, audiences: &[URI], transaction: Some("txn"), others: user };
    let bundles = issuer.bundles();
    let check = |request: Request<'_>| verify(&bundles, &request, NOW, &mut Seen::new(10)).is_ok();
    assert!(check(good));
    assert!(check(Request { others: &[("x-user-token", "abc")], ..good }), "blanks around it are none of it");
    for (request, what) in [
        (Request { transaction: None, ..good }, "the transaction was taken away"),
        (Request { transaction: Some("another"), ..good }, "it was changed"),
        (Request { others: &[], ..good }, "the other token was taken away"),
        (Request { others: &[("x-user-token", "abd")], ..good }, "it was changed"),
        (Request { others: &[("x-other", "abc")], ..good }, "it came by another name"),
        (Request { others: &[("x-user-token", "abc"), ("x-more", "d")], ..good }, "one was added"),
    ] {
        assert!(!check(request), "{what}");
    }
}

#[test]
fn a_proof_is_good_once_and_what_cannot_be_remembered_is_refused() {
    let issuer = Issuer::new();
    let token = issuer.token(|_, _| {});
    let (bundles, mut seen) = (issuer.bundles(), Seen::new(32));
    let mut show = |proof: &str, now: u64| {
        let request = Request { token: &token, proof, audiences: &[URI], ..Request::default() };
        verify(&bundles, &request, now, &mut seen).map(drop).map_err(|Invalid(reason)| reason)
    };
    let proofs: Vec<String> = (0..3).map(|_| prove(&token)).collect();
    assert_eq!(show(&proofs[0], NOW), Ok(()));
    assert_eq!(show(&proofs[0], NOW), Err("the proof was used before"));
    assert_eq!(show(&proofs[1], NOW), Ok(()));
    assert_eq!(show(&proofs[2], NOW), Err("too many proofs at once"));
    // Those are over, and make room.
    let later = Holder::new(token.clone(), WORKLOAD_KEY).unwrap().prove(URI, NOW + 30, None, &[]).unwrap();
    assert_eq!(show(&later, NOW + 11), Ok(()));
    assert_eq!(show(&later, NOW + 11), Err("the proof was used before"));
    // What one token took leaves the rest to others.
    let other = issuer.token(|_, claims| claims["jti"] = json!("u"));
    let (mut seen, proofs) = (Seen::new(32), [prove(&token), prove(&token), prove(&token), prove(&other)]);
    let mut show = |token: &str, proof: &str| {
        let request = Request { token, proof, audiences: &[URI], ..Request::default() };
        verify(&bundles, &request, NOW, &mut seen).is_ok()
    };
    let taken =
        [show(&token, &proofs[0]), show(&token, &proofs[1]), show(&token, &proofs[2]), show(&other, &proofs[3])];
    assert_eq!(taken, [true, true, false, true]);
}
