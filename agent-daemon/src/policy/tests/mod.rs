// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use proptest::prelude::*;

mod approval;
mod cases;
mod sessions;
mod slices;

use super::*;
use crate::{
    diagnostic::{Diagnostic, Severity, SourceFile},
    identity::{Fact, IdentityKind, Provenance},
};

const AGENT: &str = "spiffe://example.org/agent/mail";

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.into(), text: text.into() }
}

fn policies(text: &str) -> Policies {
    Policies::parse(&[file("test.cedar", text)]).unwrap()
}

fn refused(text: &str) -> Vec<Diagnostic> {
    Policies::parse(&[file("test.cedar", text)]).unwrap_err()
}

fn principal(spiffe_id: &str, groups: &[&str]) -> Principal {
    Principal {
        spiffe_id: spiffe_id.parse().unwrap(),
        kind: IdentityKind::Agent,
        groups: groups.iter().map(|group| Arc::from(*group)).collect(),
        entry: "mail".into(),
    }
}

fn evidence() -> EvidenceContext {
    let fact = |text: &str, provenance| Fact { selector: text.parse().unwrap(), provenance };
    EvidenceContext {
        exec_id: u64::MAX,
        uid: 1000,
        gid: 1000,
        seeded: false,
        flags: vec!["no-new-privs".into()],
        facts: vec![
            fact("unix:uid:1000", Provenance::Kernel),
            fact("unix:gid:1000", Provenance::Kernel),
            fact("unix:path:/usr/bin/python3.12", Provenance::Kernel),
            fact(&format!("unix:sha256:{}", "a".repeat(64)), Provenance::Measured),
            fact("cgroup:path:/user.slice/agent.scope", Provenance::Kernel),
            fact("script:path:/opt/agent.py", Provenance::Claimed),
        ],
        lineage: vec!["spiffe://example.org/agent/parent".parse().unwrap()],
        lineage_complete: true,
        depth: 3,
        exe: Some(ProgramContext {
            path: "/usr/bin/python3.12".into(),
            sha256: Some("a".repeat(64)),
            provenance: Provenance::Measured,
        }),
        script: Some(ProgramContext { path: "/opt/agent.py".into(), sha256: None, provenance: Provenance::Claimed }),
        cgroup: Some("/user.slice/agent.scope".into()),
        pid_ns: 4_026_531_836,
        mnt_ns: 4_026_531_841,
        net_ns: 4_026_531_840,
        user_ns: 4_026_531_837,
    }
}

fn destination(name: &str, groups: &[&str]) -> PreparedDestination {
    PreparedDestination::new(&Destination {
        name: name.into(),
        audience: format!("https://{name}"),
        hosts: vec![format!("{name}.example.org")],
        ports: vec![443],
        mode: "enforce".into(),
        labels: vec!["internal".into()],
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    })
    .unwrap()
}

fn connection() -> ConnectionContext {
    ConnectionContext {
        address: "::ffff:10.1.2.3".parse().unwrap(),
        port: 443,
        protocol: "tcp".into(),
        hook: "connect6".into(),
        uid: 1000,
        gid: 1000,
        matched_by: "cidr".into(),
    }
}

fn credential() -> CredentialContext {
    CredentialContext {
        binding: "mail-github".into(),
        credential_type: "jwt-svid".into(),
        delivery: "release".into(),
        audiences: vec!["https://github.example".into()],
        ttl_seconds: 120,
    }
}

fn now() -> Timestamp {
    "2026-03-04T05:06:07.089Z".parse().unwrap()
}

