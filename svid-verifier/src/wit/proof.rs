// SPDX-License-Identifier: Apache-2.0 OR MIT

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::{MAX_PROOF_SECONDS, Token, seconds, text};
use crate::{Invalid, Jws};

/// The type of a proof, in its header.
pub(super) const TYPE: &str = "wpt+jwt";
/// The same in full (RFC 7515 section 4.1.9).
const MEDIA_TYPE: &str = "application/wpt+jwt";
/// Of its id.
const MAX_ID_BYTES: usize = 256;

/// What came with a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The WIT-SVID.
    pub token: &'a str,
    /// The Workload Proof Token.
    pub proof: &'a str,
    /// For whom the proof has to be: the URI that was called, without query and fragment, or what else the two agreed
    /// on.
    pub audiences: &'a [&'a str],
    /// The transaction token, where there is one.
    pub transaction: Option<&'a str>,
    /// Every other token on which the request's fate depends: names of header fields in lower case, and their values.
    pub others: &'a [(&'a str, &'a str)],
}

/// One that is good, and was not looked for among those that were seen.
pub(super) struct Proof {
    /// Of token and proof: others can have proofs with the same id.
    pub(super) id: [u8; 32],
    /// Of the token.
    pub(super) token: [u8; 32],
    pub(super) expires_at: u64,
}

pub(super) fn verify(token: &Token, request: &Request<'_>, now: u64) -> Result<Proof, Invalid> {
    let proof = Jws::parse(request.proof, &[Some(TYPE), Some(MEDIA_TYPE)])?;
    if proof.alg != token.algorithm {
        return Err(Invalid("the proof is not made by the algorithm of the token's key"));
    }
    token.key.verifies(&proof)?;
    let claims = proof.claims()?;
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => Some(one.as_str()),
        Some(Value::Array(all)) if all.len() == 1 => all.first().and_then(Value::as_str),
        _ => None,
    };
    if !audience.is_some_and(|audience| request.audiences.contains(&audience)) {
        return Err(Invalid("the proof is for another request"));
    }
    let expires_at = seconds(&claims, "exp")?.ok_or(Invalid("the proof has no end"))?;
    if expires_at <= now {
        return Err(Invalid("the proof is over"));
    }
    if expires_at.saturating_sub(now) > MAX_PROOF_SECONDS {
        return Err(Invalid("the proof is good for too long"));
    }
    if text(&claims, "wth")? != hash(request.token) {
        return Err(Invalid("the proof is for another token"));
    }
    match (request.transaction, claims.get("tth")) {
        (None, None) => {}
        (Some(transaction), Some(Value::String(found))) if *found == hash(transaction) => {}
        _ => return Err(Invalid("the proof does not cover the transaction")),
    }
    check_others(request, claims.get("oth"))?;
    let jti = text(&claims, "jti")?;
    if jti.len() > MAX_ID_BYTES {
        return Err(Invalid("the id of the proof is too long"));
    }
    let digest = |text: &str| {
        let digest = digest(&SHA256, text.as_bytes());
        digest.as_ref().try_into().map_err(|_| Invalid("the id of the proof cannot be kept"))
    };
    let (id, token) = (digest(&format!("{}.{jti}", hash(request.token)))?, digest(request.token)?);
    Ok(Proof { id, token, expires_at })
}

/// Every token that is named has to be there and understood, and every one that is there has to be named.
fn check_others(request: &Request<'_>, found: Option<&Value>) -> Result<(), Invalid> {
    let not_covered = Invalid("the proof does not cover the other tokens");
    let found = match found {
        None => None,
        Some(Value::Object(found)) => Some(found),
        Some(_) => return Err(not_covered),
    };
    if found.map_or(0, serde_json::Map::len) != request.others.len() {
        return Err(not_covered);
    }
    let is_covered = |(name, value): &(&str, &str)| {
        found.and_then(|found| found.get(*name)).and_then(Value::as_str) == Some(hash(value.trim_matches(' ')).as_str())
    };
    if request.others.iter().all(is_covered) { Ok(()) } else { Err(not_covered) }
}

/// base64url of SHA-256.
pub(super) fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}
