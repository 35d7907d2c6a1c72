// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The configuration: one TOML file, read into typed values once. After that nothing validates again.
//!
//! `file` lists every key. [`Config::parse`] does no IO; [`load`], [`read_sources`] and [`check()`] read files.

mod addresses;
mod check;
mod endpoints;
mod file;
mod sources;
mod table;
#[cfg(test)]
mod tests;
mod upstreams;
mod value;
mod words;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::check::{Checked, check};
pub use self::file::DEFAULT_PATH;
pub use self::sources::{MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES, SYSTEMD_KEY_NAME, load, read_sources};

use self::addresses::Endpoint;
use self::file::ConfigFile;
use self::table::{MAX_DIAGNOSTICS, Section as _, offset_of};
use self::value::{Count, FilePath};
use crate::attest::MeasureConfig;
use crate::credential::{lease, rate};
use crate::diagnostic::{Diagnostic, Severity, SourceFile};
use crate::identity::TrustDomain;
use crate::node::{Lifetimes, StepRules};
use crate::web::HttpsEndpoint;
use crate::{approval, audit, kernel, session, step, upstream};

/// `sun_path` of `unix(7)` without its terminator.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// The pins of ours are removed as a folder when another version takes over. Below here a wrong path cannot make that
/// remove files.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Everything that is configured. The parts are taken out and handed to their areas; nobody holds the whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// Of this node.
    pub trust_domain: TrustDomain,
    /// The `iss` claim of minted tokens.
    pub issuer: Option<Box<str>>,
    /// Whether access tokens name their transaction.
    pub names_transactions: bool,
    /// Keys, sealed secrets and, unless configured otherwise, the audit log.
    pub state_dir: PathBuf,
    /// What a reload reads again.
    pub sources: SourcePaths,
    /// For [`kernel::open`].
    pub kernel: kernel::Config,
    /// The lowest tier with which the daemon may start: [`kernel::Tier::Egress`] or [`kernel::Tier::Observe`].
    pub accepted_tier: kernel::Tier,
    /// Sockets and limits of the gRPC API.
    pub api: Api,
    /// How often an exec instance may ask.
    pub rate: rate::Limits,
    /// The SPIFFE Workload API.
    pub spiffe: Spiffe,
    /// The HTTP endpoint for JWKS and introspection.
    pub authority: Authority,
    /// How long keys live.
    pub keys: crate::authority::Config,
    /// Who signs the CA, if somebody has to be asked.
    pub upstream: Option<upstream::Config>,
    /// Other trust domains.
    pub federation: Federation,
    /// What is served to other machines.
    pub https: Vec<HttpsEndpoint>,
    /// How many leases there may be.
    pub leases: lease::Limits,
    /// How many sessions there may be.
    pub sessions: session::Limits,
    /// How long they live.
    pub session_lifetimes: Lifetimes,
    /// How many steps there may be, how long one may take, and what is kept of them.
    pub steps: StepRules,
    /// How many requests may wait for a person, and how long.
    pub approvals: (approval::Limits, Duration),
    /// The roots by which issuers of users' tokens are believed, if not those of the machine.
    pub issuer_ca_file: Option<PathBuf>,
    /// For [`crate::attest::Measurer`].
    pub measure: MeasureConfig,
    /// For [`audit::Log`].
    pub audit: audit::Config,
    /// What is kept for people.
    pub history: History,
    /// For [`crate::shutdown::Supervisor`].
    pub shutdown_deadline: Duration,
    /// The file with the key that seals the others.
    pub sealing_key: PathBuf,
    /// What is weaker than the default, for the log at start.
    pub warnings: Vec<Diagnostic>,
}

/// Files, or folders of files, that make a [`crate::snapshot::Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePaths {
    /// `*.toml` with registration entries.
    pub entries: Vec<PathBuf>,
    /// `*.toml` with destinations, sources and bindings.
    pub destinations: Vec<PathBuf>,
    /// `*.cedar`.
    pub policies: Vec<PathBuf>,
}

