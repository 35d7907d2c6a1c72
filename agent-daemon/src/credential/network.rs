// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A range of IP addresses in CIDR notation.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An address range; the host bits are zero and the address is never v4-mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// What is wrong with the text of a [`Network`]: message and advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) message: String,
    pub(super) help: String,
}

impl Network {
    /// Reads `address/prefix`. Strict: a range that is not written as it is meant may match more than its author thinks.
    pub(super) fn parse(text: &str) -> Result<Self, Malformed> {
        let malformed = |message: &str, help: String| Malformed { message: format!("{text:?} {message}"), help };
        let example = || "for example 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32".to_owned();
        let Some((address, prefix)) = text.split_once('/') else {
            let help = match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => format!("for one address write {text}/32"),
                Ok(IpAddr::V6(_)) => format!("for one address write {text}/128"),
                Err(_) => example(),
            };
            return Err(malformed("has no prefix length", help));
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err(malformed("does not begin with an IP address", example()));
        };
        let width: u8 = if address.is_ipv4() { 32 } else { 128 };
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix.parse::<u8>() {
            Ok(prefix) if digits && (1..=width).contains(&prefix) => prefix,
            _ => return Err(malformed("has a prefix length out of range", format!("from 1 to {width}"))),
        };
        if let IpAddr::V6(v6) = address
            && v6.to_ipv4_mapped().is_some()
        {
            return Err(malformed("is a v4-mapped range", "write it as IPv4".to_owned()));
        }
        let network = Self { address: masked(address, prefix), prefix };
        if network.address == address {
            Ok(network)
        } else {
            Err(malformed("has bits set after the prefix", format!("write {network}")))
        }
    }

    /// One address; a v4-mapped one counts as IPv4.
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The range that is one bit wider; none: it would be everything.
    pub(crate) fn wider(&self) -> Option<Self> {
        let prefix = self.prefix.checked_sub(1).filter(|prefix| *prefix > 0)?;
        Some(Self { address: masked(self.address, prefix), prefix })
    }

    /// Whether an address is in the range; a v4-mapped address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.1.2", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("127.0.0.1/32", "127.0.0.1", true),
            ("127.0.0.1/32", "127.0.0.2", false),
            ("127.0.0.1/32", "::1", false),
            ("128.0.0.0/1", "255.255.255.255", true),
            ("128.0.0.0/1", "127.255.255.255", false),
            ("::1/128", "::1", true),
            ("::1/128", "::2", false),
            ("::1/128", "0.0.0.1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("8000::/1", "ffff::1", true),
        ] {
            let range = Network::parse(network).unwrap();
            assert_eq!(range.contains(address.parse().unwrap()), expected, "{address} in {network}");
            assert_eq!(range.to_string(), network);
        }
    }

    #[test]
    fn a_range_that_is_not_written_as_meant_is_refused_with_advice() {
        for (text, help) in [
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("2001:db8::1/32", "write 2001:db8::/32"),
            ("10.0.0.1", "for one address write 10.0.0.1/32"),
            ("::1", "for one address write ::1/128"),
            ("::ffff:10.0.0.0/104", "write it as IPv4"),
            ("0.0.0.0/0", "from 1 to 32"),
            ("::/0", "from 1 to 128"),
            ("10.0.0.0/33", "from 1 to 32"),
            ("10.0.0.0/+8", "from 1 to 32"),
            ("10.0.0.0/", "from 1 to 32"),
            ("::/129", "from 1 to 128"),
            ("example/8", "for example 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32"),
            ("", "for example 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32"),
            ("010.0.0.0/8", "for example 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32"),
        ] {
            assert_eq!(Network::parse(text).unwrap_err().help, help, "{text}");
        }
    }
}
