// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A whole node on fakes, with the test's own process as its caller.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::Duration;

use super::{FakeClock, FakeKernel, FakeProc, FakeResolver, MemorySources, PrivateDirectory, Sizes};
use super::{exe_path, exec_instance_of_self, tgid};
use crate::approval;
use crate::attest::{Attestor, Failure, MeasureConfig, Measurer, Peer, Proc};
use crate::audit::{self, Log, Query};
use crate::authority::{self, Authority, CaSource, ForeignBundles, Sealer, SecretStore, open_or_create_key};
use crate::clock::Clock;
use crate::credential::{CachingResolver, Leases, lease, rate, resolve};
use crate::identity::TrustDomain;
use crate::node::{
    Ask, ConnectionRef, Fetching, Identity, Lifetimes, Node, Parts, SessionStore, SpiffeLimits, StepRules,
};
use crate::process::{ExecId, History, Records};
use crate::session::{self, Sessions};
use crate::snapshot::Snapshot;
use crate::step;
use crate::upstream::Upstream;

/// Of every node here.
pub const TRUST_DOMAIN: &str = "example.org";
/// Of every node here.
pub const BOOT_ID: &str = "00000000-0000-4000-8000-000000000001";

/// The test's executable is large, and the same for every node.
static MEASURER: LazyLock<Measurer> = LazyLock::new(|| Measurer::new(MeasureConfig::default()));

static BUILDING: RwLock<()> = RwLock::new(());

/// Does something that changes the whole process for a moment (its umask) while no node is being built.
pub fn while_none_is_built<T>(work: impl FnOnce() -> T) -> T {
    let _alone = BUILDING.write().unwrap_or_else(PoisonError::into_inner);
    work()
}

/// What a node is made from. The default is one agent (the test itself), one destination `reports` at
/// `192.0.2.0/24` and `reports.example` on port 443, one binding that requires an observed connection, and policies
/// that permit it.
#[derive(Debug)]
pub struct Setup {
    /// Registration entries.
    pub entries: String,
    /// Destinations, sources and bindings.
    pub catalog: String,
    /// Cedar.
    pub policies: String,
    /// Of the kernel's maps.
    pub sizes: Sizes,
    /// Of leases.
    pub leases: lease::Limits,
    /// Of sessions.
    pub sessions: session::Limits,
    /// How often one exec instance may ask.
    pub rates: rate::Limits,
    /// Changes to how the audit log is kept.
    pub audit: fn(&mut audit::Config),
    /// The one of an earlier run, for a restart.
    pub directory: Arc<PrivateDirectory>,
    /// The one of an earlier run, for a restart.
    pub kernel: Option<Arc<FakeKernel>>,
    /// The one of an earlier run, for a restart.
    pub clock: Arc<FakeClock>,
    /// In place of the real `/proc`.
    pub proc: Option<Proc>,
    /// Of the run's boot.
    pub boot_id: String,
    /// Of JWT keys and CAs.
    pub key_lifetime: Duration,
    /// Whether WIT-SVIDs are minted.
    pub wit: bool,
    /// Where the CA comes from, if nobody is asked.
    pub ca: CaSource,
    /// Who is asked to sign the CA.
    pub upstream: Option<Box<dyn Upstream>>,
    /// By which bundle endpoints are believed.
    pub web_roots: Option<PathBuf>,
    /// Of one token.
    pub max_audiences: usize,
    /// How long a request waits for a person.
    pub approval_wait: Duration,
    /// What is kept of the content of steps.
    pub keep: step::Keep,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            entries: Self::entry("agent", "agent/a", ""),
            catalog: Self::catalog("enforce", "required", "jwt"),
            policies: Self::PERMIT.to_owned(),
            sizes: Sizes::default(),
            leases: lease::Limits { total: 1000, per_exec: 100, ended_kept: 100 },
            sessions: session::Limits { total: 100, per_opener: 10, per_user: 50, depth: 3, ended_kept: 10 },
            rates: rate::Limits {
                burst: NonZeroU32::new(1000).unwrap_or(NonZeroU32::MIN),
                refill: Duration::from_millis(1),
                table: 1000,
            },
            audit: |_| {},
            directory: Arc::new(PrivateDirectory::new()),
            kernel: None,
            clock: Arc::new(FakeClock::default()),
            proc: None,
            boot_id: BOOT_ID.to_owned(),
            key_lifetime: Duration::from_secs(7 * 24 * 3600),
            wit: false,
            ca: CaSource::Embedded,
            upstream: None,
            web_roots: None,
            max_audiences: 1,
            approval_wait: Duration::from_secs(10),
            keep: step::Keep::default(),
        }
    }
}

