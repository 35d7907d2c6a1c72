// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;

use super::proof::Proof;
use crate::Invalid;

/// Proofs that were used, each until it is over: the same one is good once.
///
/// It knows what this process saw and no other; services that share a name have to share more than this.
#[derive(Debug)]
pub struct Seen {
    used: HashMap<[u8; 32], u64>,
    capacity: usize,
}

impl Seen {
    /// Keeps so many. More at once than that are refused: what is not remembered could be used twice.
    pub fn new(capacity: usize) -> Self {
        Self { used: HashMap::new(), capacity }
    }

    pub(super) fn take(&mut self, proof: &Proof, now: u64) -> Result<(), Invalid> {
        if self.used.len() >= self.capacity {
            self.used.retain(|_, expires_at| *expires_at > now);
        }
        if self.used.get(&proof.id).is_some_and(|expires_at| *expires_at > now) {
            return Err(Invalid("the proof was used before"));
        }
        if self.used.len() >= self.capacity {
            return Err(Invalid("too many proofs at once"));
        }
        self.used.insert(proof.id, proof.expires_at);
        Ok(())
    }
}
