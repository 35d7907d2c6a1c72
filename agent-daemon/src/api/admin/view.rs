// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From the daemon's words to the admin API's: decisions, leases, near misses, diagnostics.

use agent_proto::admin;
use jiff::Timestamp;

use crate::api::convert;
use crate::audit::{self, DecisionRecord, Outcome};
use crate::credential::lease::State;
use crate::credential::{Cause, Lease};
use crate::diagnostic::{Diagnostic, Severity};
use crate::session::{self, Session};
use crate::{identity, policy};

/// A decision as it was recorded, or would be.
pub(super) fn decision(time: Timestamp, record: &DecisionRecord) -> admin::Decision {
    let known = |text: &Option<String>| text.clone().unwrap_or_default();
    admin::Decision {
        decision_id: record.decision_id.clone(),
        time: Some(convert::timestamp(time)),
        action: record.action.clone(),
        allowed: record.outcome == Outcome::Allow,
        audit_mode: record.audit_mode,
        exec_id: record.exec.exec_id,
        tgid: record.exec.tgid,
        comm: record.exec.comm.clone(),
        path: record.exec.path.clone(),
        spiffe_id: known(&record.spiffe_id),
        destination: known(&record.destination),
        binding: known(&record.binding),
        reason: record.reason.clone(),
        detail: record.detail.clone(),
        expected: known(&record.expected),
        actual: known(&record.actual),
        policy_ids: record.policy_ids.clone(),
        policy_generation: record.policy_generation.clone(),
        lease_id: known(&record.lease_id),
        session_id: known(&record.session_id),
        user: known(&record.user),
        near_misses: record.near_misses.iter().map(recorded_near_miss).collect(),
        policy_near_misses: record.policy_near_misses.iter().map(recorded_policy_near_miss).collect(),
    }
}

/// A registration entry that nearly matched, as a record has it.
pub(super) fn recorded_near_miss(miss: &audit::NearMiss) -> admin::NearMiss {
    let difference = |difference: &audit::Difference| admin::Difference {
        expected: difference.expected.clone(),
        actual: difference.actual.clone().unwrap_or_default(),
        note: difference.note.clone().unwrap_or_default(),
    };
    admin::NearMiss {
        entry_id: miss.entry_id.clone(),
        spiffe_id: miss.spiffe_id.clone(),
        differences: miss.differences.iter().map(difference).collect(),
    }
}

/// A registration entry that nearly matches.
pub(super) fn near_miss(miss: identity::NearMiss) -> admin::NearMiss {
    let difference = |difference: identity::Difference| admin::Difference {
        expected: difference.expected,
        actual: difference.actual,
        note: difference.note,
    };
    admin::NearMiss {
        entry_id: miss.entry.id.to_string(),
        spiffe_id: miss.entry.spiffe_id.to_string(),
        differences: miss.differences.into_iter().map(difference).collect(),
    }
}

fn recorded_policy_near_miss(miss: &audit::PolicyNearMiss) -> admin::PolicyNearMiss {
    admin::PolicyNearMiss { policy_id: miss.policy_id.clone(), condition: miss.condition.clone() }
}

/// A policy that nearly permits.
pub(super) fn policy_near_miss(miss: policy::PolicyNearMiss) -> admin::PolicyNearMiss {
    admin::PolicyNearMiss { policy_id: miss.policy_id.to_string(), condition: miss.condition }
}

/// A lease, ended or not. One that is past its expiry is shown as ended whether or not anybody has noticed.
pub(super) fn lease(lease: &Lease, now: Timestamp) -> admin::LeaseView {
    let (state, ended_at) = match lease.state {
        State::Active if lease.is_live(now) => (lease.state.as_str(), None),
        State::Active => (Cause::Expired.as_str(), Some(lease.expires_at)),
        State::Ended { cause, at } => (cause.as_str(), Some(at)),
    };
    admin::LeaseView {
        lease: Some(convert::lease(lease)),
        spiffe_id: lease.spiffe_id.to_string(),
        tgid: lease.tgid,
        uid: lease.uid,
        state: state.to_owned(),
        ended_at: ended_at.map(convert::timestamp),
        cookie: lease.cookie.unwrap_or_default(),
        decision_id: lease.decision_id.to_string(),
        credential_type: lease.credential_type.as_str().to_owned(),
        session_id: lease.session.map(|session| session.to_string()).unwrap_or_default(),
    }
}

