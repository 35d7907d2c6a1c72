// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The picture for a terminal: one line a thing, what belongs to it below it.

use super::tree::{Decision, Program, Session, Told};
use crate::error::Error;
use crate::output::{Line, Output, Style};

pub(super) fn print(told: &Told, output: &mut Output<'_>) -> Result<(), Error> {
    for user in &told.users {
        let mut line = Line::painted(Style::Title, format!("user {}", user.user));
        if !user.name.is_empty() {
            line = line.and(format!(" ({})", user.name));
        }
        let by = if user.issuer.is_empty() {
            user.verified_by.clone()
        } else {
            format!("{} by {}", user.verified_by, user.issuer)
        };
        output.line(&line.paint(Style::Dim, format!("  {by}")))?;
        user.sessions.iter().try_for_each(|one| session(one, 1, output))?;
    }
    if !told.programs.is_empty() {
        output.line(&Line::painted(Style::Title, "in no session that the log knows of"))?;
        told.programs.iter().try_for_each(|one| program(one, 1, output))?;
    }
    Ok(())
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth.min(32))
}

fn session(session: &Session, depth: usize, output: &mut Output<'_>) -> Result<(), Error> {
    let mut line = Line::new(indent(depth)).paint(Style::Title, format!("session {}", session.session_id));
    if !session.agent.is_empty() {
        line = line.and(format!(", agent {}", session.agent));
    }
    if !session.purpose.is_empty() {
        line = line.and(format!(", {:?}", session.purpose));
    }
    output.line(&line)?;
    let scopes = match &session.scopes {
        None => "all that policy permits".to_owned(),
        Some(scopes) if scopes.is_empty() => "nothing".to_owned(),
        Some(scopes) => scopes.join(", "),
    };
    let ended = match session.ended_at.as_str() {
        "" => format!("until {}", session.expires_at),
        at => format!("ended {at} ({})", session.cause),
    };
    let opened = format!(
        "{}  opened {} by {} (decision {}, policy {}), {ended}, reaches {scopes}",
        indent(depth),
        session.opened_at,
        session.opened_by,
        session.decision_id,
        session.policy_ids.join(", ")
    );
    output.line(&Line::painted(Style::Dim, opened))?;
    let deeper = depth.saturating_add(1);
    session.programs.iter().try_for_each(|one| program(one, deeper, output))?;
    session.sessions.iter().try_for_each(|one| self::session(one, deeper, output))
}

fn program(program: &Program, depth: usize, output: &mut Output<'_>) -> Result<(), Error> {
    let mut line = Line::new(format!("{}{} {}", indent(depth), program.exec_id, program.path));
    for word in [&program.script, &program.spiffe_id] {
        if !word.is_empty() {
            line = line.and(format!("  {word}"));
        }
    }
    output.line(&line)?;
    let deeper = depth.saturating_add(1);
    program.decisions.iter().try_for_each(|one| decision(one, deeper, output))?;
    program.programs.iter().try_for_each(|one| self::program(one, deeper, output))
}

fn decision(decision: &Decision, depth: usize, output: &mut Output<'_>) -> Result<(), Error> {
    let (style, word) = match (decision.allowed, decision.audit_mode) {
        (true, false) => (Style::Good, "allow"),
        (true, true) => (Style::Warn, "allow*"),
        (false, _) => (Style::Bad, "deny"),
    };
    let line = Line::new(format!("{}{} ", indent(depth), decision.time))
        .paint(style, word)
        .and(format!(" {} {}", decision.action, decision.destination))
        .paint(Style::Dim, format!("  decision {}, {}", decision.decision_id, decision.reason));
    output.line(&line)?;
    let mut detail = |text: String| output.line(&Line::painted(Style::Dim, format!("{}  {text}", indent(depth))));
    if !decision.allowed || decision.audit_mode {
        detail(decision.detail.clone())?;
    }
    if !decision.policy_ids.is_empty() {
        detail(format!("policy {} of {}", decision.policy_ids.join(", "), decision.policy_generation))?;
    }
    if !decision.approval.is_empty() {
        detail(decision.approval.clone())?;
    }
    for step in &decision.steps {
        let joined = match step.joined_by.as_str() {
            "" => String::new(),
            // Started while the step was under way, and nothing else is known.
            "time" => ", joined by time only".to_owned(),
            by => format!(", joined by {by}"),
        };
        let end = if step.cause.is_empty() { String::new() } else { format!(", {} {}", step.cause, step.ended_at) };
        detail(format!("step {} (span {}{joined}{end})", step.words(), step.span_id))?;
        if !step.content.is_empty() {
            detail(format!("  about {:?}", step.content))?;
        }
    }
    if let Some(connection) = &decision.connection {
        detail(format!(
            "connection {} {} port {} (cookie {}, {})",
            connection.protocol,
            connection.remote_address,
            connection.remote_port,
            connection.cookie,
            connection.matched_by
        ))?;
    }
    if let Some(credential) = &decision.credential {
        let end = match credential.ended_at.as_str() {
            "" => format!("until {}", credential.expires_at),
            at => format!("ended {at} ({})", credential.cause),
        };
        detail(format!("credential {} {} by {}, {end}", credential.kind, credential.lease_id, credential.binding))?;
    }
    if !decision.exchanged.is_empty() {
        detail("exchanged by".to_owned())?;
    }
    for one in &decision.exchanged {
        program(one, depth.saturating_add(2), output)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::found;
    use super::*;
    use crate::cli::Format;

    #[test]
    fn every_part_of_the_chain_is_a_line_below_what_it_belongs_to() {
        let mut text = Vec::new();
        print(&Told::of(&found()), &mut Output::new(&mut text, Format::Table, false)).unwrap();
        let text = String::from_utf8(text).unwrap();
        let mut last = 0;
        for part in [
            "user corp:ada (Ada <b>)  oidc by https://idp\n",
            "  session s1, agent coder, \"the report\"\n",
            "    x10 ",
            "      x20 /bin/p20\n",
            "        x30 /bin/tool  spiffe://e/tool\n",
            "allow release mail  decision d1, allowed\n",
            "answered for the session by uid 0 (approval a1)\n",
            "step reasoning (span a1)\n",
            "step tool_call search (sha256:aa) (span b2, joined by time only, done 2026-11-27T10:20:00Z)\n",
            "connection tcp ::1 port 443 (cookie 7, )\n",
            "credential jwt-svid lease-d1 by , ended 2026-11-27T10:30:00Z (exited)\n",
            "    session s2",
            "deny release mail",
            "in no session that the log knows of\n",
        ] {
            let at = text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
            assert!(at >= last, "{part} stands too early: {text}");
            last = at;
        }
    }
}
