// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an API must check in a JWT-SVID before it believes it (JWT-SVID specification, RFC 7515, RFC 7519).
//!
//! The signature is ring's; here is only the envelope. Pure: the time is an argument.

use std::collections::HashMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::Value;

const MAX_TOKEN_BYTES: usize = 8 * 1024;
const MAX_KEYS: usize = 32;

/// What this API accepts.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Must be among the token's audiences.
    pub audience: String,
    /// The subject must be in it.
    pub trust_domain: String,
    /// When set, `iss` must be present and equal.
    pub issuer: Option<String>,
}

/// What the API uses of an accepted token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The SPIFFE ID.
    pub sub: String,
    /// The token's id.
    pub jti: String,
    /// Seconds since 1970.
    pub exp: u64,
}

/// Why a token was not accepted. Tells the caller no more than a caller may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No `Authorization: Bearer` header.
    Missing,
    /// Not a compact JWS, or too long.
    Malformed,
    /// The algorithm is not ES256.
    Algorithm,
    /// No key with this id.
    UnknownKey,
    /// The signature does not fit.
    Signature,
    /// For somebody else.
    Audience,
    /// Too late.
    Expired,
    /// Too early.
    NotYetValid,
    /// The subject is not in the trust domain.
    Subject,
    /// Not from the issuer we know.
    Issuer,
    /// The authority says that it ended, or it speaks of another token.
    Inactive,
}

impl Refusal {
    /// A stable word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing_token",
            Self::Malformed => "malformed_token",
            Self::Algorithm => "wrong_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "bad_signature",
            Self::Audience => "wrong_audience",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Subject => "wrong_trust_domain",
            Self::Issuer => "wrong_issuer",
            Self::Inactive => "inactive",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// Public keys by id: uncompressed P-256 points.
#[derive(Debug, Clone, Default)]
pub struct Jwks(HashMap<String, Vec<u8>>);

impl Jwks {
    /// Reads a JWK set. Keys that are not for ES256 signatures are passed over; one that claims to be and is broken,
    /// or an id used twice, spoils the set.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(text).map_err(|_| "the key set is not JSON".to_owned())?;
        let listed = set.get("keys").and_then(Value::as_array).ok_or("the key set has no keys member")?;
        if listed.len() > MAX_KEYS {
            return Err(format!("the key set holds {} keys, at most {MAX_KEYS} are read", listed.len()));
        }
        let mut keys = HashMap::new();
        for key in listed {
            let member = |name: &str| key.get(name).and_then(Value::as_str);
            let fits = member("kty") == Some("EC")
                && member("crv") == Some("P-256")
                && member("alg").is_none_or(|alg| alg == "ES256")
                && member("use").is_none_or(|purpose| matches!(purpose, "sig" | "jwt-svid"));
            let Some(kid) = member("kid").filter(|_| fits) else { continue };
            let coordinate = |name: &str| {
                member(name)
                    .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                    .filter(|bytes| bytes.len() == 32)
                    .ok_or_else(|| format!("a key's {name} is not a P-256 coordinate"))
            };
            let point = [vec![4], coordinate("x")?, coordinate("y")?].concat();
            if keys.insert(kid.to_owned(), point).is_some() {
                return Err("two keys have the same id".to_owned());
            }
        }
        Ok(Self(keys))
    }
}

/// Checks form, signature and claims. Whether the token has ended early is the authority's to say.
pub fn check(token: &str, keys: &Jwks, expected: &Expected, now: u64) -> Result<Claims, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(Refusal::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(Refusal::Malformed)?;

    let header = object(header)?;
    if header.get("alg").and_then(Value::as_str) != Some("ES256") {
        return Err(Refusal::Algorithm);
    }
    let typ = header.get("typ").map(|typ| typ.as_str().unwrap_or_default());
    if header.get("crit").is_some() || typ.is_some_and(|typ| !matches!(typ, "JWT" | "JOSE")) {
        return Err(Refusal::Malformed);
    }
    let key = header.get("kid").and_then(Value::as_str).and_then(|kid| keys.0.get(kid)).ok_or(Refusal::UnknownKey)?;
    let signature = decode(signature)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| Refusal::Signature)?;

    let payload = object(payload)?;
    let text = |name: &str| payload.get(name).and_then(Value::as_str);
    let audience_fits = match payload.get("aud") {
        Some(Value::String(audience)) => *audience == expected.audience,
        Some(Value::Array(audiences)) => audiences.iter().any(|audience| audience == expected.audience.as_str()),
        _ => false,
    };
    if !audience_fits {
        return Err(Refusal::Audience);
    }
    let exp = payload.get("exp").and_then(Value::as_u64).ok_or(Refusal::Malformed)?;
    if now >= exp {
        return Err(Refusal::Expired);
    }
    if let Some(nbf) = payload.get("nbf") {
        let nbf = nbf.as_u64().ok_or(Refusal::Malformed)?;
        if nbf > now {
            return Err(Refusal::NotYetValid);
        }
    }
    let sub = text("sub").ok_or(Refusal::Malformed)?;
    let path = sub.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(expected.trust_domain.as_str()));
    if !path.is_some_and(|path| path.starts_with('/') && path.len() > 1) {
        return Err(Refusal::Subject);
    }
    if expected.issuer.is_some() && text("iss") != expected.issuer.as_deref() {
        return Err(Refusal::Issuer);
    }
    let jti = text("jti").filter(|jti| !jti.is_empty()).ok_or(Refusal::Malformed)?;
    Ok(Claims { sub: sub.to_owned(), jti: jti.to_owned(), exp })
}

fn decode(part: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)
}

fn object(part: &str) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(&decode(part)?).map_err(|_| Refusal::Malformed)?;
    if value.is_object() { Ok(value) } else { Err(Refusal::Malformed) }
}

#[cfg(test)]
pub(crate) mod tests;
