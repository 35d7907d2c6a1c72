// SPDX-License-Identifier: Apache-2.0 OR MIT

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::{Claims, Invalid};

/// Longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Unknown members are harmless, except that `crit` demands they be understood.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
}

/// A compact JWS, taken apart and not verified.
#[derive(Debug)]
pub struct Jws<'a> {
    /// The algorithm that it says.
    pub alg: String,
    /// The key that it says.
    pub kid: Option<String>,
    /// What is signed.
    pub signed: &'a [u8],
    /// By which.
    pub signature: Vec<u8>,
    claims: &'a str,
}

impl<'a> Jws<'a> {
    /// Takes a token apart that is of one of these types; `None` is one without a type.
    ///
    /// # Errors
    /// What is wrong with its form.
    pub fn parse(token: &'a str, types: &[Option<&str>]) -> Result<Self, Invalid> {
        let invalid = Invalid;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(invalid("too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(invalid("not a compact JWS"))?;
        let (header, claims) = signed.split_once('.').ok_or(invalid("not a compact JWS"))?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| invalid("header is not base64url"))?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| invalid("header is not as expected"))?;
        if header.crit.is_some() || header.b64.is_some() {
            return Err(invalid("header demands an extension"));
        }
        if !types.contains(&header.typ.as_deref()) {
            return Err(invalid("it is another type of token"));
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| invalid("signature is not base64url"))?;
        Ok(Self { alg: header.alg, kid: header.kid, signed: signed.as_bytes(), signature, claims })
    }

    /// What it says, whoever says it.
    ///
    /// # Errors
    /// When that is no JSON object.
    pub fn claims(&self) -> Result<Claims, Invalid> {
        let claims = URL_SAFE_NO_PAD.decode(self.claims);
        let claims = claims.map_err(|_| Invalid("claims are not base64url"))?;
        serde_json::from_slice(&claims).map_err(|_| Invalid("claims are not a JSON object"))
    }
}
