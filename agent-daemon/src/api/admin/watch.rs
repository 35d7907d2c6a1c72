// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Events as they happen.

use agent_proto::admin::watch_response::Event as Shown;
use agent_proto::admin::{ExecEvent, ExitEvent, WatchRequest, WatchResponse};
use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tonic::Status;

use super::facts::ServingState;
use super::outlet::{Broken, Outlet};
use super::{audit, view};
use crate::api::convert;
use crate::node::{Happening, Node, Watching};
use crate::process::{Event, ExecId};

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
    node: &Node,
    mut watching: Watching,
    mut state: watch::Receiver<ServingState>,
    outlet: &Outlet<WatchResponse>,
) -> Result<(), Broken> {
    let mut lost: u64 = 0;
    loop {
        // Every wait here is cancel-safe: none of them has taken an event when another one wins.
        let happening = tokio::select! {
            happening = watching.happenings.recv() => happening,
            () = outlet.closed() => return Err(Broken::Gone),
            () = audit::stopping(&mut state) => return Err(Status::unavailable("the daemon is stopping").into()),
        };
        match happening {
            Ok(happening) => {
                let now = node.clock.now();
                if let Some((time, event)) = show(&asked, node, &happening, now) {
                    let time = Some(convert::timestamp(time));
                    outlet.push(WatchResponse { time, lost: std::mem::take(&mut lost), event: Some(event) }).await?;
                }
            }
            Err(RecvError::Lagged(missed)) => lost = lost.saturating_add(missed),
            Err(RecvError::Closed) => return Err(Status::unavailable("the daemon is stopping").into()),
        }
    }
}

fn show(asked: &WatchRequest, node: &Node, happening: &Happening, now: Timestamp) -> Option<(Timestamp, Shown)> {
    match happening {
        Happening::Kernel(event) if asked.kernel => Some((now, kernel(node, event)?)),
        Happening::Decision(decided) if asked.decisions => {
            Some((decided.time, Shown::Decision(view::decision(decided.time, &decided.record))))
        }
        Happening::Lease(lease) if asked.leases => Some((now, Shown::Lease(view::lease(lease, now)))),
        Happening::Kernel(_) | Happening::Decision(_) | Happening::Lease(_) => None,
    }
}

fn kernel(node: &Node, event: &Event) -> Option<Shown> {
    match event {
        Event::Exec { ended, tgid, exec_id } => {
            let (comm, path) = name(node, *tgid, *exec_id).unwrap_or_default();
            let old_exec_id = ended.as_ref().map_or(ExecId(0), |ended| ended.id).0;
            Some(Shown::Exec(ExecEvent { tgid: *tgid, old_exec_id, exec_id: exec_id.0, comm, path }))
        }
        Event::Exit { ended } => {
            Some(Shown::Exit(ExitEvent { tgid: ended.tgid, exec_id: ended.id.0, comm: ended.comm.to_string() }))
        }
        Event::Connect(connection) => Some(Shown::Connect(convert::connection(connection))),
        // Told as decisions.
        Event::Close { .. } | Event::Image(_) => None,
    }
}

/// The event carries only the number of what began. It may have ended by now, and then it may be remembered.
fn name(node: &Node, tgid: u32, exec_id: ExecId) -> Option<(String, String)> {
    let live = node.records().process(tgid).ok().flatten().filter(|instance| instance.id == exec_id);
    match live {
        Some(live) => Some((live.comm.to_string(), live.filename_lossy())),
        None => node.attestor.history().ended(exec_id).map(|ended| (ended.comm.into(), ended.filename.into())),
    }
}
