// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What of a step's content is kept: nothing, unless the operator wants it, and never what looks like a secret.

use std::borrow::Cow;

use regex::{Captures, Regex, RegexBuilder};

use super::secrets::{FORMS, IsSecret};

/// What can be kept of one step.
pub const MAX_CONTENT_BYTES: usize = 4096;
/// One pattern of the operator's.
pub const MAX_PATTERN_BYTES: usize = 512;

/// Stands where something was taken out.
const REDACTED: &str = "[redacted]";
/// Compiled, so that no pattern of an operator takes the daemon's memory.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Longer contents are not looked at beyond this: each byte costs time, and so much is never kept.
const MAX_LOOKED_AT: usize = 16_384;

pub(super) fn build(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build().ok()
}

/// What an operator wants taken out, besides.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// A regular expression; none when it is none, is too long, or fits the empty text.
    pub fn parse(text: &str) -> Option<Self> {
        let compiled = build(text).filter(|_| text.len() <= MAX_PATTERN_BYTES)?;
        (!compiled.is_match("")).then_some(Self(compiled))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// What is kept of the content of steps.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Of one step; zero: nothing is kept.
    pub bytes: usize,
    /// What is taken out besides secrets.
    pub redact: Vec<Pattern>,
}

/// What is kept of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Without secrets, and cut.
    pub text: String,
    /// How many places were taken out.
    pub redacted: usize,
    /// Whether the rest is gone.
    pub is_cut: bool,
}

impl Keep {
    /// What of it is kept. First without secrets and then cut: half of a secret looks like none. It is cut by the bytes that
    /// it takes in the log, where control characters take six.
    pub fn of(&self, content: &str) -> Option<Content> {
        if self.bytes == 0 || content.is_empty() {
            return None;
        }
        let looked_at = content.get(..content.floor_char_boundary(MAX_LOOKED_AT)).unwrap_or_default();
        let mut redacted = 0_usize;
        let mut text = Cow::Borrowed(looked_at);
        let any: IsSecret = |_| true;
        // The operator's first: what ours leave of a place may not fit them any more.
        let all = self.redact.iter().map(|pattern| (&pattern.0, any));
        for (pattern, is_secret) in all.chain(FORMS.iter().map(|form| (&form.pattern, form.is_secret))) {
            let replace = |found: &Captures<'_>| {
                let whole = found.get_match().as_str();
                let keep = found.name("keep").map_or("", |keep| keep.as_str());
                let value = whole.strip_prefix(keep).unwrap_or(whole);
                // Nothing, or what another pattern took out.
                if value.is_empty() || is_redacted(value) || !is_secret(value) {
                    return whole.to_owned();
                }
                redacted = redacted.saturating_add(1);
                format!("{keep}{REDACTED}")
            };
            if let Cow::Owned(without) = pattern.replace_all(&text, replace) {
                text = Cow::Owned(without);
            }
        }
        let mut length = 0_usize;
        let end = text.char_indices().find_map(|(at, character)| {
            length = length.saturating_add(written_bytes(character));
            (length > self.bytes).then_some(at)
        });
        let end = end.unwrap_or(text.len());
        let is_cut = end < text.len() || looked_at.len() < content.len();
        Some(Content { text: text.get(..end).unwrap_or_default().to_owned(), redacted, is_cut })
    }
}

/// A word ends before the last bracket.
fn is_redacted(value: &str) -> bool {
    value.trim_start_matches(['"', '\'', '\\']).starts_with(REDACTED.trim_end_matches(']'))
}

