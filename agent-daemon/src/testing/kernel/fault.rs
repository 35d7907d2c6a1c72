// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::HashMap;
use std::fmt;

use super::FakeKernel;
use crate::process::Error;

/// A question to the kernel's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`crate::process::Records::process`]
    Process,
    /// [`crate::process::Records::current`]
    Current,
    /// [`crate::process::Records::ended`]
    Ended,
    /// [`crate::process::Records::bind_session`]
    BindSession,
    /// [`crate::process::Records::processes`]
    Processes,
    /// [`crate::process::Records::connection`]
    Connection,
    /// [`crate::process::Records::cookie`]
    Cookie,
    /// [`crate::process::Records::connections`]
    Connections,
    /// [`crate::process::Records::watch`]
    Watch,
    /// [`crate::process::Records::listen`]
    Listen,
    /// [`crate::egress::Tables::put`]
    Put,
    /// [`crate::egress::Tables::classify`]
    Classify,
    /// [`crate::egress::Tables::put_image`]
    PutImage,
    /// [`crate::egress::Disconnect::disconnect`]
    Disconnect,
}

/// How a question fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The map cannot be read.
    Map,
    /// The record does not come to rest.
    Unstable,
    /// The record is not one of ours.
    Malformed,
}

impl Fault {
    fn error(self) -> Error {
        let source = std::io::Error::from_raw_os_error(libc::EPERM);
        match self {
            Self::Map => Error::Map { operation: "read", map: "PROCESSES", source },
            Self::Unstable => Error::Unstable { tgid: super::super::tgid() },
            Self::Malformed => Error::Malformed { map: "PROCESSES", what: "the name is too long" },
        }
    }
}

pub(super) type Action = Box<dyn FnOnce(&FakeKernel) + Send>;

struct Due {
    call: Call,
    left: usize,
    action: Action,
}

/// What goes wrong, and what happens in between.
#[derive(Default)]
pub(super) struct Faults {
    faults: HashMap<Call, Fault>,
    waiting: Vec<Due>,
}

impl Faults {
    pub(super) fn fail(&mut self, call: Call, fault: Fault) {
        self.faults.insert(call, fault);
    }

    pub(super) fn mend(&mut self) {
        self.faults.clear();
    }

    pub(super) fn before(&mut self, call: Call, nth: usize, action: Action) {
        self.waiting.push(Due { call, left: nth.max(1), action });
    }

    /// Counts one call and gives what is to be done before it is answered.
    pub(super) fn due(&mut self, call: Call) -> Vec<Action> {
        for due in self.waiting.iter_mut().filter(|due| due.call == call) {
            due.left = due.left.saturating_sub(1);
        }
        self.waiting.extract_if(.., |due| due.left == 0).map(|due| due.action).collect()
    }

    pub(super) fn check(&self, call: Call) -> Result<(), Error> {
        self.faults.get(&call).map_or(Ok(()), |fault| Err(fault.error()))
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("faults", &self.faults).field("waiting", &self.waiting.len()).finish()
    }
}
