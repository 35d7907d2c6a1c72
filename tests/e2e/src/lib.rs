// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The harness of the whole-program tests: the real daemon on the running kernel, and processes that obey.

