// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Events as they happen.

use std::sync::Arc;

use agent_proto::admin::watch_response::Event as Shown;
use agent_proto::admin::{ExecEvent, ExitEvent, WatchRequest, WatchResponse};
use jiff::Timestamp;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tonic::Status;

use super::facts::ServingState;
use super::outlet::{Broken, Outlet};
use super::{audit, view};
use crate::api::convert;
use crate::clock::Clock;
use crate::node::Happening;
use crate::process::{Event, ExecId, Records};

/// Refuses a question that nothing could answer.
pub(super) fn check(asked: &WatchRequest) -> Result<(), Status> {
    if asked.kernel || asked.decisions || asked.leases {
        return Ok(());
    }
    Err(Status::invalid_argument("ask for kernel events, decisions or leases"))
}

/// Streams what was asked for until the reader leaves or the daemon stops.
pub(super) async fn run(
    asked: WatchRequest,
    records: &dyn Records,
    clock: &dyn Clock,
    mut happenings: Receiver<Arc<Happening>>,
    mut state: watch::Receiver<ServingState>,
    outlet: &Outlet<WatchResponse>,
) -> Result<(), Broken> {
    let mut lost: u64 = 0;
    loop {
        // Every wait here is cancel-safe: none of them has taken an event when another one wins.
        let happening = tokio::select! {
            happening = happenings.recv() => happening,
            () = outlet.closed() => return Err(Broken::Gone),
            () = audit::stopping(&mut state) => return Err(Status::unavailable("the daemon is stopping").into()),
        };
        match happening {
            Ok(happening) => {
                let now = clock.now();
                if let Some((time, event)) = show(&asked, records, &happening, now) {
                    let time = Some(convert::timestamp(time));
                    outlet.push(WatchResponse { time, lost: std::mem::take(&mut lost), event: Some(event) }).await?;
                }
            }
            Err(RecvError::Lagged(missed)) => lost = lost.saturating_add(missed),
            Err(RecvError::Closed) => return Err(Status::unavailable("the daemon is stopping").into()),
        }
    }
}

fn show(
    asked: &WatchRequest,
    records: &dyn Records,
    happening: &Happening,
    now: Timestamp,
) -> Option<(Timestamp, Shown)> {
    match happening {
        Happening::Kernel(event) if asked.kernel => Some((now, kernel(records, event)?)),
        Happening::Decision(decided) if asked.decisions => {
            Some((decided.time, Shown::Decision(view::decision(decided.time, &decided.record))))
        }
        Happening::Lease(lease) if asked.leases => Some((now, Shown::Lease(view::lease(lease, now)))),
        Happening::Kernel(_) | Happening::Decision(_) | Happening::Lease(_) => None,
    }
}

fn kernel(records: &dyn Records, event: &Event) -> Option<Shown> {
    match event {
        Event::Exec { ended, tgid, exec_id } => {
            // It may be another one by now; then its name is not known any more.
            let began = records.process(*tgid).ok().flatten().filter(|instance| instance.id == *exec_id);
            let (comm, path) = match began {
                Some(began) => (began.comm.to_string(), began.filename_lossy()),
                None => (String::new(), String::new()),
            };
            let old_exec_id = ended.as_ref().map_or(ExecId(0), |ended| ended.id).0;
            Some(Shown::Exec(ExecEvent { tgid: *tgid, old_exec_id, exec_id: exec_id.0, comm, path }))
        }
        Event::Exit { ended } => {
            Some(Shown::Exit(ExitEvent { tgid: ended.process.tgid, exec_id: ended.id.0, comm: ended.comm.to_string() }))
        }
        Event::Connect(connection) => Some(Shown::Connect(convert::connection(connection))),
        Event::Close { .. } => None,
    }
}
