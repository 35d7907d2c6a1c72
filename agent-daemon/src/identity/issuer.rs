// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Who may say on whose behalf an agent acts: OpenID Connect issuers
//! (<https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation>).

use std::collections::HashSet;

use serde::Deserialize;
use toml::Spanned;

use super::{document, is_name};
use crate::diagnostic::{Diagnostic, SourceFile};
use crate::url::Url;

/// Most issuers.
pub const MAX_ISSUERS: usize = 16;
/// Of each list of one.
const MAX_WORDS: usize = 32;
const MAX_WORD_BYTES: usize = 512;
/// Users that the kernel names are called so, and workloads: a user must not be able to look like either.
const RESERVED: [&str; 2] = ["uid", "spiffe"];

/// One issuer of users' tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// What its users' names begin with here.
    pub name: Box<str>,
    /// As it stands in the `iss` of its tokens, byte for byte.
    pub id: Box<str>,
    /// The same, to be called.
    pub url: Url,
    /// Of which a token has to be for one.
    pub audiences: Vec<Box<str>>,
    /// Whom a token may have been issued to, where it says so (`azp`); besides the audiences.
    pub authorized_parties: Vec<Box<str>>,
    /// The claim with a user's groups.
    pub groups_claim: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerTable {
    name: Spanned<String>,
    url: Spanned<String>,
    audiences: Spanned<Vec<String>>,
    #[serde(default)]
    authorized_parties: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    groups_claim: Option<String>,
}

impl Issuer {
    /// Reads `[[issuer]]` tables from files that somebody else has read.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files. Then there are none at all.
    pub fn parse(files: &[SourceFile]) -> Result<Vec<Self>, Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let mut found: Vec<Self> = Vec::new();
        let mut seen = HashSet::new();
        for file in files {
            let tables = document::tables::<IssuerTable>(file, "issuer", &["entry", "federation"], &mut diagnostics);
            for table in tables {
                let at = table.span().start;
                let Some(issuer) = parse(file, table.into_inner(), &mut diagnostics) else { continue };
                for taken in [format!("name {:?}", issuer.name), format!("url {:?}", issuer.id)] {
                    if !seen.insert(taken.clone()) {
                        let message = format!("another issuer has the {taken}");
                        diagnostics.push(Diagnostic::error_at(file, at, message).with_help("remove one of the two"));
                    }
                }
                found.push(issuer);
            }
            if found.len() > MAX_ISSUERS {
                diagnostics.push(Diagnostic::error_at(file, 0, format!("more than {MAX_ISSUERS} issuers")));
                break;
            }
        }
        if diagnostics.is_empty() { Ok(found) } else { Err(diagnostics) }
    }
}

fn parse(file: &SourceFile, table: IssuerTable, diagnostics: &mut Vec<Diagnostic>) -> Option<Issuer> {
    let before = diagnostics.len();
    let mut report = |at: usize, message: String, help: &str| {
        diagnostics.push(Diagnostic::error_at(file, at, message).with_help(help));
    };
    let name = table.name.get_ref();
    // With a colon in it, the users of two issuers could have one name.
    if !is_name(name) || name.contains(':') || RESERVED.iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
        let help = "letters, digits and . _ - / #; uid is taken by the users of this machine, spiffe by workloads";
        report(table.name.span().start, format!("{name:?} cannot be the name of an issuer"), help);
    }
    let url = match table.url.get_ref().parse::<Url>() {
        Ok(url) => Some(url),
        Err(why) => {
            let message = format!("{:?} is not the address of an issuer: {why}", table.url.get_ref());
            report(table.url.span().start, message, "for example https://idp.example.org");
            None
        }
    };
    let audiences = words(&table.audiences, "audiences", &mut report);
    if table.audiences.get_ref().is_empty() {
        let help =
            "audiences = [\"agent-daemon\"]: what the issuer writes into the aud of tokens that are for this node";
        report(table.audiences.span().start, "audiences is empty, so no token would be good".to_owned(), help);
    }
    let parties = table.authorized_parties.map(|parties| words(&parties, "authorized_parties", &mut report));
    if diagnostics.len() > before {
        return None;
    }
    Some(Issuer {
        name: name.as_str().into(),
        id: table.url.get_ref().as_str().into(),
        url: url?,
        audiences,
        authorized_parties: parties.unwrap_or_default(),
        groups_claim: table.groups_claim.map(Into::into),
    })
}

fn words(given: &Spanned<Vec<String>>, what: &str, report: &mut impl FnMut(usize, String, &str)) -> Vec<Box<str>> {
    let words = given.get_ref();
    let is_good = |word: &String| (1..=MAX_WORD_BYTES).contains(&word.len()) && !word.chars().any(char::is_control);
    if words.len() > MAX_WORDS || !words.iter().all(is_good) {
        let message = format!("{what} holds what no token can have, or more than {MAX_WORDS}");
        report(given.span().start, message, "texts of 1 to 512 bytes");
    }
    words.iter().map(|word| word.as_str().into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Issuer>, String> {
        let file = SourceFile { name: "entries.toml".to_owned(), text: text.to_owned() };
        Issuer::parse(&[file]).map_err(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    fn table(name: &str, url: &str, rest: &str) -> String {
        format!("[[issuer]]\nname = \"{name}\"\nurl = \"{url}\"\n{rest}\n")
    }

    #[test]
    fn an_issuer_is_read_with_its_id_as_it_was_written() {
        let rest = "audiences = [\"agent-daemon\"]\ngroups_claim = \"groups\"";
        let found = read(&table("corp", "https://idp.example/realms/x/", rest)).unwrap();
        assert_eq!(&*found[0].id, "https://idp.example/realms/x/");
        assert_eq!(found[0].groups_claim.as_deref(), Some("groups"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let rest = "audiences = [\"agent-daemon\"]";
        let good = table("corp", "https://idp.example", rest);
        for (text, words) in [
            (table("uid", "https://idp.example", rest), "cannot be the name"),
            (table("SPIFFE", "https://idp.example", rest), "cannot be the name"),
            (table("a b", "https://idp.example", rest), "cannot be the name"),
            (table("a:b", "https://idp.example", rest), "cannot be the name"),
            (table("corp", "http://idp.example", rest), "use https"),
            (table("corp", "https://idp.example", "audiences = []"), "no token would be good"),
            (table("corp", "https://idp.example", "audiences = [\"\"]"), "no token can have"),
            (table("corp", "https://idp.example", ""), "missing field"),
            (table("corp", "https://idp.example", &format!("{rest}\nmore = 1")), "unknown field"),
            (format!("{good}{good}"), "another issuer has the name"),
            (format!("{good}{}", table("other", "https://idp.example", rest)), "another issuer has the url"),
        ] {
            let found = read(&text).unwrap_err();
            assert!(found.contains(words) && found.contains("entries.toml:"), "{words}: {found}");
        }
    }
}
