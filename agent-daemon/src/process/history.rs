// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::{BootTime, ExecId, ExecInstance};

/// What is still known of an exec instance that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub id: ExecId,
    /// Its process.
    pub tgid: u32,
    /// Task name.
    pub comm: Box<str>,
    /// The name given to `execve`.
    pub filename: Box<str>,
    /// When it began.
    pub began: BootTime,
    /// The identity it had, where somebody asked while it lived.
    pub spiffe_id: Option<Box<str>>,
}

impl From<&ExecInstance> for Ended {
    fn from(instance: &ExecInstance) -> Self {
        Self {
            id: instance.id,
            tgid: instance.process.tgid,
            comm: instance.comm.clone(),
            filename: instance.filename_lossy().into_boxed_str(),
            began: instance.began,
            spiffe_id: None,
        }
    }
}

/// The newest exec instances that ended, so that a lineage can name its dead. Bounded; forgets the oldest.
///
/// Fed by events, so it may miss some: what is missing is shown as unknown and never decides anything.
#[derive(Debug)]
pub struct History {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<ExecId, Ended>,
    order: VecDeque<ExecId>,
}

impl History {
    /// Keeps at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), inner: Mutex::default() }
    }

    /// Remembers an exec instance that ended. One that is told of again keeps the identity it was known by.
    pub fn remember(&self, mut ended: Ended) {
        let id = ended.id;
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = inner.by_id.get(&id) {
            ended.spiffe_id = ended.spiffe_id.or_else(|| known.spiffe_id.clone());
        }
        if inner.by_id.insert(id, ended).is_none() {
            inner.order.push_back(id);
            if inner.order.len() > self.limit
                && let Some(oldest) = inner.order.pop_front()
            {
                inner.by_id.remove(&oldest);
            }
        }
    }

    /// What is known of it.
    pub fn ended(&self, id: ExecId) -> Option<Ended> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned()
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).order.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many can be held.
    pub fn limit(&self) -> usize {
        self.limit
    }
}