impl Setup {
    /// Permits the agent everything that can be asked for.
    pub const PERMIT: &'static str = r#"
        @id("release") permit (principal in Group::"agents", action == Action::"release", resource);
        @id("attest") permit (principal in Group::"agents", action == Action::"attest", resource);
    "#;

    /// A registration entry that fits the test's own process, with further selectors (`, "unix:gid:0"`).
    pub fn entry(id: &str, path: &str, further: &str) -> String {
        let (uid, exe) = (rustix::process::geteuid().as_raw(), exe_path());
        format!(
            r#"
            [[entry]]
            id = "{id}"
            spiffe_id = "spiffe://{TRUST_DOMAIN}/{path}"
            kind = "agent"
            selectors = ["unix:uid:{uid}", "unix:path:{}"{further}]
            groups = ["agents"]
            "#,
            exe.display()
        )
    }

    /// The destination `reports` with its binding: mode, whether a connection must be observed, and the source
    /// (`jwt`, or `key`, a static secret).
    pub fn catalog(mode: &str, observed_connect: &str, source: &str) -> String {
        format!(
            r#"
            [[destination]]
            name = "reports"
            hosts = ["reports.example"]
            cidrs = ["192.0.2.0/24"]
            ports = [443]
            audience = "https://reports.example"
            mode = "{mode}"

            [[source]]
            name = "jwt"
            type = "jwt-svid"

            [[source]]
            name = "key"
            type = "static"
            secret = "api-key"

            [[binding]]
            name = "reports-token"
            destination = "reports"
            identities = ["spiffe://{TRUST_DOMAIN}/agent/*"]
            source = "{source}"
            observed_connect = "{observed_connect}"
            ttl = "5m"
            "#
        )
    }

    /// Replaces `/proc`.
    #[must_use]
    pub fn with_proc(self, proc: &FakeProc) -> Self {
        Self { proc: Some(proc.proc()), ..self }
    }

    /// The files, the records and the log of this node, as another daemon on the same host finds them.
    pub fn build(self) -> TestNode {
        let _building = BUILDING.read().unwrap_or_else(PoisonError::into_inner);
        let clock: Arc<dyn Clock> = Arc::<FakeClock>::clone(&self.clock);
        let kernel = self.kernel.unwrap_or_else(|| {
            let kernel = FakeKernel::new(self.sizes);
            kernel.insert(exec_instance_of_self(ExecId(1001)));
            Arc::new(kernel)
        });
        let trust_domain: TrustDomain = TRUST_DOMAIN.parse().expect("a trust domain");
        let sources = MemorySources::new(&self.entries, &self.catalog, &self.policies);
        let parsed = sources.sources().and_then(|sources| Snapshot::parse(1, &sources, &trust_domain));
        let snapshot = parsed.expect("files without errors");
        let records: Arc<dyn Records> = Arc::<FakeKernel>::clone(&kernel);
        let history = Arc::new(History::new(100));
        let sessions = Arc::new(Sessions::new(self.sessions));
        let attestor = Attestor::new(records, history, sessions, self.proc.unwrap_or_default(), MEASURER.clone());
        let resolver = Arc::new(FakeResolver::default());
        let names: Arc<dyn resolve::Resolve> = Arc::<FakeResolver>::clone(&resolver);
        let directory = self.directory.path();
        let sealer = Sealer::from_bytes(&[7; 32]).expect("a key");
        let keys = authority::Config {
            trust_domain: TrustDomain::clone(&trust_domain),
            jwt_key_lifetime: self.key_lifetime,
            wit: self.wit,
            ca: self.upstream.as_ref().map_or(self.ca, |upstream| CaSource::Upstream(upstream.origin())),
            ca_lifetime: self.key_lifetime,
            refresh_hint: Duration::from_secs(300),
        };
        let authority =
            Authority::open(&directory.join("keys"), &sealer, keys, self.clock.now()).expect("signing keys");
        let audit_key = open_or_create_key(&directory.join("keys"), "audit", &sealer).expect("an audit key");
        let mut audit_config = audit::Config::new(directory.join("audit"));
        (self.audit)(&mut audit_config);
        let log = Log::open(audit_config, audit_key, self.boot_id.clone(), Arc::clone(&clock)).expect("the audit log");
        let boot_id = self.boot_id.clone();
        let tables: Arc<dyn crate::egress::Tables> = Arc::<FakeKernel>::clone(&kernel);
        let disconnect: Arc<dyn crate::egress::Disconnect> = Arc::<FakeKernel>::clone(&kernel);
        let node = Node::new(Parts {
            tables,
            disconnect,
            identity: Identity {
                trust_domain,
                issuer: None,
                names_transactions: false,
                boot_id: self.boot_id,
                kernel_release: "6.18.0-fake".to_owned(),
                tiers: vec!["observe".to_owned()],
                started_at: clock.now(),
            },
            attestor: Arc::new(attestor),
            snapshot,
            load: Box::new(sources.clone()),
            leases: Leases::new(self.leases),
            rates: rate::Rates::new(self.rates),
            resolver: CachingResolver::new(names, resolve::Limits::default()),
            authority,
            upstream: self.upstream,
            foreign: ForeignBundles::open(directory.join("bundles")).expect("foreign bundles"),
            fetching: Fetching { web_roots: self.web_roots, min_refresh: Duration::from_secs(1) },
            session_store: SessionStore::open(directory.join("sessions"), boot_id).expect("the sessions"),
            session_lifetimes: Lifetimes { usual: Duration::from_secs(600), longest: Duration::from_secs(3600) },
            steps: StepRules {
                limits: step::Limits { total: 100, per_session: 10, depth: 3 },
                lifetime: Duration::from_secs(600),
                keep: self.keep,
            },
            approvals: (approval::Limits { total: 8, per_exec: 2, remembered: 16 }, self.approval_wait),
            issuer_roots: None,
            secrets: SecretStore::open(directory.join("secrets"), sealer).expect("the secret store"),
            log,
            clock,
            spiffe: SpiffeLimits { max_audiences: self.max_audiences },
            recent_decisions: 100,
        });
        TestNode {
            node: Arc::new(node),
            kernel,
            clock: self.clock,
            sources,
            resolver,
            directory: self.directory,
            tgid: tgid(),
        }
    }
}

