// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The composition root: puts the parts together in order, runs them, and takes them down in order.
//!
//! First everything that needs rights or must not be half done, on one thread: directories, sockets (bound, not
//! served), the kernel half. Then the rights are dropped, and only then are other threads started, because
//! capabilities belong to threads.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use caps::Capability;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::admin::{Admin, AdminFacts, KeySource, NeededCapability, ServingState};
use crate::api::https;
use crate::api::{self, AuthorityAddress, AuthorityListener, Sockets};
use crate::attest::{Attestor, Measurer, Proc};
use crate::audit::{self, Log, Record, StartRecord, StopRecord};
use crate::authority::{self, Authority, ForeignBundles, Sealer, SecretStore};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Listen, SourcePaths};
use crate::credential::rate::Rates;
use crate::credential::resolve::{Limits as ResolverLimits, SystemResolver};
use crate::credential::{CachingResolver, Leases};
use crate::diagnostic::{Diagnostic, with_sources};
use crate::kernel::{self, Kernel, LiveKernel, Proof, Tier};
use crate::node::{self, Fetching, Node, Parts, SessionStore, SpiffeLimits, oldest_live};
use crate::process::{History, Records};
use crate::rights;
use crate::session::Sessions;
use crate::shutdown::{ProcessSignals, Stage, Supervisor};
use crate::snapshot::{Snapshot, Sources};
use crate::web::Serves;

/// Threads for blocking work: hashing, audit queries, resolving names.
const BLOCKING_THREADS: usize = 32;
/// The socket, the caller's pidfd, and its status.
const DESCRIPTORS_PER_CONNECTION: usize = 3;
/// Maps, the log, files being measured, and some to spare.
const OTHER_DESCRIPTORS: usize = 512;

/// Where systemd puts what it hands over (`LoadCredential=`); only the unit can read it.
const SYSTEMD_CREDENTIALS: &str = "/run/credentials";
/// All that is still held after start.
const NEEDED: [NeededCapability; 3] = [
    NeededCapability {
        capability: Capability::CAP_SYS_PTRACE,
        purpose: "facts about processes of other users cannot be read",
    },
    NeededCapability {
        capability: Capability::CAP_DAC_READ_SEARCH,
        purpose: "executables that only their owners may read cannot be measured",
    },
    NeededCapability {
        capability: Capability::CAP_NET_ADMIN,
        purpose: "connections that were taken back are closed only where a governed process is found that holds them",
    },
];

