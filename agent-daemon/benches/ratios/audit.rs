// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How long it takes to check a long audit log: every hash of the chain and every signed checkpoint.

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use agent_daemon::audit::{self, Connection, DecisionRecord, ExecFacts, LineageEntry, Log, Outcome, Record, verify};
use agent_daemon::authority::SigningKey;
use agent_daemon::clock::SystemClock;
use anyhow::{Context as _, ensure};
use ring::rand::SystemRandom;

use crate::report::{Budget, Report, Row};
use crate::statistics::Sorted;
use crate::{Setting, say};

const RECORDS: u32 = 1_000_000;
const SHA256: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const BOOT_ID: &str = "0b6a0f0e-7f2e-4a44-9c0e-2a1d3a7b5c11";

pub(crate) fn measure(setting: &Setting, report: &mut Report) -> anyhow::Result<()> {
    let (records, rounds) = setting.times((RECORDS, 3), (RECORDS / 10, 1));
    say(format_args!("writes {records} audit records and checks them, {rounds} times"));
    let folder = setting.state.join("audit");
    let key = SigningKey::generate(&SystemRandom::new())?;
    let public = key.public_jwk();
    let log = Log::open(audit::Config::new(&folder), key, BOOT_ID.to_owned(), Arc::new(SystemClock))?;
    for number in 0..records {
        log.append(&Record::Decision(Box::new(decision(number))))?;
    }
    log.shutdown()?;
    drop(log);
    let mut took = Vec::new();
    for _ in 0..rounds {
        let began = Instant::now();
        let found = verify(&folder, &public, |_| ControlFlow::Continue(()))?;
        took.push(began.elapsed());
        ensure!(found.problem.is_none(), "the log is broken: {:?}", found.problem);
        ensure!(found.progress.records >= u64::from(records), "not all records were checked");
    }
    let bytes: u64 = fs::read_dir(&folder)?.map(|entry| Ok(entry?.metadata()?.len())).sum::<std::io::Result<u64>>()?;
    fs::remove_dir_all(&folder).context("cannot remove the log")?;
    let median = Sorted::of(took).median();
    let detail = format!("{:.1} GB; {} rounds", f64::from(u32::try_from(bytes >> 20)?) / 1024.0, rounds);
    let what = format!("checking an audit log of {records} decisions");
    let budget = if setting.is_quick { Budget::None } else { Budget::AtMost(5000.0) };
    report.row(Row::new(what, median * 1e3, "ms", detail, budget));
    Ok(())
}

/// As long as those of an ordinary release.
fn decision(number: u32) -> DecisionRecord {
    let ancestor = |exec_id: u64, path: &str| LineageEntry {
        exec_id,
        tgid: Some(4242),
        path: Some(path.to_owned()),
        ..LineageEntry::default()
    };
    DecisionRecord {
        decision_id: format!("{number:024x}"),
        action: "release".to_owned(),
        outcome: Outcome::Allow,
        reason: "allowed".to_owned(),
        detail: "policy permits".to_owned(),
        policy_ids: vec!["report-agents-read-reports".to_owned()],
        policy_generation: format!("sha256:{SHA256}"),
        spiffe_id: Some("spiffe://example.org/agent/report-writer".to_owned()),
        entry_id: Some("report-writer".to_owned()),
        exec: ExecFacts {
            exec_id: u64::from(number).saturating_add(1000),
            tgid: 4243,
            uid: 1000,
            gid: 1000,
            path: "/usr/bin/python3.12".to_owned(),
            sha256: Some(SHA256.to_owned()),
            sha256_provenance: Some("measured".to_owned()),
            script: Some("/opt/agents/report.py".to_owned()),
            script_sha256: Some(SHA256.to_owned()),
            script_provenance: Some("claimed".to_owned()),
            ..ExecFacts::default()
        },
        lineage: vec![ancestor(900, "/usr/bin/bash"), ancestor(800, "/usr/lib/systemd/systemd")],
        connection: Some(Connection {
            cookie: u64::from(number),
            protocol: "tcp".to_owned(),
            remote_address: "192.0.2.10".to_owned(),
            remote_port: 443,
            ..Connection::default()
        }),
        destination: Some("reports-api".to_owned()),
        binding: Some("reports-token".to_owned()),
        audience: Some("https://reports.example.org".to_owned()),
        credential_type: Some("jwt-svid".to_owned()),
        lease_id: Some(format!("{number:064x}")),
        ..DecisionRecord::default()
    }
}
