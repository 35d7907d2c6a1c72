// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the example programs share: asking the daemon, calling an HTTPS API on a connection that is
//! already open, and, for the API, judging a bearer token.
//!
//! Nothing here is part of the product. The programs are what a user would write, kept small enough to read.

pub mod ask;
pub mod authority;
pub mod fetch;
pub mod service;
pub mod step;
pub mod tls;
pub mod token;