/// One question with everything in it, put to `policies`.
fn with_release<T>(connected: bool, ask: impl FnOnce(&Request<'_>) -> T) -> T {
    let principal = PreparedPrincipal::new(&principal(AGENT, &["mailers"]), &evidence()).unwrap();
    let (destination, connection, credential) = (destination("github", &["code"]), connection(), credential());
    ask(&Request {
        principal: &principal,
        action: Action::Release {
            destination: &destination,
            connection: connected.then_some(&connection),
            credential: &credential,
            renewal: false,
            session: None,
        },
        now: now(),
    })
}

fn decide(text: &str) -> Decision {
    with_release(true, |request| policies(text).evaluate_anew(request).0)
}

fn ids(decision: &Decision) -> Vec<&str> {
    decision.policy_ids.iter().map(|id| &**id).collect()
}

fn permit_when(condition: &str) -> String {
    format!("@id(\"p\")\npermit(principal, action == Action::\"release\", resource) when {{ {condition} }};")
}

#[test]
fn the_schema_and_both_requests_fit_each_other() {
    assert!(decide(&permit_when("true")).is_allow());
    let principal = PreparedPrincipal::new(&principal(AGENT, &[]), &evidence()).unwrap();
    let request = Request { principal: &principal, action: Action::Attest, now: now() };
    let text =
        "permit(principal, action == Action::\"attest\", resource is Node) when { context.evidence.uid == 1000 };";
    assert!(policies(text).evaluate(&request).is_allow());
    // Leaving to release does not leave to attest.
    let decision = policies(&permit_when("true")).evaluate(&request);
    assert_eq!(decision.reason, Reason::NoPermit);
}

#[test]
fn every_fact_reaches_the_policy() {
    for condition in [
        "principal == Workload::\"spiffe://example.org/agent/mail\"",
        "principal in Group::\"mailers\"",
        "principal.spiffe_id like \"spiffe://example.org/agent/*\" && principal.kind == \"agent\"",
        "principal.trust_domain == \"example.org\" && principal.entry == \"mail\"",
        "resource == Destination::\"github\" && resource in Group::\"code\"",
        "resource.audience == \"https://github\" && resource.hosts.contains(\"github.example.org\")",
        "resource.ports.contains(443) && resource.mode == \"enforce\" && resource.labels == [\"internal\"]",
        "context.evidence.exec_id == \"18446744073709551615\" && context.evidence.uid == 1000",
        "context.evidence.gid == 1000 && !context.evidence.seeded && context.evidence.depth == 3",
        "context.evidence.flags.contains(\"no-new-privs\") && !context.evidence.flags.contains(\"traced\")",
        "context.evidence.selectors.contains(\"unix:uid:1000\")",
        "context.evidence.claimed == [\"script:path:/opt/agent.py\"]",
        "!context.evidence.selectors.contains(\"script:path:/opt/agent.py\")",
        "context.evidence.lineage.contains(\"spiffe://example.org/agent/parent\") && context.evidence.lineage_complete",
        "context.evidence has exe && context.evidence.exe.path == \"/usr/bin/python3.12\"",
        "context.evidence has exe.sha256 && context.evidence.exe.provenance == \"measured\"",
        "context.evidence has script && !(context.evidence.script has sha256)",
        "context.evidence has cgroup && context.evidence.cgroup like \"/user.slice/*\"",
        "context.evidence.net_ns == 4026531840 && context.evidence.user_ns == 4026531837",
        "context has connection && context.connection.observed && context.connection.port == 443",
        "context has connection && context.connection.address.isInRange(ip(\"10.0.0.0/8\"))",
        "context has connection && context.connection.address.isIpv4() && context.connection.uid == context.evidence.uid",
        "context has connection && context.connection.hook == \"connect6\" && context.connection.matched_by == \"cidr\"",
        "context.credential.binding == \"mail-github\" && context.credential.type == \"jwt-svid\"",
        "context.credential.ttl_seconds <= 300 && !context.renewal",
        "context.now == datetime(\"2026-03-04T05:06:07Z\")",
        "context.now.toTime() > duration(\"5h\")",
    ] {
        let decision = decide(&permit_when(condition));
        assert!(decision.is_allow(), "{condition}: {decision:?}");
    }
}

#[test]
fn a_question_that_differs_in_anything_is_not_answered_from_the_last_one() {
    let prepared = PreparedPrincipal::new(&principal(AGENT, &[]), &evidence()).unwrap();
    let set = policies(&permit_when(
        "resource.audience == \"https://a\" && context has connection && context.connection.port == 443 && \
         context.credential.ttl_seconds == 120 && !context.renewal && context.now == datetime(\"2026-03-04T05:06:07Z\")",
    ));
    let (a, renamed, connected, longer) = (destination("a", &[]), destination("b", &[]), connection(), 121);
    let (other, credential) = (ConnectionContext { port: 80, ..connection() }, credential());
    let longer = CredentialContext { ttl_seconds: longer, ..credential.clone() };
    let good = (&a, Some(&connected), &credential, false, now());
    let later = now() + jiff::SignedDuration::from_secs(1);
    let ask = |(destination, connection, credential, renewal, now): (_, _, _, _, _)| {
        let action = Action::Release { destination, connection, credential, renewal, session: None };
        set.evaluate(&Request { principal: &prepared, action, now }).is_allow()
    };
    for bad in [
        (&renamed, good.1, good.2, good.3, good.4),
        (good.0, None, good.2, good.3, good.4),
        (good.0, Some(&other), good.2, good.3, good.4),
        (good.0, good.1, &longer, good.3, good.4),
        (good.0, good.1, good.2, true, good.4),
        (good.0, good.1, good.2, good.3, later),
    ] {
        assert!(ask(good));
        assert!(ask(good));
        assert!(!ask(bad));
    }
    assert!(ask(good));
    assert!(!set.evaluate(&Request { principal: &prepared, action: Action::Attest, now: now() }).is_allow());
    assert!(ask(good));
}

#[test]
fn an_answer_holds_at_any_time_only_where_no_policy_can_tell_the_time() {
    let later = now() + jiff::SignedDuration::from_secs(1);
    let at_this_second = "datetime(\"2026-03-04T05:06:07Z\")";
    for (condition, expected) in [
        ("resource.audience == \"https://a\"".to_owned(), true),
        (format!("context.now == {at_this_second}"), false),
        (format!("context[\"now\"] == {at_this_second}"), false),
        (format!("context[\"n\\u{{6f}}w\"] == {at_this_second}"), false),
        (format!("[context].contains(context) && {{a: context}}.a.now == {at_this_second}"), false),
    ] {
        let set = policies(&permit_when(&condition));
        let prepared = PreparedPrincipal::new(&principal(AGENT, &[]), &evidence()).unwrap();
        let (destination, credential) = (destination("a", &[]), credential());
        let action = Action::Release {
            destination: &destination,
            connection: None,
            credential: &credential,
            renewal: false,
            session: None,
        };
        let ask = |now| set.evaluate(&Request { principal: &prepared, action, now });
        let first = ask(now());
        assert!(first.is_allow(), "{condition}");
        assert!(Arc::ptr_eq(&first, &ask(now())), "{condition}: asked again in the same second");
        assert_eq!(Arc::ptr_eq(&first, &ask(later)), expected, "{condition}: asked later");
        assert_eq!(ask(later).is_allow(), expected, "{condition}: later");
    }
}

#[test]
fn an_answer_holds_for_any_audience_only_where_no_policy_can_tell_them_apart() {
    let literal = "{binding: \"b\", type: \"jwt-svid\", delivery: \"release\", audiences: [\"https://a\"], \
                   ttl_seconds: 120}";
    for (condition, expected) in [
        ("resource.audience == \"https://a\"".to_owned(), true),
        ("context.credential == context.credential".to_owned(), true),
        ("context.credential.audiences == [\"https://a\"]".to_owned(), false),
        ("context.credential[\"audiences\"].contains(\"https://a\")".to_owned(), false),
        ("context.credential[\"audi\\u{65}nces\"].contains(\"https://a\")".to_owned(), false),
        (format!("context.credential == {literal}"), false),
        (format!("[{literal}].contains(context.credential)"), false),
    ] {
        let set = policies(&permit_when(&condition));
        let prepared = PreparedPrincipal::new(&principal(AGENT, &[]), &evidence()).unwrap();
        let destination = destination("a", &[]);
        let of = |audience: &str| CredentialContext {
            binding: "b".into(),
            delivery: "release".into(),
            audiences: vec![audience.into()],
            ..credential()
        };
        let ask = |credential: &CredentialContext| {
            let action = Action::Release {
                destination: &destination,
                connection: None,
                credential,
                renewal: false,
                session: None,
            };
            set.evaluate(&Request { principal: &prepared, action, now: now() })
        };
        let (one, other) = (of("https://a"), of("https://b"));
        let first = ask(&one);
        assert!(first.is_allow(), "{condition}: {first:?}");
        assert!(Arc::ptr_eq(&first, &ask(&one)), "{condition}: asked again");
        assert_eq!(Arc::ptr_eq(&first, &ask(&other)), expected, "{condition}: for another");
        assert_eq!(ask(&other).is_allow(), expected, "{condition}: for another");
        assert!(ask(&one).is_allow(), "{condition}: for the first one again");
    }
}

#[test]
fn an_answer_is_of_the_policies_that_gave_it() {
    let prepared = PreparedPrincipal::new(&principal(AGENT, &[]), &evidence()).unwrap();
    let request = Request { principal: &prepared, action: Action::Attest, now: now() };
    let (open, closed) = (policies("permit(principal, action, resource);"), policies(""));
    for _ in 0..3 {
        assert!(open.evaluate(&request).is_allow());
        assert_eq!(closed.evaluate(&request).reason, Reason::NoPermit);
    }
}

#[test]
fn answers_are_bounded_and_the_oldest_is_forgotten() {
    let set = policies("permit(principal, action, resource);");
    let prepared = PreparedPrincipal::new(&principal(AGENT, &[]), &evidence()).unwrap();
    let credential = credential();
    let destinations: Vec<_> = (0..=MAX_ANSWERS).map(|i| destination(&format!("d{i}"), &[])).collect();
    let ask = |destination| {
        let action =
            Action::Release { destination, connection: None, credential: &credential, renewal: false, session: None };
        set.evaluate(&Request { principal: &prepared, action, now: now() })
    };
    let first: Vec<_> = destinations.iter().map(ask).collect();
    assert_eq!(prepared.answers().len(), MAX_ANSWERS);
    let is_kept = |index: usize| Arc::ptr_eq(&first[index], &ask(&destinations[index]));
    assert!((1..=MAX_ANSWERS).all(is_kept));
    assert!(!is_kept(0));
    assert_eq!(prepared.answers().len(), MAX_ANSWERS);
}

#[test]
fn nothing_is_permitted_by_default_and_forbid_wins() {
    let cases: [(&str, Effect, Reason, &[&str]); 4] = [
        ("", Effect::Deny, Reason::NoPermit, &[]),
        ("@id(\"a\") permit(principal, action, resource);", Effect::Allow, Reason::Permit, &["a"]),
        (
            "@id(\"b\") permit(principal, action, resource); @id(\"a\") permit(principal, action, resource);",
            Effect::Allow,
            Reason::Permit,
            &["a", "b"],
        ),
        (
            "@id(\"a\") permit(principal, action, resource); @id(\"no\") forbid(principal, action, resource);",
            Effect::Deny,
            Reason::Forbid,
            &["no"],
        ),
    ];
    for (text, effect, reason, policy_ids) in cases {
        let decision = decide(text);
        assert_eq!((decision.effect, decision.reason, ids(&decision)), (effect, reason, policy_ids.to_vec()), "{text}");
        assert!(decision.errors.is_empty());
        assert_eq!(&decision.generation, policies(text).generation());
    }
}

#[test]
fn a_policy_that_fails_to_evaluate_denies_whatever_it_would_have_said() {
    // The validator cannot rule out overflow: 9223372036854775807 + uid fails for any uid above zero.
    let overflow = "context.evidence.uid + 9223372036854775807 > 0";
    for effect in ["permit", "forbid"] {
        let text = format!(
            "@id(\"yes\") permit(principal, action, resource);\n@id(\"broken\") {effect}(principal, action == Action::\"release\", resource) when {{ {overflow} }};"
        );
        let decision = decide(&text);
        assert_eq!((decision.effect, decision.reason), (Effect::Deny, Reason::Error), "{effect}");
        assert_eq!(ids(&decision), ["broken"]);
        assert!(decision.errors[0].contains("overflow"), "{:?}", decision.errors);
    }
}

#[test]
fn a_failing_policy_about_something_else_does_not_deny() {
    let text = "@id(\"yes\") permit(principal, action, resource);\n\
        forbid(principal, action, resource == Destination::\"other\") when { context.evidence.uid + 9223372036854775807 > 0 };";
    assert!(decide(text).is_allow());
}

#[test]
fn a_claimed_fact_is_never_among_the_selectors() {
    let mut evidence = evidence();
    evidence.facts = vec![Fact { selector: "unix:uid:0".parse().unwrap(), provenance: Provenance::Claimed }];
    let principal = PreparedPrincipal::new(&principal(AGENT, &[]), &evidence).unwrap();
    let request = Request { principal: &principal, action: Action::Attest, now: now() };
    let text = "permit(principal, action == Action::\"attest\", resource) when { context.evidence.selectors.contains(\"unix:uid:0\") };";
    assert_eq!(policies(text).evaluate(&request).reason, Reason::NoPermit);
}

#[test]
fn more_facts_than_the_bound_are_refused() {
    let fact = Fact { selector: "unix:uid:0".parse().unwrap(), provenance: Provenance::Kernel };
    let mut evidence = evidence();
    evidence.facts = vec![fact.clone(); MAX_FACTS];
    assert!(PreparedPrincipal::new(&principal(AGENT, &[]), &evidence).is_ok());
    evidence.facts.push(fact);
    assert!(matches!(
        PreparedPrincipal::new(&principal(AGENT, &[]), &evidence),
        Err(Error::TooMany { what: "facts", limit: MAX_FACTS, actual }) if actual == MAX_FACTS + 1
    ));
}

#[test]
fn without_a_connection_a_policy_that_asks_for_one_does_not_permit() {
    let set = policies(&permit_when("context has connection && context.connection.observed"));
    assert!(with_release(true, |request| set.evaluate(request)).is_allow());
    assert_eq!(with_release(false, |request| set.evaluate(request)).reason, Reason::NoPermit);
}

#[test]
fn what_strict_validation_refuses_is_refused_at_load() {
    let cases = [
        ("permit(principal, action == Action::\"inject\", resource);", "Action::\"inject\""),
        // The kernel decides without asking anybody for the time.
        (
            "permit(principal, action == Action::\"connect\", resource) when { context.now > datetime(\"2026-01-01\") };",
            "now",
        ),
        (&permit_when("context.evidence.exe.path == \"/x\""), "exe"),
        (&permit_when("context.connection.port == 443"), "connection"),
        (&permit_when("context.evidence.uid == \"1000\""), "types"),
        (&permit_when("context.evidence.pid == 1"), "pid"),
        (&permit_when("resource.audiense == \"x\""), "audiense"),
        (&permit_when("principal in Human::\"x\""), "Human"),
        ("permit(principal == ?principal, action, resource);", "templates"),
        ("permit(principal, action, resource)", "unexpected end"),
        ("@id(\"a b\") permit(principal, action, resource);", "is not an id"),
        ("@id permit(principal, action, resource);", "is not an id"),
    ];
    for (text, part) in cases {
        let found = refused(text);
        assert!(found.iter().any(|diagnostic| diagnostic.message.contains(part)), "{text}: {found:#?}");
        assert!(found.iter().all(|diagnostic| diagnostic.line > 0 && diagnostic.column > 0), "{found:#?}");
    }
}

#[test]
fn every_error_of_every_file_is_reported_with_its_place() {
    let first = "permit(principal, action == Action::\"release\", resource)\nwhen {\n  context.evidence.uid == \"x\" ||\n  context.evidence.pid == 1\n};\n@id(\"twice\")\npermit(principal, action == Action::\"release\", resource);\n";
    let second = "@id(\"twice\")\nforbid(principal, action == Action::\"attest\", resource);\n";
    let third = "permit(principal, action, resource) when { context.evidence.gid = 1 };";
    let files = [file("a.cedar", first), file("b.cedar", second), file("c.cedar", third)];
    let found: Vec<String> =
        Policies::parse(&files).unwrap_err().iter().map(|d| d.to_string().lines().next().unwrap().to_owned()).collect();
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("a.cedar:3:"), "{found:#?}");
    assert!(found[1].starts_with("a.cedar:4:3: error: for policy `a.cedar#1`"), "{found:#?}");
    assert!(found[2].starts_with("b.cedar:1:1: error: duplicate id \"twice\""), "{found:#?}");
    assert!(found[3].starts_with("c.cedar:1:"), "{found:#?}");
}

