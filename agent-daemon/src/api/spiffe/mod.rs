// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What programs that speak SPIFFE talk to: the Workload API, and Envoy's secret discovery.
//!
//! Names, codes and the shape of streams are those of
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md>.

mod sds;
mod workload;

use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

pub(super) use self::sds::Sds;
pub(super) use self::workload::Workload;

use super::status;
use super::stream::{present, refuse};
use crate::attest::Peer;
use crate::node::{Bundles, Changes, Node, Part, Refusal, Stream};

/// The reason of a record: what is wrong is in the request.
const MALFORMED: &str = "bad_request";

/// As for agents, but a denial begins with the words by which SPIFFE's libraries know that there is no identity.
fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Denied { .. } => Status::permission_denied(format!("no identity issued: {refusal}")),
        refusal => status::status(refusal),
    }
}

/// Full state, again and again.
type Updates<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// An open stream and what it said last.
struct Open<S> {
    node: Arc<Node>,
    peer: Arc<Peer>,
    stream: Stream,
    changes: Changes,
    cancel: CancellationToken,
    /// What is missing was said in the log, and did not come yet.
    complained: bool,
    said: S,
}

impl Open<()> {
    /// Opened before anything is looked at, so that no change is missed in between.
    fn new(node: &Arc<Node>, peer: Arc<Peer>, cancel: &CancellationToken) -> Result<Self, Status> {
        let changes = node.changes();
        let stream = node.open_stream(&peer).map_err(|refusal| status(&refusal))?;
        Ok(Self { node: Arc::clone(node), peer, stream, changes, cancel: cancel.clone(), complained: false, said: () })
    }
}

impl<S> Open<S> {
    fn with<N>(self, said: N) -> Open<N> {
        let Self { node, peer, stream, changes, cancel, complained, said: _ } = self;
        Open { node, peer, stream, changes, cancel, complained, said }
    }

    /// What was asked for came; remembers what it says of bundles, and whether that is news.
    fn told(&mut self, bundles: &Bundles, part: Part) -> bool {
        self.complained = false;
        self.changes.tell(bundles, part, self.node.clock.now())
    }

    /// What was asked for did not come yet, so the stream goes on with what it has. Says when to try again.
    fn goes_on_without(&mut self, refusal: &Refusal) -> Timestamp {
        if self.complained {
            tracing::debug!(error = %refusal, "an SVID or a bundle still could not be renewed");
        } else {
            tracing::warn!(error = %refusal, "an SVID or a bundle could not be renewed yet");
            self.complained = true;
        }
        // What changed is seen already, so nothing but time wakes this again.
        self.node.clock.now()
    }

    /// Waits until there may be something new to say.
    async fn wait(&mut self, rotate_at: Option<Timestamp>) -> Result<(), Status> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(Status::unavailable("the daemon is stopping")),
            goes_on = self.node.wait(&self.stream, &mut self.changes, rotate_at) => match goes_on {
                true => Ok(()),
                // The words of `status` for a caller that is gone.
                false => Err(Status::unauthenticated("originator gone")),
            },
        }
    }
}

/// The caller, who must have said that it means this API: a request that a program was tricked into sending elsewhere
/// does not carry the metadata.
async fn caller<T>(request: &Request<T>, operation: &str) -> Result<Arc<Peer>, Status> {
    let mut said = request.metadata().get_all("workload.spiffe.io").iter();
    if !(said.next().is_some_and(|value| value == "true") && said.next().is_none()) {
        let detail = "the metadata workload.spiffe.io: true is missing";
        refuse(request, operation, MALFORMED, detail);
        return Err(Status::invalid_argument(detail));
    }
    present(request).await
}

/// Records a request that nobody gets an answer to, and says why.
fn malformed(node: &Node, peer: &Peer, operation: &str, detail: impl Into<String>) -> Status {
    let detail = detail.into();
    node.refuse_request(operation, MALFORMED, &detail, peer);
    Status::invalid_argument(detail)
}

/// Whether a stream may go on with what it sent before, because what is missing may be there in a moment.
fn is_passing(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::RateLimited { .. }
        | Refusal::Leases(_)
        | Refusal::Sessions(_)
        | Refusal::Audit(_)
        | Refusal::Unavailable { .. }
        | Refusal::Authority(_) => true,
        Refusal::TooSlow => true,
        Refusal::Caller(_) | Refusal::Denied { .. } | Refusal::Steps(_) | Refusal::Bug(_) => false,
    }
}
