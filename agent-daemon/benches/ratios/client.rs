// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A client as a workload would write it; the same code asks the daemon and the bare server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_proto::v1::agent_service_client::AgentServiceClient;
use agent_proto::v1::{ReleaseRequest, ReleaseResponse};
use anyhow::{Context as _, anyhow};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::daemon::DESTINATION;

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    service: AgentServiceClient<Channel>,
}

impl Client {
    pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let path: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        let channel = channel.with_context(|| format!("cannot connect to {}", socket.display()))?;
        Ok(Self { service: AgentServiceClient::new(channel) })
    }

    pub(crate) async fn release(&mut self) -> anyhow::Result<ReleaseResponse> {
        let request = ReleaseRequest { destination: DESTINATION.to_owned(), ..ReleaseRequest::default() };
        let response = self.service.release(request).await;
        Ok(response.map_err(|status| anyhow!("refused: {:?} {}", status.code(), status.message()))?.into_inner())
    }

    /// How long each of so many takes, one after the other.
    pub(crate) async fn in_turn(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            self.release().await?;
            samples.push(began.elapsed());
        }
        Ok(samples)
    }
}

/// How long so many take in all when every one of these clients asks again as soon as it is answered.
pub(crate) async fn at_once(clients: &[Client], count: usize) -> anyhow::Result<Duration> {
    let each = count.div_ceil(clients.len());
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for client in clients {
        let mut client = client.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                client.release().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("bug: a client panicked")??;
    }
    Ok(began.elapsed())
}
