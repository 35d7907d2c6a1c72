// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The picture for a browser: one page, whole in itself, without a script, readable on a phone. What processes and users
//! wrote is text on it and nothing else.

use std::fmt::Write as _;

use super::tree::{Decision, Program, Session, Told};
use crate::text::escape;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8886;--dim:#888;--good:#1a7f37;--bad:#cf222e;--warn:#9a6700}\
*{box-sizing:border-box}body{font:16px/1.45 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:60rem;overflow-wrap:anywhere}\
h1{font-size:1.2rem}ul{list-style:none;margin:0;padding:0}ul ul{margin-left:.6rem;padding-left:.7rem;border-left:2px solid var(--line)}\
li{margin:.45rem 0}details>summary{cursor:pointer}.card{border:1px solid var(--line);border-radius:.5rem;padding:.45rem .65rem}\
.kind{font-size:.72rem;letter-spacing:.04em;text-transform:uppercase;color:var(--dim)}.dim{color:var(--dim);font-size:.85rem}\
.allow{color:var(--good);font-weight:600}.deny{color:var(--bad);font-weight:600}.warn{color:var(--warn);font-weight:600}\
code{font:.9em ui-monospace,monospace}dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .7rem;margin:.3rem 0 0;font-size:.88rem}\
dt{color:var(--dim)}dd{margin:0}@media(max-width:30rem){body{padding:.6rem}ul ul{margin-left:.2rem;padding-left:.45rem}dl{grid-template-columns:1fr}dd{margin-bottom:.25rem}}";

/// The whole page.
pub(super) fn page(told: &Told, subject: &str) -> String {
    let mut page = Page(String::new());
    page.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    // Nothing is loaded and nothing runs, whatever the log holds.
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">");
    page.raw("<title>");
    page.text(&format!("agentctl audit trace {subject}"));
    page.raw("</title><style>");
    page.raw(STYLE);
    page.raw("</style></head><body><h1>");
    page.text(&format!("Trace of {subject}"));
    page.raw("</h1>");
    if told.is_empty() {
        page.raw("<p>The log says nothing about it.</p>");
    }
    page.raw("<ul>");
    for user in &told.users {
        page.raw("<li><div class=\"card\"><div class=\"kind\">user</div><strong>");
        page.text(&user.user);
        page.raw("</strong> ");
        page.text(&user.name);
        page.facts(&[("verified by", &user.verified_by), ("issuer", &user.issuer)]);
        page.raw("</div><ul>");
        user.sessions.iter().for_each(|one| page.session(one));
        page.raw("</ul></li>");
    }
    if !told.programs.is_empty() {
        page.raw("<li><div class=\"card\"><div class=\"kind\">in no session that the log knows of</div></div><ul>");
        told.programs.iter().for_each(|one| page.program(one));
        page.raw("</ul></li>");
    }
    page.raw("</ul></body></html>\n");
    page.0
}

struct Page(String);

impl Page {
    fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    /// Text of anybody's.
    fn text(&mut self, text: &str) {
        for character in escape(text).chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
    }

    fn facts(&mut self, facts: &[(&str, &str)]) {
        let known: Vec<_> = facts.iter().filter(|(_, value)| !value.is_empty()).collect();
        if known.is_empty() {
            return;
        }
        self.raw("<dl>");
        for (name, value) in known {
            // Writing to a text does not fail.
            let _written = write!(self.0, "<dt>{name}</dt><dd>");
            self.text(value);
            self.raw("</dd>");
        }
        self.raw("</dl>");
    }

    fn session(&mut self, session: &Session) {
        self.raw("<li><details open><summary class=\"card\"><span class=\"kind\">session</span> <code>");
        self.text(&session.session_id);
        self.raw("</code> ");
        self.text(&session.purpose);
        let scopes = match &session.scopes {
            None => "all that policy permits".to_owned(),
            Some(scopes) if scopes.is_empty() => "nothing".to_owned(),
            Some(scopes) => scopes.join(", "),
        };
        let ended = match session.ended_at.as_str() {
            "" => String::new(),
            at => format!("{at} ({})", session.cause),
        };
        self.facts(&[
            ("agent", &session.agent),
            ("reaches", &scopes),
            ("opened", &session.opened_at),
            ("by", &session.opened_by),
            ("decision", &session.decision_id),
            ("policy", &session.policy_ids.join(", ")),
            ("until", if ended.is_empty() { &session.expires_at } else { "" }),
            ("ended", &ended),
        ]);
        self.raw("</summary><ul>");
        session.programs.iter().for_each(|one| self.program(one));
        session.sessions.iter().for_each(|one| self.session(one));
        self.raw("</ul></details></li>");
    }