/// Sockets and limits of the gRPC API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// For workloads.
    pub agent_socket: PathBuf,
    /// Permission bits of it.
    pub agent_socket_mode: u32,
    /// For operators; always of mode 0600.
    pub admin_socket: PathBuf,
    /// Connections of workloads at once.
    pub max_connections: usize,
    /// Connections of one user at once.
    pub max_connections_per_uid: usize,
    /// Calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// Largest message taken from a caller.
    pub max_message_bytes: usize,
    /// A call that takes longer is refused.
    pub request_timeout: Duration,
}

/// The SPIFFE Workload API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spiffe {
    /// Where it is.
    pub socket: PathBuf,
    /// Permission bits of it.
    pub socket_mode: u32,
    /// Audiences that one token may have.
    pub max_audiences: usize,
}

/// The HTTP endpoint for JWKS and introspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Where it is.
    pub listen: Listen,
    /// Connections at once.
    pub max_connections: usize,
}

/// Other trust domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// The roots by which their endpoints are believed, if not those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Not more often than this is a bundle fetched.
    pub min_refresh: Duration,
}

/// A place that only this machine reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket.
    Unix(PathBuf),
    /// An address of the loopback interface.
    Loopback(SocketAddr),
}

/// How much is kept for people to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Processes that ended.
    pub ended_processes: usize,
    /// Decisions.
    pub decisions: usize,
}

impl Config {
    /// Reads a configuration. `base` is the absolute folder at which relative paths start; `systemd_key` is the
    /// sealing key that the service manager handed over, if it did.
    ///
    /// # Errors
    /// Everything that is wrong with it; then nothing of it is used.
    pub fn parse(file: &SourceFile, base: &Path, systemd_key: Option<&Path>) -> Result<Self, Vec<Diagnostic>> {
        let mut report = Vec::new();
        let read: ConfigFile = table::read(file, &mut report);
        if !report.is_empty() {
            return Err(report);
        }
        let mut checks = Checks { file, report };
        let config = read.into_config(base, systemd_key, &mut checks);
        match config {
            Some(config) if checks.report.is_empty() => Ok(config),
            _ => Err(checks.report),
        }
    }
}

/// Every key with its default and what it is for, as a configuration file.
pub fn print_default() -> String {
    let mut text = String::new();
    ConfigFile::default().write("", &mut text);
    text
}

/// What only several keys together show.
struct Checks<'a> {
    file: &'a SourceFile,
    report: Vec<Diagnostic>,
}

impl Checks<'_> {
    fn error(&mut self, key: &[&str], message: String, help: impl Into<String>) {
        if self.report.len() < MAX_DIAGNOSTICS {
            let at = offset_of(self.file, key);
            self.report.push(Diagnostic::error_at(self.file, at, message).with_help(help));
        }
    }

    fn warning(&self, key: &[&str], message: &str, help: &str) -> Diagnostic {
        let at = offset_of(self.file, key);
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error_at(self.file, at, message).with_help(help) }
    }

    fn at_most(&mut self, table: &str, (key, value): (&str, u64), (bound, limit): (&str, u64)) {
        if value > limit {
            let message = format!("{key} ({value}) is more than {bound} ({limit})");
            self.error(&[table, key], message, format!("lower {key} or raise {bound}"));
        }
    }

    fn sockets(&mut self, sockets: &[([&str; 2], Option<&Path>)]) {
        let mut seen: Vec<&Path> = Vec::new();
        for (key, path) in sockets {
            let Some(path) = path else { continue };
            let bytes = path.as_os_str().as_bytes().len();
            if bytes > MAX_SOCKET_PATH_BYTES {
                let message = format!("the path of this socket has {bytes} bytes: {}", path.display());
                self.error(key, message, format!("the kernel takes at most {MAX_SOCKET_PATH_BYTES}"));
            }
            if seen.contains(path) {
                let message = format!("{} is the path of another socket too", path.display());
                self.error(key, message, "every socket has a path of its own");
            }
            seen.push(path);
        }
    }
}

