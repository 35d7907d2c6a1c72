// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Asking the daemon for a credential.
//!
//! A channel is one Unix connection and never reconnects by itself: the daemon ties every answer to the program
//! image that opened the connection, so the examples show exactly one opener.

use std::env;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use agent_proto::v1;
use anyhow::Context;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the daemon listens, as `AGENT_SOCKET` names it: `unix:/path` or `/path`.
pub fn socket_path(argument: Option<&str>) -> anyhow::Result<PathBuf> {
    let named = match argument {
        Some(named) => named.to_owned(),
        None => env::var("AGENT_SOCKET").context("AGENT_SOCKET is not set; expected unix:/path/of/agent.sock")?,
    };
    let path = Path::new(named.strip_prefix("unix:").unwrap_or(&named)).to_path_buf();
    anyhow::ensure!(path.is_absolute(), "AGENT_SOCKET must name an absolute path, found {named}");
    Ok(path)
}

/// Opens a connection on which nothing has been said yet.
pub fn open(path: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(path).with_context(|| format!("cannot connect to the daemon at {}", path.display()))
}

/// Speaks gRPC over an open connection.
pub async fn channel(stream: UnixStream) -> anyhow::Result<Channel> {
    stream.set_nonblocking(true).context("cannot make the socket non-blocking")?;
    let stream = tokio::net::UnixStream::from_std(stream).context("cannot register the socket")?;
    let once = Mutex::new(Some(TokioIo::new(stream)));
    Endpoint::from_static("http://localhost")
        .timeout(CALL_TIMEOUT)
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = once.lock().ok().and_then(|mut slot| slot.take());
            std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        }))
        .await
        .context("the daemon did not speak HTTP/2 on its socket")
}

/// What the kernel calls this socket, for as long as the machine is up.
pub fn cookie(stream: &TcpStream) -> anyhow::Result<u64> {
    rustix::net::sockopt::socket_cookie(stream).context("the kernel did not give the socket's cookie")
}

/// The request every example makes.
pub fn request(destination: &str, cookie: Option<u64>, binding: &str) -> v1::ReleaseRequest {
    v1::ReleaseRequest {
        destination: destination.to_owned(),
        connection: cookie.map(|cookie| v1::ConnectionRef { by: Some(v1::connection_ref::By::Cookie(cookie)) }),
        binding: binding.to_owned(),
        ..Default::default()
    }
}

/// What may be said in public about a release: everything but the secret.
pub fn describe(response: &v1::ReleaseResponse) -> serde_json::Value {
    let credential = response.credential.clone().unwrap_or_default();
    let lease = response.lease.clone().unwrap_or_default();
    serde_json::json!({
        "type": credential.r#type,
        "spiffe_id": credential.spiffe_id,
        "audience": credential.audience,
        "lease_id": lease.lease_id,
        "exec_id": lease.exec_id.to_string(),
        "binding": lease.binding,
        "expires_at": lease.expires_at.map(|time| time.seconds),
        "decision_id": response.decision_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_named_with_or_without_scheme() {
        for named in ["unix:/run/agent.sock", "/run/agent.sock"] {
            assert_eq!(socket_path(Some(named)).unwrap(), Path::new("/run/agent.sock"));
        }
        assert!(socket_path(Some("agent.sock")).is_err());
    }

    #[test]
    fn a_described_release_does_not_hold_the_secret() {
        let response = v1::ReleaseResponse {
            credential: Some(v1::Credential { secret: b"canary".to_vec(), ..Default::default() }),
            ..Default::default()
        };
        let text = describe(&response).to_string();
        assert!(!text.contains("canary") && !text.contains("99,97"));
    }
}
