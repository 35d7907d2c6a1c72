// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;

#[test]
fn a_person_is_wanted_only_where_nothing_permits_without_one_and_nothing_forbids() {
    let wants = "@id(\"word\") @approval permit (principal, action == Action::\"release\", resource);";
    let plain = "@id(\"plain\") permit (principal, action == Action::\"release\", resource);";
    let not = "@id(\"no\") forbid (principal, action == Action::\"release\", resource);";
    for (text, reason, ids) in [
        (wants.to_owned(), Reason::NeedsApproval, vec!["word"]),
        (format!("{wants}{}", wants.replace("word", "second")), Reason::NeedsApproval, vec!["second", "word"]),
        (format!("{wants}{plain}"), Reason::Permit, vec!["plain", "word"]),
        (format!("{wants}{not}"), Reason::Forbid, vec!["no"]),
    ] {
        let decision = decide(&text);
        assert_eq!((decision.reason, super::ids(&decision)), (reason, ids), "{text}");
        assert_eq!(decision.is_allow(), reason == Reason::Permit);
    }
}

#[test]
fn only_a_permit_for_releases_can_want_a_person() {
    for (text, message) in [
        ("@approval forbid (principal, action == Action::\"release\", resource);", "forbids is not for anybody"),
        ("@approval permit (principal, action, resource is Destination);", "only a release can wait"),
        ("@approval permit (principal, action == Action::\"actFor\", resource);", "only a release can wait"),
        (
            "@approval permit (principal, action in [Action::\"release\", Action::\"attest\"], resource);",
            "only a release can wait",
        ),
    ] {
        let file = SourceFile { name: "a.cedar".into(), text: text.to_owned() };
        let errors = Policies::parse(&[file]).map(|_| ()).unwrap_err();
        assert!(errors.iter().any(|error| error.message.contains(message)), "{text}: {errors:?}");
    }
}
