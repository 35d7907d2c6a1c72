// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::broadcast::Receiver;

use super::recent::Decided;
use super::{Cause, Node};
use crate::credential::Lease;
use crate::process::{Error, Event, Records};

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

/// What happens, from now on.
#[derive(Debug)]
pub struct Watching {
    /// One after the other; a reader that falls behind is told how many it lost.
    pub happenings: Receiver<Arc<Happening>>,
    _listening: Option<Listening>,
}

/// How many watch the kernel.
#[derive(Debug, Default)]
pub(super) struct Listeners(Arc<Mutex<usize>>);

/// While one is held, the kernel tells of everything.
#[derive(Debug)]
struct Listening {
    listeners: Arc<Mutex<usize>>,
    records: Arc<dyn Records>,
}

impl Listeners {
    /// The kernel is asked under the lock, so that the last word is that of the last change.
    fn enter(&self, records: &Arc<dyn Records>) -> Result<Listening, Error> {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *listeners == 0 {
            records.listen(true)?;
        }
        *listeners = listeners.saturating_add(1);
        Ok(Listening { listeners: Arc::clone(&self.0), records: Arc::clone(records) })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        *listeners = listeners.saturating_sub(1);
        if *listeners == 0
            && let Err(error) = self.records.listen(false)
        {
            tracing::warn!(%error, "the kernel goes on telling of everything, though nobody watches");
        }
    }
}

impl Node {
    /// Decisions and lease changes from now on, and kernel events if `kernel`: every one of them, for as long as this is
    /// held.
    ///
    /// # Errors
    /// When the kernel cannot be asked for them.
    pub fn watch(&self, kernel: bool) -> Result<Watching, Error> {
        let happenings = self.happenings.subscribe();
        let listening = kernel.then(|| self.listeners.enter(self.attestor.records())).transpose()?;
        Ok(Watching { happenings, _listening: listening })
    }

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
            Event::Exec { ended: None, .. } | Event::Connect(_) | Event::Close { .. } | Event::Image(_) => {}
        }
        self.hear_of_egress(&event);
        self.tell(Happening::Kernel(event));
    }

    pub(super) fn tell(&self, happening: Happening) {
        if self.happenings.receiver_count() > 0 {
            // It fails only when the last watcher left just now.
            let _watchers = self.happenings.send(Arc::new(happening));
        }
    }
}
