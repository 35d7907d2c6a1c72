// SPDX-License-Identifier: Apache-2.0 OR MIT

//! ADAPTER, the only user of tonic: the agents' API, the SPIFFE Workload API, the operators' API, and the HTTP
//! endpoint for verifiers.
//!
//! Translates, limits and refuses; decides nothing.

mod accept;
pub mod admin;
mod agent;
mod authority;
pub mod convert;
mod door;
mod form;
pub mod https;
mod presence;
mod rename;
mod serve;
mod spiffe;
mod status;
mod stream;
mod token;

pub use authority::{Address as AuthorityAddress, Config as AuthorityConfig, Listener as AuthorityListener};
pub use door::Limits;
pub use serve::{Config, Sockets};

/// The names of the sockets, under which refused callers are recorded.
pub(crate) const AGENT: &str = "agent";
pub(crate) const SPIFFE: &str = "spiffe";
