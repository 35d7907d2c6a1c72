// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where a credential comes from.

use std::sync::Arc;

use super::binding::one;
use super::fields::{Fields, NAME_HELP, is_name};

/// A declared credential source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What bindings call it.
    pub name: Arc<str>,
    /// What it does.
    pub kind: SourceKind,
}

/// What a source does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// The daemon mints a JWT-SVID.
    JwtSvid,
    /// The daemon mints an access token on behalf of the session's user.
    AccessToken,
    /// The daemon issues an X509-SVID.
    X509Svid,
    /// The daemon mints a WIT-SVID and its key.
    WitSvid,
    /// A sealed secret is handed out as it is.
    Static {
        /// The sealed secret's name; never the secret.
        secret: Arc<str>,
    },
}

/// What kind of credential the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialType {
    /// A minted JWT-SVID.
    JwtSvid,
    /// A minted access token that names the session's user and everybody who acts.
    AccessToken,
    /// An X509-SVID with its key.
    X509Svid,
    /// A WIT-SVID with its key.
    WitSvid,
    /// A static secret.
    Static,
}

impl CredentialType {
    /// The word in the API, configuration and audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JwtSvid => "jwt-svid",
            Self::AccessToken => "access-token",
            Self::X509Svid => "x509-svid",
            Self::WitSvid => "wit-svid",
            Self::Static => "static",
        }
    }

    /// From [`Self::as_str`].
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::JwtSvid, Self::AccessToken, Self::X509Svid, Self::WitSvid, Self::Static]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

impl Source {
    /// What kind of credential it gives.
    pub fn credential_type(&self) -> CredentialType {
        match self.kind {
            SourceKind::JwtSvid => CredentialType::JwtSvid,
            SourceKind::AccessToken => CredentialType::AccessToken,
            SourceKind::X509Svid => CredentialType::X509Svid,
            SourceKind::WitSvid => CredentialType::WitSvid,
            SourceKind::Static { .. } => CredentialType::Static,
        }
    }

    pub(super) fn parse(mut fields: Fields<'_, '_>, name: Option<Arc<str>>) -> Option<Self> {
        const TYPES: &str = "one of \"jwt-svid\", \"access-token\", \"x509-svid\", \"wit-svid\", \"static\"";
        let kind = fields.required_text("type", TYPES);
        let secret = fields.text("secret");
        let kind = kind.and_then(|given| match (CredentialType::from_word(&given.value), secret) {
            (Some(CredentialType::JwtSvid), None) => Some(SourceKind::JwtSvid),
            (Some(CredentialType::AccessToken), None) => Some(SourceKind::AccessToken),
            (Some(CredentialType::X509Svid), None) => Some(SourceKind::X509Svid),
            (Some(CredentialType::WitSvid), None) => Some(SourceKind::WitSvid),
            (
                Some(
                    minted @ (CredentialType::JwtSvid
                    | CredentialType::AccessToken
                    | CredentialType::X509Svid
                    | CredentialType::WitSvid),
                ),
                Some(secret),
            ) => {
                let message = format!("{} source has no secret", one(minted));
                fields.error(secret.at, message, "remove it, or set type = \"static\"");
                None
            }
            (Some(CredentialType::Static), Some(secret)) if is_name(&secret.value) => {
                Some(SourceKind::Static { secret: secret.value.into() })
            }
            (Some(CredentialType::Static), Some(secret)) => {
                // Not echoed: somebody may have put the secret itself here.
                let help = format!("the name under which the secret was sealed, not the secret: {NAME_HELP}");
                fields.error(secret.at, "secret is not the name of a sealed secret", help);
                None
            }
            (Some(CredentialType::Static), None) => {
                fields.error(given.at, "a static source has no secret", "secret = \"NAME\", as it was sealed");
                None
            }
            (None, _) => {
                fields.error(given.at, format!("unknown source type {:?}", given.value), TYPES);
                None
            }
        });
        if !fields.finish() {
            return None;
        }
        Some(Self { name: name?, kind: kind? })
    }
}
