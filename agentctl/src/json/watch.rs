// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Events as they happen.

use agent_proto::admin;
use agent_proto::admin::watch_response;
use jiff::Timestamp;
use serde::Serialize;

use super::{Connection, Decision, Lease, moment};
use crate::id::ExecId;

#[derive(Serialize)]
pub(crate) struct Event<'a> {
    time: Option<Timestamp>,
    lost: u64,
    #[serde(flatten)]
    kind: Kind<'a>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Kind<'a> {
    Exec {
        tgid: u32,
        exec_id: ExecId,
        old_exec_id: Option<ExecId>,
        comm: &'a str,
        path: &'a str,
    },
    Exit {
        tgid: u32,
        exec_id: ExecId,
        comm: &'a str,
    },
    Connect {
        connection: Connection<'a>,
    },
    Decision {
        decision: Box<Decision<'a>>,
    },
    Lease {
        lease: Box<Lease<'a>>,
    },
    /// Only the number of lost events, or an event that this version does not know.
    None,
}

impl<'a> From<&'a admin::WatchResponse> for Event<'a> {
    fn from(response: &'a admin::WatchResponse) -> Self {
        let kind = match &response.event {
            Some(watch_response::Event::Exec(exec)) => Kind::Exec {
                tgid: exec.tgid,
                exec_id: ExecId(exec.exec_id),
                old_exec_id: Some(exec.old_exec_id).filter(|id| *id != 0).map(ExecId),
                comm: &exec.comm,
                path: &exec.path,
            },
            Some(watch_response::Event::Exit(exit)) => {
                Kind::Exit { tgid: exit.tgid, exec_id: ExecId(exit.exec_id), comm: &exit.comm }
            }
            Some(watch_response::Event::Connect(connection)) => Kind::Connect { connection: connection.into() },
            Some(watch_response::Event::Decision(decision)) => Kind::Decision { decision: Box::new(decision.into()) },
            Some(watch_response::Event::Lease(lease)) => Kind::Lease { lease: Box::new(lease.into()) },
            None => Kind::None,
        };
        Self { time: moment(response.time.as_ref()), lost: response.lost, kind }
    }
}
