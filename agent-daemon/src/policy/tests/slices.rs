// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What slices cost and decide, and what hostile text does.

use super::*;

#[test]
fn slices_are_bounded_and_start_over_when_full() {
    let text: String = (0..50)
        .map(|i| format!("permit(principal == Workload::\"spiffe://example.org/w{i}\", action, resource);\n"))
        .collect();
    let set = policies(&text);
    let credential = credential();
    let destinations: Vec<_> = (0..30).map(|i| destination(&format!("d{i}"), &[])).collect();
    let more: String = (0..30)
        .map(|i| format!("forbid(principal, action, resource == Destination::\"d{i}\") when {{ false }};\n"))
        .collect();
    let set = Policies::parse(&[file("a", &text), file("b", &more)]).map_or(set, |both| both);
    for i in 0..50 {
        let principal =
            PreparedPrincipal::new(&principal(&format!("spiffe://example.org/w{i}"), &[]), &evidence()).unwrap();
        for destination in &destinations {
            let action = Action::Release {
                destination,
                connection: None,
                credential: &credential,
                renewal: false,
                session: None,
            };
            let request = Request { principal: &principal, action, now: now() };
            assert!(set.evaluate(&request).is_allow());
            let (slices, policies) = set.index().cached();
            assert!(slices <= MAX_SLICES && policies <= MAX_SLICED_POLICIES);
        }
    }
    // 1,500 combinations: it has started over once.
    assert_eq!(set.index().cached(), (1500 - MAX_SLICES, 2 * (1500 - MAX_SLICES)));
}

/// The best of many short rounds, both sets in turn, because the machine has other things to do.
fn times(sets: [&Policies; 2]) -> [Duration; 2] {
    let mut best = [Duration::MAX; 2];
    for _ in 0..25 {
        for (best, set) in best.iter_mut().zip(sets) {
            let mean = with_release(true, |request| {
                assert!(set.evaluate_anew(request).0.is_allow());
                let started = Instant::now();
                for _ in 0..40 {
                    assert!(set.evaluate_anew(request).0.is_allow());
                }
                started.elapsed() / 40
            });
            *best = mean.min(*best);
        }
    }
    best
}

#[test]
#[expect(clippy::print_stderr, reason = "the figures are for whoever runs this by hand")]
fn cost_follows_the_policies_that_can_match() {
    let about = |destination: &str, n: usize| -> String {
        (0..n)
            .map(|i| {
                format!(
                    "permit(principal in Group::\"mailers\", action == Action::\"release\", resource == Destination::\"{destination}\") when {{ context.evidence.uid == {} && context.credential.ttl_seconds <= 300 && context.evidence.selectors.contains(\"unix:uid:1000\") }};\n",
                    1000 + i
                )
            })
            .collect()
    };
    let ten = about("github", 10);
    let thousand = ten.clone() + &(0..99).map(|i| about(&format!("d{i}"), 10)).collect::<String>();
    let (small, large) = (policies(&ten), policies(&thousand));
    assert_eq!((small.len(), large.len()), (10, 1000));
    let [small, large] = times([&small, &large]);
    let prepare = Instant::now();
    for _ in 0..100 {
        PreparedPrincipal::new(&principal(AGENT, &["mailers"]), &evidence()).unwrap();
    }
    eprintln!("10 policies {small:?}, 1,000 of which 10 can match {large:?}, preparing {:?}", prepare.elapsed() / 100);
    // Asking all of them would cost about a hundred times as much.
    assert!(large.as_secs_f64() / small.as_secs_f64() <= 10.0, "{large:?} against {small:?}");
}

/// A policy from small parts, so that many of them meet many requests.
fn any_policy() -> impl Strategy<Value = String> {
    let principal = prop::sample::select(vec![
        "principal",
        "principal == Workload::\"spiffe://example.org/a\"",
        "principal == Workload::\"spiffe://example.org/b\"",
        "principal in Group::\"g\"",
        "principal in Workload::\"spiffe://example.org/a\"",
        "principal is Workload",
        "principal is Workload in Group::\"h\"",
    ]);
    let action = prop::sample::select(vec![
        "action",
        "action == Action::\"release\"",
        "action == Action::\"attest\"",
        "action in [Action::\"release\", Action::\"attest\"]",
        "action in Action::\"release\"",
        "action in []",
    ]);
    let resource = prop::sample::select(vec![
        "resource",
        "resource == Destination::\"x\"",
        "resource in Destination::\"x\"",
        "resource == Destination::\"y\"",
        "resource in Group::\"g\"",
        "resource is Destination",
        "resource is Destination in Group::\"h\"",
        "resource is Node",
        "resource == Node::\"this\"",
    ]);
    let condition = prop::sample::select(vec![
        "",
        "when { context.evidence.uid == 1000 }",
        "when { context.evidence.uid == 1 }",
        "when { context.evidence.uid + 9223372036854775807 > 0 }",
        "unless { context.evidence.seeded }",
    ]);
    let effect = prop::sample::select(vec!["permit", "permit", "forbid"]);
    (effect, principal, action, resource, condition)
        .prop_map(|(effect, p, a, r, condition)| format!("{effect}({p}, {a}, {r}) {condition};"))
}

