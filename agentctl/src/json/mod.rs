// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The JSON that programs read: what docs/cli.md promises. Field names are those of the protobuf API.
//!
//! An exec id is a string as everywhere else (`"x123"`); other 64-bit ids and clock readings are decimal strings,
//! because many JSON readers round above 2^53. Times are RFC 3339 in UTC, `null` when there is none.

mod approval;
mod decision;
mod policy;
mod process;
mod session;
mod status;
mod watch;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::time;

pub(crate) use approval::{Answered, Approval, Approvals};
pub(crate) use decision::{Decision, Explain, Lease};
pub(crate) use policy::{PolicyList, PolicyTest, Reload, Validation};
pub(crate) use process::{Connection, ConnectionView, Process, provenance};
pub(crate) use session::{Session, SessionsEnded};
pub(crate) use status::{Doctor, Revoked, Secret, SecretRemoved, SecretSet, Status, Verification, outcome};
pub(crate) use watch::Event;

/// A 64-bit number that JSON readers would round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Big(u64);

impl Serialize for Big {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn moment(timestamp: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    time::from_proto(timestamp)
}

/// `null` rather than an empty string where "none" is an answer of its own.
fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn each<'a, P, V: From<&'a P>>(messages: &'a [P]) -> Vec<V> {
    messages.iter().map(V::from).collect()
}
