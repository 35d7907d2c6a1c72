// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A client as a workload would write it; the same code asks the daemon and the bare server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_proto::v1::agent_service_client::AgentServiceClient;
use agent_proto::v1::{GiveBackRequest, ReleaseRequest, ReleaseResponse};
use anyhow::{Context as _, anyhow};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::daemon::DESTINATIONS;

/// Calls in flight while leases are given back.
const GIVING_BACK: usize = 32;

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    service: AgentServiceClient<Channel>,
    asked: usize,
    leases: Vec<String>,
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
        Ok(Self { service: AgentServiceClient::new(channel), asked: 0, leases: Vec::new() })
    }

    /// One destination after the other, so that no request is like the one before it.
    pub(crate) async fn release(&mut self) -> anyhow::Result<ReleaseResponse> {
        let destination = DESTINATIONS.get(self.asked % DESTINATIONS.len()).copied().unwrap_or_default();
        self.asked = self.asked.wrapping_add(1);
        let request = ReleaseRequest { destination: destination.to_owned(), ..ReleaseRequest::default() };
        let response = self.service.release(request).await;
        Ok(response.map_err(|status| anyhow!("refused: {:?} {}", status.code(), status.message()))?.into_inner())
    }

    /// The calls themselves.
    pub(crate) fn service(&mut self) -> &mut AgentServiceClient<Channel> {
        &mut self.service
    }

    fn keep(&mut self, response: ReleaseResponse) {
        self.leases.extend(response.lease.map(|lease| lease.lease_id));
    }

    /// Gives all leases back, so that the next measurement finds the table as the last one did.
    pub(crate) async fn give_back(&mut self) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for lease_id in self.leases.drain(..) {
            let mut service = self.service.clone();
            tasks.spawn(async move { service.give_back(GiveBackRequest { lease_id }).await.map(drop) });
            if tasks.len() >= GIVING_BACK {
                tasks.join_next().await.transpose()?.transpose()?;
            }
        }
        while let Some(given_back) = tasks.join_next().await {
            given_back??;
        }
        Ok(())
    }

    /// How long each of so many takes, one after the other.
    pub(crate) async fn in_turn(&mut self, count: usize) -> anyhow::Result<Vec<Duration>> {
        let mut samples = Vec::with_capacity(count);
        for _ in 0..count {
            let began = Instant::now();
            let response = self.release().await?;
            samples.push(began.elapsed());
            self.keep(response);
        }
        Ok(samples)
    }
}

/// How long so many take in all when every one of these clients asks again as soon as it is answered.
pub(crate) async fn at_once(clients: &mut Vec<Client>, count: usize) -> anyhow::Result<Duration> {
    let each = count.div_ceil(clients.len());
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for mut client in clients.drain(..) {
        tasks.spawn(async move {
            for _ in 0..each {
                let response = client.release().await?;
                client.keep(response);
            }
            anyhow::Ok(client)
        });
    }
    while let Some(ended) = tasks.join_next().await {
        clients.push(ended.context("bug: a client panicked")??);
    }
    let took = began.elapsed();
    for client in clients {
        client.give_back().await?;
    }
    Ok(took)
}