/// The daemon cannot start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What an operator wrote is refused.
    #[error("the configuration is refused")]
    Config(Vec<Diagnostic>),
    /// The kernel half cannot be used.
    #[error("this kernel is not suitable")]
    Kernel(#[source] kernel::Error),
    /// A tier was not proved, and the configuration does not accept a lower one.
    #[error("tier {tier} is not proved on this kernel: {hook}: {why}; lost is {guarantee}")]
    Tier {
        /// The self-test that failed.
        hook: &'static str,
        /// Which.
        tier: &'static str,
        /// What the self-test saw.
        why: String,
        /// What rests on it.
        guarantee: &'static str,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Everything that was made while the daemon had its rights.
#[derive(Debug)]
pub struct Prepared {
    config: Config,
    snapshot: Snapshot,
    kernel: Kernel,
    sockets: Sockets,
    verifiers: AuthorityListener,
    https: Vec<https::Listener>,
}

impl node::Load for SourcePaths {
    fn load(&self) -> Result<Sources, Vec<Diagnostic>> {
        self.read()
    }
}

/// Does what needs rights, in order, and gives them up.
///
/// # Errors
/// With the first thing that does not work; nothing is left half done that a next start would not mend.
pub fn prepare(config: Config) -> Result<Prepared, Error> {
    let sources = config.sources.read().map_err(Error::Config)?;
    let snapshot = Snapshot::parse(1, &sources, &config.trust_domain).map_err(Error::Config)?;
    rights::harden().context("cannot protect the daemon's memory")?;
    rights::raise_descriptor_limit(descriptors(&config)).context("cannot raise the limit of open files")?;
    make_directories(&config)?;
    let sockets = Sockets::bind(api_config(&config)).context("cannot bind the gRPC sockets")?;
    let address = match &config.authority.listen {
        Listen::Unix(path) => AuthorityAddress::Unix(path.clone()),
        Listen::Loopback(address) => AuthorityAddress::Loopback(*address),
    };
    let verifiers =
        AuthorityListener::bind(&api::AuthorityConfig { address, max_connections: config.authority.max_connections })
            .context("cannot bind the endpoint for verifiers")?;
    let https = config
        .https
        .iter()
        .map(|one| https::Listener::bind(one.clone()).with_context(|| format!("cannot serve HTTPS at {}", one.listen)));
    let https = https.collect::<anyhow::Result<Vec<_>>>()?;
    let kernel = kernel::open(&config.kernel).map_err(|error| match error {
        kernel::Error::InUse { .. } => Error::Other(error.into()),
        error => Error::Kernel(error),
    })?;
    if let Err(error) = check_tiers(&kernel, config.accepted_tier) {
        let is_new = kernel.programs.iter().all(|program| !program.is_adopted);
        drop(kernel);
        // What an earlier daemon left may still be good for it; what was made for nothing must not go on running.
        if is_new && let Err(error) = kernel::unload(&config.kernel.pin_dir) {
            tracing::warn!(error = %with_sources(&error), "the programs cannot be taken down again");
        }
        return Err(error);
    }
    rights::drop_rights(&NEEDED.map(|needed| needed.capability)).context("cannot drop capabilities")?;
    Ok(Prepared { config, snapshot, kernel, sockets, verifiers, https })
}

/// Runs the daemon until a signal or a failure ends it. Blocks.
///
/// # Errors
/// With the first cause of an end that was not asked for.
pub fn run(prepared: Prepared) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("agent-daemon")
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(prepared));
    // What still runs then (a hash, a query) must not hold up the end.
    runtime.shutdown_background();
    result.map_err(Error::Other)
}

