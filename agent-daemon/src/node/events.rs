// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::Arc;

use super::recent::Decided;
use super::{Cause, Node};
use crate::credential::Lease;
use crate::process::Event;

/// Something an operator may watch.
#[derive(Debug)]
pub enum Happening {
    /// The kernel saw it.
    Kernel(Event),
    /// The node decided it.
    Decision(Arc<Decided>),
    /// A lease began or ended.
    Lease(Arc<Lease>),
}

impl Node {
    /// Applies one kernel event. Events make ends prompt; the sweep and every introspection find what they miss.
    pub fn apply(&self, event: Event) {
        match &event {
            Event::Exec { ended: Some(ended), .. } => {
                self.end_exec(ended.id, Cause::Exec);
                self.attestor.ended(ended);
            }
            Event::Exit { ended } => {
                self.end_exec(ended.id, Cause::Exited);
                self.attestor.ended(ended);
            }
            Event::Exec { ended: None, .. } | Event::Connect(_) | Event::Close { .. } => {}
        }
        self.tell(Happening::Kernel(event));
    }

    pub(super) fn tell(&self, happening: Happening) {
        if self.happenings.receiver_count() > 0 {
            // It fails only when the last watcher left just now.
            let _watchers = self.happenings.send(Arc::new(happening));
        }
    }
}
