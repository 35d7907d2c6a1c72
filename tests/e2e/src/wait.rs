// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longer than anything here may take.
const DEADLINE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// The value once it is there, within a deadline.
///
/// # Errors
/// When it does not come, or when looking for it fails.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {DEADLINE:?} in vain: {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits for a condition.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, || Ok(is_so()?.then_some(())))
}
