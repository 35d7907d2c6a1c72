// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::audit::DecisionRecord;

/// A decision and when it was made.
#[derive(Debug)]
pub struct Decided {
    /// When.
    pub time: Timestamp,
    /// As it was recorded.
    pub record: DecisionRecord,
}

/// The newest decisions, for operators. Bounded; the audit log has all of them.
#[derive(Debug)]
pub struct Recent {
    limit: usize,
    ring: Mutex<VecDeque<Arc<Decided>>>,
}

impl Recent {
    /// Keeps at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), ring: Mutex::default() }
    }

    pub(super) fn push(&self, decided: Arc<Decided>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() >= self.limit {
            ring.pop_front();
        }
        ring.push_back(decided);
    }

    /// The newest first.
    pub fn newest(&self, limit: usize, wanted: impl Fn(&DecisionRecord) -> bool) -> Vec<Arc<Decided>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().filter(|decided| wanted(&decided.record)).take(limit).map(Arc::clone).collect()
    }
}
