// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What policy says: Cedar with our schema, from given texts to a decision and its explanation.
//!
//! Pure and total: no IO, no clock, and on every doubt a deny. Cedar skips a policy that fails to evaluate, a
//! `forbid` too; here any such failure denies the request.
//! The words of policies are in `schema.cedarschema`.

mod answers;
mod cases;
mod decision;
mod explain;
mod load;
mod memo;
mod nesting;
mod policies;
mod prepared;
mod request;
mod schema;
mod slice;

pub use answers::{MAX_ANSWERS, Permitted};
pub use cases::CaseResult;
pub use decision::{Decision, Effect, Generation, Reason};
pub use explain::{MAX_NEAR_MISSES, PolicyNearMiss};
pub use load::{MAX_POLICIES, MAX_POLICY_BYTES};
pub use policies::{Policies, PolicyView};
pub use prepared::{PreparedDestination, PreparedPrincipal, PreparedSession};
pub use request::{
    Action, ConnectionContext, CredentialContext, Destination, EvidenceContext, MAX_FACTS, Principal, ProgramContext,
    Request, SessionContext, UserContext,
};
pub use schema::SCHEMA;
pub use slice::{MAX_SLICED_POLICIES, MAX_SLICES};

/// Why something could not be made ready for evaluation. Whoever sees one refuses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More facts than a decision looks at.
    #[error("{actual} {what}, at most {limit} are looked at")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: usize,
        /// What was given.
        actual: usize,
    },
    /// An attribute could not be evaluated.
    #[error("bug: {what} has an attribute that Cedar refuses")]
    Attribute {
        /// Which entity.
        what: &'static str,
        /// Cedar's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An entity does not fit the schema.
    #[error("bug: {what} does not fit the policy schema")]
    Entity {
        /// Which entity.
        what: &'static str,
        /// Cedar's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A context could not be built.
    #[error("bug: the request's context is refused by Cedar")]
    Context(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A request does not fit the schema.
    #[error("bug: the request does not fit the policy schema")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The policies of a slice could not be put together.
    #[error("bug: a slice of the policies cannot be built")]
    Slice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[cfg(test)]
mod tests;
