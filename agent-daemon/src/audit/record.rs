// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an audit line says. Core: no IO, and no field that could hold a secret.
//!
//! Names are the API's names. A fact that is not known is absent, never null, zero or made up.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::approval::{ApprovalFacts, ApprovalRecord};
use super::operator::{ExplainRecord, RevokeRecord, SecretRecord};
use super::session::{SessionEndedRecord, SessionFacts};
use super::step::{StepEndedRecord, StepFacts, StepRecord};
use super::trust::{AuthorityRecord, BundleRecord};

/// One line, without what the chain adds (`seq`, `prev`, `time`, `boot_id`). The variant is its `kind`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// The daemon is ready.
    Start(StartRecord),
    /// The daemon ends in order.
    Stop(StopRecord),
    /// First line of every segment; written by the log itself.
    Segment(SegmentRecord),
    /// A credential or an attestation was asked for and decided.
    Decision(Box<DecisionRecord>),
    /// A lease is no longer good.
    LeaseEnded(LeaseEndedRecord),
    /// A request waits for a person's word, or got it.
    Approval(Box<ApprovalRecord>),
    /// A session is over.
    SessionEnded(SessionEndedRecord),
    /// An agent says that it begins a step.
    Step(StepRecord),
    /// A step is over.
    StepEnded(StepEndedRecord),
    /// Configuration and policies were read anew.
    Reload(ReloadRecord),
    /// An operator revoked leases.
    Revoke(RevokeRecord),
    /// A caller could not be tied to a live exec instance, broke a limit, or showed what is not good.
    CallerRefused(CallerRefusedRecord),
    /// A static secret was put or removed.
    Secret(SecretRecord),
    /// An operator asked what would be decided.
    Explain(ExplainRecord),
    /// A CA came into use, or could not be had.
    Authority(AuthorityRecord),
    /// The trust bundle of another trust domain changed, or could not be had.
    Bundle(BundleRecord),
    /// The log had to be mended; written by the log itself.
    Recovered(RecoveredRecord),
    /// A signature over everything before; written by the log itself.
    Checkpoint(CheckpointRecord),
}

/// Every `kind` there is; a line of another kind is not ours.
pub const KINDS: [&str; 18] = [
    "start",
    "stop",
    "segment",
    "decision",
    "lease_ended",
    "approval",
    "session_ended",
    "step",
    "step_ended",
    "reload",
    "revoke",
    "caller_refused",
    "secret",
    "explain",
    "authority",
    "bundle",
    "recovered",
    "checkpoint",
];

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was granted.
    Allow,
    /// It was refused.
    #[default]
    Deny,
}

/// See [`Record::Start`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StartRecord {
    /// Of the daemon.
    pub version: String,
    /// Of the running kernel.
    pub kernel_release: String,
    /// Tiers proved by self-test: `observe`, `egress`, `lsm`.
    pub tiers: Vec<String>,
    /// Of the node's identities.
    pub trust_domain: String,
    /// Hash of the loaded policy set.
    pub policy_generation: String,
}

/// See [`Record::Stop`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StopRecord {
    /// A signal's name or the error that ended it.
    pub cause: String,
}

/// See [`Record::Segment`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct SegmentRecord {
    /// Number of the segment, as in its file's name.
    pub segment: u64,
}

/// See [`Record::Decision`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DecisionRecord {
    /// What the caller was told.
    pub decision_id: String,
    /// `release`, `renew`, `exchange`, `attest`, `attest_connection`, `act_for` (a session opens), `enter_session`.
    pub action: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Policy denied, but the destination only observes.
    pub audit_mode: bool,
    /// A stable word, as in the admin API.
    pub reason: String,
    /// One sentence for people.
    pub detail: String,
    /// The fact that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The fact that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// The policies that decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_ids: Vec<String>,
    /// Hash of the policy set that decided.
    pub policy_generation: String,
    /// The identity the caller was decided as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// The registration entry that gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry_id: Option<String>,
    /// The delegated subject: the human on whose behalf it acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The session it acts in, or opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Who acts in it: the caller's identity, then those above it up to the opener of the outermost session.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<String>,
    /// The policies that want a person's word for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approval_policy_ids: Vec<String>,
    /// The person's word that it waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalFacts>,
    /// What the session is that it opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionFacts>,
    /// Who asked.
    pub exec: ExecFacts,
    /// From its parent to the top of its tree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<LineageEntry>,
    /// The connection it was decided on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The credential binding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binding: Option<String>,
    /// Of the credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// `jwt-svid`, `access-token`, `x509-svid`, `wit-svid` or `static`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_type: Option<String>,
    /// Of a token also its `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<String>,
    /// The lease of the token that was shown to be exchanged; it is that token's `jti`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_lease_id: Option<String>,
    /// Of the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The step of its agent that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepFacts>,
    /// The caller's claim (W3C trace context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Registration entries that nearly matched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near_misses: Vec<NearMiss>,
    /// Policies that would have permitted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_near_misses: Vec<PolicyNearMiss>,
    /// What would mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediation: Option<String>,
}

