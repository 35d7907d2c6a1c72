// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// One program image in one process, from exec (or fork) to the next exec or exit. Unique per boot.
///
/// Printed as `x123` everywhere, so that it is never taken for a pid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecId(pub u64);

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x{}", self.0)
    }
}

impl fmt::Debug for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.strip_prefix('x').unwrap_or(text).parse().map(Self)
    }
}

/// Nanoseconds on the kernel's boot clock (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

/// One process across its execs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessKey {
    /// Thread group id in the initial PID namespace.
    pub tgid: u32,
    /// When it was forked.
    pub start_boottime: BootTime,
}