#[test]
fn policies_without_an_id_are_named_by_file_and_number() {
    let text = "permit(principal, action == Action::\"release\", resource);\n// the same again\npermit(principal, action == Action::\"release\", resource);\n@id(\"named\")\nforbid(principal, action == Action::\"attest\", resource);";
    let set = policies(text);
    let views: Vec<_> = set.views().map(|view| (view.id, view.effect, view.file)).collect();
    assert_eq!(
        views,
        [
            ("test.cedar#1", "permit", "test.cedar"),
            ("test.cedar#2", "permit", "test.cedar"),
            ("named", "forbid", "test.cedar")
        ]
    );
    assert!(set.views().nth(2).unwrap().text.contains("forbid(principal"));
    assert_eq!((set.len(), set.is_empty()), (3, false));
}

#[test]
fn a_policy_that_permits_everything_is_a_warning() {
    let set = policies("// all\npermit(principal, action, resource);");
    assert_eq!(set.warnings().len(), 1);
    assert_eq!((set.warnings()[0].severity, set.warnings()[0].line), (Severity::Warning, 2));
    assert!(policies(&permit_when("context.renewal")).warnings().is_empty());
}

#[test]
fn the_generation_follows_names_texts_and_their_order() {
    let generation = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(name, text)| file(name, text)).collect();
        Policies::parse(&files).unwrap().generation().to_string()
    };
    let base = generation(&[("a", "// x"), ("b", "")]);
    assert_eq!(base, generation(&[("a", "// x"), ("b", "")]));
    assert_eq!((base.len(), base.starts_with("sha256:")), (23, true));
    for other in
        [&[("a", "// y"), ("b", "")][..], &[("b", ""), ("a", "// x")], &[("a", "// xb"), ("", "")], &[("a", "// x")]]
    {
        assert_ne!(base, generation(other), "{other:?}");
    }
}

