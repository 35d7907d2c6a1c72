// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Values that are addresses: of servers, and of what is served here.

use std::net::SocketAddr;

use toml::Spanned;
use toml::de::DeValue;

use super::value::{FilePath, Setting, quoted, whole};
use crate::url::{HostPort, Url};

/// A server that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WebAddress(pub(super) String);

impl Setting for WebAddress {
    fn expected() -> String {
        "an address such as \"https://bao.example.org:8200\"; http only on a loopback address".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| {
            let text = value.as_str()?;
            text.parse::<Url>().is_ok().then(|| Self(text.to_owned()))
        })
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

impl Setting for HostPort {
    fn expected() -> String {
        "a host and a port such as \"spire.example.org:8081\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| value.as_str()?.parse().ok())
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// Where HTTP is served to this machine alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    Unix(FilePath),
    Loopback(SocketAddr),
}

impl Setting for Endpoint {
    fn expected() -> String {
        "\"unix:PATH\", or the address and port of the loopback interface such as \"127.0.0.1:8181\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| {
            let text = value.as_str()?;
            if let Some(path) = text.strip_prefix("unix:") {
                return FilePath::parse(path).map(Self::Unix);
            }
            text.parse().ok().filter(|address: &SocketAddr| address.ip().is_loopback()).map(Self::Loopback)
        })
    }

    fn write(&self) -> Option<String> {
        match self {
            Self::Unix(path) => path.0.to_str().map(|path| quoted(&format!("unix:{path}"))),
            Self::Loopback(address) => Some(quoted(&address.to_string())),
        }
    }
}

impl Setting for SocketAddr {
    fn expected() -> String {
        "an address and port such as \"0.0.0.0:8443\"".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<usize>> {
        whole(value, |value| value.as_str()?.parse().ok())
    }

    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}
