// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ABI that the kernel programs and the daemon share.
//!
//! One `#[repr(C)]` struct per kind, fields ordered large to small, padding explicit and zeroed, sizes and
//! offsets pinned by `const` asserts. This library has no code that runs in the kernel and no dependencies
//! there; the `user` feature adds checked decoding for the daemon.
#![no_std]
#![deny(missing_docs)]

mod counter;
mod event;
pub mod limits;
mod offsets;
mod record;
mod text;

pub use counter::{COUNTERS, Counter};
pub use event::{CloseEvent, ConnectEvent, EndedExec, EventHeader, ExecEvent, ExitEvent, ImageEvent, kind};
pub use offsets::Offsets;
pub use record::{
    ClassRecord, ConnectionRecord, ExecRecord, ImageKey, ImageRecord, PlaceWords, ToldKey, TreeRecord, TupleKey, bound,
    class, flags, governing, ground, hook, means, place_word, tree, verdict,
};
pub use text::{Address, Text};

/// Changes with every change of a map's layout or meaning. Pinned maps of another version are not adopted.
pub const ABI_VERSION: u32 = 6;
