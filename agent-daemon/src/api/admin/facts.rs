// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::kernel::Tier;
use crate::process::Capacity;

/// Where the daemon is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServingState {
    /// Not answering agents yet.
    Starting,
    /// Answering.
    Serving,
    /// Finishing what was begun.
    Stopping,
}

impl ServingState {
    /// The word in the API.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Stopping => "stopping",
        }
    }
}

/// Where the key comes from that seals secrets and signing keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// systemd hands it over (`LoadCredentialEncrypted=`), so that it does not lie beside what it seals.
    SystemdCredential,
    /// A plain file.
    File(PathBuf),
}

/// A capability that the daemon needs after start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededCapability {
    /// Which.
    pub capability: caps::Capability,
    /// What is lost without it.
    pub purpose: &'static str,
}

/// What the sockets know of themselves.
pub trait Gauges: Debug + Send + Sync + 'static {
    /// How full they are.
    fn capacities(&self) -> Vec<Capacity>;
}

/// What the admin API cannot ask the node for.
#[derive(Debug, Clone)]
pub struct AdminFacts {
    /// Of the daemon.
    pub version: String,
    /// Name and address of every endpoint: `AGENT_SOCKET`, …
    pub endpoints: Vec<(String, String)>,
    /// The socket for workloads.
    pub agent_socket: PathBuf,
    /// Its permission bits by configuration.
    pub agent_socket_mode: u32,
    /// Our own socket.
    pub admin_socket: PathBuf,
    /// Keys, secrets and the audit log are below it.
    pub state_dir: PathBuf,
    /// Where the sealing key comes from.
    pub key_source: KeySource,
    /// The tier the configuration asks for: what is above it may be missing.
    pub required_tier: Tier,
    /// What the daemon must still hold.
    pub capabilities: Vec<NeededCapability>,
    /// Of the sockets.
    pub sockets: Arc<dyn Gauges>,
    /// Where the daemon is in its life. Streams that follow end when it stops.
    pub state: watch::Receiver<ServingState>,
    /// Streams run as its tasks.
    pub tasks: TaskTracker,
}
