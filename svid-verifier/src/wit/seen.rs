// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;

use super::proof::Proof;
use crate::Invalid;

/// The part of all places that the proofs of one token may take, so that one caller cannot shut out the others.
const PART_OF_ONE: usize = 16;

/// Proofs that were used, each until it is over: the same one is good once.
///
/// It knows what this process saw and no other; services that share a name have to share more than this.
#[derive(Debug)]
pub struct Seen {
    used: HashMap<[u8; 32], Used>,
    /// How many of each token.
    of_token: HashMap<[u8; 32], usize>,
    /// None of them is over before that.
    first_end: u64,
    capacity: usize,
}

#[derive(Debug, Clone, Copy)]
struct Used {
    token: [u8; 32],
    expires_at: u64,
}

impl Seen {
    /// Keeps so many, and a sixteenth of them of one token. More at once than that are refused: what is not remembered
    /// could be used twice.
    pub fn new(capacity: usize) -> Self {
        Self { used: HashMap::new(), of_token: HashMap::new(), first_end: u64::MAX, capacity }
    }

    pub(super) fn take(&mut self, proof: &Proof, now: u64) -> Result<(), Invalid> {
        if self.first_end <= now {
            self.forget(now);
        }
        if self.used.contains_key(&proof.id) {
            return Err(Invalid("the proof was used before"));
        }
        let of_token = self.of_token.entry(proof.token).or_default();
        if self.used.len() >= self.capacity || *of_token >= self.capacity.div_ceil(PART_OF_ONE) {
            return Err(Invalid("too many proofs at once"));
        }
        *of_token = of_token.saturating_add(1);
        self.first_end = self.first_end.min(proof.expires_at);
        self.used.insert(proof.id, Used { token: proof.token, expires_at: proof.expires_at });
        Ok(())
    }

    fn forget(&mut self, now: u64) {
        self.used.retain(|_, used| used.expires_at > now);
        self.of_token.clear();
        for used in self.used.values() {
            let of_token = self.of_token.entry(used.token).or_default();
            *of_token = of_token.saturating_add(1);
        }
        self.first_end = self.used.values().map(|used| used.expires_at).min().unwrap_or(u64::MAX);
    }
}
