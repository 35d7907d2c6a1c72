// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `agentctl approvals`.

use agent_proto::admin::{AnswerApprovalRequest, Approval, ApprovalsRequest};
use jiff::Timestamp;

use crate::Verdict;
use crate::cli::{AnswerArgs, ApprovalsArgs, ApprovalsCommand};
use crate::client::Client;
use crate::error::Error;
use crate::id::ExecId;
use crate::output::{Line, Output, Style};
use crate::table::{Cell, Column, Table};
use crate::text::dash;
use crate::{json, time};

const SCHEMA: &str = "agentctl.approvals/v1";
const ANSWER_SCHEMA: &str = "agentctl.approvals.answer/v1";
const COLUMNS: &[Column] = &[
    Column::Left("APPROVAL"),
    Column::Left("LEFT"),
    Column::Left("USER"),
    Column::Left("WHO ACTS"),
    Column::Left("EXEC"),
    Column::Left("PROGRAM"),
    Column::Left("STEP"),
    Column::Left("WANTS"),
    Column::Left("POLICY"),
];

pub(crate) async fn run(client: &Client, args: &ApprovalsArgs, output: &mut Output<'_>) -> Result<Verdict, Error> {
    match &args.command {
        None | Some(ApprovalsCommand::List) => list(client, output).await,
        Some(ApprovalsCommand::Allow(args)) => answer(client, args, true, output).await,
        Some(ApprovalsCommand::Deny(args)) => answer(client, args, false, output).await,
    }
}

async fn list(client: &Client, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let approvals = client.answer(client.api().approvals(ApprovalsRequest {})).await?.approvals;
    if output.is_json() {
        let approvals = approvals.iter().map(json::Approval::from).collect();
        output.document(SCHEMA, &json::Approvals { approvals })?;
        return Ok(Verdict::Ok);
    }
    let now = time::now();
    let mut table = Table::new(COLUMNS);
    table.page(approvals.iter().map(|approval| row(approval, now)).collect(), output)?;
    table.finish("nothing waits for an approval", output)?;
    Ok(Verdict::Ok)
}

async fn answer(client: &Client, args: &AnswerArgs, allow: bool, output: &mut Output<'_>) -> Result<Verdict, Error> {
    let request = AnswerApprovalRequest {
        approval_id: args.approval.clone(),
        allow,
        for_session: args.session,
        reason: args.reason.clone(),
    };
    let approval = client.answer(client.api().answer_approval(request)).await?.approval;
    let scope = if args.session { "session" } else { "once" };
    if output.is_json() {
        let approval = approval.as_ref().map(json::Approval::from);
        let is_answered = approval.is_some();
        output.document(ANSWER_SCHEMA, &json::Answered { approval, allowed: allow, scope })?;
        return Ok(Verdict::ok_if(is_answered));
    }
    let Some(approval) = approval else {
        let over = "no such request waits for an approval (any more); nothing was answered";
        output.line(&Line::painted(Style::Warn, over))?;
        return Ok(Verdict::ok_if(false));
    };
    let (style, word) = if allow { (Style::Good, "allowed") } else { (Style::Bad, "denied") };
    let rest = if args.session { " for the rest of its session" } else { ", once" };
    let line =
        Line::painted(style, word).and(format!(" {} for {}{rest}", approval.destination, dash(&approval.spiffe_id)));
    output.line(&line)?;
    Ok(Verdict::Ok)
}

/// The caller, then whoever started it or gave it its token.
fn acting(approval: &Approval) -> String {
    match approval.actors.as_slice() {
        [] => dash(&approval.spiffe_id).to_owned(),
        actors => actors.join(" < "),
    }
}

fn row(approval: &Approval, now: Timestamp) -> Vec<Cell> {
    let program = match approval.script.as_str() {
        "" => approval.path.clone(),
        script => format!("{} {script}", approval.path),
    };
    vec![
        Cell::new(&approval.approval_id),
        Cell::painted(Style::Warn, time::left(approval.until.as_ref(), now)),
        Cell::new(dash(&approval.user)),
        Cell::new(acting(approval)),
        Cell::new(ExecId(approval.exec_id).to_string()),
        Cell::new(program),
        Cell::new(dash(&approval.step)),
        Cell::new(format!("{} {} by {}", approval.action, approval.destination, approval.binding)),
        Cell::new(approval.policy_ids.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    #[test]
    fn whoever_answers_sees_who_wants_what_for_whom_and_how_long_it_waits() {
        let approval = Approval {
            approval_id: "a1".into(),
            user: "corp:ada".into(),
            actors: vec!["spiffe://e/mailer".into(), "spiffe://e/coder".into()],
            path: "/usr/bin/python3".into(),
            script: "/srv/mailer.py".into(),
            step: "tool_call send".into(),
            action: "release".into(),
            destination: "mail".into(),
            binding: "smtp".into(),
            policy_ids: vec!["mails-need-a-word".into()],
            until: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            ..Approval::default()
        };
        let mut text = Vec::new();
        let mut output = Output::new(&mut text, Format::Table, false);
        Table::new(COLUMNS).page(vec![row(&approval, Timestamp::UNIX_EPOCH)], &mut output).unwrap();
        let text = String::from_utf8(text).unwrap();
        for part in [
            "1m",
            "spiffe://e/mailer < spiffe://e/coder",
            "corp:ada",
            "/srv/mailer.py",
            "tool_call send",
            "release mail by smtp",
            "mails-need-a-word",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
