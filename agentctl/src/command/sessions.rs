// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl sessions`.

use agent_proto::admin::{EndSessionRequest, Session, SessionsRequest};
use jiff::Timestamp;

use crate::Verdict;
use crate::cli::SessionsArgs;
use crate::client::{Client, Patience};
use crate::error::Error;
use crate::id::ExecId;
use crate::output::{Line, Output, Style};
use crate::table::{Cell, Column, Table};
use crate::text::{count, dash};
use crate::{json, time};

const SCHEMA: &str = "agentctl.sessions/v1";
const END_SCHEMA: &str = "agentctl.sessions.end/v1";
const COLUMNS: &[Column] = &[
    Column::Left("SESSION"),
    Column::Left("STATE"),
    Column::Left("USER"),
    Column::Left("AGENT"),
    Column::Left("PURPOSE"),
    Column::Left("SCOPES"),
    Column::Left("OPENER"),
    Column::Left("FROM"),
    Column::Left("OPENED"),
    Column::Left("ENDS"),
];

pub(crate) async fn run(client: &Client, args: &SessionsArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    if let (true, Some(session)) = (args.end, &args.session) {
        return end(client, session, output).await;
    }
    let request = SessionsRequest {
        session_id: args.session.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        ended: args.ended,
    };
    let mut pages = client.pages(Patience::Finite, client.api().sessions(request)).await?;
    let mut table = Table::new(COLUMNS);
    let now = time::now();
    if output.is_json() {
        output.begin_array(SCHEMA, "sessions")?;
    }
    while let Some(page) = pages.next().await?
        && !output.is_closed()
    {
        if output.is_json() {
            page.sessions.iter().try_for_each(|session| output.item(&json::Session::from(session)))?;
        } else {
            table.page(page.sessions.iter().map(|session| row(session, now)).collect(), output)?;
        }
    }
    let nothing = if args.ended { "no sessions" } else { "no active sessions" };
    if output.is_json() {
        output.end_array()?;
    } else {
        table.finish(nothing, output)?;
    }
    Ok(Verdict::Ok)
}

async fn end(client: &Client, session: &str, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let request = EndSessionRequest { session_id: session.to_owned() };
    let ended = client.answer(client.api().end_session(request)).await?.ended;
    if output.is_json() {
        output.document(END_SCHEMA, &json::SessionsEnded { ended })?;
    } else if ended == 0 {
        output.line(&Line::painted(Style::Warn, "there is no such session, or it is over; nothing was ended"))?;
    } else {
        output.text(format!("ended {}", count(ended, "session", "sessions")))?;
    }
    Ok(Verdict::ok_if(ended > 0))
}

fn row(session: &Session, now: Timestamp) -> Vec<Cell> {
    let is_active = session.state == "active";
    let left = time::left(session.expires_at.as_ref(), now);
    let ends = match (is_active, left.is_empty()) {
        (false, _) => format!("ended {}", time::stamp(session.ended_at.as_ref())),
        (true, true) => "now".to_owned(),
        (true, false) => format!("in {left}"),
    };
    let user = match session.user_name.as_str() {
        "" => session.user.clone(),
        name => format!("{} ({name})", session.user),
    };
    let scopes = match (session.scoped, session.scopes.is_empty()) {
        (false, _) => "all that policy permits".to_owned(),
        (true, true) => "nothing".to_owned(),
        (true, false) => session.scopes.join(", "),
    };
    vec![
        Cell::new(&session.session_id),
        Cell::painted(if is_active { Style::Good } else { Style::Dim }, &session.state),
        Cell::new(user),
        Cell::new(dash(&session.agent)),
        Cell::new(dash(&session.purpose)),
        Cell::new(scopes),
        Cell::new(ExecId(session.opener_exec_id).to_string()),
        Cell::new(dash(&session.parent)),
        Cell::new(time::stamp(session.opened_at.as_ref())),
        Cell::new(ends),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    #[test]
    fn a_session_says_for_whom_it_is_and_what_it_reaches() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let session = |scoped: bool, scopes: &[&str]| Session {
            session_id: "s0000000000000001".into(),
            user: "corp:248".into(),
            user_name: "Ada".into(),
            scoped,
            scopes: scopes.iter().map(ToString::to_string).collect(),
            state: "active".into(),
            expires_at: at(60),
            ..Default::default()
        };
        for (scoped, scopes, expected) in
            [(false, &[][..], "all that policy permits"), (true, &[][..], "nothing"), (true, &["a", "b"][..], "a, b")]
        {
            let mut text = Vec::new();
            let mut output = Output::new(&mut text, Format::Table, false);
            let row = row(&session(scoped, scopes), Timestamp::UNIX_EPOCH);
            Table::new(COLUMNS).page(vec![row], &mut output).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("corp:248 (Ada)") && text.contains(expected) && text.contains("in 1m"), "{text}");
        }
    }
}
