// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The configuration file as it is written: every key, its bounds, its default and what it is for.
//!
//! The comments are what `--print-default-config` prints and `docs/configuration.md` holds.

use std::net::SocketAddr;

use super::addresses::{Endpoint, WebAddress};
use super::table::section;
use super::value::{BufferBytes, Count, FilePath, Issuer, Period, Redact, SocketMode, Word};
use super::words::{BundleProfile, LoginMethod};
use crate::audit::Durability;
use crate::authority::Origin;
use crate::identity::{SpiffeId, TrustDomain};
use crate::kernel::Tier;
use crate::url::HostPort;

/// Read-only, by the operator. `ConfigurationDirectory=agent-daemon` in the unit.
macro_rules! configuration_directory {
    () => {
        "/etc/agent-daemon"
    };
}
/// Keys, sealed secrets and the audit log. `StateDirectory=agent-daemon` in the unit.
const STATE_DIRECTORY: &str = "/var/lib/agent-daemon";
/// Sockets. `RuntimeDirectory=agent-daemon` in the unit.
macro_rules! runtime_directory {
    () => {
        "/run/agent-daemon"
    };
}

/// Where the daemon looks for its configuration.
pub const DEFAULT_PATH: &str = concat!(configuration_directory!(), "/config.toml");

const MS: u64 = 1_000;
const S: u64 = 1_000 * MS;
const M: u64 = 60 * S;
const H: u64 = 60 * M;
/// Leases that are watched in the kernel at once: the end of a process with a lease reaches the daemon at once.
const WATCHED: u64 = 65_536;

section! {
    /// Configuration of agent-daemon. A path that does not start with / starts at the folder of this file.
    struct ConfigFile {
        /// The trust domain of every SPIFFE ID that this node gives out. There is no default.
        trust_domain: Option<TrustDomain> = None, example "\"example.org\"";
        /// Keys, sealed secrets and the audit log. Made with mode 0700 when it is not there.
        state_dir: FilePath = FilePath::new(STATE_DIRECTORY);
        /// Who is who: files, or folders whose *.toml are read in the order of their names. Read again on reload.
        entries: Vec<FilePath> = vec![FilePath::new("entries.toml")];
        /// Where to and with what: files, or folders of *.toml. Read again on reload.
        destinations: Vec<FilePath> = vec![FilePath::new("destinations.toml")];
        /// Who may: files, or folders of *.cedar. Read again on reload.
        policies: Vec<FilePath> = vec![FilePath::new("policies")];
        /// The `iss` claim of minted tokens. Not set: the tokens have none.
        issuer: Option<Issuer> = None, example "\"https://issuer.example.org\"";
        table kernel: KernelTable;
        table api: ApiTable;
        table spiffe: SpiffeTable;
        table authority: AuthorityTable;
        table disk: DiskTable;
        table openbao: OpenBaoTable;
        table spire: SpireTable;
        table federation: FederationTable;
        table bundle_endpoint: BundleEndpointTable;
        table oidc: OidcTable;
        table experimental: ExperimentalTable;
        table credentials: CredentialsTable;
        table sessions: SessionsTable;
        table approvals: ApprovalsTable;
        table measure: MeasureTable;
        table audit: AuditTable;
        table history: HistoryTable;
        table shutdown: ShutdownTable;
        table seal: SealTable;
    }
}

section! {
    /// The programs in the kernel.
    struct KernelTable {
        /// A folder for the daemon alone below /sys/fs/bpf: what is pinned there outlives the daemon, and everything in
        /// it is removed when another version takes over.
        pin_dir: FilePath = FilePath::new("/sys/fs/bpf/agent-daemon");
        /// Mount the BPF file system at /sys/fs/bpf when it is not mounted.
        mount_bpffs: bool = true;
        /// The lowest tier of hooks, proved by self-test, with which the daemon starts: "egress", or "observe" to
        /// accept that connections cannot be refused on this kernel.
        accept_tier: Tier = Tier::Egress;
        /// Live processes that can be bound at once. One more gets nothing. Not set: the built-in bound.
        max_processes: Option<Count<64, 4_194_304>> = None, example "131072";
        /// Open sockets that can be bound at once. Not set: the built-in bound.
        max_connections: Option<Count<64, 4_194_304>> = None, example "65536";
        /// Bytes of the buffer for events, a power of two. Not set: the built-in size.
        event_buffer_bytes: Option<BufferBytes> = None, example "1048576";
    }
}

