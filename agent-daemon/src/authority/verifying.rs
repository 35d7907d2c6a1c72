// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tokens that others signed.

use svid_verifier::{Invalid, Jws, VerifyingKey};

use super::{Claims, Error};
use crate::credential::access::ACCESS_TOKEN_TYPE;

/// Of a JWT-SVID: <https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md#23-type>.
const JWT: &[Option<&str>] = &[None, Some("JWT"), Some("JOSE")];

impl From<Invalid> for Error {
    fn from(Invalid(reason): Invalid) -> Self {
        Self::Token { reason }
    }
}

pub(super) fn parse(token: &str) -> Result<Jws<'_>, Error> {
    Ok(Jws::parse(token, JWT)?)
}

pub(super) fn parse_access_token(token: &str) -> Result<Jws<'_>, Error> {
    Ok(Jws::parse(token, &[Some(ACCESS_TOKEN_TYPE)])?)
}

/// The claims of a token that one of these keys signed; what they say is the caller's to check.
///
/// # Errors
/// [`Error::Token`], with what is wrong.
pub(super) fn verify_with(keys: &[VerifyingKey], token: &str) -> Result<Claims, Error> {
    Ok(svid_verifier::verify(keys, token, JWT)?)
}

/// What a token says, unverified: only to find out who could verify it.
///
/// # Errors
/// When it is not a token.
pub fn unverified_claims(token: &str) -> Result<Claims, Error> {
    Ok(parse(token)?.claims()?)
}