/// A node and everything around it.
#[derive(Debug)]
pub struct TestNode {
    /// It.
    pub node: Arc<Node>,
    /// Its kernel, in which the test's process is recorded.
    pub kernel: Arc<FakeKernel>,
    /// Its clock.
    pub clock: Arc<FakeClock>,
    /// Its operator's files.
    pub sources: MemorySources,
    /// Its name service.
    pub resolver: Arc<FakeResolver>,
    /// Where its keys, secrets and audit log are.
    pub directory: Arc<PrivateDirectory>,
    /// Of the test.
    pub tgid: u32,
}

impl TestNode {
    /// The test's own process, pinned over a real socket.
    ///
    /// # Errors
    /// As [`Node::pin`].
    pub fn pin(&self) -> Result<Peer, Failure> {
        let (daemon, _caller) = UnixStream::pair().expect("a socket pair");
        self.node.pin(&daemon, "agent")
    }

    /// The same where it has to succeed.
    pub fn peer(&self) -> Peer {
        self.pin().expect("a peer")
    }

    /// A new connection of the test's process, by its cookie.
    pub fn connect(&self, remote: &str) -> u64 {
        let remote: SocketAddr = remote.parse().expect("an address and port");
        self.kernel.connect(self.tgid, remote)
    }

    /// A request for `reports` on a new connection that goes there.
    pub fn ask(&self) -> Ask {
        self.ask_on(self.connect("192.0.2.1:443"))
    }

    /// A request for `reports` on a connection.
    pub fn ask_on(&self, cookie: u64) -> Ask {
        Ask { destination: "reports".to_owned(), connection: Some(ConnectionRef::Cookie(cookie)), ..Ask::default() }
    }

    /// What stands in the audit log, oldest first.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let mut records = Vec::new();
        let read = self.node.log.query(&Query::default(), |line| {
            records.push(serde_json::from_str(line).expect("a line of JSON"));
            ControlFlow::Continue(())
        });
        read.expect("the audit log");
        records
    }

    /// The records of one kind.
    pub fn records_of(&self, kind: &str) -> Vec<serde_json::Value> {
        self.records().into_iter().filter(|record| record.get("kind").is_some_and(|found| found == kind)).collect()
    }

    /// The newest record of a kind.
    pub fn last(&self, kind: &str) -> serde_json::Value {
        self.records_of(kind).pop().expect("a record of that kind")
    }
}
