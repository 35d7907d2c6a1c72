// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What looks like a secret in a text. What it misses is in a log for as long as that is kept; what it takes for one by
//! mistake is only missing there, so in doubt it is one.

use std::sync::LazyLock;

use regex::Regex;

use super::content::build;

/// Whether what a pattern found is a secret.
pub(super) type IsSecret = fn(&str) -> bool;

/// What is a secret by its form, whoever made it. Of a match the group `keep` stays.
pub(super) struct Form {
    /// Where it stands.
    pub(super) pattern: Regex,
    /// Whether what fits is one, as far as no pattern says it.
    pub(super) is_secret: IsSecret,
}

/// What stands behind a name: in quotes, which may be those of a text in a text; in brackets; as a block of YAML; or the rest
/// of the line.
const VALUE: &str = concat!(
    r#"(?:[bfru]{0,2}"""(?s:.*?)(?:"""|\z)|\\+"[^"]*"?|\\+'[^']*'?|[bfru]{0,2}"(?:[^"\\]|\\.)*"?|[bfru]{0,2}'(?:[^'\\]|\\.)*'?|"#,
    r#"[\[{][^\]}]*[\]}]?|[|>][+-]?[ \t]*(?:\r?\n[ \t]+[^\r\n]*)+|[^\r\n]+)"#
);
/// Behind a name that may as well be no secret's: one word.
const WORD: &str = r#"(?:\\*["'][^"'\r\n]*["']?|[^\s,;&"'}\])]+)"#;
/// Between a name and its value.
const IS: &str = r#"[\\]*["']?\s*[:=]+>?\s*"#;
const SECRET_NAME: &str = concat!(
    r"(?:[A-Za-z0-9_.-]*(?:passw(?:or)?d|passphrase|passcode|secret|credential|authorization|cookie)[A-Za-z0-9_-]*|",
    r"(?:(?-u:\b)|_)(?:pass|pwd)|[A-Za-z0-9_.-]*(?:api|access|private|secret|signing|account|encryption|master|ssh)[ _-]?(?:access[ _-]?)?key)"
);
const TOKEN_NAME: &str = r"(?:[A-Za-z0-9_.-]*token|session[_-]?(?:id|key|handle)|sessionid|jsessionid|otp|pin)";

