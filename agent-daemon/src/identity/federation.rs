// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Where the trust bundles of other trust domains are fetched:
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md>.

use std::collections::HashSet;

use serde::Deserialize;
use toml::Spanned;

use super::{SpiffeId, TrustDomain, document};
use crate::diagnostic::{Diagnostic, SourceFile};
use crate::url::Url;

/// Most trust domains whose bundles are fetched.
pub const MAX_FEDERATIONS: usize = 64;

/// How the server of a bundle is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// By the roots of the web, and the name in its address.
    Web,
    /// By the trust bundle of its trust domain, as this.
    Spiffe(SpiffeId),
}

/// Another trust domain, and where its bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Whose bundle.
    pub trust_domain: TrustDomain,
    /// Its bundle endpoint.
    pub url: Url,
    /// How that is believed.
    pub profile: Profile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FederationTable {
    trust_domain: Spanned<String>,
    url: Spanned<String>,
    profile: Spanned<String>,
    endpoint_id: Option<Spanned<String>>,
}

impl Federation {
    /// Reads `[[federation]]` tables from files that somebody else has read.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the files. Then there are none at all.
    pub fn parse(files: &[SourceFile], own: &TrustDomain) -> Result<Vec<Self>, Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let mut found: Vec<Self> = Vec::new();
        let mut seen = HashSet::new();
        for file in files {
            for table in document::tables::<FederationTable>(file, "federation", &["entry", "issuer"], &mut diagnostics)
            {
                let at = table.span().start;
                let parsed = parse(file, table.into_inner(), own, &mut diagnostics);
                let Some(federation) = parsed else { continue };
                if !seen.insert(federation.trust_domain.clone()) {
                    let message = format!("the trust domain {} has a federation already", federation.trust_domain);
                    diagnostics.push(Diagnostic::error_at(file, at, message).with_help("remove one of the two"));
                }
                found.push(federation);
            }
            if found.len() > MAX_FEDERATIONS {
                let message = format!("more than {MAX_FEDERATIONS} federations");
                diagnostics.push(Diagnostic::error_at(file, 0, message));
                break;
            }
        }
        if diagnostics.is_empty() { Ok(found) } else { Err(diagnostics) }
    }
}

fn parse(
    file: &SourceFile,
    table: FederationTable,
    own: &TrustDomain,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Federation> {
    let mut report = |at: usize, message: String, help: &str| {
        diagnostics.push(Diagnostic::error_at(file, at, message).with_help(help));
    };
    let at = table.trust_domain.span().start;
    let trust_domain = match table.trust_domain.get_ref().parse::<TrustDomain>() {
        Ok(same) if same == *own => {
            report(at, "this is the own trust domain".to_owned(), "name a foreign one");
            None
        }
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            report(at, error.to_string(), "for example partner.example");
            None
        }
    };
    let url = match table.url.get_ref().parse::<Url>() {
        Ok(url) => Some(url),
        Err(why) => {
            let message = format!("{:?} is not the address of a bundle endpoint: {why}", table.url.get_ref());
            report(table.url.span().start, message, "for example https://partner.example/bundle");
            None
        }
    };
    let profile = match (table.profile.get_ref().as_str(), &table.endpoint_id) {
        ("https_web", None) => Some(Profile::Web),
        ("https_web", Some(id)) => {
            report(id.span().start, "endpoint_id is for https_spiffe".to_owned(), "remove it, or use that profile");
            None
        }
        ("https_spiffe", Some(id)) => match id.get_ref().parse::<SpiffeId>() {
            Ok(parsed) => Some(Profile::Spiffe(parsed)),
            Err(error) => {
                report(id.span().start, error.to_string(), "for example spiffe://partner.example/bundle-endpoint");
                None
            }
        },
        ("https_spiffe", None) => {
            let help = "endpoint_id = \"spiffe://…\" says whom the server has to be";
            report(table.profile.span().start, "https_spiffe needs an endpoint_id".to_owned(), help);
            None
        }
        (other, _) => {
            let help = "one of https_web, https_spiffe";
            report(table.profile.span().start, format!("unknown profile {other:?}"), help);
            None
        }
    };
    Some(Federation { trust_domain: trust_domain?, url: url?, profile: profile? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Federation>, Vec<String>> {
        let file = SourceFile { name: "entries.toml".to_owned(), text: text.to_owned() };
        let parsed = Federation::parse(&[file], &"example.org".parse().unwrap());
        parsed.map_err(|found| found.iter().map(ToString::to_string).collect())
    }

    fn table(trust_domain: &str, url: &str, profile: &str) -> String {
        format!("[[federation]]\ntrust_domain = \"{trust_domain}\"\nurl = \"{url}\"\nprofile = {profile}\n")
    }

    #[test]
    fn both_profiles_are_read() {
        let web = table("a.example", "https://a.example/bundle", "\"https_web\"");
        let spiffe = table(
            "b.example",
            "https://192.0.2.1:8443",
            "\"https_spiffe\"\nendpoint_id = \"spiffe://b.example/endpoint\"",
        );
        let found = read(&format!("{web}{spiffe}")).unwrap();
        assert_eq!(found[0].profile, Profile::Web);
        assert_eq!(found[1].profile, Profile::Spiffe("spiffe://b.example/endpoint".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let good = table("a.example", "https://a.example", "\"https_web\"");
        for (text, words) in [
            (table("example.org", "https://a.example", "\"https_web\""), "own trust domain"),
            (table("A.example", "https://a.example", "\"https_web\""), "not allowed in a trust domain"),
            (table("a.example", "http://a.example", "\"https_web\""), "use https"),
            (table("a.example", "https://a.example", "\"https\""), "unknown profile"),
            (table("a.example", "https://a.example", "\"https_spiffe\""), "needs an endpoint_id"),
            (table("a.example", "https://a.example", "\"https_spiffe\"\nendpoint_id = \"x\""), "starts with spiffe://"),
            (table("a.example", "https://a.example", "\"https_web\"\nendpoint_id = \"x\""), "is for https_spiffe"),
            (table("a.example", "https://a.example", "\"https_web\"\nmore = 1"), "unknown field"),
            (format!("{good}{good}"), "has a federation already"),
        ] {
            let found = read(&text).unwrap_err().join("\n");
            assert!(found.contains(words) && found.contains("entries.toml:"), "{words}: {found}");
        }
    }
}
