// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::sync::Arc;

use super::Node;
use super::ask::{Ask, ConnectionRef, Refusal};
use super::release::decision_id;
use crate::attest::{Attested, Failure};
use crate::audit::{Caller, DecisionRecord, ExplainRecord, Outcome, Record};
use crate::credential::address::{self, Observed, Verdict};
use crate::process::{Connection, ExecInstance};
use crate::snapshot::Snapshot;

/// Connections of an exec instance that are looked at for one explanation.
const CONNECTIONS: usize = 64;

/// What would be decided now, and the facts behind it.
#[derive(Debug)]
pub struct Explained {
    /// As it would be recorded.
    pub record: DecisionRecord,
    /// Who was looked at.
    pub attested: Arc<Attested>,
    /// Its connections that fit the destination.
    pub connections: Vec<Connection>,
}

impl Node {
    /// What would be decided for an exec instance. Issues nothing; the question itself is recorded.
    ///
    /// Without a named connection the first one that fits is taken, so that the answer is about policy.
    ///
    /// # Errors
    /// When the exec instance is not there, or the question cannot be recorded.
    pub async fn explain(&self, instance: ExecInstance, mut ask: Ask, by: Caller) -> Result<Explained, Refusal> {
        let snapshot = self.snapshot();
        let attested = self.attestor.attest(&snapshot, instance, None).await?;
        let instance = &attested.evidence.instance;
        let connections = self.fitting(&snapshot, instance, &ask.destination).await?;
        if ask.connection.is_none() {
            ask.connection = connections.first().map(|connection| ConnectionRef::Cookie(connection.cookie));
        }
        let named = |id| snapshot.catalog.bindings_for(&ask.destination, id, None, ask.binding.as_deref());
        if let Some(binding) = attested.spiffe_id().map(named).and_then(|bindings| bindings.first().copied()) {
            ask.delivery = binding.delivery;
        }
        let verdicted = self.decide(&snapshot, &attested, &ask, decision_id()?, self.clock.now()).await?;
        let mut record = verdicted.record;
        record.outcome = if verdicted.grounds.is_some() { Outcome::Allow } else { Outcome::Deny };
        let explain = ExplainRecord {
            by,
            exec_id: instance.id.0,
            tgid: instance.process.tgid,
            destination: ask.destination,
            outcome: record.outcome,
            reason: record.reason.clone(),
        };
        self.log.append(&Record::Explain(explain)).map_err(|error| self.audit_refused(error))?;
        Ok(Explained { record, attested, connections })
    }

    /// The connections of an exec instance that go to a destination.
    async fn fitting(
        &self,
        snapshot: &Snapshot,
        instance: &ExecInstance,
        destination: &str,
    ) -> Result<Vec<Connection>, Refusal> {
        let Some(destination) = snapshot.catalog.destination(destination) else { return Ok(Vec::new()) };
        let mut own = Vec::new();
        self.records()
            .connections(&mut |connection| {
                if connection.exec_id == instance.id && own.len() < CONNECTIONS {
                    own.push(connection);
                }
            })
            .map_err(Failure::from)?;
        let mut fitting = Vec::new();
        for connection in own {
            let verdict = address::evaluate(Observed::from(&connection), destination, self.resolver()).await;
            if matches!(verdict, Ok(Verdict::Matched(_))) {
                fitting.push(connection);
            }
        }
        Ok(fitting)
    }
}
