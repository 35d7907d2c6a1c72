// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The gRPC APIs: messages, clients and servers generated from `proto/*.proto`.
//!
//! `cargo xtask codegen` writes `src/gen`; `cargo xtask codegen --check` proves that it is what the
//! `.proto` files give.

mod redacted;

/// A package of the generated code.
macro_rules! generated {
    ($(#[doc = $doc:literal])* $name:ident, $file:literal) => {
        $(#[doc = $doc])*
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
        pub mod $name {
            include!(concat!("gen/", $file));
        }
    };
}

/// The module tree of the packages, as the generated code expects it.
#[allow(unreachable_pub, reason = "re-exported below")]
mod agent {
    generated!(v1, "agent.v1.rs");
    pub mod admin {
        generated!(v1, "agent.admin.v1.rs");
    }
}

generated!(
    /// The SPIFFE Workload API, which has no package.
    spiffe, "_.rs"
);

/// What of the xDS API is needed to serve secrets (SDS).
pub mod envoy {
    #![allow(missing_docs, reason = "the names are those of the packages")]

    pub mod config {
        pub mod core {
            generated!(v3, "envoy.config.core.v3.rs");
        }
    }
    pub mod extensions {
        pub mod transport_sockets {
            pub mod tls {
                generated!(v3, "envoy.extensions.transport_sockets.tls.v3.rs");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            generated!(v3, "envoy.service.discovery.v3.rs");
        }
        pub mod secret {
            generated!(v3, "envoy.service.secret.v3.rs");
        }
    }
    pub mod r#type {
        generated!(v3, "envoy.r#type.v3.rs");
    }
}

/// What the xDS API borrows.
pub mod google {
    generated!(
        /// `google.rpc`
        rpc, "google.rpc.rs"
    );
}

/// What of SPIRE's server API a downstream authority needs.
pub mod spire {
    #![allow(missing_docs, reason = "the names are those of the packages")]

    pub mod api {
        generated!(types, "spire.api.types.rs");
        pub mod server {
            pub mod svid {
                generated!(v1, "spire.api.server.svid.v1.rs");
            }
            pub mod bundle {
                generated!(v1, "spire.api.server.bundle.v1.rs");
            }
        }
    }
}

/// The API for operators: `AdminService`.
pub use agent::admin::v1 as admin;
/// The API for workloads: `AgentService`.
pub use agent::v1;

/// The encoded `FileDescriptorSet` of everything here, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("gen/descriptors.bin");
