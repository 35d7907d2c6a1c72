// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tables of cases that a person writes.

use super::*;

#[test]
fn a_table_of_cases_goes_through_the_same_evaluation() {
    let sessions = r#"
        @id("s") permit (principal, action == Action::"release", resource) when { context has session
            && context.session.user == User::"corp:ada" && context.session has scopes && context.session.scopes.contains("x") };
        @id("a") permit (principal, action == Action::"actFor", resource in Group::"corp:admins");
    "#;
    let set = policies(
        &(sessions.to_owned()
            + &permit_when(
                "context has connection && context.connection.address.isInRange(ip(\"10.0.0.0/8\")) && context.evidence.selectors.contains(\"unix:uid:7\") && resource.labels.contains(\"x\")",
            )),
    );
    let cases = r#"
[[destination]]
name = "github"
labels = ["x"]

[[case]]
name = "yes"
principal = "spiffe://example.org/a"
action = "release"
resource = "github"
expect = "allow"
reason = "permit"
evidence = { uid = 7, selectors = ["unix:uid:7"] }
connection = { address = "10.1.1.1", port = 443 }

[[case]]
name = "claimed only"
principal = "spiffe://example.org/a"
action = "release"
resource = "github"
expect = "allow"
evidence = { claimed = ["unix:uid:7"] }
connection = { address = "10.1.1.1", port = 443 }

[[case]]
name = "wrong reason"
principal = "spiffe://example.org/a"
action = "attest"
expect = "deny"
reason = "forbid"

[[case]]
name = "in a session"
principal = "spiffe://example.org/agent/mail"
action = "release"
resource = "github"
expect = "allow"
session = { user = "corp:ada", scopes = ["x"] }

[[case]]
name = "for somebody else"
principal = "spiffe://example.org/agent/mail"
action = "actFor"
expect = "deny"
reason = "no_permit"
session = { user = "corp:bob", groups = ["corp:staff"] }

[[case]]
name = "for a member"
principal = "spiffe://example.org/agent/mail"
action = "actFor"
expect = "allow"
session = { user = "corp:bob", groups = ["corp:admins"] }
"#;
    let results = set.run_cases(&file("cases.toml", cases)).unwrap();
    let summary: Vec<_> =
        results.iter().map(|r| (r.name.as_str(), r.passed, r.expected.as_str(), r.actual.as_str())).collect();
    assert_eq!(
        summary,
        [
            ("yes", true, "allow (permit)", "allow (permit)"),
            ("claimed only", false, "allow", "deny (no_permit)"),
            ("wrong reason", false, "deny (forbid)", "deny (no_permit)"),
            ("in a session", true, "allow", "allow (permit)"),
            ("for somebody else", true, "deny (no_permit)", "deny (no_permit)"),
            ("for a member", true, "allow", "allow (permit)"),
        ]
    );
    assert_eq!(results[1].near_misses[0].condition, "context.evidence.selectors.contains(\"unix:uid:7\")");
}

#[test]
fn every_mistake_in_a_table_of_cases_is_reported() {
    let cases = r#"
[[destination]]
name = "github"
[[case]]
name = "typo"
principal = "spiffe://example.org/a"
action = "release"
resource = "gitub"
expect = "deny"
[[case]]
name = "principal"
principal = "mail"
action = "attest"
expect = "deny"
[[case]]
name = "no resource"
principal = "spiffe://example.org/a"
action = "release"
expect = "deny"
[[case]]
name = "field"
principal = "spiffe://example.org/a"
action = "attest"
expect = "maybe"
[[case]]
name = "no session"
principal = "spiffe://example.org/a"
action = "actFor"
expect = "deny"
[[case]]
name = "a resource"
principal = "spiffe://example.org/a"
action = "actFor"
resource = "github"
session = { user = "corp:ada" }
expect = "deny"
"#;
    let found = policies("").run_cases(&file("cases.toml", cases)).unwrap_err();
    assert_eq!(found.len(), 6, "{found:#?}");
    for part in [
        "unknown destination \"gitub\"",
        "starts with spiffe://",
        "missing field `resource`",
        "maybe",
        "missing field `session`",
        "takes no resource",
    ] {
        assert!(found.iter().any(|d| d.message.contains(part) && d.line > 0), "{part}: {found:#?}");
    }
}
