// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Middle values and spreads: what disturbs a run must not decide its result.

use std::time::Duration;

/// Samples in order.
#[derive(Debug, Clone)]
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    pub(crate) fn new(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut samples: Vec<f64> = samples.into_iter().filter(|sample| sample.is_finite()).collect();
        samples.sort_by(f64::total_cmp);
        Self(samples)
    }

    pub(crate) fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        Self::new(durations.into_iter().map(|duration| duration.as_secs_f64()))
    }

    /// The sample that so many in a thousand are below; not a number when there is none.
    pub(crate) fn per_mille(&self, share: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        let at = last.saturating_mul(share).div_ceil(1000).min(last);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        let half = self.0.len() / 2;
        match (self.0.get(half.saturating_sub(1)), self.0.get(half)) {
            (Some(low), Some(high)) if self.0.len().is_multiple_of(2) => f64::midpoint(*low, *high),
            (_, Some(middle)) => *middle,
            _ => f64::NAN,
        }
    }

    /// The middle half lies between these.
    pub(crate) fn quartiles(&self) -> (f64, f64) {
        (self.per_mille(250), self.per_mille(750))
    }
}

/// Ratios of what was measured in the same round.
pub(crate) fn ratios(with: &[f64], without: &[f64]) -> Sorted {
    Sorted::new(with.iter().zip(without).map(|(with, without)| with / without))
}
