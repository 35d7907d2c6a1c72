// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From what was decided to the record of it.

use crate::attest::{Attested, Evidence, Lineage};
use crate::audit::{self, DecisionRecord, ExecFacts, LineageEntry, Outcome};
use crate::identity::{self, Provenance};
use crate::policy;
use crate::process;
use crate::snapshot::Snapshot;

/// Everything of a record that is known before the decision.
pub(super) fn draft(decision_id: String, action: &str, attested: &Attested, snapshot: &Snapshot) -> DecisionRecord {
    DecisionRecord {
        decision_id,
        action: action.to_owned(),
        outcome: Outcome::Deny,
        policy_generation: snapshot.policies.generation().as_str().to_owned(),
        exec: exec_facts(&attested.evidence),
        lineage: lineage(&attested.lineage),
        ..DecisionRecord::default()
    }
}

pub(super) fn exec_facts(evidence: &Evidence) -> ExecFacts {
    let instance = &evidence.instance;
    let exe = evidence.exe.as_ref();
    let script = evidence.script.as_ref();
    ExecFacts {
        exec_id: instance.id.0,
        tgid: instance.process.tgid,
        start_boottime_ns: instance.process.start_boottime.0,
        comm: instance.comm.to_string(),
        path: exe.map_or_else(|| instance.filename_lossy(), |exe| exe.path.clone()),
        sha256: exe.and_then(|exe| exe.sha256.clone()),
        sha256_provenance: exe.and_then(|exe| exe.sha256.as_ref()).map(|_| Provenance::Measured.as_str().to_owned()),
        script: script.map(|script| script.path.clone()),
        script_sha256: script.and_then(|script| script.sha256.clone()),
        script_provenance: script.map(|script| script.provenance.as_str().to_owned()),
        uid: evidence.uid,
        gid: evidence.gid,
        flags: instance.flags.names().map(str::to_owned).collect(),
        cgroup: evidence.cgroup.clone(),
        session_id: instance.session_id.map(|id| id.to_string()),
    }
}

fn lineage(lineage: &Lineage) -> Vec<LineageEntry> {
    let entries = lineage.entries.iter();
    entries
        .map(|entry| LineageEntry {
            exec_id: entry.id.0,
            tgid: Some(entry.tgid),
            path: entry.path.clone(),
            spiffe_id: entry.spiffe_id.as_ref().map(ToString::to_string),
        })
        .collect()
}

pub(super) fn connection(connection: &process::Connection, matched_by: String) -> audit::Connection {
    audit::Connection {
        cookie: connection.cookie,
        remote_address: connection.remote.ip().to_string(),
        remote_port: connection.remote.port(),
        local_address: connection.local.map(|local| local.ip().to_string()),
        local_port: connection.local.map(|local| local.port()),
        protocol: connection.protocol.to_string(),
        matched_by,
        hook: connection.hook.as_str().to_owned(),
        uid: connection.uid,
        gid: Some(connection.gid),
    }
}

pub(super) fn near_misses(found: Vec<identity::NearMiss>) -> Vec<audit::NearMiss> {
    let known = |text: String| (!text.is_empty()).then_some(text);
    found
        .into_iter()
        .map(|miss| audit::NearMiss {
            entry_id: miss.entry.id.as_str().to_owned(),
            spiffe_id: miss.entry.spiffe_id.to_string(),
            differences: miss
                .differences
                .into_iter()
                .map(|difference| audit::Difference {
                    expected: difference.expected,
                    actual: known(difference.actual),
                    note: known(difference.note),
                })
                .collect(),
        })
        .collect()
}

pub(super) fn policy_near_misses(found: Vec<policy::PolicyNearMiss>) -> Vec<audit::PolicyNearMiss> {
    found
        .into_iter()
        .map(|miss| audit::PolicyNearMiss { policy_id: miss.policy_id.to_string(), condition: miss.condition })
        .collect()
}