proptest! {
    #[test]
    fn a_slice_decides_as_the_whole_set_does(listed in prop::collection::vec(any_policy(), 0..12)) {
        // Some combinations can never apply; the validator refuses those, so they are left out one by one.
        let valid: Vec<String> = listed.into_iter().filter(|text| Policies::parse(&[file("f", text)]).is_ok()).collect();
        let set = policies(&valid.join("\n"));
        let credential = credential();
        for (id, groups) in [("a", &["g"][..]), ("a", &[]), ("b", &["g", "h"]), ("c", &[])] {
            let prepared = PreparedPrincipal::new(&principal(&format!("spiffe://example.org/{id}"), groups), &evidence()).unwrap();
            let attest = Request { principal: &prepared, action: Action::Attest, now: now() };
            let whole = set.evaluate_whole(&attest);
            prop_assert_eq!(&*set.evaluate(&attest), &whole);
            prop_assert_eq!(&*set.evaluate(&attest), &whole);
            for (name, groups) in [("x", &["g"][..]), ("y", &["h"]), ("z", &[])] {
                let destination = destination(name, groups);
                let action = Action::Release { destination: &destination, connection: None, credential: &credential, renewal: true, session: None };
                let request = Request { principal: &prepared, action, now: now() };
                let whole = set.evaluate_whole(&request);
                prop_assert_eq!(&*set.evaluate(&request), &whole);
                prop_assert_eq!(&*set.evaluate(&request), &whole);
            }
        }
    }
}

#[test]
fn hostile_depth_is_an_error_and_not_a_crash() {
    for (open, middle, close) in [
        ("(", "true", ")"),
        ("[", "1", "]"),
        ("{\"a\": ", "1", "}"),
        ("true || ", "true", ""),
        ("true && ", "true", ""),
        ("1+", "1 == 1", ""),
        ("!", "true", ""),
        ("if true then ", "true", " else true"),
        ("if true then true else ", "true", ""),
        ("if ", "true", " then true else true"),
        ("[1].contains(", "1", ")"),
        ("", "context.evidence", ".exe"),
        ("true || (", "true", ")"),
        ("(", "true", ") || true"),
        ("[context.evidence.exe.path].contains(\"a\") && (", "true", ")"),
        ("ip(", "\"10.0.0.1\"", ").isIpv4()"),
    ] {
        let mut deepest = 0;
        for depth in (1..=300).chain([1000, 100_000]) {
            let condition = format!("{}{middle}{}", open.repeat(depth), close.repeat(depth));
            let text = permit_when(&condition);
            if nesting::too_deep(&text).is_some() {
                if depth < 300 {
                    continue;
                }
                assert_eq!(refused(&text)[0].message, "nested too deeply");
                continue;
            }
            deepest = depth;
            if depth % 40 != 0 {
                continue;
            }
            if let Ok(set) = Policies::parse(&[file("deep.cedar", &text)]) {
                with_release(true, |request| (set.evaluate(request), set.near_misses(request)));
            }
        }
        // The deepest that gets through is read, evaluated, explained and freed on this thread's stack.
        let condition = format!("{}{middle}{}", open.repeat(deepest), close.repeat(deepest));
        if let Ok(set) = Policies::parse(&[file("deep.cedar", &permit_when(&condition))]) {
            with_release(true, |request| (set.evaluate(request), set.near_misses(request)));
        }
        assert!((12..300).contains(&deepest), "{open} {close}: {deepest}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in "[ -~\n]{0,200}") {
        let read = |text: &str| {
            drop(Policies::parse(&[file("f", text)]));
            drop(policies("").run_cases(&file("f", text)));
            drop(crate::identity::Entries::parse(&[file("f", text)], &"example.org".parse().unwrap()));
        };
        read(&text);
        read(&permit_when(&text));
        read(&format!("[[case]]\n{text}\n[[entry]]\n{text}"));
    }
}

#[test]
fn deep_toml_is_an_error_and_not_a_crash() {
    for depth in [100, 10_000, 200_000] {
        for text in [
            format!("case = {}{}", "[".repeat(depth), "]".repeat(depth)),
            format!("case = {}1{}", "{a = ".repeat(depth), "}".repeat(depth)),
            format!("[[case]]\n{}a = 1", "a.".repeat(depth)),
            format!("[{}a]", "case.".repeat(depth)),
        ] {
            assert!(policies("").run_cases(&file("f", &text)).is_err(), "{depth} {}", text.get(..10).unwrap());
        }
    }
}
