// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon in this process: real sockets, policy, keys and audit log, on a fake kernel and a clock that is held.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on has to fail; only functions marked as tests are exempt by themselves"
)]

mod access_tokens;
mod admin_api;
mod agent_api;
mod approvals;
mod audit_log;
mod bad_requests;
mod callers;
mod egress;
mod ending;
mod ends;
mod federation;
mod hostile;
mod release;
mod reload;
mod renew;
mod restart;
mod sds;
mod secrets;
mod served;
mod session_trees;
mod sessions;
mod spiffe;
mod spire;
mod standing;
mod steps;
mod upstreams;
mod verifiers;
mod wit;

use agent_daemon::attest::Failure;
use agent_daemon::node::{Refusal, Released};
use agent_daemon::testing::TestNode;

/// Releases for `reports` on a new connection.
async fn release(t: &TestNode) -> Released {
    t.node.release(&t.peer(), t.ask()).await.unwrap()
}

/// The token inside.
fn token(released: &Released) -> String {
    String::from_utf8(released.secret.to_vec()).unwrap()
}

/// What introspection says of it.
fn is_active(t: &TestNode, released: &Released) -> bool {
    t.node.introspect(&token(released)).is_active()
}

/// A denial, with the reason that stands in its record.
#[track_caller]
fn denied(t: &TestNode, result: Result<Released, Refusal>) -> String {
    let Err(Refusal::Denied { decision_id }) = result else { panic!("not denied: {result:?}") };
    let record = t.last("decision");
    assert_eq!(record["decision_id"], *decision_id);
    assert_eq!(record["outcome"], "deny");
    assert_eq!(record.get("lease_id"), None, "a denial has no lease");
    assert!(t.node.leases.is_empty(), "a denial leaves no lease");
    record["reason"].as_str().unwrap().to_owned()
}

/// A refusal of the caller, by the word that stands in its record.
#[track_caller]
fn refused(result: Result<Released, Refusal>) -> &'static str {
    match result {
        Err(Refusal::Caller(failure)) => failure.reason(),
        other => panic!("the caller was not refused: {other:?}"),
    }
}

/// How many leases are held, and how many records say that one was granted or ended.
fn counts(t: &TestNode) -> (usize, usize, usize) {
    let granted = t.records_of("decision").iter().filter(|record| record.get("lease_id").is_some()).count();
    (t.node.leases.len(), granted, t.records_of("lease_ended").len())
}

fn is_gone(failure: &Failure) -> bool {
    matches!(failure, Failure::OriginatorGone(_))
}
