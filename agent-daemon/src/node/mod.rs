// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The story of one request and one kernel event: attest, decide, record, issue, recheck, answer; and end what
//! was issued when its exec instance ends.
//!
//! Holds every part once and no transport: `api` translates to and from it. Nothing is issued without an audit
//! slot, and no answer leaves without its record.

mod approve;
mod ask;
mod attest_connection;
mod budget;
mod bundles;
mod decide;
mod draft;
mod egress;
mod end;
mod events;
mod exchange;
mod explain;
mod federate;
mod introspect;
mod issuers;
mod mint;
mod own;
mod peers;
mod reach;
mod reason;
mod recent;
mod release;
mod reload;
mod rotate;
mod sessions;
mod standing;
mod steps;
mod streams;
mod svids;
mod within;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{Notify, broadcast, watch};

pub use approve::{Answer, AnswerError};
pub use ask::{Ask, ConnectionRef, Refusal, Released};
pub use attest_connection::Opener;
pub use bundles::{Bundles, Changes, Part};
pub use egress::EgressView;
pub use end::{Doomed, oldest_live};
pub use events::{Happening, Watching};
pub use exchange::{ExchangeAsk, ExchangeError};
pub use explain::Explained;
pub use federate::{Fetching, Known, SetError};
pub use own::{OwnError, OwnMark, OwnSvid};
pub use reason::Reason;
pub use recent::{Decided, Recent};
pub use reload::{Load, ReloadOutcome};
pub use sessions::{Lifetimes, OnBehalf, OpenAsk, Opened, SessionStore};
pub use steps::{StepAsk, StepRules};
pub use streams::Stream;
pub use svids::{Invalid, SpiffeLimits, Svids, Wanted};

use self::budget::Budget;
use crate::approval::{self, Approvals};
use crate::attest::Attestor;
use crate::audit;
use crate::authority::{Authority, ForeignBundles, SecretStore};
use crate::clock::Clock;
use crate::credential::rate::Rates;
use crate::credential::{CachingResolver, Cause, LeaseId, Leases};
use crate::egress::{Disconnect, Tables};
use crate::identity::TrustDomain;
use crate::process::{Count, Records};
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;

/// Events that a slow watcher may fall behind before it loses some.
const WATCH_BUFFER: usize = 1024;
/// Records of refused callers that one user causes in a burst, and how long one more takes.
const REFUSED_BURST: u32 = 500;
const REFUSED_REFILL: Duration = Duration::from_millis(50);
/// The same for requests that are no good: others may make a service show theirs, so they hide no refused caller.
const BAD_REQUEST_BURST: u32 = 50;
const BAD_REQUEST_REFILL: Duration = Duration::from_secs(1);
/// The same for denials: beyond it the user's requests are refused as too many, and counted.
const DENIED_BURST: u32 = 1000;
const DENIED_REFILL: Duration = Duration::from_millis(50);

/// What this node is; it does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Whose identities are issued.
    pub trust_domain: TrustDomain,
    /// The `iss` of minted tokens.
    pub issuer: Option<String>,
    /// Whether access tokens name their transaction (`txn`).
    pub names_transactions: bool,
    /// Of this boot of the kernel.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Names of the tiers proved at start.
    pub tiers: Vec<String>,
    /// When the daemon started.
    pub started_at: Timestamp,
}

impl Identity {
    /// The `iss` of tokens that have to have one: where none is configured, the trust domain.
    fn token_issuer(&self) -> Cow<'_, str> {
        match &self.issuer {
            Some(issuer) => issuer.into(),
            None => format!("spiffe://{}", self.trust_domain).into(),
        }
    }
}

/// The parts a node is made of.
#[derive(Debug)]
pub struct Parts {
    /// What this node is.
    pub identity: Identity,
    /// Evidence and identities.
    pub attestor: Arc<Attestor>,
    /// By which the kernel decides in governed trees.
    pub tables: Arc<dyn Tables>,
    /// Closes what was taken back.
    pub disconnect: Arc<dyn Disconnect>,
    /// What operators wrote.
    pub snapshot: Snapshot,
    /// Reads it anew.
    pub load: Box<dyn Load>,
    /// What was issued.
    pub leases: Leases,
    /// How often one exec instance may ask.
    pub rates: Rates,
    /// Names of destinations.
    pub resolver: CachingResolver,
    /// Signs tokens and certificates.
    pub authority: Authority,
    /// Signs the CA, where somebody has to be asked.
    pub upstream: Option<Box<dyn Upstream>>,
    /// Trust bundles of other trust domains.
    pub foreign: ForeignBundles,
    /// How they are fetched.
    pub fetching: Fetching,
    /// Where sessions are kept over a restart.
    pub session_store: SessionStore,
    /// How long sessions live.
    pub session_lifetimes: Lifetimes,
    /// How many steps there may be, how long one may take, and what is kept of them.
    pub steps: StepRules,
    /// How many requests may wait for a person, and how long.
    pub approvals: (approval::Limits, Duration),
    /// The roots by which issuers of users' tokens are believed; without, those of the machine.
    pub issuer_roots: Option<PathBuf>,
    /// Static secrets.
    pub secrets: SecretStore,
    /// The audit log.
    pub log: audit::Log,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// What one caller may ask for at once.
    pub spiffe: SpiffeLimits,
    /// Decisions held in memory.
    pub recent_decisions: usize,
}