section! {
    /// The sockets of the daemon and what callers may take.
    struct ApiTable {
        /// For workloads.
        agent_socket: FilePath = FilePath::new(concat!(runtime_directory!(), "/agent.sock"));
        /// Who may connect to it. Connecting gives nothing: identity and policy do.
        agent_socket_mode: SocketMode = SocketMode(0o666);
        /// For operators (agentctl). Its mode is always 0600.
        admin_socket: FilePath = FilePath::new(concat!(runtime_directory!(), "/admin.sock"));
        /// Connections of workloads at once.
        max_connections: Count<1, 65_536> = Count(4096);
        /// Connections of one user at once.
        max_connections_per_uid: Count<1, 65_536> = Count(256);
        /// Calls at once on one connection.
        max_streams_per_connection: Count<1, 1024> = Count(64);
        /// Largest message taken from a caller.
        max_message_bytes: Count<1024, 1_048_576> = Count(65_536);
        /// A call that takes longer is refused.
        request_timeout: Period<{ 100 * MS }, { 10 * M }> = Period::of_micros(10 * S);
        /// Requests that one exec instance may send at once.
        rate_burst: Count<1, 1_000_000> = Count(200);
        /// It may send one more after each such time.
        rate_refill: Period<1, { 10 * M }> = Period::of_micros(5 * MS);
    }
}

section! {
    /// The SPIFFE Workload API, for programs that speak SPIFFE. The bounds of the table api hold here too.
    struct SpiffeTable {
        /// Where they find it: SPIFFE_ENDPOINT_SOCKET is "unix:" and this path.
        socket: FilePath = FilePath::new(concat!(runtime_directory!(), "/spiffe.sock"));
        /// Who may connect to it. Connecting gives nothing: identity and policy do.
        socket_mode: SocketMode = SocketMode(0o666);
        /// Audiences that one token may have. Whoever receives a token with several can use it at the others.
        max_audiences: Count<1, 16> = Count(1);
    }
}

section! {
    /// The keys of this node, and how those who check tokens and certificates find them: JWKS (GET /jwks.json), the SPIFFE
    /// trust bundle (GET /bundle.json) and token introspection (POST /introspect, RFC 7662) over HTTP, on this machine.
    struct AuthorityTable {
        /// "unix:PATH" or the address and port of the loopback interface. Nothing else is accepted.
        listen: Endpoint = Endpoint::Unix(FilePath::new(concat!(runtime_directory!(), "/authority.sock")));
        /// Connections at once.
        max_connections: Count<1, 65_536> = Count(256);
        /// From the making of a key that signs tokens to its end. The next one is made at half of it and signs from five
        /// sixths on.
        jwt_key_lifetime: Period<{ 10 * S }, { 365 * 24 * H }> = Period::of_micros(7 * 24 * H);
        /// Who signs the CA that signs X509-SVIDs: "embedded" (it signs itself), "disk" (a CA in files), "openbao" (the PKI
        /// of OpenBao or Vault) or "spire" (a SPIRE server); each of the last three has a table of its name.
        upstream: Origin = Origin::Embedded;
        /// From the making of a CA that signs X509-SVIDs to its end, in the same way. An upstream is asked for so long and
        /// may give less; a CA in files lives as long as its certificate.
        ca_lifetime: Period<{ 10 * S }, { 3650 * 24 * H }> = Period::of_micros(30 * 24 * H);
        /// How often those who use the trust bundle are told to look for a change.
        bundle_refresh_hint: Period<S, { 24 * H }> = Period::of_micros(5 * M);
    }
}

section! {
    /// A CA in files, where the table authority has the upstream "disk". They are looked at every 5 s; what is of no use
    /// is refused, and the last good CA goes on.
    struct DiskTable {
        /// PEM: the certificate of the CA, and those between it and its root.
        certificate_file: Option<FilePath> = None, example "\"/etc/agent-daemon/ca.pem\"";
        /// PEM: its key, PKCS#8 (P-256, P-384 or RSA). Others may have no rights to the file, its group may read it.
        key_file: Option<FilePath> = None, example "\"/etc/agent-daemon/ca.key\"";
        /// PEM: what others have to trust. Leave old roots in it until what was signed below them is over. Not set: the CA
        /// is its own root.
        bundle_file: Option<FilePath> = None, example "\"/etc/agent-daemon/roots.pem\"";
    }
}

section! {
    /// The PKI of OpenBao or Vault, where the table authority has the upstream "openbao". The login has to allow update
    /// on MOUNT/root/sign-intermediate.
    struct OpenBaoTable {
        /// Where the server is. https, or http on a loopback address.
        address: Option<WebAddress> = None, example "\"https://bao.example.org:8200\"";
        /// PEM: the roots by which the server is believed. Not set: those of this machine.
        ca_file: Option<FilePath> = None, example "\"/etc/agent-daemon/bao-ca.pem\"";
        /// The namespace of the mount.
        namespace: Option<Word> = None, example "\"team-a\"";
        /// Where the PKI secrets engine is mounted.
        mount: Word = Word::new("pki");
        /// "token" (somebody else keeps a token fresh in a file), "approle" or "jwt".
        login: LoginMethod = LoginMethod::Token;
        /// Where the login method is mounted. Not set: its own name.
        login_mount: Option<Word> = None, example "\"jwt-nodes\"";
        /// The role id of "approle", or the role of "jwt".
        role: Option<Word> = None, example "\"agent-daemon\"";
        /// The token, the secret id of "approle" or the JWT. Read for each login. Others may have no
        /// rights to the file, its group may read it.
        secret_file: Option<FilePath> = None, example "\"/run/agent-daemon/bao-token\"";
    }
}

