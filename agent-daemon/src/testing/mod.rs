// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Fakes with behaviour for the tests of this and other crates: a kernel, a clock, a resolver, a `/proc`, files in
//! memory; and a whole node made of them.
//!
//! Never in a release build. They behave like what they stand for and expect nothing: a test looks at what the node
//! did, not at which calls it made.
#![expect(clippy::expect_used, reason = "a fake that cannot be set up has to fail its test at once")]

mod clock;
mod directory;
mod kernel;
mod node;
mod proc;
mod process;
mod resolver;
mod sources;
mod upstream;
mod view;

pub use clock::FakeClock;
pub use directory::PrivateDirectory;
pub use kernel::{Call, FakeKernel, Fault, Sizes};
pub use node::{BOOT_ID, Setup, TRUST_DOMAIN, TestNode, while_none_is_built};
pub use proc::FakeProc;
pub use process::{exe_path, exec_instance_of, exec_instance_of_self, tgid};
pub use resolver::FakeResolver;
pub use sources::MemorySources;
pub use upstream::{FakeUpstream, Signing};
pub use view::FakeView;
