// SPDX-License-Identifier: Apache-2.0 OR MIT

//! gRPC to one server.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::client::Error;
use super::trust::{Identity, Trust, client_config};
use crate::diagnostic::with_sources;
use crate::url::HostPort;

/// To the end of the handshake.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Only a placeholder: who is called is said by the connector.
const NOWHERE: &str = "http://upstream.invalid";

/// Over TLS, as somebody.
pub(crate) async fn tls_channel(server: &HostPort, trust: &Trust, identity: Identity) -> Result<Channel, Error> {
    let mut config = client_config(trust, Some(identity))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let server = server.clone();
    connect(service_fn(move |_| {
        let (connector, server) = (connector.clone(), server.clone());
        async move {
            let name = ServerName::try_from(server.host.clone()).map_err(io::Error::other)?;
            let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    }))
    .await
}

/// Over a Unix socket.
pub(crate) async fn unix_channel(path: &Path) -> Result<Channel, Error> {
    let path = path.to_owned();
    connect(service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
    .await
}

async fn connect<C, T>(connector: C) -> Result<Channel, Error>
where
    C: tower::Service<http::Uri, Response = TokioIo<T>, Error = io::Error> + Send + 'static,
    C::Future: Send,
    TokioIo<T>: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let connected =
        tokio::time::timeout(CONNECT_TIME, Endpoint::from_static(NOWHERE).connect_with_connector(connector)).await;
    connected.map_err(|_| Error::Timeout)?.map_err(|error| Error::Connection(with_sources(&error)))
}
