// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Values that are one of a few words.

use toml::Spanned;
use toml::de::DeValue;

use super::value::{Setting, quoted, whole};
use crate::audit::Durability;
use crate::authority::Origin;
use crate::kernel::Tier;

/// One of a few words.
fn word<T: Copy>(value: &Spanned<DeValue<'_>>, words: &[T], as_str: fn(T) -> &'static str) -> Result<T, Vec<usize>> {
    whole(value, |value| {
        let text = value.as_str()?;
        words.iter().copied().find(|word| as_str(*word) == text)
    })
}

fn one_of<T: Copy>(words: &[T], as_str: fn(T) -> &'static str) -> String {
    words.iter().map(|word| quoted(as_str(*word))).collect::<Vec<_>>().join(" or ")
}

// No `lsm`: nothing here rests on that tier, so asking for it would promise something.
const TIERS: &[Tier] = &[Tier::Egress, Tier::Observe];

impl Setting for Tier {
    fn expected() -> String {
        one_of(TIERS, Self::as_str)
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        word(value, TIERS, Self::as_str)
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

const DURABILITIES: &[Durability] = &[Durability::Written, Durability::Synced];

impl Setting for Durability {
    fn expected() -> String {
        one_of(DURABILITIES, Self::as_str)
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        word(value, DURABILITIES, Self::as_str)
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

const ORIGINS: &[Origin] = &[Origin::Embedded, Origin::Disk, Origin::OpenBao];

impl Setting for Origin {
    fn expected() -> String {
        one_of(ORIGINS, Self::as_str)
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        word(value, ORIGINS, Self::as_str)
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

/// How a bundle endpoint is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BundleProfile {
    Spiffe,
    Web,
}

impl BundleProfile {
    const ALL: &[Self] = &[Self::Spiffe, Self::Web];

    fn as_str(self) -> &'static str {
        match self {
            Self::Spiffe => "https_spiffe",
            Self::Web => "https_web",
        }
    }
}

impl Setting for BundleProfile {
    fn expected() -> String {
        one_of(Self::ALL, Self::as_str)
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        word(value, Self::ALL, Self::as_str)
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
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
    const ALL: &[Self] = &[Self::Token, Self::AppRole, Self::Jwt];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::AppRole => "approle",
            Self::Jwt => "jwt",
        }
    }
}

impl Setting for LoginMethod {
    fn expected() -> String {
        one_of(Self::ALL, Self::as_str)
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        word(value, Self::ALL, Self::as_str)
    }

    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}