/// A session, ended or not. One that is past its expiry is shown as ended whether or not anybody has noticed.
pub(super) fn session(session: &Session, ended: Option<(session::Cause, Timestamp)>, now: Timestamp) -> admin::Session {
    let expired = || (now >= session.expires_at).then_some((session::Cause::Expired, session.expires_at));
    let ended = ended.or_else(expired);
    let text = |text: &Option<Box<str>>| text.as_deref().unwrap_or_default().to_owned();
    admin::Session {
        session_id: session.id.to_string(),
        parent: session.parent.as_ref().map(|parent| parent.id.to_string()).unwrap_or_default(),
        user: session.user.id.to_string(),
        user_name: text(&session.user.name),
        verified_by: session.user.verified.as_str().to_owned(),
        issuer: text(&session.user.issuer),
        agent: text(&session.agent),
        purpose: text(&session.purpose),
        scopes: session.scopes.iter().flatten().map(ToString::to_string).collect(),
        scoped: session.scopes.is_some(),
        opener_exec_id: session.opener.0,
        opener_spiffe_id: session.opener_id.to_string(),
        bound: session.is_bound,
        opened_at: Some(convert::timestamp(session.opened_at)),
        expires_at: Some(convert::timestamp(session.expires_at)),
        decision_id: session.decision_id.to_string(),
        state: ended.map_or("active", |(cause, _)| cause.as_str()).to_owned(),
        ended_at: ended.map(|(_, at)| convert::timestamp(at)),
    }
}

/// What is wrong in a file.
pub(super) fn diagnostic(diagnostic: &Diagnostic) -> admin::Diagnostic {
    let severity = match diagnostic.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    admin::Diagnostic {
        file: diagnostic.file.clone(),
        line: diagnostic.line,
        column: diagnostic.column,
        severity: severity.to_owned(),
        message: diagnostic.message.clone(),
        help: diagnostic.help.clone().unwrap_or_default(),
    }
}

/// As many as fit; a message has no room for more than it can name.
pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{CredentialType, LeaseId};
    use crate::process::ExecId;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sample(state: State) -> Lease {
        Lease {
            id: LeaseId::generate(|bytes| {
                bytes.fill(7);
                Ok::<(), ()>(())
            })
            .unwrap(),
            exec_id: ExecId(4),
            tgid: 5,
            uid: 6,
            spiffe_id: "spiffe://example.org/agent".parse().unwrap(),
            destination: "reports".into(),
            binding: "reports-jwt".into(),
            credential_type: CredentialType::JwtSvid,
            cookie: None,
            session: None,
            subject: None,
            issued_at: at(100),
            expires_at: at(200),
            decision_id: "d1".into(),
            basis: std::sync::Arc::default(),
            state,
        }
    }

    #[test]
    fn a_lease_past_its_expiry_is_never_shown_as_active() {
        for (state, now, expected, ended) in [
            (State::Active, 199, "active", None),
            (State::Active, 200, "expired", Some(200)),
            (State::Ended { cause: Cause::Exec, at: at(150) }, 160, "exec", Some(150)),
            (State::Ended { cause: Cause::Revoked, at: at(150) }, 300, "revoked", Some(150)),
        ] {
            let shown = lease(&sample(state), at(now));
            assert_eq!(shown.state, expected);
            assert_eq!(shown.ended_at.map(|at| at.seconds), ended, "{expected}");
            assert_eq!(shown.cookie, 0);
        }
    }

    #[test]
    fn a_decision_says_what_differs_and_which_policies_spoke() {
        let record = DecisionRecord {
            decision_id: "d".into(),
            action: "release".into(),
            audit_mode: true,
            reason: "policy_no_permit".into(),
            expected: Some("x == 1".into()),
            policy_ids: vec!["p".into()],
            near_misses: vec![audit::NearMiss {
                entry_id: "e".into(),
                spiffe_id: "spiffe://example.org/a".into(),
                differences: vec![audit::Difference { expected: "unix:uid:1".into(), actual: None, note: None }],
            }],
            policy_near_misses: vec![audit::PolicyNearMiss { policy_id: "q".into(), condition: "y".into() }],
            ..DecisionRecord::default()
        };
        let shown = decision(at(1), &record);
        assert!(!shown.allowed && shown.audit_mode);
        assert_eq!((shown.expected.as_str(), shown.actual.as_str()), ("x == 1", ""));
        assert_eq!(shown.near_misses[0].differences[0].expected, "unix:uid:1");
        assert_eq!(shown.policy_near_misses[0].policy_id, "q");
        let allowed = DecisionRecord { outcome: Outcome::Allow, ..record };
        assert!(decision(at(1), &allowed).allowed);
    }

    #[test]
    fn a_diagnostic_keeps_its_place_and_weight() {
        let found = Diagnostic {
            file: "a.cedar".into(),
            line: 3,
            column: 9,
            severity: Severity::Warning,
            message: "odd".into(),
            help: None,
        };
        let shown = diagnostic(&found);
        assert_eq!((shown.file.as_str(), shown.line, shown.column), ("a.cedar", 3, 9));
        assert_eq!((shown.severity.as_str(), shown.help.as_str()), ("warning", ""));
        assert_eq!(diagnostic(&Diagnostic { severity: Severity::Error, ..found }).severity, "error");
    }
}
