// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Addresses of servers that the daemon calls. Does no IO.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

const MAX_URL_BYTES: usize = 2048;

/// An address that may be called: https, or http on this machine alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(Uri);

impl Url {
    /// With something behind its path.
    ///
    /// # Errors
    /// When the two make no address.
    pub fn join(&self, path: &str) -> Result<Self, &'static str> {
        format!("{}{path}", self.0.to_string().trim_end_matches('/')).parse()
    }

    /// For the library that calls it.
    pub fn as_uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_URL_BYTES {
            return Err("it is too long");
        }
        let uri: Uri = text.parse().map_err(|_| "it is not an address")?;
        let host = uri.host().ok_or("it has no host")?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("it may not hold a user");
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match uri.scheme_str() {
            Some("https") => Ok(Self(uri)),
            Some("http") if address.is_ok_and(|address| address.is_loopback()) => Ok(Self(uri)),
            Some("http") => Err("http is only for a loopback address; use https"),
            _ => Err("it does not start with https://"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let authority: Authority = Some(text)
            .filter(|text| text.len() <= MAX_URL_BYTES)
            .and_then(|text| text.parse().ok())
            .ok_or("it is none")?;
        let port = authority.port_u16().filter(|port| *port > 0).ok_or("it has no port")?;
        if authority.host().is_empty() {
            return Err("it has no host");
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // Nothing but the two: no user, and no port of many spellings.
        let whole = Self { host, port };
        if whole.to_string() == text { Ok(whole) } else { Err("it is not HOST:PORT") }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port_and_nothing_else() {
        for text in ["spire.example:8081", "127.0.0.1:1", "[2001:db8::1]:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:2".parse::<HostPort>().unwrap().host, "::1");
        for text in [
            "spire.example",
            "spire.example:0",
            "spire.example:",
            ":8081",
            "u@spire.example:1",
            "a:1/b",
            "a:01",
            "a b:1",
            "",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_https_leaves_this_machine() {
        for (text, is_good) in [
            ("https://bao.example:8200", true),
            ("https://bao.example/base", true),
            ("http://127.0.0.1:8200", true),
            ("http://[::1]:8200", true),
            ("http://localhost:8200", false),
            ("http://bao.example", false),
            ("http://127.0.0.1.example", false),
            ("https://user:word@bao.example", false),
            ("ftp://bao.example", false),
            ("/etc/passwd", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Url>().is_ok(), is_good, "{text}");
        }
        let base: Url = "https://bao.example/base/".parse().unwrap();
        assert_eq!(base.join("/v1/x").unwrap().to_string(), "https://bao.example/base/v1/x");
    }
}
