// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl connections`.

use agent_proto::admin::{ConnectionView, ConnectionsRequest};

use super::story;
use crate::Verdict;
use crate::cli::ConnectionsArgs;
use crate::client::{Client, Patience};
use crate::error::Error;
use crate::id::{ExecId, Subject};
use crate::json;
use crate::output::{Output, Style};
use crate::table::{Cell, Column, Table};

const SCHEMA: &str = "agentctl.connections/v1";
const COLUMNS: &[Column] = &[
    Column::Right("COOKIE"),
    Column::Left("EXEC"),
    Column::Right("PID"),
    Column::Right("UID"),
    Column::Left("COMM"),
    Column::Left("CONNECTION"),
    Column::Left("HOOK"),
    Column::Left("DESTINATIONS"),
    Column::Left("IDENTITY"),
    Column::Left("LEASES"),
];

pub(crate) async fn run(client: &Client, args: &ConnectionsArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let (tgid, exec_id) = Subject::split(args.subject);
    let request = ConnectionsRequest { tgid, exec_id, cookie: args.cookie };
    let mut pages = client.pages(Patience::Finite, client.api().connections(request)).await?;
    let mut table = Table::new(COLUMNS);
    if output.is_json() {
        output.begin_array(SCHEMA, "connections")?;
    }
    while let Some(page) = pages.next().await?
        && !output.is_closed()
    {
        if output.is_json() {
            page.connections.iter().try_for_each(|view| output.item(&json::ConnectionView::from(view)))?;
        } else {
            table.page(page.connections.iter().map(row).collect(), output)?;
        }
    }
    if output.is_json() {
        output.end_array()?;
    } else {
        table.finish("no connections", output)?;
    }
    Ok(Verdict::Ok)
}

fn row(view: &ConnectionView) -> Vec<Cell> {
    let connection = view.connection.clone().unwrap_or_default();
    // The name is that of an image which no longer runs.
    let comm = if view.opener_alive { view.comm.clone() } else { format!("{} (ended)", view.comm) };
    vec![
        Cell::new(connection.cookie.to_string()),
        Cell::new(ExecId(connection.exec_id).to_string()),
        Cell::new(connection.tgid.to_string()),
        Cell::new(connection.uid.to_string()),
        Cell::painted(if view.opener_alive { Style::Plain } else { Style::Dim }, comm),
        Cell::new(story::route(&connection)),
        Cell::new(&connection.hook),
        Cell::new(view.destinations.join(",")),
        Cell::painted(Style::Good, &view.spiffe_id),
        Cell::new(view.leases.join(",")),
    ]
}
