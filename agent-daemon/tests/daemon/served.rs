// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A node behind its real sockets, and real clients.

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_daemon::api::admin::{Admin, AdminFacts, Gauges, KeySource, ServingState};
use agent_daemon::api::{AuthorityAddress, AuthorityConfig, AuthorityListener, Config, Limits, Sockets};
use agent_daemon::kernel::Tier;
use agent_daemon::testing::{FakeView, PrivateDirectory, Setup, TestNode, while_none_is_built};
use agent_proto::admin::admin_service_client::AdminServiceClient;
use agent_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use agent_proto::v1::agent_service_client::AgentServiceClient;
use agent_proto::v1::{AttestRequest, ConnectionRef, ReleaseRequest, connection_ref};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

/// Nothing here takes longer unless it is broken.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A node that serves.
pub(crate) struct Served {
    pub(crate) t: Arc<TestNode>,
    pub(crate) view: Arc<FakeView>,
    pub(crate) agent: PathBuf,
    pub(crate) admin: PathBuf,
    pub(crate) spiffe: PathBuf,
    pub(crate) verifiers: PathBuf,
    pub(crate) cancel: CancellationToken,
    gauges: Arc<dyn Gauges>,
    tasks: JoinSet<()>,
    state: watch::Sender<ServingState>,
    tracker: TaskTracker,
    _directory: PrivateDirectory,
}

impl Served {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::with(setup, |_| {})
    }

    pub(crate) fn with(setup: Setup, change: impl FnOnce(&mut Config)) -> Self {
        let t = Arc::new(setup.build());
        let directory = PrivateDirectory::new();
        let [agent, admin, spiffe, verifiers] =
            ["agent.sock", "admin.sock", "spiffe.sock", "http.sock"].map(|name| directory.path().join(name));
        let mut config = Config {
            agent_socket: agent.clone(),
            agent_socket_mode: 0o666,
            admin_socket: admin.clone(),
            spiffe_socket: spiffe.clone(),
            spiffe_socket_mode: 0o666,
            limits: Limits { connections: 100, connections_of_one: 100 },
            max_streams_per_connection: 16,
            max_message_bytes: 64 * 1024,
            request_timeout: Duration::from_secs(10),
        };
        change(&mut config);
        let address = AuthorityAddress::Unix(verifiers.clone());
        let (sockets, listener) = while_none_is_built(|| {
            let listener = AuthorityListener::bind(&AuthorityConfig { address, max_connections: 8 });
            (Sockets::bind(config).unwrap(), listener.unwrap())
        });
        let gauges = sockets.gauges();
        let view = Arc::new(FakeView::default());
        let (state, is_serving) = watch::channel(ServingState::Serving);
        let tracker = TaskTracker::new();
        let facts = AdminFacts {
            version: "0.0.0-test".to_owned(),
            endpoints: Vec::new(),
            agent_socket: agent.clone(),
            agent_socket_mode: 0o666,
            admin_socket: admin.clone(),
            state_dir: t.directory.path().to_owned(),
            key_source: KeySource::SystemdCredential,
            required_tier: Tier::Egress,
            capabilities: Vec::new(),
            sockets: Arc::clone(&gauges),
            state: is_serving,
            tasks: tracker.clone(),
        };
        let admin_service = Admin::new(Arc::clone(&t.node), Arc::<FakeView>::clone(&view), facts);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (node, token) = (Arc::clone(&t.node), cancel.clone());
        tasks.spawn(async move { sockets.serve(node, admin_service, token).await.unwrap() });
        let (node, token, connections) = (Arc::clone(&t.node), cancel.clone(), tracker.clone());
        tasks.spawn(async move { listener.run(node, token, connections).await.unwrap() });
        Self { t, view, agent, admin, spiffe, verifiers, cancel, gauges, tasks, state, tracker, _directory: directory }
    }

    pub(crate) async fn agent(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(channel(&self.agent).await)
    }

    pub(crate) async fn spiffe(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(channel(&self.spiffe).await)
    }

    pub(crate) async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(channel(&self.admin).await)
    }

    /// A request for `reports` on a new connection.
    pub(crate) fn ask(&self) -> ReleaseRequest {
        let cookie = self.t.connect("192.0.2.1:443");
        ReleaseRequest {
            destination: "reports".to_owned(),
            connection: Some(ConnectionRef { by: Some(connection_ref::By::Cookie(cookie)) }),
            ..ReleaseRequest::default()
        }
    }

    /// Connections that the agents' socket holds.
    pub(crate) fn connections(&self) -> u64 {
        let gauges = self.gauges.capacities();
        gauges.iter().find(|gauge| gauge.name == "agent_connections").unwrap().used
    }

    /// Waits until there is a place for one more caller, and it is answered.
    pub(crate) async fn until_admitted(&self) {
        let admitted = async {
            loop {
                let stream = UnixStream::connect(&self.agent).await.unwrap();
                if let Ok(channel) = channel_over(stream).await
                    && AgentServiceClient::new(channel).attest(AttestRequest {}).await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        soon("a caller is let in", admitted).await;
    }

    /// Tells everything to stop, and waits until it has.
    pub(crate) async fn stop(mut self) -> Arc<TestNode> {
        self.cancel.cancel();
        self.state.send_replace(ServingState::Stopping);
        soon("everything has stopped", async { while self.tasks.join_next().await.is_some() {} }).await;
        self.tracker.close();
        soon("every connection has ended", self.tracker.wait()).await;
        Arc::clone(&self.t)
    }
}

/// One connection of this process to a socket.
pub(crate) async fn channel(path: &Path) -> Channel {
    let stream = UnixStream::connect(path).await.unwrap();
    channel_over(stream).await.unwrap()
}

/// A client on a connection that is there already. It cannot reconnect: what is cut stays cut.
pub(crate) async fn channel_over(stream: UnixStream) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("there is only the one connection"));
        async move { stream.map(TokioIo::new) }
    });
    Endpoint::from_static("http://daemon").connect_with_connector(connector).await
}

/// Runs a shell command that has a socket of ours as its standard input and output.
pub(crate) fn shell_on(socket: impl Into<OwnedFd>, command: &str) {
    let socket: OwnedFd = socket.into();
    let output = Stdio::from(socket.try_clone().unwrap());
    let status = Command::new("/bin/sh").args(["-c", command]).stdin(socket).stdout(output).status().unwrap();
    assert!(status.success());
}

/// Waits for something that has to happen.
pub(crate) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, happens).await {
        Ok(happened) => happened,
        Err(_) => panic!("it did not come to this: {what}"),
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "it did not come to this: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}
