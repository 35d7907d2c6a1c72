// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The gRPC API: messages, clients and servers generated from `proto/*.proto`.
//!
//! `cargo xtask codegen` writes `src/gen`; `cargo xtask codegen --check` proves that it is what the
//! `.proto` files give.

mod redacted;

/// The module tree of the proto packages, as the generated code expects it.
#[allow(unreachable_pub, reason = "re-exported below")]
mod agent {
    /// `agent.v1`
    #[allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::clone_on_ref_ptr,
        missing_docs,
        unused_qualifications,
        unreachable_pub,
        reason = "generated code"
    )]
    #[rustfmt::skip]
    pub mod v1 {
        include!("gen/agent.v1.rs");
    }

    /// `agent.admin`
    pub mod admin {
        /// `agent.admin.v1`
        #[allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::clone_on_ref_ptr,
        missing_docs,
        unused_qualifications,
        unreachable_pub,
        reason = "generated code"
    )]
        #[rustfmt::skip]
        pub mod v1 {
            include!("gen/agent.admin.v1.rs");
        }
    }
}

/// The SPIFFE Workload API, which has no package.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    reason = "generated code"
)]
#[rustfmt::skip]
pub mod spiffe {
    include!("gen/_.rs");
}

/// The API for operators: `AdminService`.
pub use agent::admin::v1 as admin;
/// The API for workloads: `AgentService`.
pub use agent::v1;

/// The encoded `FileDescriptorSet` of everything here, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
