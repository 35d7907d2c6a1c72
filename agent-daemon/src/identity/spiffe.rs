// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Trust domains and SPIFFE IDs, parsed once and never re-checked.

use std::{fmt, str::FromStr, sync::Arc};

use super::Error;

/// Longest trust domain, by the specification.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Longest SPIFFE ID, by the specification.
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

const SCHEME: &str = "spiffe://";

/// The naming authority of a SPIFFE ID.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name, without a scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        check_trust_domain(text)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// `spiffe://trust-domain/path`; the path may be empty (the trust domain's own ID).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain: TrustDomain,
}

impl SpiffeId {
    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The authority part.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// From the first slash on; empty for a trust domain's own ID.
    pub fn path(&self) -> &str {
        self.uri.get(SCHEME.len().saturating_add(self.trust_domain.0.len())..).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(Error::TooLong { limit: MAX_SPIFFE_ID_BYTES, actual: text.len() });
        }
        let rest = text.strip_prefix(SCHEME).ok_or(Error::Scheme)?;
        let (trust_domain, path) = match rest.split_once('/') {
            Some((trust_domain, path)) => (trust_domain, Some(path)),
            None => (rest, None),
        };
        check_trust_domain(trust_domain)?;
        if let Some(path) = path {
            path.split('/').try_for_each(check_segment)?;
        }
        Ok(Self { uri: text.into(), trust_domain: TrustDomain(trust_domain.into()) })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.uri, f)
    }
}

fn check_trust_domain(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::EmptyTrustDomain);
    }
    if text.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(Error::TrustDomainTooLong { limit: MAX_TRUST_DOMAIN_BYTES, actual: text.len() });
    }
    match text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
        Some(character) => Err(Error::TrustDomainCharacter(character)),
        None => Ok(()),
    }
}

fn check_segment(segment: &str) -> Result<(), Error> {
    match segment {
        "" => return Err(Error::EmptySegment),
        "." | ".." => return Err(Error::DotSegment),
        _ => {}
    }
    match segment.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')) {
        Some(character) => Err(Error::PathCharacter(character)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_are_split_into_trust_domain_and_path() {
        for (text, trust_domain, path) in [
            ("spiffe://example.org", "example.org", ""),
            ("spiffe://example.org/a", "example.org", "/a"),
            ("spiffe://a_b-1.c/agent/Mail.2_x-y/...", "a_b-1.c", "/agent/Mail.2_x-y/..."),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.as_str(), id.trust_domain().as_str(), id.path()), (text, trust_domain, path));
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        let cases = [
            ("", Error::Scheme),
            ("SPIFFE://example.org/a", Error::Scheme),
            ("https://example.org/a", Error::Scheme),
            ("spiffe:///a", Error::EmptyTrustDomain),
            ("spiffe://Example.org/a", Error::TrustDomainCharacter('E')),
            ("spiffe://u@example.org/a", Error::TrustDomainCharacter('@')),
            ("spiffe://example.org:443/a", Error::TrustDomainCharacter(':')),
            ("spiffe://example.org?q", Error::TrustDomainCharacter('?')),
            ("spiffe://example.org/", Error::EmptySegment),
            ("spiffe://example.org/a/", Error::EmptySegment),
            ("spiffe://example.org//a", Error::EmptySegment),
            ("spiffe://example.org/./a", Error::DotSegment),
            ("spiffe://example.org/a/..", Error::DotSegment),
            ("spiffe://example.org/a%2fb", Error::PathCharacter('%')),
            ("spiffe://example.org/a#b", Error::PathCharacter('#')),
            ("spiffe://example.org/ä", Error::PathCharacter('ä')),
            ("spiffe://example.org/a\nb", Error::PathCharacter('\n')),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<SpiffeId>().unwrap_err(), expected, "{text:?}");
        }
    }

    #[test]
    fn lengths_are_bounded_at_their_edges() {
        assert!("d".repeat(255).parse::<TrustDomain>().is_ok());
        assert!("d".repeat(256).parse::<TrustDomain>().is_err());
        let longest = format!("spiffe://d/{}", "p".repeat(2048 - 11));
        assert!(longest.parse::<SpiffeId>().is_ok());
        assert_eq!(format!("{longest}p").parse::<SpiffeId>(), Err(Error::TooLong { limit: 2048, actual: 2049 }));
    }
}
