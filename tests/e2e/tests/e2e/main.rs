// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole program as root on the running kernel: every test starts the real daemon and real processes.
#![expect(
    clippy::indexing_slicing,
    reason = "an index into JSON gives null, and what is not as expected ends the test"
)]

mod adversary;
mod approvals;
mod auditing;
mod bounds;
mod callers;
mod calls;
mod configuring;
mod connections;
mod egress;
mod exchange;
mod exports;
mod federation;
mod gateways;
mod hostile;
mod images;
mod interop;
mod issuer;
mod leases;
mod mcp;
mod operators;
mod programs;
mod restart;
mod revocation;
mod sdk;
mod sessions;
mod slice;
mod spiffe;
mod steps;
mod tiers;
mod upstreams;
mod wit;