section! {
    /// A SPIRE server, where the table authority has the upstream "spire". It is called as the identity that the SPIRE
    /// agent of this machine gives the daemon, whose registration entry there has to be a downstream one.
    struct SpireTable {
        /// The Workload API of the agent.
        agent_socket: Option<FilePath> = None, example "\"/run/spire/sockets/agent.sock\"";
        /// The API of the server, spiffe://TRUST_DOMAIN/spire/server.
        server: Option<HostPort> = None, example "\"spire.example.org:8081\"";
        /// As whom the server is called. Not set: as the agent's default.
        spiffe_id: Option<SpiffeId> = None, example "\"spiffe://example.org/node/a\"";
    }
}

section! {
    /// Other trust domains: which ones stands in tables of that name beside the entries. Their trust bundles are kept in
    /// the state folder.
    struct FederationTable {
        /// PEM: the roots by which bundle endpoints with the profile https_web are believed. Not set: those of this
        /// machine.
        ca_file: Option<FilePath> = None, example "\"/etc/agent-daemon/web-roots.pem\"";
        /// Not more often than this is a bundle fetched, whatever it says of itself.
        min_refresh: Period<S, { 24 * H }> = Period::of_micros(30 * S);
    }
}

section! {
    /// The SPIFFE bundle endpoint: the trust bundle over HTTPS, for other trust domains.
    struct BundleEndpointTable {
        /// The address and port. Not set: it is not served.
        listen: Option<SocketAddr> = None, example "\"0.0.0.0:8443\"";
        /// "https_spiffe" (the server is spiffe://TRUST_DOMAIN/agent-daemon/bundle-endpoint) or "https_web" (it has the
        /// certificate below).
        profile: BundleProfile = BundleProfile::Spiffe;
        /// PEM: the certificate for "https_web", and those between it and its root. Looked at every 5 s.
        certificate_file: Option<FilePath> = None, example "\"/etc/agent-daemon/web.pem\"";
        /// PEM: its key. Others may have no rights to the file, its group may read it.
        key_file: Option<FilePath> = None, example "\"/etc/agent-daemon/web.key\"";
        /// Connections at once.
        max_connections: Count<1, 65_536> = Count(64);
    }
}

section! {
    /// OIDC discovery over HTTPS, so that clouds can verify tokens: /.well-known/openid-configuration and /jwks.json
    /// below the path of `issuer`, which has to be set.
    struct OidcTable {
        /// The address and port. Not set: it is not served.
        listen: Option<SocketAddr> = None, example "\"0.0.0.0:443\"";
        /// PEM: the certificate for the host of the issuer, and those between it and its root. Looked at every 5 s.
        certificate_file: Option<FilePath> = None, example "\"/etc/agent-daemon/web.pem\"";
        /// PEM: its key. Others may have no rights to the file, its group may read it.
        key_file: Option<FilePath> = None, example "\"/etc/agent-daemon/web.key\"";
        /// Connections at once.
        max_connections: Count<1, 65_536> = Count(64);
    }
}

section! {
    /// What follows drafts and changes with them. Nothing here keeps its form from one version to the next.
    struct ExperimentalTable {
        /// WIT-SVIDs over the Workload API: tokens that are good only with a proof that whoever shows them has their key.
        /// Bindings whose source has the type "wit-svid" give them.
        wit_svid: bool = false;
        /// A transaction id (txn) in access tokens: the decision that opened the outermost session they belong to.
        transaction_ids: bool = false;
    }
}

section! {
    /// Leases: one for each released credential.
    struct CredentialsTable {
        /// Alive at once on this node.
        max_leases: Count<1, WATCHED> = Count(WATCHED);
        /// Alive at once for one process image (exec instance).
        max_leases_per_process: Count<1, WATCHED> = Count(256);
    }
}