/// What was known of an exec instance at the moment of the decision.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecFacts {
    /// Unique per boot.
    pub exec_id: u64,
    /// Thread group id.
    pub tgid: u32,
    /// Start of the process on the boot clock.
    pub start_boottime_ns: u64,
    /// The kernel's short name for it.
    pub comm: String,
    /// Its executable, as the kernel resolved it.
    pub path: String,
    /// Digest of the executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Who measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256_provenance: Option<String>,
    /// The script its interpreter runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// Digest of the script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_sha256: Option<String>,
    /// How the script is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script_provenance: Option<String>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// `memfd`, `deleted`, `setuid`, … as in the admin API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// Its control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The session that the kernel has it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// One ancestor.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LineageEntry {
    /// Unique per boot.
    pub exec_id: u64,
    /// Absent when only the id is still known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tgid: Option<u32>,
    /// Its executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
}

/// The connection a decision was made on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// `SO_COOKIE`.
    pub cookie: u64,
    /// Where it goes.
    pub remote_address: String,
    /// Where it goes.
    pub remote_port: u16,
    /// Where it comes from, once the kernel has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_address: Option<String>,
    /// Where it comes from, once the kernel has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_port: Option<u16>,
    /// `tcp`, `udp` or a number.
    pub protocol: String,
    /// How the address was tied to the destination: `cidr`, `name`.
    pub matched_by: String,
    /// The kernel program that saw it.
    pub hook: String,
    /// Effective user id of the thread that called connect.
    pub uid: u32,
    /// Effective group id of that thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A registration entry that nearly matched.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NearMiss {
    /// Which entry.
    pub entry_id: String,
    /// The identity it would have given.
    pub spiffe_id: String,
    /// The facts that differ.
    pub differences: Vec<Difference>,
}

/// One fact that differs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Difference {
    /// What the entry asks for.
    pub expected: String,
    /// What the process has of the same type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// Set when the fact is there, but only as weak evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A policy that would have permitted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyNearMiss {
    /// Which policy.
    pub policy_id: String,
    /// The first condition that was not met, in Cedar.
    pub condition: String,
}

/// See [`Record::LeaseEnded`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct LeaseEndedRecord {
    /// Which lease.
    pub lease_id: String,
    /// Whose it was.
    pub exec_id: u64,
    /// Whose it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tgid: Option<u32>,
    /// The identity it was released to.
    pub spiffe_id: String,
    /// What it was for.
    pub destination: String,
    /// `expired`, `exited`, `exec`, `uid_changed`, `revoked`, `given_back`, `renewed`, `session_ended`,
    /// `subject_ended`, `superseded`, `withdrawn`.
    pub cause: String,
    /// Of what was withdrawn: why it would not be released again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The decision that granted it.
    pub decision_id: String,
    /// When it would have ended by itself.
    pub expires_at: Option<Timestamp>,
    /// The session it was released in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
}

/// See [`Record::Reload`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct ReloadRecord {
    /// `deny` means that nothing was changed.
    pub outcome: Outcome,
    /// `sighup` or `admin`.
    pub trigger: String,
    /// Who asked, when it was the admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<Caller>,
    /// Hash of the policy set now in force.
    pub policy_generation: String,
    /// Hash of the one before.
    pub previous_policy_generation: String,
    /// How many are loaded.
    pub policies: u64,
    /// How many are loaded.
    pub entries: u64,
    /// How many are loaded.
    pub destinations: u64,
    /// How many are loaded.
    pub bindings: u64,
    /// Why nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Who was on the other end of a socket, as far as the kernel said.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Caller {
    /// User id at connect.
    pub uid: u32,
    /// Group id at connect.
    pub gid: u32,
    /// Thread group id; for people only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tgid: Option<u32>,
    /// Its exec instance, if there is a record of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<u64>,
    /// Its executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// See [`Record::CallerRefused`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct CallerRefusedRecord {
    /// Which socket: `agent`, `spiffe`, `admin`.
    pub socket: String,
    /// What it asked for, when it came so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// A stable word: `unresolvable`, `originator_gone`, `originator_mismatch`, `incomplete`, `connection_limit`,
    /// `bad_request`, `invalid_token`, …
    pub reason: String,
    /// One sentence for people.
    pub detail: String,
    /// Who it was.
    pub caller: Caller,
}

/// Why the log had to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryCause {
    /// The last line was incomplete at start and was cut.
    TornTail,
    /// Writing failed for a while; what was refused in that time could not be recorded.
    WriteFailed,
}

/// See [`Record::Recovered`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecoveredRecord {
    /// Why.
    pub cause: RecoveryCause,
    /// Bytes that were cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_cut: Option<u64>,
    /// Their digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Writes that failed since the log was last writable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
}

/// See [`Record::Checkpoint`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// The audit key.
    pub kid: String,
    /// ES256 over the preimage that `chain::checkpoint_preimage` states; base64url without padding.
    pub signature: String,
}

/// Bytes of unknown origin as text: what is not UTF-8 becomes U+FFFD. JSON escapes control characters.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
