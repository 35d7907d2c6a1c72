// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon as a library: `main.rs` and the tests compose it through [`app`].
//!
//! ARCHITECTURE.md tells the story of one event and one request through these modules.

// Numbers change their type by `From` and `TryFrom` here: a silent cut is how bounds are lost.
#![warn(clippy::as_conversions)]

pub mod api;
pub mod app;
pub mod approval;
pub mod arguments;
pub mod attest;
pub mod audit;
pub mod authority;
pub mod clock;
pub mod config;
pub mod credential;
pub mod diagnostic;
pub mod egress;
mod hex;
pub mod identity;
pub mod kernel;
pub mod node;
pub mod policy;
pub mod process;
mod rights;
pub mod session;
pub mod shutdown;
pub mod snapshot;
pub mod step;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod upstream;
pub mod url;
pub mod web;
