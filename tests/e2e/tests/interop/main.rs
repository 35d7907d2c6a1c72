// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Peers that are written in Go and built for these tests: go-spiffe, and a SPIRE server with its agent.
//! `cargo xtask interop` builds them and runs this.
#![expect(
    clippy::indexing_slicing,
    reason = "an index into JSON gives null, and what is not as expected ends the test"
)]

mod golang;
mod spire;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use e2e::{World, readable};

/// The program that speaks SPIFFE by go-spiffe, where every user may run it.
fn client(world: &World) -> Result<String> {
    let folder = std::env::var_os("AGENT_TEST_GO").context("AGENT_TEST_GO is not set: use xtask interop")?;
    readable(world, &PathBuf::from(folder).join("client"))
}
