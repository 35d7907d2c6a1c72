// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How often one exec instance may ask.
//!
//! A token bucket, kept as the one instant at which it is full again (GCRA). An idle bucket is full and carries no
//! state, so forgetting it changes nothing; a busy one is never forgotten, or its owner would start with a full one.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::process::ExecId;

/// The size of the buckets and of their table.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests at once.
    pub burst: NonZeroU32,
    /// One more after this long.
    pub refill: Duration,
    /// Busy exec instances at a time.
    pub table: usize,
}

/// Asked too often, or too many ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("rate limit reached, try again in {retry_after:?}")]
pub struct Limited {
    /// When it is worth asking again.
    pub retry_after: Duration,
}

/// All buckets.
#[derive(Debug)]
pub struct Rates {
    limits: Limits,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    full_at: HashMap<ExecId, Instant>,
    by_time: BTreeSet<(Instant, ExecId)>,
}

impl Rates {
    /// No bucket yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, buckets: Mutex::default() }
    }

    /// Takes one token out of the exec instance's bucket.
    ///
    /// # Errors
    /// It is empty, or there is no room for its bucket because all others are in use.
    pub fn allow(&self, exec_id: ExecId, now: Instant) -> Result<(), Limited> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let known = buckets.full_at.get(&exec_id).copied();
        // The whole bucket is a debt of `burst` refills; one request may add one refill up to that.
        let Some(capacity) = self.limits.refill.checked_mul(self.limits.burst.get()) else {
            return Err(Limited { retry_after: self.limits.refill });
        };
        let full_at = known.map_or(now, |full_at| full_at.max(now)).checked_add(self.limits.refill);
        let Some(full_at) = full_at else { return Err(Limited { retry_after: self.limits.refill }) };
        let debt = full_at.saturating_duration_since(now);
        if debt > capacity {
            return Err(Limited { retry_after: debt.saturating_sub(capacity) });
        }
        if known.is_none() {
            buckets.make_room(self.limits.table, now)?;
        }
        buckets.put(exec_id, full_at);
        Ok(())
    }

    /// Drops the bucket of an exec instance that ended; its id never comes again.
    pub fn forget(&self, exec_id: ExecId) {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).remove(exec_id);
    }

    /// Buckets held; for the gauge.
    pub fn len(&self) -> usize {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).full_at.len()
    }

    /// True when nobody asked of late.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Buckets {
    fn make_room(&mut self, table: usize, now: Instant) -> Result<(), Limited> {
        if self.full_at.len() < table {
            return Ok(());
        }
        match self.by_time.first().copied() {
            Some((full_at, exec_id)) if full_at <= now => {
                self.remove(exec_id);
                Ok(())
            }
            Some((full_at, _)) => Err(Limited { retry_after: full_at.saturating_duration_since(now) }),
            None => Err(Limited { retry_after: Duration::MAX }),
        }
    }

    fn put(&mut self, exec_id: ExecId, full_at: Instant) {
        if let Some(old) = self.full_at.insert(exec_id, full_at) {
            self.by_time.remove(&(old, exec_id));
        }
        self.by_time.insert((full_at, exec_id));
    }

    fn remove(&mut self, exec_id: ExecId) {
        if let Some(full_at) = self.full_at.remove(&exec_id) {
            self.by_time.remove(&(full_at, exec_id));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rates(burst: u32, table: usize) -> Rates {
        Rates::new(Limits { burst: NonZeroU32::new(burst).unwrap(), refill: SECOND, table })
    }

    #[test]
    fn a_burst_passes_and_then_one_a_refill() {
        let rates = rates(3, 8);
        let start = Instant::now();
        for _ in 0..3 {
            rates.allow(ExecId(1), start).unwrap();
        }
        assert_eq!(rates.allow(ExecId(1), start), Err(Limited { retry_after: SECOND }));
        let half = start + SECOND / 2;
        assert_eq!(rates.allow(ExecId(1), half), Err(Limited { retry_after: SECOND / 2 }));
        rates.allow(ExecId(1), start + SECOND).unwrap();
        assert_eq!(rates.allow(ExecId(1), start + SECOND), Err(Limited { retry_after: SECOND }));
        let long_after = start + SECOND * 100;
        for _ in 0..3 {
            rates.allow(ExecId(1), long_after).unwrap();
        }
        assert!(rates.allow(ExecId(1), long_after).is_err(), "idling must not save up more than a burst");
    }

    #[test]
    fn one_exec_instance_does_not_use_up_anothers_bucket() {
        let rates = rates(1, 8);
        let now = Instant::now();
        rates.allow(ExecId(1), now).unwrap();
        assert!(rates.allow(ExecId(1), now).is_err());
        rates.allow(ExecId(2), now).unwrap();
    }

    #[test]
    fn a_table_full_of_busy_buckets_refuses_newcomers_and_forgets_nobody() {
        let rates = rates(2, 2);
        let now = Instant::now();
        for exec_id in [1, 2] {
            rates.allow(ExecId(exec_id), now).unwrap();
            rates.allow(ExecId(exec_id), now).unwrap();
        }
        assert_eq!(rates.allow(ExecId(3), now), Err(Limited { retry_after: SECOND * 2 }));
        assert!(rates.allow(ExecId(1), now).is_err(), "the newcomer must not have reset it");
        rates.allow(ExecId(1), now + SECOND).unwrap();
        assert_eq!(rates.len(), 2);
    }

    #[test]
    fn an_idle_bucket_makes_room() {
        let rates = rates(2, 1);
        let now = Instant::now();
        rates.allow(ExecId(1), now).unwrap();
        assert!(rates.allow(ExecId(2), now).is_err());
        rates.allow(ExecId(2), now + SECOND).unwrap();
        assert_eq!(rates.len(), 1);
    }

    #[test]
    fn a_table_of_no_size_lets_nobody_through() {
        assert!(rates(1, 0).allow(ExecId(1), Instant::now()).is_err());
    }

    #[test]
    fn a_clock_read_earlier_by_another_thread_gives_nothing_away() {
        let rates = rates(1, 4);
        let now = Instant::now() + SECOND * 10;
        rates.allow(ExecId(1), now).unwrap();
        assert!(rates.allow(ExecId(1), now - SECOND).is_err());
        assert!(rates.allow(ExecId(1), now).is_err());
    }

    #[test]
    fn a_forgotten_exec_instance_leaves_nothing_behind() {
        let rates = rates(1, 4);
        rates.allow(ExecId(1), Instant::now()).unwrap();
        rates.forget(ExecId(1));
        rates.forget(ExecId(1));
        assert!(rates.is_empty());
        assert!(rates.buckets.lock().unwrap().by_time.is_empty());
    }

    proptest! {
        #[test]
        fn nobody_ever_gets_more_than_burst_and_refill(
            asks in prop::collection::vec((0_u64..4, 0_u64..1500), 1..200),
            burst in 1_u32..5,
            table in 1_usize..4,
        ) {
            let rates = rates(burst, table);
            let start = Instant::now();
            let mut now = start;
            let mut granted: HashMap<u64, Vec<Instant>> = HashMap::new();
            for (exec_id, pause_ms) in asks {
                now += Duration::from_millis(pause_ms);
                if rates.allow(ExecId(exec_id), now).is_ok() {
                    granted.entry(exec_id).or_default().push(now);
                }
                prop_assert!(rates.len() <= table);
            }
            for times in granted.values() {
                for (first, from) in times.iter().enumerate() {
                    for (last, to) in times.iter().enumerate().skip(first) {
                        let count = u128::try_from(last - first + 1).unwrap();
                        let allowed = u128::from(burst) + to.duration_since(*from).as_millis() / 1000;
                        prop_assert!(count <= allowed, "{count} in {:?}", to.duration_since(*from));
                    }
                }
            }
        }
    }
}
