// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Addresses that were learned for names.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Addresses kept for one name. When there are more, those that were seen longest ago are forgotten.
pub const MAX_LEARNED: usize = 256;
/// How long an address is kept after it was last among the answers: programs keep addresses too, and servers of names give
/// others each time.
const KEPT: Duration = Duration::from_secs(600);

/// What the daemon's own look-ups gave.
#[derive(Debug, Clone, Default)]
pub struct Learned(HashMap<Arc<str>, BTreeMap<IpAddr, Instant>>);

impl Learned {
    /// Takes an answer in. True when the addresses of the name are others now.
    pub fn learn(&mut self, host: &str, addresses: &[IpAddr], now: Instant) -> bool {
        let known = self.0.entry(host.into()).or_default();
        let before = known.len();
        let mut is_changed = false;
        for address in addresses.iter().take(MAX_LEARNED) {
            is_changed |= known.insert(address.to_canonical(), now).is_none();
        }
        while known.len() > MAX_LEARNED
            && let Some(oldest) = known.iter().min_by_key(|(_, seen)| **seen).map(|(address, _)| *address)
        {
            known.remove(&oldest);
        }
        is_changed || known.len() != before
    }

    /// Forgets what was not seen for too long, and names that nobody declares. True when anything was.
    pub fn forget(&mut self, is_declared: impl Fn(&str) -> bool, now: Instant) -> bool {
        let count = |learned: &Self| learned.0.values().map(BTreeMap::len).sum::<usize>();
        let before = count(self);
        for known in self.0.values_mut() {
            known.retain(|_, seen| now.saturating_duration_since(*seen) < KEPT);
        }
        self.0.retain(|host, known| !known.is_empty() && is_declared(host));
        count(self) != before
    }

    /// The addresses of a name, ascending.
    pub fn of(&self, host: &str) -> impl Iterator<Item = IpAddr> {
        self.0.get(host).into_iter().flat_map(|known| known.keys().copied())
    }
}

/// Whether a name may be at an address without the address being declared too. Addresses that mean this machine, or another
/// thing on each link, are no place for a service on the network: whoever answers for a name could lead there otherwise.
pub fn is_usable(host: &str, address: IpAddr) -> bool {
    let is_local_name = host == "localhost" || host.ends_with(".localhost");
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let is_special = v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() || v4.is_link_local();
            let is_this_net = v4.octets().first() == Some(&0);
            !is_special && !is_this_net && (is_local_name || !v4.is_loopback())
        }
        IpAddr::V6(v6) => {
            let is_special = v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local();
            !is_special && (is_local_name || !v6.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(numbers: std::ops::Range<u32>) -> Vec<IpAddr> {
        numbers.map(|number| std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()).collect()
    }

    #[test]
    fn a_name_with_a_million_addresses_keeps_a_bounded_number_of_them() {
        let mut learned = Learned::default();
        let now = Instant::now();
        assert!(learned.learn("a.example", &addresses(0..1_000_000), now));
        assert_eq!(learned.of("a.example").count(), MAX_LEARNED);
        // What was seen last stays.
        let later = now + Duration::from_secs(1);
        learned.learn("a.example", &addresses(2_000_000..2_000_010), later);
        assert_eq!(learned.of("a.example").count(), MAX_LEARNED);
        assert!(learned.of("a.example").any(|address| address == addresses(2_000_003..2_000_004)[0]));
    }

    #[test]
    fn an_address_is_kept_for_a_while_after_it_was_seen_last() {
        let mut learned = Learned::default();
        let now = Instant::now();
        assert!(learned.learn("a.example", &addresses(0..2), now));
        assert!(!learned.learn("a.example", &addresses(0..1), now + KEPT / 2));
        assert!(!learned.forget(|_| true, now + KEPT / 2));
        assert!(learned.forget(|_| true, now + KEPT));
        assert_eq!(learned.of("a.example").collect::<Vec<_>>(), addresses(0..1));
        assert!(learned.forget(|_| false, now + KEPT));
        assert_eq!(learned.of("a.example").count(), 0);
    }

    #[test]
    fn a_name_is_never_this_machine_nor_a_link_but_localhost_is() {
        for (host, address, expected) in [
            ("a.example", "192.0.2.1", true),
            ("a.example", "10.0.0.1", true),
            ("a.example", "2001:db8::1", true),
            ("a.example", "127.0.0.1", false),
            ("a.example", "::ffff:127.0.0.1", false),
            ("a.example", "0.0.0.0", false),
            ("a.example", "0.1.2.3", false),
            ("a.example", "169.254.169.254", false),
            ("a.example", "224.0.0.1", false),
            ("a.example", "255.255.255.255", false),
            ("a.example", "::1", false),
            ("a.example", "::", false),
            ("a.example", "fe80::1", false),
            ("a.example", "ff02::1", false),
            ("localhost", "127.0.0.1", true),
            ("api.localhost", "::1", true),
            ("notlocalhost", "127.0.0.1", false),
            ("localhost", "169.254.169.254", false),
        ] {
            assert_eq!(is_usable(host, address.parse().unwrap()), expected, "{host} {address}");
        }
    }
}
