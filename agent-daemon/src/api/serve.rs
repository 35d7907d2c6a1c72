// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The gRPC sockets: bound first, served when everything else is ready.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use agent_proto::admin::admin_service_server::AdminServiceServer;
use agent_proto::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use agent_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use agent_proto::v1::agent_service_server::AgentServiceServer;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use nix::sys::socket::sockopt::{PassCred, PeerCredentials};
use nix::sys::socket::{getsockopt, setsockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use super::accept::{self, Acceptor, Prompt};
use super::admin::{Admin, Gauges};
use super::agent::Agent;
use super::door::{Door, Limits, Who};
use super::presence::Presence;
use super::spiffe::{Sds, Workload};
use super::stream::{OperatorStream, PeerStream};
use super::{AGENT, SPIFFE, token};
use crate::audit::Caller;
use crate::node::Node;
use crate::process::{BootTime, Capacity};

const HEADER_LIST_BYTES: u32 = 16 * 1024;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Envoy lists all of its extensions in every request: 61 KB of them in version 1.40.
const SDS_MESSAGE_BYTES: usize = 256 * 1024;
/// Admin messages may carry policy files.
const ADMIN_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
const ADMIN_CONNECTIONS: Limits = Limits { connections: 64, connections_of_one: 64 };
/// Calls are over long before. A client that does not answer the goodbye in this time must not hold up the end.
const DRAIN: Duration = Duration::from_secs(3);

/// Where and within which bounds.
#[derive(Debug, Clone)]
pub struct Config {
    /// The agents' socket.
    pub agent_socket: PathBuf,
    /// Its mode.
    pub agent_socket_mode: u32,
    /// The operators' socket; always 0600.
    pub admin_socket: PathBuf,
    /// The socket of the SPIFFE Workload API.
    pub spiffe_socket: PathBuf,
    /// Its mode.
    pub spiffe_socket_mode: u32,
    /// Connections to the agents' socket, and to that of the SPIFFE Workload API.
    pub limits: Limits,
    /// Calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// Largest request.
    pub max_message_bytes: usize,
    /// Longest call, up to its headers, without the time that it waits for a person.
    pub request_timeout: Duration,
}

/// Bound, not serving yet.
#[derive(Debug)]
pub struct Sockets {
    agent: std::os::unix::net::UnixListener,
    admin: std::os::unix::net::UnixListener,
    spiffe: std::os::unix::net::UnixListener,
    doors: Doors,
    config: Config,
}

/// Who counts the connections to the sockets.
#[derive(Debug, Clone)]
struct Doors {
    agent: Door,
    spiffe: Door,
    admin: Door,
}

impl Gauges for Doors {
    fn capacities(&self) -> Vec<Capacity> {
        let of = |name, door: &Door| {
            let (used, limit) = door.usage();
            let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
            Capacity { name, used: count(used), limit: count(limit) }
        };
        vec![
            of("agent_connections", &self.agent),
            of("spiffe_connections", &self.spiffe),
            of("admin_connections", &self.admin),
        ]
    }
}

impl Sockets {
    /// Binds all of them.
    ///
    /// # Errors
    /// When a path cannot be bound, or is in use by a running daemon.
    pub fn bind(config: Config) -> io::Result<Self> {
        let agent = bind(&config.agent_socket, config.agent_socket_mode)?;
        let spiffe = bind(&config.spiffe_socket, config.spiffe_socket_mode)?;
        // Every message from here on names its sender, those sent before accept included.
        setsockopt(&agent, PassCred, &true)?;
        setsockopt(&spiffe, PassCred, &true)?;
        let admin = bind(&config.admin_socket, 0o600)?;
        let doors = Doors {
            agent: Door::new(config.limits),
            spiffe: Door::new(config.limits),
            admin: Door::new(ADMIN_CONNECTIONS),
        };
        Ok(Self { agent, admin, spiffe, doors, config })
    }

    /// How full they are.
    pub fn gauges(&self) -> Arc<dyn Gauges> {
        Arc::new(self.doors.clone())
    }

    /// Serves agents until cancelled, then finishes the calls in flight.
    ///
    /// # Errors
    /// When the sockets cannot be polled, or the server ends by itself.
    pub async fn serve(
        self,
        node: Arc<Node>,
        admin: Admin,
        cancel: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (agent_listener, admin_listener) =
            (UnixListener::from_std(self.agent)?, UnixListener::from_std(self.admin)?);
        let spiffe_listener = UnixListener::from_std(self.spiffe)?;
        let (reporter, health) = tonic_health::server::health_reporter();
        let (admin_reporter, admin_health) = tonic_health::server::health_reporter();
        set_serving(&reporter, &admin_reporter).await;
        let config = &self.config;
        let service = AgentServiceServer::new(Agent::new(Arc::clone(&node), config.request_timeout))
            .max_decoding_message_size(config.max_message_bytes)
            .max_encoding_message_size(config.max_message_bytes.max(256 * 1024));
        let workload = SpiffeWorkloadApiServer::new(Workload::new(Arc::clone(&node), cancel.clone()))
            .max_decoding_message_size(config.max_message_bytes);
        let peers = |listener, socket, door| Peers {
            acceptor: Acceptor::new(listener),
            socket,
            door,
            node: Arc::clone(&node),
            empty_at: None,
            cancel: cancel.clone(),
        };
        let time = config.request_timeout;
        let exchange = axum::routing::post(token::exchange).with_state((Arc::clone(&node), time));
        let services = Routes::new(service).add_service(health).into_axum_router().route(token::PATH, exchange);
        let services = services.layer(from_fn_with_state(time, in_time));
        let patient = config.request_timeout.saturating_add(node.approval_wait());
        let agents = builder(config).timeout(patient).add_routes(services.into()).serve_with_incoming_shutdown(
            peers(agent_listener, AGENT, self.doors.agent),
            cancel.clone().cancelled_owned(),
        );
        let secrets = SecretDiscoveryServiceServer::new(Sds::new(Arc::clone(&node), cancel.clone()))
            .max_decoding_message_size(config.max_message_bytes.max(SDS_MESSAGE_BYTES));
        let workloads = builder(config).add_service(workload).add_service(secrets).serve_with_incoming_shutdown(
            peers(spiffe_listener, SPIFFE, self.doors.spiffe),
            cancel.clone().cancelled_owned(),
        );
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(agent_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1();
        let reflection = match reflection {
            Ok(reflection) => Some(reflection),
            Err(error) => {
                tracing::error!(%error, "reflection is off: the descriptors cannot be read");
                None
            }
        };
        let admin_service = AdminServiceServer::new(admin)
            .max_decoding_message_size(ADMIN_MESSAGE_BYTES)
            .max_encoding_message_size(ADMIN_MESSAGE_BYTES);
        let operators = Server::builder()
            .max_concurrent_streams(config.max_streams_per_connection)
            .http2_max_header_list_size(HEADER_LIST_BYTES)
            .add_service(admin_service)
            .add_service(admin_health)
            .add_optional_service(reflection)
            .serve_with_incoming_shutdown(
                Operators { acceptor: Acceptor::new(admin_listener), door: self.doors.admin, cancel: cancel.clone() },
                cancel.clone().cancelled_owned(),
            );
        let served = async { tokio::try_join!(agents, workloads, operators).map(|_| ()).map_err(Into::into) };
        let overdue = async {
            cancel.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        let result = tokio::select! {
            result = served => result,
            () = overdue => {
                tracing::warn!("connections that do not close are cut");
                Ok(())
            }
        };
        for path in [&self.config.agent_socket, &self.config.spiffe_socket, &self.config.admin_socket] {
            // The next start removes it too.
            let _gone = fs::remove_file(path);
        }
        result
    }
}

fn builder(config: &Config) -> Server {
    Server::builder()
        .max_concurrent_streams(config.max_streams_per_connection)
        .concurrency_limit_per_connection(usize::try_from(config.max_streams_per_connection).unwrap_or(1))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .timeout(config.request_timeout)
}

/// What waits for a person keeps its time itself.
async fn in_time(State(time): State<Duration>, request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/agent.v1.AgentService/Release" | "/agent.v1.AgentService/Renew" | token::PATH) {
        return next.run(request).await;
    }
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Status::deadline_exceeded("it took too long").into_http(),
    }
}

async fn set_serving(agent: &HealthReporter, admin: &HealthReporter) {
    agent.set_serving::<AgentServiceServer<Agent>>().await;
    admin.set_serving::<AdminServiceServer<Admin>>().await;
}

/// Binds a Unix socket with a mode, in place of one that nobody serves any more. Needs no runtime, because it
/// is done while the daemon still has the rights to.
pub(super) fn bind(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot bind {}: {error}", path.display()));
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                let taken = io::Error::new(io::ErrorKind::AddrInUse, "another daemon serves it");
                return Err(named(taken));
            }
            fs::remove_file(path).map_err(named)?;
        }
        Ok(_) => return Err(named(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and not a socket"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(named(error)),
    }
    // Nobody connects between bind and chmod: the socket is made for its owner only.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = std::os::unix::net::UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = bound.map_err(named)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(named)?;
    listener.set_nonblocking(true).map_err(named)?;
    Ok(listener)
}

