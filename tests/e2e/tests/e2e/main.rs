// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The whole program as root on the running kernel: every test starts the real daemon and real processes.
#![allow(clippy::tests_outside_test_module, reason = "every function here is part of a test")]

mod adversary;
mod callers;
mod calls;
mod connections;
mod gateways;
mod leases;
mod programs;
mod restart;
mod slice;