async fn serve(prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { config, snapshot, kernel, sockets, verifiers, https } = prepared;
    let signals = ProcessSignals::listen()?;
    let mut supervisor = Supervisor::new(config.shutdown_deadline);
    let endpoints = endpoints(&config, &verifiers, &https);
    let Kernel { maps, events, programs, proofs } = kernel;
    let tiers = proved_tiers(&proofs);
    let pin_dir = config.kernel.pin_dir.clone();
    let view = Arc::new(LiveKernel::new(Arc::clone(&maps), programs, proofs, events.rejected(), pin_dir));
    let node = Arc::new(build_node(&config, snapshot, maps, tiers)?);
    let (state, is_serving) = watch::channel(ServingState::Starting);
    let facts = AdminFacts {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        endpoints: endpoints.clone(),
        agent_socket: config.api.agent_socket.clone(),
        agent_socket_mode: config.api.agent_socket_mode,
        admin_socket: config.api.admin_socket.clone(),
        state_dir: config.state_dir.clone(),
        key_source: key_source(&config.sealing_key),
        required_tier: config.accepted_tier,
        capabilities: NEEDED.to_vec(),
        sockets: sockets.gauges(),
        state: is_serving,
        tasks: supervisor.connections(),
    };
    let admin = Admin::new(Arc::clone(&node), view, facts);

    let at = Arc::clone(&node);
    supervisor.spawn(Stage::Witness, "kernel events", |cancel| async move {
        events.run(cancel, move |event| at.apply(event)).await
    });
    let at = Arc::clone(&node);
    supervisor.spawn(Stage::Witness, "egress", |cancel| async move {
        at.govern(cancel).await;
        Ok::<(), io::Error>(())
    });
    let at = Arc::clone(&node);
    supervisor.spawn(Stage::Witness, "key rotation", |cancel| async move {
        at.rotate_keys(cancel).await;
        Ok::<(), io::Error>(())
    });
    let at = Arc::clone(&node);
    supervisor.spawn(Stage::Witness, "federation", |cancel| async move {
        at.federate(cancel).await;
        Ok::<(), io::Error>(())
    });
    let at = Arc::clone(&node);
    supervisor.spawn(Stage::Witness, "issuers", |cancel| async move {
        at.fetch_issuers(cancel).await;
        Ok::<(), io::Error>(())
    });
    let at = Arc::clone(&node);
    supervisor.spawn(Stage::Witness, "leases", |cancel| async move {
        tokio::join!(at.sweep(cancel.clone()), at.keep_standing(cancel));
        Ok::<(), io::Error>(())
    });
    let (at, connections) = (Arc::clone(&node), supervisor.connections());
    supervisor.spawn(Stage::Serve, "verifiers", |cancel| verifiers.run(at, cancel, connections));
    for listener in https {
        let (at, connections) = (Arc::clone(&node), supervisor.connections());
        let name = match listener.serves() {
            Serves::Bundle => "bundle endpoint",
            Serves::Oidc { .. } => "OIDC discovery",
        };
        supervisor.spawn(Stage::Serve, name, |cancel| listener.run(at, cancel, connections));
    }
    let at = Arc::clone(&node);
    supervisor.spawn(Stage::Serve, "gRPC", |cancel| sockets.serve(at, admin, cancel));
    let (at, reloads) = (Arc::clone(&node), supervisor.reloads());
    supervisor.spawn(Stage::Serve, "reload", |cancel| reload_on_signal(at, reloads, cancel));

    state.send_replace(ServingState::Serving);
    announce(&endpoints);
    let root = supervisor.root();
    let stopping = supervisor.connections();
    stopping.spawn(async move {
        root.cancelled().await;
        state.send_replace(ServingState::Stopping);
    });
    let result = supervisor.run(signals).await;
    let cause = match &result {
        Ok(()) => "asked to stop".to_owned(),
        Err(error) => with_sources(error),
    };
    tracing::info!(%cause, "stopping");
    let log = node.log.clone();
    let closed = tokio::task::spawn_blocking(move || {
        let recorded = log.append(&Record::Stop(StopRecord { cause })).map(drop);
        recorded.and(log.shutdown())
    });
    closed.await.context("cannot close the audit log")?.context("cannot close the audit log")?;
    Ok(result?)
}