    fn program(&mut self, program: &Program) {
        self.raw("<li><details open><summary class=\"card\"><span class=\"kind\">program</span> <code>");
        self.text(&program.exec_id.to_string());
        self.raw("</code> ");
        self.text(&program.path);
        self.facts(&[("script", &program.script), ("identity", &program.spiffe_id)]);
        self.raw("</summary><ul>");
        program.decisions.iter().for_each(|one| self.decision(one));
        program.programs.iter().for_each(|one| self.program(one));
        self.raw("</ul></details></li>");
    }

    fn decision(&mut self, decision: &Decision) {
        let (class, word) = match (decision.allowed, decision.audit_mode) {
            (true, false) => ("allow", "allow"),
            (true, true) => ("warn", "allow (audit mode)"),
            (false, _) => ("deny", "deny"),
        };
        let _written = write!(
            self.0,
            "<li class=\"card\"><div class=\"kind\">decision</div><span class=\"{class}\">{word}</span> "
        );
        self.text(&format!("{} {}", decision.action, decision.destination));
        self.facts(&[
            ("time", &decision.time),
            ("reason", &decision.reason),
            ("detail", &decision.detail),
            ("policy", &decision.policy_ids.join(", ")),
            ("generation", &decision.policy_generation),
            ("decision", &decision.decision_id),
            ("trace", &decision.traceparent),
            ("approval", &decision.approval),
        ]);
        for step in &decision.steps {
            self.raw("<div class=\"kind\">step</div>");
            let joined = if step.joined_by == "time" { "time only" } else { &step.joined_by };
            self.facts(&[
                ("what", &step.words()),
                ("about", &step.content),
                ("trace", &step.trace_id),
                ("span", &step.span_id),
                ("joined by", joined),
                ("ended", &step.ended_at),
                ("as", &step.cause),
            ]);
        }
        if let Some(connection) = &decision.connection {
            self.raw("<div class=\"kind\">connection</div>");
            let to = format!("{} {} port {}", connection.protocol, connection.remote_address, connection.remote_port);
            self.facts(&[("to", &to), ("cookie", &connection.cookie), ("matched by", &connection.matched_by)]);
        }
        if let Some(credential) = &decision.credential {
            self.raw("<div class=\"kind\">credential</div>");
            let ended = match credential.ended_at.as_str() {
                "" => String::new(),
                at => format!("{at} ({})", credential.cause),
            };
            self.facts(&[
                ("type", &credential.kind),
                ("lease", &credential.lease_id),
                ("binding", &credential.binding),
                ("audience", &credential.audience),
                ("until", &credential.expires_at),
                ("ended", &ended),
            ]);
        }
        if !decision.exchanged.is_empty() {
            self.raw("<div class=\"kind\">exchanged by</div><ul>");
            decision.exchanged.iter().for_each(|one| self.program(one));
            self.raw("</ul>");
        }
        self.raw("</li>");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::found;
    use super::*;

    #[test]
    fn the_page_holds_the_chain_and_nothing_that_a_browser_would_obey() {
        let page = page(&Told::of(&found()), "corp:<script>alert(1)</script>");
        for part in [
            "time only",
            "corp:ada",
            "Ada &lt;b&gt;",
            "lease-d1",
            "the report",
            "x30",
            "&lt;script&gt;",
            "&lt;b&gt;find…",
        ] {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("<script") && !page.contains("<b>") && !page.contains("http-equiv=\"refresh"));
        assert_eq!(page.matches("<ul>").count(), page.matches("</ul>").count());
        assert_eq!(page.matches("<li").count() - page.matches("<link").count(), page.matches("</li>").count());
        assert_eq!(page.matches("<details").count(), page.matches("</details>").count());
    }
}
