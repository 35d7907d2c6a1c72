// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The calls of workloads, and what they were told.

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, World};
use serde_json::{Value, json};

/// A credential that was released.
#[derive(Debug, Clone)]
pub(crate) struct Released {
    pub(crate) token: String,
    pub(crate) lease: String,
    pub(crate) decision: String,
    pub(crate) exec_id: u64,
}

/// Asks on `channel` for the destination `api`, with the binding that wants a connection.
pub(crate) fn release_for(cookie: u64) -> Value {
    json!({"do": "call", "call": "release", "on": "channel", "destination": "api", "binding": "token", "cookie": cookie})
}

/// The same without a connection.
pub(crate) fn release_loose() -> Value {
    release_as("loose")
}

pub(crate) fn release_as(binding: &str) -> Value {
    json!({"do": "call", "call": "release", "on": "channel", "destination": "api", "binding": binding})
}

pub(crate) fn attest() -> Value {
    json!({"do": "call", "call": "attest", "on": "channel"})
}

/// A credential, or the test fails with what was said instead.
pub(crate) fn released(actor: &mut Actor, call: &Value) -> Result<Released> {
    let answer = actor.act(call)?;
    let text = |name: &str| -> Result<String> {
        Ok(answer["ok"][name].as_str().with_context(|| format!("not released: {answer}"))?.to_owned())
    };
    Ok(Released {
        token: text("token")?,
        lease: text("lease")?,
        decision: text("decision")?,
        exec_id: answer["ok"]["exec_id"].as_u64().context("no exec id")?,
    })
}

/// The call is refused with this status.
pub(crate) fn refused(actor: &mut Actor, call: &Value, status: &str) -> Result<String> {
    let answer = actor.act(call)?;
    ensure!(answer["status"] == status, "{call} should be refused with {status}: {answer}");
    Ok(answer["message"].as_str().unwrap_or_default().to_owned())
}

/// The call is denied; gives the record of that.
pub(crate) fn denied(world: &World, actor: &mut Actor, call: &Value, reason: &str) -> Result<Value> {
    let message = refused(actor, call, "PermissionDenied")?;
    let id = message.rsplit(' ').next().unwrap_or_default();
    let record = world.record("decision", &[("/decision_id", id.into())])?;
    ensure!(
        record["outcome"] == "deny" && record["reason"] == reason,
        "denied for another reason than {reason}: {record}"
    );
    ensure!(record.get("lease_id").is_none(), "a denial with a lease: {record}");
    Ok(record)
}

/// The call is refused because it does not come from the exec instance that opened the connection. A connection
/// that is closed on the spot is as good an answer.
pub(crate) fn cut_off(actor: &mut Actor, call: &Value) -> Result<()> {
    let answer = actor.act(call)?;
    let status = answer["status"].as_str().unwrap_or_default();
    ensure!(["Unauthenticated", "CLOSED"].contains(&status), "should be cut off: {answer}");
    Ok(())
}