fn build_node(
    config: &Config,
    snapshot: Snapshot,
    maps: Arc<kernel::Maps>,
    tiers: Vec<String>,
) -> anyhow::Result<Node> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sealer = Sealer::open_or_create(&config.sealing_key).context("cannot open the sealing key")?;
    let keys = config.state_dir.join("keys");
    let authority =
        Authority::open(&keys, &sealer, config.keys.clone(), clock.now()).context("cannot open the signing keys")?;
    let upstream = config
        .upstream
        .as_ref()
        .map(|upstream| upstream.build(&config.trust_domain))
        .transpose()
        .context("cannot use the upstream")?;
    let foreign = ForeignBundles::open(config.state_dir.join("bundles")).context("cannot open the trust bundles")?;
    let audit_key = authority::open_or_create_key(&keys, "audit", &sealer).context("cannot open the audit key")?;
    let secrets = SecretStore::open(config.state_dir.join("secrets"), sealer).context("cannot open the secrets")?;
    let boot_id = read_trimmed("/proc/sys/kernel/random/boot_id")?;
    let granted = audit_directory_exists(&config.audit)
        .then(|| audit::recover_leases(&config.audit.dir, oldest_live(clock.now())))
        .transpose();
    let log = Log::open(config.audit.clone(), audit_key, boot_id.clone(), Arc::clone(&clock))
        .context("cannot open the audit log")?;
    let kernel_release = rustix::system::uname().release().to_string_lossy().into_owned();
    log.append(&Record::Start(StartRecord {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: kernel_release.clone(),
        tiers: tiers.clone(),
        trust_domain: config.trust_domain.to_string(),
        policy_generation: snapshot.policies.generation().as_str().to_owned(),
    }))
    .context("cannot record the start")?;
    let session_store = SessionStore::open(config.state_dir.join("sessions"), boot_id.clone());
    let session_store = session_store.context("cannot open the sessions")?;
    let records: Arc<dyn Records> = Arc::<kernel::Maps>::clone(&maps);
    let history = Arc::new(History::new(config.history.ended_processes));
    let measurer = Measurer::new(config.measure.clone());
    let node = Node::new(Parts {
        identity: node::Identity {
            trust_domain: config.trust_domain.clone(),
            issuer: config.issuer.as_deref().map(str::to_owned),
            names_transactions: config.names_transactions,
            boot_id,
            kernel_release,
            tiers,
            started_at: clock.now(),
        },
        attestor: Arc::new(Attestor::new(
            records,
            history,
            Arc::new(Sessions::new(config.sessions)),
            Proc::default(),
            measurer,
        )),
        tables: maps,
        disconnect: Arc::new(kernel::Disconnector::new()),
        snapshot,
        load: Box::new(config.sources.clone()),
        leases: Leases::new(config.leases),
        rates: Rates::new(config.rate),
        resolver: CachingResolver::new(Arc::new(SystemResolver::default()), ResolverLimits::default()),
        authority,
        upstream,
        foreign,
        fetching: Fetching { web_roots: config.federation.ca_file.clone(), min_refresh: config.federation.min_refresh },
        session_store,
        session_lifetimes: config.session_lifetimes,
        steps: config.steps.clone(),
        approvals: config.approvals,
        issuer_roots: config.issuer_ca_file.clone(),
        secrets,
        log,
        clock,
        spiffe: SpiffeLimits { max_audiences: config.spiffe.max_audiences },
        recent_decisions: config.history.decisions,
    });
    // Before the leases: those of a session that nobody knows end.
    let sessions = node.take_up_sessions().context("cannot read the sessions")?;
    if sessions > 0 {
        tracing::info!(sessions, "sessions of an earlier run are taken up");
    }
    match granted {
        Ok(granted) => {
            let taken = node.take_up(granted.into_iter().flatten());
            if taken > 0 {
                tracing::info!(leases = taken, "leases of an earlier run are taken up");
            }
        }
        // Their tokens introspect as inactive then, which is the safe side.
        Err(error) => tracing::warn!(%error, "leases of an earlier run are not taken up"),
    }
    Ok(node)
}