/// In JSON.
fn written_bytes(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(bytes: usize) -> Keep {
        Keep { bytes, redact: Vec::new() }
    }

    #[test]
    fn every_form_of_a_secret_compiles() {
        assert_eq!(FORMS.len(), 18);
    }

    #[test]
    fn nothing_is_kept_unless_the_operator_wants_it() {
        assert_eq!(Keep::default().of("the report"), None);
        assert_eq!(keep(100).of(""), None);
        let kept = Content { text: "the report".to_owned(), redacted: 0, is_cut: false };
        assert_eq!(keep(100).of("the report"), Some(kept));
    }

    #[test]
    fn what_looks_like_a_secret_is_taken_out() {
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl";
        // Each `!…!` is a part of a secret, of which nothing may stay.
        for content in [
            "-----BEGIN EC PRIVATE KEY-----\n!MHcC!\n-----END EC PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY-----\n!MIGH!\nthe end is missing",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n!lQOYBF!\n-----END PGP PRIVATE KEY BLOCK-----",
            r#"{"kty":"EC","d":"!jpsQnnGQmL-YBIffH1136cspYG6!"}"#,
            "Authorization: Bearer !abcdef123456!",
            "curl -H 'authorization: Custom !a b c!' x",
            r#"{"Authorization": ["Custom !abc123!"]}"#,
            r#""{\"headers\":{\"Authorization\":\"Custom !abc def!\"}}""#,
            "Cookie: sid=!a!; other=!secretvalue2!",
            "postgres://app:!hunter2!@db.example/x",
            "postgres://app:!p@ss!@db/x",
            "postgres://app:!p/ss!@db/x",
            "https://!token123abc!@git.example/x.git",
            r#"{"password": "!two words!", "user": "ada"}"#,
            r#"{"client_secret":"!a\"b c!"}"#,
            r#"{"password": "!never ends!"#,
            r#"{"arguments": "{\"password\": \"!hunter2!\"}"}"#,
            r#"{"arguments":"{\"api_key\":\"!abc123def!\"}"}"#,
            r#""password":["!hunter2!","!other3!"]"#,
            r#"{"password": {"value": "!hunter2!"}}"#,
            r#"password => "!hunter2!""#,
            r#"password := "!hunter2!""#,
            "{'password': b'!hunter2!'}",
            r#"password = """!hunter2!""""#,
            "password: str = '!hunter2!'",
            "password: |\n  !hunter2!\n  !more!\nuser: ada",
            "password: !correct horse battery staple!",
            "password=!abc,def;ghi&jkl!",
            "DB_PASS=!hunter2!",
            "MYSQL_PWD=!hunter2!",
            "secret access key: !wJalrXUtnFEMI!",
            "AWS_SECRET_ACCESS_KEY=!wJalrXUtnFEMI/K7MDENG!",
            r#"{"name":"password","value":"!hunter2!"}"#,
            "- name: DB_PASSWORD\n  value: !hunter2!",
            "<password>!hunter2!</password>",
            "machine x login ada password !hunter2!",
            "login --password  !hunter2!",
            "curl -u ada:!hunter2! https://x.example",
            "mysql -h db -p!hunter2! shop",
            "sshpass -p !hunter2! ssh x",
            "https://x.example/?api_key=!k3y!",
            "https://x.blob.example/a?sv=1&sig=!abc%2Fdef!&x=1",
            "https://hooks.slack.com/services/!T0/B0/xyz!",
            "access_token=!abcdef!",
            "session_handle: !0123456789abcdef!",
            "sk-proj-!abcdefghijklmnop!",
            "sk-!abcdefghijklmnop1234!",
            "ghp_!abcdefghijklmnopqrstuvwxyz0123456789!",
            "AKIA!IOSFODNN7EXAMPLE!",
            "xapp-!1-A02-3456789-abc!",
        ] {
            let plain = content.replace('!', "");
            let kept = keep(4000).of(&plain).unwrap();
            for (number, part) in content.split('!').enumerate() {
                let is_secret = number % 2 == 1;
                assert!(!is_secret || !kept.text.replace(REDACTED, "").contains(part), "{plain:?} gives {kept:?}");
            }
            assert!(kept.redacted > 0 && kept.text.contains(REDACTED), "{plain:?} gives {kept:?}");
        }
        for part in [jwt, &jwt[..30]] {
            let kept = keep(1000).of(&format!("call it with {part}, please; token: {part}")).unwrap();
            assert_eq!((kept.text.as_str(), kept.redacted), ("call it with [redacted], please; token: [redacted]", 2));
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for content in [
            "Compare the tokenizer of the two models; the keyboard shortcut is ctrl-c.",
            "basic arithmetic, a bearer of news, and Basic troubleshooting",
            r#"{"path": "/srv/reports/2026.md", "page": 2, "max_tokens": 4096, "total_token": 512}"#,
            "https://example.org:8443/a?b=c and 12:30, http://h:8080?x=a@b.c",
            "session: the second one; a foreign-key constraint, a turn-key solution",
            "sk-learn.ensemble and hf-transformers-library, npm-run-script, npm.registry.internal.example",
            "pk_customer_identifier reads the passage and compasses",
        ] {
            let kept = keep(1000).of(content).unwrap();
            assert_eq!((kept.text.as_str(), kept.redacted), (content, 0));
        }
    }

    #[test]
    fn what_the_operator_names_is_taken_out_too() {
        let patterns = [r"\b\d{3}-\d{2}-\d{4}\b", r"(?<keep>case )\w+"];
        let redact = patterns.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect();
        let kept = Keep { bytes: 100, redact }.of("of 078-05-1120 in case blue").unwrap();
        assert_eq!((kept.text.as_str(), kept.redacted), ("of [redacted] in case [redacted]", 2));
        assert!(
            ["(", "a*", "", r"|x", &"x".repeat(MAX_PATTERN_BYTES + 1), r"\w{1000}{1000}"]
                .iter()
                .all(|bad| Pattern::parse(bad).is_none())
        );
    }

    #[test]
    fn it_is_cut_after_secrets_are_gone_and_never_within_a_letter() {
        let content = format!("{} password=hunter2", "x".repeat(50));
        for bytes in 1..100 {
            let kept = keep(bytes).of(&content).unwrap();
            assert!(!kept.text.contains("hunter") && kept.text.len() <= bytes, "{kept:?}");
        }
        let kept = keep(4).of("äöü").unwrap();
        assert_eq!((kept.text.as_str(), kept.is_cut), ("äö", true));
        assert_eq!(keep(3).of("äöü").unwrap().text, "ä");
        // What makes the log longer than it looks.
        assert_eq!(keep(13).of("\u{1}\u{2}\u{3}").unwrap().text, "\u{1}\u{2}");
        let kept = keep(MAX_CONTENT_BYTES).of(&"x".repeat(60_000)).unwrap();
        assert_eq!((kept.text.len(), kept.is_cut), (MAX_CONTENT_BYTES, true));
        // Found everywhere, and nothing.
        let empty = Keep { bytes: 100, redact: vec![Pattern::parse(r"\b").unwrap()] };
        assert_eq!(empty.of("a b").unwrap().redacted, 0);
    }
}
