// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longer than anything here may take, on a machine that is not emulated.
const DEADLINE: Duration = Duration::from_secs(20);
/// How many times slower this machine is.
const SLOWNESS: &str = "AGENT_TEST_SLOWNESS";
const PAUSE: Duration = Duration::from_millis(5);

/// The value once it is there, within a deadline.
///
/// # Errors
/// When it does not come, or when looking for it fails.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let patience = DEADLINE * slowness();
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} in vain: {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

fn slowness() -> u32 {
    std::env::var(SLOWNESS).ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Waits for a condition.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, || Ok(is_so()?.then_some(())))
}
