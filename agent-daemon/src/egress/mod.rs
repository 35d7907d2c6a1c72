// SPDX-License-Identifier: Apache-2.0 OR MIT

//! CORE. What governed trees may reach: from declared destinations, addresses that were learned for their names, and
//! policy's word, to the tables by which the kernel programs decide.
//!
//! Never asks policy and never looks a name up: `node` does both and brings the answers.

mod compile;
mod images;
mod names;
mod tables;

pub use compile::{Group, MAX_DECLARED_GROUPS, Place, Plan, TooMuch, compile};
pub use images::{Changed, ImagePlace, Images, update as update_images};
pub use names::{Learned, MAX_LEARNED, is_usable};
pub use tables::{Compiled, Counts};

use std::fmt::Debug;

use crate::identity::TreeSettings;
use crate::process::{Bound, Classified, Connection, Error, ExecId, Stamp, Verdict};

/// Which of the two sets of tables: the one in use, or the one before or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Half {
    /// The one.
    #[default]
    First,
    /// The other.
    Second,
}

impl Half {
    /// The one that this is not.
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// What a pair has for it.
    pub fn of<T>(self, [first, second]: &[T; 2]) -> &T {
        match self {
            Self::First => first,
            Self::Second => second,
        }
    }

    /// The same, to change it.
    pub fn of_mut<T>(self, [first, second]: &mut [T; 2]) -> &mut T {
        match self {
            Self::First => first,
            Self::Second => second,
        }
    }
}

/// A class of exec instances that may reach the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Its set of tables.
    pub half: Half,
    /// Its place in it.
    pub place: u32,
}

impl Class {
    /// The class of those who may reach nothing.
    pub fn nothing(half: Half) -> Self {
        Self { half, place: 0 }
    }

    /// Its place in both sets, as the kernel's record has it.
    pub fn in_record(self) -> u32 {
        match self.half {
            Half::First => self.place,
            Half::Second => self.place.saturating_add(agent_ebpf::limits::CLASSES),
        }
    }

    /// From its place in both sets, as the kernel's record has it.
    pub fn of_record(place: u32) -> Self {
        match place.checked_sub(agent_ebpf::limits::CLASSES) {
            Some(place) => Self { half: Half::Second, place },
            None => Self { half: Half::First, place },
        }
    }
}

/// Closes connections of others.
pub trait Disconnect: Debug + Send + Sync + 'static {
    /// Closes a connection for all who hold it: what they do next with it fails. False when it is not found: the kernel
    /// does not find it by itself, and none of `holders` holds it.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn disconnect(&self, connection: &Connection, holders: &[u32]) -> std::io::Result<bool>;
}

/// The kernel's tables. Writes take effect at once.
pub trait Tables: Debug + Send + Sync + 'static {
    /// The trees that are there, with their places and tags, and what holds in them with each set of tables.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn trees(&self) -> Result<Vec<(u32, u64, [TreeSettings; 2])>, Error>;

    /// Sets what holds in a tree with each set of tables. The tag names the tree to a daemon that starts anew.
    ///
    /// # Errors
    /// When the map cannot be written; so with all of these.
    fn set_tree(&self, place: u32, tag: u64, settings: [TreeSettings; 2]) -> Result<(), Error>;

    /// Whether a process of a governed tree found no room for its record.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn is_anybody_lost(&self) -> Result<bool, Error>;

    /// The set of tables that was in use last.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn half(&self) -> Result<Half, Error>;

    /// Says which set of tables is in use: a daemon that starts anew has to know, and whoever is not classified has what it
    /// says of the tree.
    ///
    /// # Errors
    /// As above.
    fn use_half(&self, half: Half) -> Result<(), Error>;

    /// Makes void whatever was said before, of classes of a set of tables: to whom it was said is not classified, and whom
    /// they forked neither.
    ///
    /// # Errors
    /// As above.
    fn void(&self, half: Half, before: Stamp) -> Result<(), Error>;

    /// Removes all addresses of a set of tables.
    ///
    /// # Errors
    /// As above.
    fn clear(&self, half: Half) -> Result<(), Error>;

    /// Says which group of destinations is at an address range.
    ///
    /// # Errors
    /// As above; also when the map is full.
    fn put(&self, half: Half, place: &Place, group: u32) -> Result<(), Error>;

    /// Takes that back. Idempotent.
    ///
    /// # Errors
    /// As above.
    fn remove(&self, half: Half, place: &Place) -> Result<(), Error>;

    /// Says what a class may reach, a verdict a group.
    ///
    /// # Errors
    /// As above.
    fn set_class(&self, class: Class, verdicts: &[Verdict]) -> Result<(), Error>;

    /// The files that may be executed.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn images(&self) -> Result<Images, Error>;

    /// Says that a file may be executed in a tree as long as it is what it was when it changed last.
    ///
    /// # Errors
    /// As above; also when the map is full.
    fn put_image(&self, place: ImagePlace, changed: Changed) -> Result<(), Error>;

    /// Takes that back. Idempotent.
    ///
    /// # Errors
    /// As above.
    fn remove_image(&self, place: ImagePlace) -> Result<(), Error>;

    /// Puts an exec instance into a tree.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    fn plant(&self, tgid: u32, exec_id: ExecId, tree: u32) -> Result<Bound, Error>;

    /// Says which class an exec instance is of, unless something later was said of it.
    ///
    /// # Errors
    /// As above.
    fn classify(&self, tgid: u32, exec_id: ExecId, word: Classified) -> Result<Bound, Error>;
}
