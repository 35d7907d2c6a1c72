// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What programs that speak SPIFFE talk to: the Workload API.
//!
//! Names, codes and the shape of streams are those of
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md>.

mod workload;

use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::Stream;
use tonic::{Request, Status};

pub(super) use self::workload::Workload;

use super::status::status;
use super::stream::CallerInfo;
use crate::attest::Peer;
use crate::node::Refusal;

/// Full state, again and again.
type Updates<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The caller, who must have said that it means this API: a request that a program was tricked into sending elsewhere
/// does not carry the metadata.
async fn caller<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    let mut said = request.metadata().get_all("workload.spiffe.io").iter();
    if !(said.next().is_some_and(|value| value == "true") && said.next().is_none()) {
        return Err(Status::invalid_argument("the metadata workload.spiffe.io: true is missing"));
    }
    let caller = request.extensions().get::<CallerInfo>();
    // Not borrowed across the wait: a request of another type need not be shared between threads.
    let caller = caller.cloned().ok_or_else(|| Status::unauthenticated("unresolvable"))?;
    caller.peer().await.map_err(|failure| status(&failure.into()))
}

/// Whether a stream may go on with what it sent before, because what is missing may be there in a moment.
fn is_passing(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::RateLimited { .. }
        | Refusal::Leases(_)
        | Refusal::Audit(_)
        | Refusal::Unavailable { .. }
        | Refusal::Authority(_) => true,
        Refusal::Caller(_) | Refusal::Denied { .. } | Refusal::Bug(_) => false,
    }
}
