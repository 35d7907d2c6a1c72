// SPDX-License-Identifier: Apache-2.0 OR MIT

//! TLS and HTTP towards others: the only way by which the daemon calls anybody, and how it shows who it is.
//!
//! Every answer is bounded in size and time. Never follows a redirect, and never speaks plainly to another machine.

mod channel;
mod client;
mod endpoint;
mod server;
mod trust;

pub(crate) use self::channel::{tls_channel, unix_channel};
pub(crate) use self::client::{Answer, Client, Error};
pub use self::endpoint::{CertificateFiles, HttpsEndpoint, Serves, Shows};
pub(crate) use self::server::{Seen, Shown, server_config};
pub(crate) use self::trust::{Identity, Trust};
