// SPDX-License-Identifier: Apache-2.0 OR MIT

//! WIT-SVIDs: tokens that are good only with a proof that whoever shows them has their key.
//!
//! **Experimental**: drafts of 2026, and only what they fix.
//! - the token: <https://github.com/spiffe/spiffe/blob/main/standards/WIT-SVID.md> on its experimental branch, and
//!   <https://datatracker.ietf.org/doc/draft-ietf-wimse-workload-creds/>
//! - the proof: <https://datatracker.ietf.org/doc/draft-ietf-wimse-wpt/>
//!
//! How the two travel in a request still changes from draft to draft, so that is the caller's.

mod holder;
mod proof;
mod seen;

use std::collections::HashMap;

use serde_json::Value;

pub use self::holder::Holder;
pub use self::proof::Request;
pub use self::seen::Seen;

use crate::key::{Kind, VerifyingKey, verify as verify_jws};
use crate::{Claims, Invalid};

/// The type of the token, in its header.
pub const TYPE: &str = "wit+jwt";
/// Seconds that a proof may have left. The draft: "on the order of minutes or seconds".
pub const MAX_PROOF_SECONDS: u64 = 300;

/// The keys that sign WIT-SVIDs, by trust domain.
#[derive(Debug, Clone, Default)]
pub struct Bundles {
    keys: HashMap<String, Vec<VerifyingKey>>,
}

impl Bundles {
    /// Those of one trust domain, as a key set (RFC 7517); in place of what was known of it. `trust_domain` may be
    /// written as its SPIFFE ID. Keys that cannot verify here are left out.
    ///
    /// # Errors
    /// When it is no key set.
    pub fn set(&mut self, trust_domain: &str, key_set: &[u8]) -> Result<(), Invalid> {
        let trust_domain = trust_domain.strip_prefix("spiffe://").unwrap_or(trust_domain);
        let read: Value = serde_json::from_slice(key_set).map_err(|_| Invalid("a key set is no JSON"))?;
        let keys = read.get("keys").and_then(Value::as_array).ok_or(Invalid("a key set has no keys"))?;
        let keys = keys.iter().filter_map(VerifyingKey::from_jwk).collect();
        self.keys.insert(trust_domain.to_owned(), keys);
        Ok(())
    }
}

/// Who it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// Of the token, for the log: the issuer's audit log has the same.
    pub jti: Option<String>,
    /// Of the proof, in seconds since the epoch: whoever keeps a session should not keep it for longer than the token.
    pub token_expires_at: u64,
}

/// Whose request it is, if its proof is good for it; `now` in seconds since the epoch.
///
/// # Errors
/// What is wrong. Whoever is told learns no more than the phrase.
pub fn verify(bundles: &Bundles, request: &Request<'_>, now: u64, seen: &mut Seen) -> Result<Caller, Invalid> {
    let token = Token::verify(bundles, request.token, now)?;
    let proof = proof::verify(&token, request, now)?;
    // Last: what is refused for anything else uses nothing up.
    seen.take(&proof, now)?;
    Ok(Caller { spiffe_id: token.spiffe_id, jti: token.jti, token_expires_at: token.expires_at })
}

/// A token whose signature and times are good: nobody's until there is a proof.
struct Token {
    spiffe_id: String,
    jti: Option<String>,
    expires_at: u64,
    algorithm: String,
    key: Kind,
}

impl Token {
    fn verify(bundles: &Bundles, token: &str, now: u64) -> Result<Self, Invalid> {
        let claimed = crate::Jws::parse(token, &[Some(TYPE)])?.claims()?;
        let trust_domain = trust_domain(text(&claimed, "sub")?)?;
        let keys = bundles.keys.get(trust_domain).ok_or(Invalid("its trust domain is unknown"))?;
        let claims = verify_jws(keys, token, &[Some(TYPE)])?;
        let expires_at = seconds(&claims, "exp")?.ok_or(Invalid("it has no end"))?;
        if expires_at <= now {
            return Err(Invalid("it is over"));
        }
        if seconds(&claims, "nbf")?.is_some_and(|from| from > now) {
            return Err(Invalid("it is not good yet"));
        }
        let key = claims.get("cnf").and_then(|cnf| cnf.get("jwk")).ok_or(Invalid("it confirms no key"))?;
        // Whoever put a private key there has shown it to everybody.
        if ["d", "p", "q", "k"].iter().any(|member| key.get(member).is_some()) {
            return Err(Invalid("it confirms a key that is not public"));
        }
        let algorithm = key.get("alg").and_then(Value::as_str).ok_or(Invalid("its key has no algorithm"))?;
        Ok(Self {
            spiffe_id: text(&claims, "sub")?.to_owned(),
            jti: claims.get("jti").and_then(Value::as_str).map(str::to_owned),
            expires_at,
            algorithm: algorithm.to_owned(),
            key: Kind::from_jwk(key).ok_or(Invalid("its key cannot be used here"))?,
        })
    }
}

fn text<'a>(claims: &'a Claims, name: &str) -> Result<&'a str, Invalid> {
    claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or(Invalid("a claim is missing"))
}

/// A `NumericDate` (RFC 7519), rounded down.
fn seconds(claims: &Claims, name: &str) -> Result<Option<u64>, Invalid> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = value.as_u64().or_else(|| value.as_f64().filter(|time| *time >= 0.0).map(|time| time as u64));
    whole.map(Some).ok_or(Invalid("a time is no number"))
}

/// Of a SPIFFE ID with a path:
/// <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md#2-spiffe-identity>.
fn trust_domain(id: &str) -> Result<&str, Invalid> {
    let not_one = Invalid("its subject is no SPIFFE ID");
    let (domain, path) = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).ok_or(not_one)?;
    let in_domain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
    let is_one = !domain.is_empty() && domain.bytes().all(in_domain) && path.split('/').all(is_segment);
    is_one.then_some(domain).ok_or(not_one)
}

#[cfg(test)]
mod tests;
