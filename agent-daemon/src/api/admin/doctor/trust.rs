// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What SVIDs rest on: that something signs them, and that there are the bundles which verify those of others.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::failure::with_sources;
use super::{Check, Subject, fail, pass, warn};
use crate::authority::{Error, Origin};
use crate::identity::{Entries, TrustDomain};

/// Names of trust domains that are told; a fleet may have many.
const TOLD: usize = 5;

/// Whether tokens can be signed.
pub(super) fn tokens(ends_at: Result<Timestamp, Error>) -> Check {
    Subject {
        id: "authority.tokens",
        title: "A key signs JWT-SVIDs",
        fix: "see the daemon's log for what keeps the keys from rotating; look at the clock and at the state directory",
        guarantee: "JWT-SVIDs are issued",
    }
    .seen(match ends_at {
        Ok(ends_at) => pass(format!("good until {ends_at:.0}")),
        Err(error) => fail(with_sources(&error)),
    })
}

/// Whether tokens that need a proof can be signed, where they are given.
pub(super) fn wit(ends_at: Result<Timestamp, Error>) -> Check {
    let Check { fix, outcome, reason, .. } = tokens(ends_at);
    let (id, title) = ("authority.wit".to_owned(), "A key signs WIT-SVIDs".to_owned());
    Check { id, title, outcome, reason, fix, guarantee: "WIT-SVIDs are issued".to_owned() }
}

/// Whether certificates can be signed.
pub(super) fn certificates(ends_at: Result<Timestamp, Error>, origin: Origin) -> Check {
    Subject {
        id: "authority.certificates",
        title: "A CA signs X509-SVIDs",
        fix: match origin {
            Origin::Embedded => "see the daemon's log for what keeps the CA from rotating",
            Origin::Disk => "mend the files of [disk]; the daemon's log says what is wrong with them",
            Origin::OpenBao | Origin::Spire => {
                "mend the upstream, or the way to it; the daemon's log says what is wrong"
            }
        },
        guarantee: "X509-SVIDs are issued, and secrets to Envoy",
    }
    .seen(match ends_at {
        Ok(ends_at) => pass(format!("{origin}, good until {ends_at:.0}")),
        Err(error) => fail(format!("{origin}: {}", with_sources(&error))),
    })
}

/// Whether there is a bundle for every trust domain that an entry trusts.
pub(super) fn bundles(entries: &Entries, is_there: impl Fn(&TrustDomain) -> bool) -> Check {
    let subject = Subject {
        id: "federation.bundles",
        title: "There is a bundle for every trust domain in federates_with",
        fix: "have it fetched ([[federation]] beside the entries), or set it: agentctl spiffe bundle set",
        guarantee: "workloads can verify the SVIDs of the trust domains that their entries name",
    };
    let wanted: BTreeMap<&str, &TrustDomain> =
        entries.iter().flat_map(|entry| &entry.federates_with).map(|domain| (domain.as_str(), domain)).collect();
    let missing: Vec<&str> = wanted.iter().filter(|(_, domain)| !is_there(domain)).map(|(name, _)| *name).collect();
    subject.seen(match (wanted.len(), missing.len()) {
        (0, _) => pass("no entry names another trust domain"),
        (wanted, 0) => pass(format!("{wanted} of {wanted}")),
        (wanted, lacking) => {
            let told = missing.iter().take(TOLD).copied().collect::<Vec<_>>().join(", ");
            let more = if lacking > TOLD { ", …" } else { "" };
            warn(format!("{lacking} of {wanted} missing: {told}{more}"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;
    use crate::diagnostic::SourceFile;

    #[test]
    fn what_cannot_sign_fails_and_says_where_to_look() {
        let ends_at = Timestamp::UNIX_EPOCH;
        let nobody = || Err(Error::NoSigner { what: "tokens" });
        assert_eq!(tokens(Ok(ends_at)).outcome, Outcome::Pass);
        assert_eq!(tokens(nobody()).outcome, Outcome::Fail);
        assert_eq!((wit(nobody()).id.as_str(), wit(nobody()).outcome), ("authority.wit", Outcome::Fail));
        assert_eq!(certificates(Ok(ends_at), Origin::Embedded).outcome, Outcome::Pass);
        let check = certificates(nobody(), Origin::Spire);
        assert_eq!(check.outcome, Outcome::Fail);
        assert!(check.reason.starts_with("spire: "), "{}", check.reason);
        assert!(check.fix.contains("upstream"), "{}", check.fix);
    }

    #[test]
    fn bundles_that_are_missing_are_named() {
        let entries = |federates_with: &str| {
            let text = format!(
                "[[entry]]\nid = \"a\"\nspiffe_id = \"spiffe://here.example/a\"\nkind = \"workload\"\n\
                 selectors = [\"unix:uid:1\"]\nfederates_with = [{federates_with}]\n"
            );
            let file = SourceFile { name: "e".to_owned(), text };
            Entries::parse(&[file], &"here.example".parse().unwrap()).unwrap()
        };
        assert_eq!(bundles(&entries(""), |_| false).outcome, Outcome::Pass);
        let two = entries("\"one.example\", \"two.example\"");
        assert_eq!(bundles(&two, |_| true).reason, "2 of 2");
        let check = bundles(&two, |domain| domain.as_str() == "one.example");
        assert_eq!((check.outcome, check.reason.as_str()), (Outcome::Warn, "1 of 2 missing: two.example"));
        let many = (0..9).map(|number| format!("\"d{number}.example\"")).collect::<Vec<_>>().join(", ");
        assert!(bundles(&entries(&many), |_| false).reason.ends_with("d4.example, …"));
    }
}
