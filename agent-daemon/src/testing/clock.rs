// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::Clock;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct FakeClock {
    now: Mutex<Timestamp>,
}

impl FakeClock {
    /// One that shows this.
    pub fn new(now: Timestamp) -> Self {
        Self { now: Mutex::new(now) }
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now += SignedDuration::try_from(by).expect("a duration in range");
    }

    /// Moves it anywhere: a wall clock may be set back.
    pub fn set(&self, to: Timestamp) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }
}

impl Default for FakeClock {
    /// 2026-01-02T03:04:05Z.
    fn default() -> Self {
        Self::new(Timestamp::from_second(1_767_323_045).expect("a moment in range"))
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