#[test]
fn near_misses_name_the_first_unmet_condition() {
    let text = "
        @id(\"port\") permit(principal in Group::\"mailers\", action == Action::\"release\", resource)
            when { context has connection && context.connection.port == 8443 && context.credential.ttl_seconds < 5 };
        @id(\"traced\") permit(principal, action == Action::\"release\", resource)
            when { context.evidence.uid == 1000 }
            unless { context.evidence.seeded || context.evidence.flags.contains(\"no-new-privs\") };
        @id(\"overflow\") permit(principal, action == Action::\"release\", resource)
            when { context.evidence.uid == 1000 && context.evidence.uid + 9223372036854775807 > 0 && false };
        @id(\"elsewhere\") permit(principal, action, resource == Destination::\"other\") when { false };
        @id(\"no\") forbid(principal, action, resource) when { false };
    ";
    let set = policies(text);
    let misses = with_release(true, |request| set.near_misses(request));
    let found: Vec<_> = misses.iter().map(|miss| (&*miss.policy_id, miss.condition.as_str())).collect();
    assert_eq!(
        found,
        [
            ("traced", "!context.evidence.flags.contains(\"no-new-privs\")"),
            ("port", "context.connection.port == 8443"),
            ("overflow", "(context.evidence.uid + 9223372036854775807) > 0"),
        ]
    );
}

#[test]
fn near_misses_are_bounded_and_a_permit_is_none() {
    let text: String = (0..20)
        .map(|i| {
            format!(
                "permit(principal, action == Action::\"release\", resource) when {{ context.evidence.uid == {i} }};\n"
            )
        })
        .collect();
    let set = policies(&format!("{text}\n{}", permit_when("true")));
    let misses = with_release(true, |request| set.near_misses(request));
    assert_eq!(misses.len(), MAX_NEAR_MISSES);
    assert!(misses.iter().all(|miss| &*miss.policy_id != "p"));
}
