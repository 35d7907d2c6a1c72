// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CORE. Exec instances, their connections and their lineage, as the kernel recorded them.
//!
//! Owns the typed form of the kernel's records and the trait through which the rest of the daemon reads
//! them. Does no IO and keeps no table of processes: the kernel maps are the truth and are read at decision
//! time. The only memory here is [`History`], which names the dead.

mod connection;
mod history;
mod id;
mod instance;
mod records;

pub use connection::{Connection, Ground, Hook, Protocol, Tuple, Verdict};
pub use history::{Ended, History};
pub use id::{BootTime, ExecId, NoSessionId, ProcessKey, SessionId};
pub use instance::{Ancestor, Classified, ExecInstance, FileId, Flags, Governed, Namespaces, Stamp};
pub use records::{Bound, Capacity, Count, Current, Error, Event, Means, Records, RefusedImage};
