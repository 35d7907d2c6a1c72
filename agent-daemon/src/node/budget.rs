// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Users that are told apart at once. Those beyond share one budget.
const USERS: usize = 1024;

/// How many records a user's refusals may still cause. A refusal costs a line in the log, and the log holds so
/// many lines: without a bound whoever is refused in a loop could push out what others did, from many processes
/// if one is limited. With one bound for all, a loud user would hide a quiet one.
#[derive(Debug)]
pub(super) struct Budget {
    burst: u32,
    refill: Duration,
    users: Mutex<HashMap<Option<u32>, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    since: Instant,
}

impl Budget {
    pub(super) fn new(burst: u32, refill: Duration) -> Self {
        Self { burst, refill, users: Mutex::default() }
    }

    /// Whether this user may cause one more.
    pub(super) fn take(&self, uid: u32, now: Instant) -> bool {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS && !users.contains_key(&Some(uid)) {
            // A full bucket is as good as none.
            users.retain(|_, bucket| self.filled(*bucket, now).left < self.burst);
        }
        let is_known = users.contains_key(&Some(uid)) || users.len() < USERS;
        let fresh = Bucket { left: self.burst, since: now };
        let bucket = users.entry(is_known.then_some(uid)).or_insert(fresh);
        let filled = self.filled(*bucket, now);
        *bucket = Bucket { left: filled.left.saturating_sub(1), ..filled };
        filled.left > 0
    }

    /// When there will be room again.
    pub(super) fn refill(&self) -> Duration {
        self.refill
    }

    fn filled(&self, bucket: Bucket, now: Instant) -> Bucket {
        let passed = now.saturating_duration_since(bucket.since);
        match u32::try_from(passed.as_nanos() / self.refill.as_nanos().max(1)).unwrap_or(u32::MAX) {
            0 => bucket,
            gained => Bucket { left: bucket.left.saturating_add(gained).min(self.burst), since: now },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_spends_only_its_own_and_gets_it_back_in_time() {
        let budget = Budget::new(3, Duration::from_millis(10));
        let start = Instant::now();
        assert_eq!((0..100).filter(|_| budget.take(1, start)).count(), 3);
        assert!(budget.take(2, start), "another user is not hidden by the first");
        assert!(budget.take(1, start + Duration::from_millis(50)));
    }

    #[test]
    fn any_number_of_users_takes_a_bounded_table() {
        let budget = Budget::new(2, Duration::from_secs(1));
        let start = Instant::now();
        for uid in 0..10_000 {
            budget.take(uid, start);
        }
        assert!(budget.users.lock().unwrap().len() <= USERS + 1);
        assert!(budget.take(10_001, start + Duration::from_secs(10)), "idle users make room");
    }
}
