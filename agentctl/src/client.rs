// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One connection to the admin socket. Every wait has an end, except that for events yet to come.

use std::io;
use std::path::Path;
use std::time::Duration;

use agent_proto::admin::admin_service_client::AdminServiceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status, Streaming};

use crate::error::{Error, Socket};

/// A page of 512 processes with all their facts, or all policies with their text, must fit.
const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// The admin API.
#[derive(Debug)]
pub(crate) struct Client {
    api: AdminServiceClient<Channel>,
    timeout: Duration,
}

/// How long to wait for the next message of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It has an end, so each message is due within the timeout.
    Finite,
    /// It follows events, which may never come.
    Endless,
}

/// A stream of answers.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    stream: Streaming<T>,
    timeout: Option<Duration>,
}

impl Client {
    /// Connects once; a connection that breaks is an error and not made again behind the user's back.
    pub(crate) async fn connect(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let channel = channel(path, Socket::Admin, timeout).await?;
        Ok(Self { api: AdminServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES), timeout })
    }

    /// The generated client; cheap to clone.
    pub(crate) fn api(&self) -> AdminServiceClient<Channel> {
        self.api.clone()
    }

    /// Waits for one answer.
    pub(crate) async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        let timeout = self.timeout;
        let response = tokio::time::timeout(timeout, call).await.map_err(|_elapsed| Error::Timeout { timeout })??;
        Ok(response.into_inner())
    }

    /// Opens a stream of answers.
    pub(crate) async fn pages<T>(
        &self,
        patience: Patience,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<Pages<T>, Error> {
        // A server may hold back its headers until there is a first event.
        let stream = match patience {
            Patience::Finite => self.answer(call).await?,
            Patience::Endless => call.await?.into_inner(),
        };
        Ok(Pages { stream, timeout: (patience == Patience::Finite).then_some(self.timeout) })
    }
}

/// One connection to a socket of the daemon.
pub(crate) async fn channel(path: &Path, socket: Socket, timeout: Duration) -> Result<Channel, Error> {
    let refused = |source| Error::Connect { socket, path: path.to_owned(), source };
    let stream = tokio::time::timeout(timeout, UnixStream::connect(path))
        .await
        .map_err(|_elapsed| refused(io::ErrorKind::TimedOut.into()))?
        .map_err(refused)?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted));
        std::future::ready(stream)
    });
    // The name is only what HTTP/2 wants to see as authority: the connector decides where it goes.
    let endpoint = Endpoint::from_static("http://localhost");
    tokio::time::timeout(timeout, endpoint.connect_with_connector(connector))
        .await
        .map_err(|_elapsed| Error::Timeout { timeout })?
        .map_err(|source| Error::Protocol { socket, path: path.to_owned(), source })
}

impl<T> Pages<T> {
    /// The next message; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Error> {
        let message = match self.timeout {
            Some(timeout) => tokio::time::timeout(timeout, self.stream.message())
                .await
                .map_err(|_elapsed| Error::Timeout { timeout })?,
            None => self.stream.message().await,
        };
        Ok(message?)
    }
}