impl ConfigFile {
    fn into_config(self, base: &Path, systemd_key: Option<&Path>, checks: &mut Checks<'_>) -> Option<Config> {
        let below = |path: &FilePath| path.below(base);
        let all = |paths: &[FilePath]| paths.iter().map(below).collect();
        if self.trust_domain.is_none() {
            checks.error(&[], "trust_domain is missing".to_owned(), "for example trust_domain = \"example.org\"");
        }
        let state_dir = below(&self.state_dir);
        let api = self.api.config(base);
        checks.at_most(
            "api",
            ("max_connections_per_uid", self.api.max_connections_per_uid.0),
            ("max_connections", self.api.max_connections.0),
        );
        checks.at_most(
            "credentials",
            ("max_leases_per_process", self.credentials.max_leases_per_process.0),
            ("max_leases", self.credentials.max_leases.0),
        );
        let listen = match &self.authority.listen {
            Endpoint::Unix(path) => Listen::Unix(below(path)),
            Endpoint::Loopback(address) => Listen::Loopback(*address),
        };
        let authority_socket = match &listen {
            Listen::Unix(path) => Some(path.as_path()),
            Listen::Loopback(_) => None,
        };
        let spiffe = Spiffe {
            socket: below(&self.spiffe.socket),
            socket_mode: self.spiffe.socket_mode.0,
            max_audiences: self.spiffe.max_audiences.usize(),
        };
        checks.sockets(&[
            (["api", "agent_socket"], Some(&api.agent_socket)),
            (["api", "admin_socket"], Some(&api.admin_socket)),
            (["spiffe", "socket"], Some(&spiffe.socket)),
            (["authority", "listen"], authority_socket),
        ]);
        let pin_dir = below(&self.kernel.pin_dir);
        if !pin_dir.starts_with(BPF_FILE_SYSTEM) || pin_dir == Path::new(BPF_FILE_SYSTEM) {
            let message = format!("pin_dir is {}, not a folder below {BPF_FILE_SYSTEM}", pin_dir.display());
            checks.error(&["kernel", "pin_dir"], message, format!("for example {BPF_FILE_SYSTEM}/agent-daemon"));
        }
        let audit = self.audit.config(base, &state_dir);
        if audit.dir == state_dir {
            let message = "the audit log has to have a folder of its own".to_owned();
            checks.error(&["audit", "dir"], message, "for example dir = \"/var/lib/agent-daemon/audit\"");
        }
        let mut warnings = Vec::new();
        let (ca, upstream) = self.upstream(base, checks, &mut warnings);
        let https = self.https(base, checks);
        if self.kernel.accept_tier != kernel::Tier::Egress {
            warnings.push(checks.warning(
                &["kernel", "accept_tier"],
                "the daemon starts even where connections cannot be refused in the kernel",
                "accept_tier = \"egress\" makes it refuse to start there",
            ));
        }
        let max_processes = self.kernel.max_processes.map_or(agent_ebpf::limits::PROCESSES, Count::u32);
        let trust_domain = self.trust_domain?;
        Some(Config {
            keys: crate::authority::Config {
                trust_domain: trust_domain.clone(),
                jwt_key_lifetime: self.authority.jwt_key_lifetime.duration(),
                wit: self.experimental.wit_svid,
                ca,
                ca_lifetime: self.authority.ca_lifetime.duration(),
                refresh_hint: self.authority.bundle_refresh_hint.duration(),
            },
            upstream,
            https,
            federation: Federation {
                ca_file: self.federation.ca_file.as_ref().map(below),
                min_refresh: self.federation.min_refresh.duration(),
            },
            trust_domain,
            spiffe,
            issuer: self.issuer.map(|issuer| issuer.0.into()),
            names_transactions: self.experimental.transaction_ids,
            sources: SourcePaths {
                entries: all(&self.entries),
                destinations: all(&self.destinations),
                policies: all(&self.policies),
            },
            kernel: kernel::Config {
                pin_dir,
                mount_bpffs: self.kernel.mount_bpffs,
                max_processes: self.kernel.max_processes.map(Count::u32),
                max_connections: self.kernel.max_connections.map(Count::u32),
                event_buffer_bytes: self.kernel.event_buffer_bytes.map(|bytes| bytes.0),
            },
            accepted_tier: self.kernel.accept_tier,
            rate: rate::Limits {
                burst: NonZeroU32::new(self.api.rate_burst.u32())?,
                refill: self.api.rate_refill.duration(),
                // Room for every process that can be bound, so that nobody is kept out by the others.
                table: usize::try_from(max_processes).unwrap_or(usize::MAX),
            },
            api,
            authority: Authority { listen, max_connections: self.authority.max_connections.usize() },
            leases: lease::Limits {
                total: self.credentials.max_leases.usize(),
                per_exec: self.credentials.max_leases_per_process.usize(),
                ended_kept: self.history.ended_leases.usize(),
            },
            sessions: session::Limits {
                total: self.sessions.max_sessions.usize(),
                per_opener: self.sessions.max_sessions_per_process.usize(),
                per_user: self.sessions.max_sessions_per_user.usize(),
                depth: self.sessions.max_depth.usize(),
                ended_kept: self.history.ended_sessions.usize(),
            },
            session_lifetimes: Lifetimes {
                usual: self.sessions.lifetime.duration(),
                longest: self.sessions.max_lifetime.duration(),
            },
            steps: StepRules {
                limits: step::Limits {
                    total: self.sessions.max_steps.usize(),
                    per_session: self.sessions.max_steps_per_session.usize(),
                    depth: self.sessions.max_step_depth.usize(),
                },
                lifetime: self.sessions.step_lifetime.duration(),
                keep: step::Keep {
                    bytes: self.sessions.step_content_bytes.usize(),
                    redact: self.sessions.step_content_redact.iter().map(|pattern| pattern.0.clone()).collect(),
                },
            },
            approvals: (
                approval::Limits {
                    total: self.approvals.max_waiting.usize(),
                    per_exec: self.approvals.max_waiting_per_process.usize(),
                    remembered: self.sessions.max_sessions.usize(),
                },
                self.approvals.wait.duration(),
            ),
            issuer_ca_file: self.sessions.issuer_ca_file.as_ref().map(below),
            measure: MeasureConfig {
                max_file_bytes: self.measure.max_file_bytes.0,
                cache_entries: self.measure.cache_entries.usize(),
                concurrency: self.measure.concurrency.usize(),
            },
            audit,
            history: History {
                ended_processes: self.history.ended_processes.usize(),
                decisions: self.history.decisions.usize(),
            },
            shutdown_deadline: self.shutdown.deadline.duration(),
            sealing_key: match (&self.seal.key_file, systemd_key) {
                (Some(path), _) => below(path),
                (None, Some(path)) => path.to_owned(),
                (None, None) => state_dir.join("kek"),
            },
            state_dir,
            warnings,
        })
    }
}

impl file::ApiTable {
    fn config(&self, base: &Path) -> Api {
        Api {
            agent_socket: self.agent_socket.below(base),
            agent_socket_mode: self.agent_socket_mode.0,
            admin_socket: self.admin_socket.below(base),
            max_connections: self.max_connections.usize(),
            max_connections_per_uid: self.max_connections_per_uid.usize(),
            max_streams_per_connection: self.max_streams_per_connection.u32(),
            max_message_bytes: self.max_message_bytes.usize(),
            request_timeout: self.request_timeout.duration(),
        }
    }
}

impl file::AuditTable {
    fn config(&self, base: &Path, state_dir: &Path) -> audit::Config {
        let dir = self.dir.as_ref().map_or_else(|| state_dir.join("audit"), |dir| dir.below(base));
        audit::Config {
            segment_bytes: self.segment_bytes.0,
            retain_segments: self.retain_segments.0,
            durability: self.durability,
            sync_interval: self.sync_interval.duration(),
            checkpoint_records: self.checkpoint_records.0,
            checkpoint_interval: self.checkpoint_interval.duration(),
            max_in_flight: self.max_in_flight.usize(),
            ..audit::Config::new(dir)
        }
    }
}
