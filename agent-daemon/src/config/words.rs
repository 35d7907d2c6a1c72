// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Values that are one of a few words.

use toml::Spanned;
use toml::de::DeValue;

use super::value::{Setting, quoted, whole};
use crate::audit::Durability;
use crate::authority::Origin;
use crate::kernel::Tier;

/// Makes a type a setting: these of its values, by the words of its `as_str`.
macro_rules! words {
    ($type:ty: $($value:ident),+) => {
        impl Setting for $type {
            fn expected() -> String {
                [$(quoted(Self::$value.as_str())),+].join(" or ")
            }

            fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
                whole(value, |value| {
                    let text = value.as_str()?;
                    [$(Self::$value),+].into_iter().find(|one| one.as_str() == text)
                })
            }

            fn write(&self) -> Option<String> {
                Some(quoted(self.as_str()))
            }
        }
    };
}

// No `lsm`: nothing here rests on that tier, so asking for it would promise something.
words!(Tier: Egress, Observe);
words!(Durability: Written, Synced);
words!(Origin: Embedded, Disk, OpenBao, Spire);
words!(BundleProfile: Spiffe, Web);
words!(LoginMethod: Token, AppRole, Jwt);

/// How a bundle endpoint is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BundleProfile {
    Spiffe,
    Web,
}

impl BundleProfile {
    fn as_str(self) -> &'static str {
        match self {
            Self::Spiffe => "https_spiffe",
            Self::Web => "https_web",
        }
    }
}

/// How to log in at an OpenBao or Vault server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginMethod {
    Token,
    AppRole,
    Jwt,
}

impl LoginMethod {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::AppRole => "approle",
            Self::Jwt => "jwt",
        }
    }
}
