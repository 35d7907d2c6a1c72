// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Values of Cedar's extension types that are asked for again and again.
//!
//! To make one, Cedar parses the name of its constructor, and its parser builds an automaton each time: some
//! microseconds, and enough memory to push everything else out of the caches. A copy costs next to nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, PoisonError};

use cedar_policy::RestrictedExpression;
use jiff::Timestamp;

/// Values kept of each type. They are forgotten all at once when there are more.
const KEPT: usize = 256;

static DATETIMES: LazyLock<Memo<i64>> = LazyLock::new(Memo::default);
static ADDRESSES: LazyLock<Memo<IpAddr>> = LazyLock::new(Memo::default);

/// `datetime(…)`, in whole seconds.
pub(super) fn datetime(time: Timestamp) -> RestrictedExpression {
    DATETIMES
        .keep(time.as_second(), || RestrictedExpression::new_datetime(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

/// `ip(…)`; an IPv4 address is never written as IPv6.
pub(super) fn address(address: IpAddr) -> RestrictedExpression {
    let address = address.to_canonical();
    ADDRESSES.keep(address, || RestrictedExpression::new_ip(address.to_string()))
}

struct Memo<K>(Mutex<HashMap<K, RestrictedExpression>>);

impl<K> Default for Memo<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Memo<K> {
    fn keep(&self, key: K, make: impl FnOnce() -> RestrictedExpression) -> RestrictedExpression {
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let made = make();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &RestrictedExpression) -> String {
        format!("{value:?}")
    }

    #[test]
    fn each_key_has_its_own_value_and_the_memory_is_bounded() {
        let memo = Memo::default();
        for number in 0..i64::try_from(3 * KEPT).unwrap() {
            let expected = RestrictedExpression::new_long(number);
            for _ in 0..2 {
                let kept = memo.keep(number, || RestrictedExpression::new_long(number));
                assert_eq!(text(&kept), text(&expected));
            }
        }
        assert!(memo.0.lock().unwrap().len() <= KEPT);
    }

    #[test]
    fn what_is_kept_is_what_would_be_made() {
        let time: Timestamp = "2026-01-02T03:04:05.999Z".parse().unwrap();
        for _ in 0..2 {
            let expected = RestrictedExpression::new_datetime("2026-01-02T03:04:05Z");
            assert_eq!(text(&datetime(time)), text(&expected));
            let expected = RestrictedExpression::new_ip("127.0.0.1");
            assert_eq!(text(&address("::ffff:127.0.0.1".parse().unwrap())), text(&expected));
        }
    }
}
