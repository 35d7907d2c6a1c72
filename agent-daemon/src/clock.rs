// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Wall-clock time, behind a trait so that tests can hold it still.

use std::fmt::Debug;

use jiff::Timestamp;

/// Where the daemon takes the time of day from.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, UTC.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
