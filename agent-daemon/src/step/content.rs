// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What of a step's content is kept: nothing, unless the operator wants it, and never what looks like a secret.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexBuilder};

/// What can be kept of one step.
pub const MAX_CONTENT_BYTES: usize = 4096;
/// One pattern of the operator's.
pub const MAX_PATTERN_BYTES: usize = 512;

/// Stands where something was taken out.
const REDACTED: &str = "[redacted]";
/// Compiled, so that no pattern of an operator takes the daemon's memory.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// What is a secret by its form, whoever made it. The group `keep` stays where there is one.
const SECRETS: [&str; 9] = [
    // Private keys, also where the end was cut off.
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    // JWTs and JWEs (RFC 7519: the header begins with `{"`), also without the rest.
    r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*",
    // Authorization headers (RFC 9110 section 11.4).
    r"(?i)(?<keep>\b(?:bearer|basic|digest|dpop|negotiate)\s+)[A-Za-z0-9._~+/=-]{12,}",
    r#"(?i)(?<keep>\bauthorization["']?\s*[:=]\s*["']?)[^\s"'][^\r\n"']*"#,
    // Passwords in addresses (RFC 3986 section 3.2.1).
    r"(?<keep>://[^/\s:@]*:)[^/\s@]+@",
    // Whatever calls itself one: in JSON, in a query, in a form, in a setting, or as an option of a program.
    concat!(
        r#"(?i)(?<keep>(?:passw(?:or)?d|passphrase|secret|token|cookie|session|credential|(?:api|access|private|signing|"#,
        r#"account)[_-]?key)[a-z0-9_-]*["']?\s*[:=]\s*)(?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&"'}\])]+)"#
    ),
    r#"(?i)(?<keep>--?[a-z0-9-]*(?:passw(?:or)?d|passphrase|secret|token|key)[a-z0-9-]*\s+)(?:"[^"]*"?|'[^']*'?|[^\s"'-]\S*)"#,
    // Keys that their makers mark as such.
    concat!(
        r"\b(?:sk|pk|rk|ghp|gho|ghu|ghs|ghr|github_pat|glpat|xox[a-z]|hf|npm|pypi|hvs|hvb|dckr_pat|AGE-SECRET-KEY|",
        r"whsec|shpat|SG)[._-][A-Za-z0-9._-]{12,}"
    ),
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35})",
];

static FORMS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| SECRETS.iter().filter_map(|pattern| Pattern::parse(pattern)).map(|pattern| pattern.0).collect());

/// What an operator wants taken out, besides.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// A regular expression; none when it is none, is too long, or fits nothing at all as well (which would be found
    /// everywhere).
    pub fn parse(text: &str) -> Option<Self> {
        let compiled = RegexBuilder::new(text).size_limit(MAX_COMPILED_BYTES).build().ok()?;
        (text.len() <= MAX_PATTERN_BYTES && !compiled.is_match("")).then_some(Self(compiled))
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
    /// What of it is kept. First without secrets and then cut: half of a secret looks like none.
    pub fn of(&self, content: &str) -> Option<Content> {
        if self.bytes == 0 || content.is_empty() {
            return None;
        }
        let mut redacted = 0_usize;
        let mut text = Cow::Borrowed(content);
        // The operator's first: what ours leave of a place may not fit them any more.
        for pattern in self.redact.iter().map(|pattern| &pattern.0).chain(FORMS.iter()) {
            let replace = |found: &Captures<'_>| {
                redacted = redacted.saturating_add(1);
                let kept = found.name("keep").map_or("", |kept| kept.as_str());
                format!("{kept}{REDACTED}")
            };
            if let Cow::Owned(without) = pattern.replace_all(&text, replace) {
                text = Cow::Owned(without);
            }
        }
        let end = text.floor_char_boundary(self.bytes);
        let is_cut = end < text.len();
        Some(Content { text: text.get(..end).unwrap_or_default().to_owned(), redacted, is_cut })
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
        assert_eq!(FORMS.len(), SECRETS.len());
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
        for (content, secret) in [
            (format!("call it with {jwt}, please"), jwt),
            (format!("half of one: {}", &jwt[..30]), &jwt[..30]),
            ("-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----".to_owned(), "MHcC"),
            ("-----BEGIN PRIVATE KEY-----\nMIGH\nthe end is missing".to_owned(), "MIGH"),
            ("Authorization: Bearer abcdef123456".to_owned(), "abcdef123456"),
            ("curl -H 'authorization: Custom a b c' x".to_owned(), "a b c"),
            ("postgres://app:hunter2@db.example/x".to_owned(), "hunter2"),
            (r#"{"password": "two words", "user": "ada"}"#.to_owned(), "two words"),
            (r#"{"client_secret":"a\"b c"}"#.to_owned(), "b c"),
            (r#"{"password": "never ends"#.to_owned(), "never ends"),
            ("https://x.example/?api_key=k3y&page=2".to_owned(), "k3y"),
            ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG".to_owned(), "wJalrXUtnFEMI"),
            ("login --password  hunter2".to_owned(), "hunter2"),
            ("sk-proj-abcdefghijklmnop".to_owned(), "abcdefghijklmnop"),
            ("ghp_abcdefghijklmnopqrstuvwxyz0123456789".to_owned(), "abcdefghijkl"),
            ("AKIAIOSFODNN7EXAMPLE".to_owned(), "IOSFODNN7"),
        ] {
            let kept = keep(1000).of(&content).unwrap();
            assert!(!kept.text.contains(secret), "{content:?} gives {kept:?}");
            assert!(kept.redacted > 0 && kept.text.contains(REDACTED), "{content:?} gives {kept:?}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for content in [
            "Compare the tokenizer of the two models; the keyboard shortcut is ctrl-c.",
            "basic arithmetic, and a bearer of news",
            r#"{"path": "/srv/reports/2026.md", "page": 2}"#,
            "https://example.org:8443/a?b=c and 12:30",
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
            ["(", "a*", "", &"x".repeat(MAX_PATTERN_BYTES + 1), r"\w{1000}{1000}"]
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
    }
}