async fn reload_on_signal(
    node: Arc<Node>,
    mut reloads: watch::Receiver<u64>,
    cancel: CancellationToken,
) -> Result<(), io::Error> {
    loop {
        // Both arms are cancel-safe: a reload that is asked for meanwhile stays marked as changed.
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            changed = reloads.changed() => if changed.is_err() { return Ok(()) },
        }
        let node = Arc::clone(&node);
        let reloaded = tokio::task::spawn_blocking(move || node.reload("sighup", None).map(drop)).await;
        match reloaded {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the reload could not be recorded, so nothing was changed"),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn check_tiers(kernel: &Kernel, accepted: Tier) -> Result<(), Error> {
    for proof in kernel.proofs.iter().filter(|proof| proof.tier <= accepted) {
        if let Err(why) = &proof.result {
            return Err(Error::Tier {
                hook: proof.id,
                tier: proof.tier.as_str(),
                why: why.clone(),
                guarantee: proof.guarantee,
            });
        }
    }
    for proof in kernel.proofs.iter().filter(|proof| proof.tier > accepted) {
        if let Err(why) = &proof.result {
            tracing::warn!(
                tier = proof.tier.as_str(),
                why,
                lost = proof.guarantee,
                "a tier is not proved on this kernel"
            );
        }
    }
    Ok(())
}

/// The tiers of which every hook, and every hook of those below, was seen to work.
fn proved_tiers(proofs: &[Proof]) -> Vec<String> {
    let is_proved = |tier: &Tier| proofs.iter().filter(|proof| proof.tier <= *tier).all(|proof| proof.result.is_ok());
    let tiers = [Tier::Observe, Tier::Egress, Tier::Lsm];
    tiers.iter().filter(|tier| is_proved(tier)).map(|tier| tier.as_str().to_owned()).collect()
}

/// One pasteable line an endpoint, on standard output, once everything answers.
fn announce(endpoints: &[(String, String)]) {
    let mut out = io::stdout().lock();
    let written =
        endpoints.iter().try_for_each(|(name, address)| writeln!(out, "{name}={address}")).and_then(|()| out.flush());
    if written.is_err() {
        // Nobody reads it; the log has it too.
        tracing::debug!("the endpoints could not be printed");
    }
    for (name, address) in endpoints {
        tracing::info!(name, address, "serving");
    }
}

fn endpoints(config: &Config, verifiers: &AuthorityListener, https: &[https::Listener]) -> Vec<(String, String)> {
    let unix = |path: &Path| format!("unix:{}", path.display());
    let mut endpoints = vec![
        ("AGENT_SOCKET".to_owned(), unix(&config.api.agent_socket)),
        ("AGENT_ADMIN_SOCKET".to_owned(), unix(&config.api.admin_socket)),
        ("SPIFFE_ENDPOINT_SOCKET".to_owned(), unix(&config.spiffe.socket)),
        ("AUTHORITY_HTTP".to_owned(), verifiers.address().to_string()),
    ];
    endpoints.extend(https.iter().map(|listener| {
        let name = match listener.serves() {
            Serves::Bundle => "BUNDLE_ENDPOINT",
            Serves::Oidc { .. } => "OIDC_DISCOVERY",
        };
        (name.to_owned(), format!("https://{}", listener.address()))
    }));
    endpoints
}

fn key_source(path: &Path) -> KeySource {
    if path.starts_with(SYSTEMD_CREDENTIALS) { KeySource::SystemdCredential } else { KeySource::File(path.to_owned()) }
}

fn api_config(config: &Config) -> api::Config {
    let api = &config.api;
    api::Config {
        agent_socket: api.agent_socket.clone(),
        agent_socket_mode: api.agent_socket_mode,
        admin_socket: api.admin_socket.clone(),
        spiffe_socket: config.spiffe.socket.clone(),
        spiffe_socket_mode: config.spiffe.socket_mode,
        limits: api::Limits { connections: api.max_connections, connections_of_one: api.max_connections_per_uid },
        max_streams_per_connection: api.max_streams_per_connection,
        max_message_bytes: api.max_message_bytes,
        request_timeout: api.request_timeout,
    }
}

fn make_directories(config: &Config) -> anyhow::Result<()> {
    let make = |path: &Path, mode: u32| {
        let made = fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.with_context(|| format!("cannot create {}", path.display()))
    };
    make(&config.state_dir, 0o700)?;
    for private in [config.state_dir.join("keys"), config.state_dir.join("secrets"), config.audit.dir.clone()] {
        make(&private, 0o700)?;
    }
    let verifiers = match &config.authority.listen {
        Listen::Unix(path) => Some(path.clone()),
        Listen::Loopback(_) => None,
    };
    let sockets = [&config.api.agent_socket, &config.api.admin_socket, &config.spiffe.socket].map(Clone::clone);
    let sockets = sockets.map(Some).into_iter().chain([verifiers]).collect::<Vec<_>>();
    for parent in sockets.iter().flatten().filter_map(|socket| socket.parent()) {
        make(parent, 0o755)?;
    }
    Ok(())
}

fn audit_directory_exists(config: &audit::Config) -> bool {
    fs::read_dir(&config.dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn read_trimmed(path: &str) -> anyhow::Result<String> {
    Ok(fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?.trim().to_owned())
}

/// Files that may be open at once.
fn descriptors(config: &Config) -> u64 {
    let sockets = config.api.max_connections.saturating_mul(2).saturating_mul(DESCRIPTORS_PER_CONNECTION);
    let needed = sockets.saturating_add(config.authority.max_connections).saturating_add(OTHER_DESCRIPTORS);
    u64::try_from(needed).unwrap_or(u64::MAX)
}
