// SPDX-License-Identifier: Apache-2.0 OR MIT

use serde::{Deserialize, Serialize};

/// Groups of a user that policy sees.
pub const MAX_GROUPS: usize = 64;

/// The human on whose behalf a session acts, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name in policies, records and tokens: the issuer's name and the subject, or `uid:1000`. Unique on this node.
    pub id: Box<str>,
    /// How it is known.
    pub verified: Verified,
    /// The issuer's address, where one said so.
    pub issuer: Option<Box<str>>,
    /// As the issuer names it, or the user's number.
    pub subject: Box<str>,
    /// For people.
    pub name: Option<Box<str>>,
    /// As policies name them: the issuer's name and the group.
    pub groups: Box<[Box<str>]>,
}

/// How a user is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verified {
    /// By a token of an issuer that the operator named.
    Oidc,
    /// By the kernel: who logged in, and is it still, or became root.
    LoginUid,
    /// By the kernel: the user that the process is.
    Uid,
}

impl Verified {
    /// The word in policies, records and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oidc => "oidc",
            Self::LoginUid => "loginuid",
            Self::Uid => "uid",
        }
    }
}
