// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The API for operators (`agent.admin.v1`): from its messages to the use cases of `node` and back.
//!
//! It decides nothing itself. Its socket is for those who run the node, so errors say everything; who called is
//! known all the same, because every change is recorded with it. Lists are streamed in bounded messages, and no
//! stream ends like a whole one when it was cut short.

mod approvals;
mod audit;
mod bundles;
mod connections;
mod doctor;
mod explain;
mod facts;
mod failure;
mod leases;
mod losses;
mod operator;
mod outlet;
mod policies;
mod processes;
mod secrets;
mod service;
mod sessions;
mod status;
#[cfg(test)]
mod tests;
mod view;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore};
use tonic::{Response, Status};

pub use self::facts::{AdminFacts, Gauges, KeySource, NeededCapability, ServingState};
use self::losses::Baseline;
pub use self::operator::Operator;
use self::outlet::{Broken, Outlet, Stream};
use crate::kernel::KernelView;
use crate::node::Node;

/// Lists and followers at once. Each list occupies a blocking thread while its reader is slow.
const STREAMS: usize = 8;

/// The service. Clones share everything.
#[derive(Debug, Clone)]
pub struct Admin {
    node: Arc<Node>,
    kernel: Arc<dyn KernelView>,
    facts: Arc<AdminFacts>,
    baseline: Arc<Baseline>,
    /// Both clocks when the service was made; they must go on together.
    began: (Timestamp, Instant),
    streams: Arc<Semaphore>,
    /// One examination at a time: it opens sockets and starts a child.
    examining: Arc<Mutex<()>>,
}

impl Admin {
    /// Over a node and the kernel under it.
    pub fn new(node: Arc<Node>, kernel: Arc<dyn KernelView>, facts: AdminFacts) -> Self {
        let baseline = Baseline::new(&status::kernel_counts(&node, &*kernel));
        Self {
            began: (node.clock.now(), Instant::now()),
            node,
            kernel,
            facts: Arc::new(facts),
            baseline: Arc::new(baseline),
            streams: Arc::new(Semaphore::new(STREAMS)),
            examining: Arc::default(),
        }
    }

    /// Runs what blocks where it may. It goes on to its end even when the caller leaves.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let this = self.clone();
        let done = self.facts.tasks.spawn_blocking(move || work(&this)).await;
        done.map_err(|error| failure::task(&error))?.map(Response::new)
    }

    /// Answers with a stream that a blocking thread fills.
    fn stream_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Node, &Outlet<T>) -> Result<(), Broken> + Send + 'static,
    ) -> Result<Response<Stream<T>>, Status> {
        let place = self.place()?;
        let node = Arc::clone(&self.node);
        let (outlet, ending, stream) = outlet::open();
        self.facts.tasks.spawn_blocking(move || {
            let outcome = work(&node, &outlet);
            ending.finish(outcome);
            drop(place);
        });
        Ok(Response::new(stream))
    }

    /// Answers with a stream that a task fills.
    fn stream<T, F>(&self, work: impl FnOnce(Self, Outlet<T>) -> F) -> Result<Response<Stream<T>>, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Broken>> + Send + 'static,
    {
        let place = self.place()?;
        let (outlet, ending, stream) = outlet::open();
        let work = work(self.clone(), outlet);
        self.facts.tasks.spawn(async move {
            ending.finish(work.await);
            drop(place);
        });
        Ok(Response::new(stream))
    }

    fn place(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted(format!("{STREAMS} lists are being read already")))
    }
}