pub(super) static FORMS: LazyLock<Vec<Form>> = LazyLock::new(|| {
    let any: IsSecret = |_| true;
    let named: [(String, IsSecret); 4] = [
        (format!("(?i)(?<keep>{SECRET_NAME}{IS}){VALUE}"), any),
        (format!("(?i)(?<keep>(?-u:\\b){TOKEN_NAME}{IS}){WORD}"), |value| !is_number(value)),
        // A name in one place and its value in the next.
        (
            format!(
                r#"(?i)(?<keep>name[\\]*["']?\s*[:=]\s*[\\]*["']?[A-Za-z0-9_.-]*(?:pass|pwd|secret|token|key)[A-Za-z0-9_.-]*[\\]*["']?\s*,?\s*[\\]*["']?value{IS}){VALUE}"#
            ),
            any,
        ),
        (
            format!(
                r"(?i)(?<keep>(?:^|\s)--?[a-z0-9-]*(?:passw(?:or)?d|passphrase|secret|token|api-?key)[a-z0-9-]*\s+){WORD}"
            ),
            any,
        ),
    ];
    let plain: [(&str, IsSecret); 14] = [
        // Private keys, also where the end was cut off: PEM, PuTTY's, and of JWKs (RFC 7518 section 6).
        (r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----|\z)", any),
        (r"(?<keep>Private-Lines:)(?s:.*?)(?:Private-MAC:|\z)", any),
        (r#"(?<keep>\\*"(?:d|p|q|dp|dq|qi|k)\\*"\s*:\s*)\\*"[A-Za-z0-9_-]{16,}\\*"?"#, any),
        // JWTs and JWEs (RFC 7519: the header begins with `{"`), also without the rest.
        (r"(?-u:\b)eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*", any),
        // Authorization headers (RFC 9110 section 11.4).
        (r"(?i)(?<keep>(?-u:\b)(?:bearer|basic|digest|dpop|negotiate|token):?\s+)[A-Za-z0-9._~+/=-]{6,}", looks_random),
        // What is said of the user in an address (RFC 3986 section 3.2.1).
        (r#"(?<keep>://[^\s"'<>@/:]*:)[^\s"'<>]*@"#, |value| !is_port(value)),
        (r#"(?<keep>://)[^\s"'<>@/:]+@"#, any),
        // Signed addresses, and those that are secrets themselves.
        (r#"(?i)(?<keep>[?&](?:sig|signature|code|key|x-amz-[a-z-]+|x-goog-[a-z-]+)=)[^&\s"']+"#, any),
        (r#"(?<keep>(?:hooks\.slack\.com/|discord(?:app)?\.com/api/webhooks/))[^\s"']+"#, any),
        // Options and files of programs.
        (r#"(?<keep>\s(?:-u|--user)[ =]?\s*["']?[^\s:"']+:)[^\s"']+"#, any),
        (r"(?<keep>(?-u:\b)(?:mysql[a-z]*|mariadb)(?-u:\b)[^\r\n]*?\s-p|sshpass\s+-p\s*)\S+", any),
        (r"(?i)(?<keep>(?-u:\b)login\s+\S+\s+password\s+)\S+", any),
        (r"(?i)(?<keep><[a-z0-9_:.-]*(?:password|passwd|secret|token|apikey)[^>]*>)[^<]+", any),
        // Keys that their makers mark as such.
        (
            concat!(
                r"(?-u:\b)(?:[spr]k[-_](?:(?:live|test|proj|ant|or|svcacct|admin)[-_][A-Za-z0-9_-]{8,}|[A-Za-z0-9]{16,})|",
                r"gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{12,}|xox[a-z]-[A-Za-z0-9-]{10,}|",
                r"xapp-[A-Za-z0-9-]{10,}|(?:hf|npm|gsk|r8|whsec)_[A-Za-z0-9]{16,}|(?:pypi|xai|nvapi|GOCSPX)-[A-Za-z0-9_-]{16,}|",
                r"hv[sbr]\.[A-Za-z0-9_-]{12,}|(?:dckr_pat|lin_api|dop_v1|shp[a-z]{2})_[A-Za-z0-9_-]{10,}|",
                r"AGE-SECRET-KEY-1[A-Z0-9]+|SG\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}|ya29\.[A-Za-z0-9_-]{10,}|ATATT3[A-Za-z0-9_-]{10,}|",
                r"(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{35})"
            ),
            any,
        ),
    ];
    let plain = plain.into_iter().map(|(pattern, is_secret)| (pattern.to_owned(), is_secret));
    let compiled = plain.chain(named).map(|(pattern, is_secret)| (build(&pattern), is_secret));
    compiled.filter_map(|(pattern, is_secret)| Some(Form { pattern: pattern?, is_secret })).collect()
});

fn is_number(value: &str) -> bool {
    value.trim_matches(['"', '\'', '\\']).bytes().all(|byte| byte.is_ascii_digit())
}

/// A port, and an `@` somewhere behind it.
fn is_port(value: &str) -> bool {
    let rest = value.trim_start_matches(|digit: char| digit.is_ascii_digit());
    rest.len() < value.len() && rest.starts_with(['/', '?', '#'])
}

/// Not a word of a language.
fn looks_random(value: &str) -> bool {
    let has = |fits: fn(&u8) -> bool| value.as_bytes().iter().any(fits);
    value.len() >= 20 || has(u8::is_ascii_digit) || value.bytes().skip(1).any(|byte| byte.is_ascii_uppercase())
}
