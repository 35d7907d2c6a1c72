// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::{Mutex, PoisonError};

use crate::kernel::{Assumption, KernelView, ProgramView, Proof, Tier};

/// The kernel half as operators see it, with hooks that can be broken.
#[derive(Debug, Default)]
pub struct FakeView {
    broken: Mutex<Option<String>>,
}

impl FakeView {
    /// From now on the egress hooks see nothing.
    pub fn break_egress(&self, why: &str) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    fn proofs(&self, egress: Result<String, String>) -> Vec<Proof> {
        let seen = || Ok("seen".to_owned());
        vec![
            Proof { id: "hook.exec", tier: Tier::Observe, guarantee: "images are known", result: seen() },
            Proof { id: "hook.connect4", tier: Tier::Egress, guarantee: "connections are known", result: egress },
        ]
    }
}

impl KernelView for FakeView {
    fn programs(&self) -> Vec<ProgramView> {
        vec![ProgramView {
            name: "sched_process_exec".to_owned(),
            is_adopted: false,
            run_count: 0,
            run_time_ns: 0,
            verified_instructions: 100,
        }]
    }

    fn proofs_at_start(&self) -> Vec<Proof> {
        self.proofs(Ok("seen".to_owned()))
    }

    fn prove_now(&self) -> Vec<Proof> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.proofs(broken.map_or_else(|| Ok("seen".to_owned()), Err))
    }

    fn assumptions(&self) -> Vec<Assumption> {
        Vec::new()
    }

    fn rejected_events(&self) -> u64 {
        0
    }
}