section! {
    /// Sessions: delegated contexts in which agents act on behalf of a user. Issuers of users' tokens stand in the entries.
    struct SessionsTable {
        /// Open at once on this node.
        max_sessions: Count<1, 65_536> = Count(4096);
        /// Opened by one process image (exec instance) and not over.
        max_sessions_per_process: Count<1, 65_536> = Count(64);
        /// On behalf of one user and not over.
        max_sessions_per_user: Count<1, 65_536> = Count(256);
        /// How often a session may be delegated from another.
        max_depth: Count<0, 32> = Count(8);
        /// How long a session lives whose opener says nothing.
        lifetime: Period<S, { 30 * 24 * H }> = Period::of_micros(H);
        /// How long a session may live.
        max_lifetime: Period<S, { 30 * 24 * H }> = Period::of_micros(12 * H);
        /// Steps that agents take at once on this node.
        max_steps: Count<1, 65_536> = Count(16_384);
        /// In one session.
        max_steps_per_session: Count<1, 1024> = Count(64);
        /// How deep steps nest.
        max_step_depth: Count<1, 64> = Count(16);
        /// After this a step that nobody ended is over.
        step_lifetime: Period<S, { 30 * 24 * H }> = Period::of_micros(H);
        /// How much of what agents say that a step is about stands in the audit log; zero: nothing. What looks like a secret
        /// is taken out before. It fills the log sooner.
        step_content_bytes: Count<0, 4096> = Count(0);
        /// Regular expressions of what else is taken out; of a match its group `keep` stays.
        step_content_redact: Vec<Redact> = Vec::new(), example "['\\b\\d{3}-\\d{2}-\\d{4}\\b']";
        /// PEM: the roots by which issuers are believed. Not set: those of this machine.
        issuer_ca_file: Option<FilePath> = None, example "\"/etc/agent-daemon/issuer-roots.pem\"";
    }
}

section! {
    /// Requests that policy permits only if a person approves (@approval) wait for `agentctl approvals`.
    struct ApprovalsTable {
        /// How long. A client that gives up sooner is told nothing; give its calls a longer deadline.
        wait: Period<S, H> = Period::of_micros(S * 60);
        /// At once on this node.
        max_waiting: Count<1, 4096> = Count(256);
        /// Of one process image (exec instance).
        max_waiting_per_process: Count<1, 4096> = Count(4);
    }
}

section! {
    /// Hashing of programs and scripts.
    struct MeasureTable {
        /// A larger file is not measured, so no entry that asks for its hash matches.
        max_file_bytes: Count<1, 17_179_869_184> = Count(536_870_912);
        /// Measurements kept.
        cache_entries: Count<1, 1_048_576> = Count(4096);
        /// Files read at once.
        concurrency: Count<1, 64> = Count(2);
    }
}

section! {
    /// The log of every decision. While it cannot be written, nothing is released.
    struct AuditTable {
        /// A private folder for the log alone. Not set: audit in the state folder.
        dir: Option<FilePath> = None, example "\"/var/lib/agent-daemon/audit\"";
        /// "written": the kernel has the record before the reply leaves, so it survives a kill of the daemon;
        /// "synced": the disk has it, so it survives a loss of power.
        durability: Durability = Durability::Written;
        /// A segment that would grow beyond this is followed by a new one.
        segment_bytes: Count<1_048_576, 17_179_869_184> = Count(67_108_864);
        /// Segments kept; older ones are removed, which the log remembers.
        retain_segments: Count<2, 1_048_576> = Count(64);
        /// Records of this long are synced to disk together.
        sync_interval: Period<100, S> = Period::of_micros(5 * MS);
        /// A signed checkpoint after so many records.
        checkpoint_records: Count<1, 1_000_000> = Count(10_000);
        /// A signed checkpoint after so long, if anything was written.
        checkpoint_interval: Period<S, H> = Period::of_micros(60 * S);
        /// Decisions being made at once. One more is refused.
        max_in_flight: Count<1, 65_536> = Count(1024);
    }
}

section! {
    /// What is kept for people to look at; no decision rests on it.
    struct HistoryTable {
        /// Processes that ended.
        ended_processes: Count<0, 1_048_576> = Count(4096);
        /// Leases that ended.
        ended_leases: Count<0, 1_048_576> = Count(4096);
        /// Sessions that ended.
        ended_sessions: Count<0, 65_536> = Count(256);
        /// Decisions.
        decisions: Count<0, 100_000> = Count(1000);
    }
}

section! {
    /// The end of the daemon.
    struct ShutdownTable {
        /// Calls in flight and the audit log are finished within this; then the daemon ends without them.
        deadline: Period<{ 100 * MS }, { 10 * M }> = Period::of_micros(10 * S);
    }
}

section! {
    /// The key that seals all other keys and secrets.
    struct SealTable {
        /// 32 random bytes in a file of mode 0600 or less. Not set: the credential `kek` of systemd when the unit has
        /// it, else kek in the state folder, which is made at the first start.
        key_file: Option<FilePath> = None, example "\"/var/lib/agent-daemon/kek\"";
    }
}