/// Waits a moment after a failed accept, and says so.
pub(super) async fn after_accept_error(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(accept::PAUSE).await;
}

/// Callers as they come in, attested at the door.
struct Peers {
    acceptor: Acceptor,
    socket: &'static str,
    door: Door,
    node: Arc<Node>,
    /// The last moment at which no connection waited to be accepted; see [`super::presence`].
    empty_at: Option<BootTime>,
    cancel: CancellationToken,
}

impl Peers {
    fn admit(&self, io: UnixStream) -> Option<PeerStream> {
        let credentials = getsockopt(&io, PeerCredentials).ok()?;
        let place = match self.door.enter(Who::User(credentials.uid())) {
            Ok(place) => place,
            Err(detail) => {
                let caller = Caller {
                    uid: credentials.uid(),
                    gid: credentials.gid(),
                    tgid: u32::try_from(credentials.pid()).ok(),
                    ..Caller::default()
                };
                self.node.refuse_connection(self.socket, "connection_limit", detail, caller);
                return None;
            }
        };
        // The accepted socket inherits this; without it nothing on the connection could be trusted.
        setsockopt(&io, PassCred, &true).ok()?;
        let peer = self.node.pin(&io, self.socket).ok()?;
        let presence = match self.empty_at {
            Some(empty_at) if peer.began < empty_at => Presence::known(),
            Some(_) | None => Presence::new().ok()?,
        };
        Some(PeerStream::new(io, peer, Arc::clone(&self.node), place, presence))
    }

    /// Remembers when nothing waited. The clock is read first: what is there by then is seen.
    fn look(&mut self) {
        let now = self.node.records().now();
        let mut waiting = [PollFd::new(self.acceptor.listener(), PollFlags::IN)];
        if poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0) {
            self.empty_at = Some(now);
        }
    }
}

impl Stream for Peers {
    type Item = io::Result<Prompt<PeerStream>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(io) = self.acceptor.poll_accept(cx) else {
                self.look();
                return Poll::Pending;
            };
            if let Some(stream) = self.admit(io) {
                return Poll::Ready(Some(Ok(Prompt::new(stream, &self.cancel))));
            }
        }
    }
}

/// Operators as they come in.
struct Operators {
    acceptor: Acceptor,
    door: Door,
    cancel: CancellationToken,
}

impl Stream for Operators {
    type Item = io::Result<Prompt<OperatorStream>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let io = ready!(self.acceptor.poll_accept(cx));
            if let Some(stream) = OperatorStream::admit(io, &self.door) {
                return Poll::Ready(Some(Ok(Prompt::new(stream, &self.cancel))));
            }
        }
    }
}