/// A node, ready to answer.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub identity: Identity,
    /// Evidence and identities.
    pub attestor: Arc<Attestor>,
    /// What was issued.
    pub leases: Leases,
    /// Signs tokens.
    pub authority: Authority,
    /// Trust bundles of other trust domains.
    pub foreign: ForeignBundles,
    /// Static secrets.
    pub secrets: SecretStore,
    /// The audit log.
    pub log: audit::Log,
    /// The newest decisions.
    pub recent: Recent,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    spiffe: SpiffeLimits,
    upstream: Option<Box<dyn Upstream>>,
    federations: federate::Federations,
    /// Leases of answers that have not left.
    in_flight: Mutex<HashSet<LeaseId>>,
    /// A CA came from the upstream.
    adopted: Notify,
    /// Somebody asked for what nothing can sign.
    signer_missed: Notify,
    snapshot: ArcSwap<Snapshot>,
    load: Box<dyn Load>,
    reloads: Mutex<reload::Reloads>,
    rates: Rates,
    resolver: CachingResolver,
    happenings: broadcast::Sender<Arc<Happening>>,
    listeners: events::Listeners,
    streams: streams::Streams,
    egress: egress::Governor,
    delegation: sessions::Delegation,
    approvals: Approvals,
    approval_wait: Duration,
    snapshots: watch::Sender<u64>,
    refused: Budget,
    bad_requests: Budget,
    denials: Budget,
    egress_denials: Budget,
    counters: Counters,
}

/// What happened, by kind.
#[derive(Debug, Default)]
struct Counters {
    allowed: AtomicU64,
    denied: AtomicU64,
    refused_callers: AtomicU64,
    refused_unrecorded: AtomicU64,
    bad_requests: AtomicU64,
    bad_requests_unrecorded: AtomicU64,
    rate_limited: AtomicU64,
    denials_unrecorded: AtomicU64,
    audit_refused: AtomicU64,
    leases_ended: AtomicU64,
    sessions_opened: AtomicU64,
    sessions_ended: AtomicU64,
    reload_failures: AtomicU64,
    egress_lost: AtomicU64,
    egress_unrecorded: AtomicU64,
    egress_unclassified: AtomicU64,
    egress_closed: AtomicU64,
    egress_unclosed: AtomicU64,
}

fn bump(counter: &AtomicU64) {
    // ORDER: counters that nothing depends on.
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Node {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self {
            reloads: Mutex::new(reload::Reloads::new(parts.clock.now())),
            identity: parts.identity,
            attestor: parts.attestor,
            leases: parts.leases,
            authority: parts.authority,
            secrets: parts.secrets,
            log: parts.log,
            recent: Recent::new(parts.recent_decisions),
            clock: parts.clock,
            spiffe: parts.spiffe,
            upstream: parts.upstream,
            foreign: parts.foreign,
            delegation: sessions::Delegation::new(
                parts.issuer_roots,
                parts.session_store,
                parts.session_lifetimes,
                parts.steps,
            ),
            approvals: Approvals::new(parts.approvals.0),
            approval_wait: parts.approvals.1,
            federations: federate::Federations::new(parts.fetching),
            in_flight: Mutex::default(),
            adopted: Notify::new(),
            signer_missed: Notify::new(),
            snapshot: ArcSwap::from_pointee(parts.snapshot),
            load: parts.load,
            rates: parts.rates,
            resolver: parts.resolver,
            happenings: broadcast::channel(WATCH_BUFFER).0,
            listeners: events::Listeners::default(),
            streams: streams::Streams::default(),
            egress: egress::Governor::new(parts.tables, parts.disconnect),
            snapshots: watch::Sender::new(0),
            refused: Budget::new(REFUSED_BURST, REFUSED_REFILL),
            bad_requests: Budget::new(BAD_REQUEST_BURST, BAD_REQUEST_REFILL),
            denials: Budget::new(DENIED_BURST, DENIED_REFILL),
            egress_denials: Budget::new(DENIED_BURST, DENIED_REFILL),
            counters: Counters::default(),
        }
    }

    /// What operators wrote, as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The kernel's records.
    pub fn records(&self) -> &dyn Records {
        &**self.attestor.records()
    }

    /// The resolver of destinations' names.
    pub fn resolver(&self) -> &CachingResolver {
        &self.resolver
    }

    /// What happened so far, by kind.
    pub fn counts(&self) -> Vec<Count> {
        let of = |name, counter: &AtomicU64| Count { name, value: counter.load(Ordering::Relaxed) };
        let counters = &self.counters;
        vec![
            of("decisions_allowed", &counters.allowed),
            of("decisions_denied", &counters.denied),
            of("callers_refused", &counters.refused_callers),
            of("callers_refused_unrecorded", &counters.refused_unrecorded),
            of("bad_requests", &counters.bad_requests),
            of("bad_requests_unrecorded", &counters.bad_requests_unrecorded),
            of("requests_rate_limited", &counters.rate_limited),
            of("denials_unrecorded", &counters.denials_unrecorded),
            of("requests_refused_by_audit", &counters.audit_refused),
            of("leases_ended", &counters.leases_ended),
            of("sessions_opened", &counters.sessions_opened),
            of("sessions_ended", &counters.sessions_ended),
            of("reload_failures", &counters.reload_failures),
            of("egress_events_lost", &counters.egress_lost),
            of("egress_unrecorded", &counters.egress_unrecorded),
            of("egress_unclassified", &counters.egress_unclassified),
            of("egress_closed", &counters.egress_closed),
            of("egress_unclosed", &counters.egress_unclosed),
        ]
    }
}
