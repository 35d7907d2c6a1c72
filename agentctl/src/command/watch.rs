// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl watch`: one line an event, as it happens.

use agent_proto::admin::watch_response::Event;
use agent_proto::admin::{WatchRequest, WatchResponse};

use super::{decisions, story};
use crate::Verdict;
use crate::cli::WatchArgs;
use crate::client::{Client, Patience};
use crate::error::Error;
use crate::id::{ExecId, who};
use crate::output::{Line, Output, Style};
use crate::text::count;
use crate::{json, time};

const SCHEMA: &str = "agentctl.watch/v1";

pub(crate) async fn run(client: &Client, args: &WatchArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let all = !args.kernel && !args.decisions && !args.leases;
    let request =
        WatchRequest { kernel: args.kernel || all, decisions: args.decisions || all, leases: args.leases || all };
    let mut events = client.pages(Patience::Endless, client.api().watch(request)).await?;
    let mut seen: u64 = 0;
    while args.count.is_none_or(|count| seen < count)
        && !output.is_closed()
        && let Some(response) = events.next().await?
    {
        if output.is_json() {
            output.event(SCHEMA, &json::Event::from(&response))?;
        } else {
            render(&response, output)?;
            output.flush()?;
        }
        if response.event.is_some() {
            seen = seen.saturating_add(1);
        }
    }
    Ok(Verdict::Ok)
}

fn render(response: &WatchResponse, output: &mut Output<'_>) -> Result<(), Error> {
    let at = time::stamp_millis(response.time.as_ref());
    if response.lost > 0 {
        let lost = format!("{} lost: this reader was too slow", count(response.lost, "event", "events"));
        output.line(&Line::painted(Style::Dim, format!("{at}  ")).paint(Style::Warn, lost))?;
    }
    let Some(event) = &response.event else {
        return Ok(());
    };
    let (style, kind, text) = describe(event);
    output.line(&Line::painted(Style::Dim, format!("{at}  ")).paint(style, format!("{kind:<9}")).and(text))
}

fn describe(event: &Event) -> (Style, &'static str, String) {
    match event {
        Event::Exec(exec) => {
            let before =
                if exec.old_exec_id == 0 { String::new() } else { format!(" (was {})", ExecId(exec.old_exec_id)) };
            let text = format!("{}{before} pid {} {} {}", ExecId(exec.exec_id), exec.tgid, exec.comm, exec.path);
            (Style::Plain, "exec", text)
        }
        Event::Exit(exit) => (Style::Dim, "exit", format!("{} pid {} {}", ExecId(exit.exec_id), exit.tgid, exit.comm)),
        Event::Connect(connection) => {
            let who = format!("{} pid {}", ExecId(connection.exec_id), connection.tgid);
            (Style::Plain, "connect", format!("{who} {} cookie {}", story::route(connection), connection.cookie))
        }
        Event::Decision(decision) => {
            let (style, word) = story::verdict(decision);
            let text = format!(
                "{word} {} {} to {}: {} [{}]",
                decision.action,
                who(decision.exec_id, decision.tgid, &decision.comm),
                decision.destination,
                decisions::why(decision),
                decision.decision_id
            );
            (style, "decision", text)
        }
        Event::Lease(view) => {
            let lease = view.lease.clone().unwrap_or_default();
            let text = format!("{} {} {} to {}", view.state, lease.lease_id, ExecId(lease.exec_id), lease.destination);
            (if view.state == "active" { Style::Good } else { Style::Dim }, "lease", text)
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_proto::admin::ExecEvent;

    use super::*;
    use crate::cli::Format;

    #[test]
    fn losses_are_told_before_the_event_that_came_after_them() {
        let exec = ExecEvent { tgid: 7, old_exec_id: 41, exec_id: 42, comm: "sh".into(), path: "/bin/sh\n".into() };
        let response = WatchResponse { time: None, lost: 3, event: Some(Event::Exec(exec)) };
        let mut text = Vec::new();
        render(&response, &mut Output::new(&mut text, Format::Table, false)).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "  3 events lost: this reader was too slow\n  exec     x42 (was x41) pid 7 sh /bin/sh\\u{a}\n"
        );
    }
}
