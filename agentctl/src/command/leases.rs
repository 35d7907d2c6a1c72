// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl leases`.

use agent_proto::admin::{LeaseView, LeasesRequest};
use jiff::Timestamp;

use crate::Verdict;
use crate::cli::LeasesArgs;
use crate::client::{Client, Patience};
use crate::error::Error;
use crate::id::{ExecId, Subject};
use crate::output::{Output, Style};
use crate::table::{Cell, Column, Table};
use crate::{json, time};

const SCHEMA: &str = "agentctl.leases/v1";
const COLUMNS: &[Column] = &[
    Column::Left("LEASE"),
    Column::Left("STATE"),
    Column::Left("EXEC"),
    Column::Right("PID"),
    Column::Right("UID"),
    Column::Left("DESTINATION"),
    Column::Left("BINDING"),
    Column::Left("TYPE"),
    Column::Left("IDENTITY"),
    Column::Left("ISSUED"),
    Column::Left("ENDS"),
];

pub(crate) async fn run(client: &Client, args: &LeasesArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let (tgid, exec_id) = Subject::split(args.subject);
    let request = LeasesRequest { tgid, exec_id, ended: args.ended };
    let mut pages = client.pages(Patience::Finite, client.api().leases(request)).await?;
    let mut table = Table::new(COLUMNS);
    let now = time::now();
    if output.is_json() {
        output.begin_array(SCHEMA, "leases")?;
    }
    while let Some(page) = pages.next().await?
        && !output.is_closed()
    {
        if output.is_json() {
            page.leases.iter().try_for_each(|view| output.item(&json::Lease::from(view)))?;
        } else {
            table.page(page.leases.iter().map(|view| row(view, now)).collect(), output)?;
        }
    }
    let nothing = if args.ended { "no leases" } else { "no active leases" };
    if output.is_json() {
        output.end_array()?;
    } else {
        table.finish(nothing, output)?;
    }
    Ok(Verdict::Ok)
}

fn row(view: &LeaseView, now: Timestamp) -> Vec<Cell> {
    let lease = view.lease.clone().unwrap_or_default();
    let is_active = view.state == "active";
    let left = time::left(lease.expires_at.as_ref(), now);
    let ends = match (is_active, left.is_empty()) {
        (false, _) => format!("ended {}", time::stamp(view.ended_at.as_ref())),
        (true, true) => "now".to_owned(),
        (true, false) => format!("in {left}"),
    };
    vec![
        Cell::new(&lease.lease_id),
        Cell::painted(if is_active { Style::Good } else { Style::Dim }, &view.state),
        Cell::new(ExecId(lease.exec_id).to_string()),
        Cell::new(view.tgid.to_string()),
        Cell::new(view.uid.to_string()),
        Cell::new(&lease.destination),
        Cell::new(&lease.binding),
        Cell::new(&view.credential_type),
        Cell::new(&view.spiffe_id),
        Cell::new(time::stamp(lease.issued_at.as_ref())),
        Cell::new(ends),
    ]
}

#[cfg(test)]
mod tests {
    use agent_proto::v1::Lease;

    use super::*;
    use crate::cli::Format;

    #[test]
    fn a_lease_says_when_it_ends_or_why_it_ended() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let lease = |state: &str| LeaseView {
            lease: Some(Lease { lease_id: "l-1".into(), exec_id: 5, expires_at: at(252), ..Default::default() }),
            state: state.into(),
            ended_at: at(7),
            ..Default::default()
        };
        for (state, expected) in [("active", "in 4m12s"), ("exited", "ended 1970-01-01 00:00:07Z")] {
            let mut text = Vec::new();
            let mut output = Output::new(&mut text, Format::Table, false);
            Table::new(COLUMNS).page(vec![row(&lease(state), Timestamp::UNIX_EPOCH)], &mut output).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(state) && text.trim_end().ends_with(expected), "{text}");
        }
    }
}
