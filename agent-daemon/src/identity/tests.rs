// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::time::Instant;

use super::*;
use crate::diagnostic::{Diagnostic, SourceFile};

const SHA_A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn file(text: &str) -> SourceFile {
    SourceFile { name: "entries.toml".into(), text: text.into() }
}

fn parse(text: &str) -> Result<Entries, Vec<Diagnostic>> {
    Entries::parse(&[file(text)], &"example.org".parse().unwrap())
}

fn entry(id: &str, selectors: &str, more: &str) -> String {
    format!(
        "[[entry]]\nid = \"{id}\"\nspiffe_id = \"spiffe://example.org/{id}\"\nkind = \"agent\"\nselectors = {selectors}\n{more}\n"
    )
}

fn facts(listed: &[(&str, Provenance)]) -> Vec<Fact> {
    listed.iter().map(|(text, provenance)| Fact { selector: text.parse().unwrap(), provenance: *provenance }).collect()
}

fn kernel(listed: &[&str]) -> Vec<Fact> {
    facts(&listed.iter().map(|text| (*text, Provenance::Kernel)).collect::<Vec<_>>())
}

fn ids(entries: &Entries, facts: &[Fact]) -> Vec<String> {
    entries.matching(facts).iter().map(|entry| entry.id.to_string()).collect()
}

#[test]
fn a_selector_is_cut_after_its_key() {
    for (text, kind, value) in [
        ("unix:uid:1000", "unix:uid", "1000"),
        ("unix:path:/a:b", "unix:path", "/a:b"),
        ("lineage:spiffe_id:spiffe://example.org/a", "lineage:spiffe_id", "spiffe://example.org/a"),
        ("exec:memfd", "exec:memfd", ""),
    ] {
        let selector: Selector = text.parse().unwrap();
        assert_eq!((selector.kind(), selector.value(), selector.as_str()), (kind, value, text));
    }
    for text in ["", "unix", ":uid", "unix:", "unix:uid:1\n2"] {
        assert!(text.parse::<Selector>().is_err(), "{text:?}");
    }
    assert!("a:".repeat(MAX_SELECTOR_BYTES).parse::<Selector>().is_err());
}

#[test]
fn the_most_specific_entry_comes_first_and_ties_go_by_id() {
    let entries = parse(
        &[
            entry("b", r#"["unix:uid:1000"]"#, ""),
            entry("a", r#"["unix:uid:1000"]"#, ""),
            entry("c", r#"["unix:uid:1000", "unix:path:/bin/x"]"#, ""),
            entry("d", r#"["unix:uid:1001"]"#, ""),
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(ids(&entries, &kernel(&["unix:uid:1000", "unix:path:/bin/x", "exec:fork"])), ["c", "a", "b"]);
    assert_eq!(ids(&entries, &kernel(&["unix:uid:1000"])), ["a", "b"]);
    assert!(ids(&entries, &[]).is_empty());
    assert_eq!(entries.entry("d").unwrap().spiffe_id.as_str(), "spiffe://example.org/d");
    assert_eq!(entries.len(), 4);
}

#[test]
fn one_alternative_is_enough_and_two_do_not_double_an_entry() {
    let entries = parse(&entry("a", r#"[["unix:uid:1", "unix:gid:2"], "unix:path:/x"]"#, "")).unwrap();
    assert_eq!(ids(&entries, &kernel(&["unix:gid:2", "unix:path:/x"])), ["a"]);
    assert_eq!(ids(&entries, &kernel(&["unix:gid:2", "unix:uid:1", "unix:path:/x"])), ["a"]);
    assert!(ids(&entries, &kernel(&["unix:gid:2"])).is_empty());
}

#[test]
fn a_claimed_fact_counts_only_where_the_entry_says_so() {
    let selectors = format!(r#"["unix:uid:1000", "script:sha256:{SHA_A}"]"#);
    let script = format!("script:sha256:{SHA_A}");
    let claimed = facts(&[("unix:uid:1000", Provenance::Kernel), (&script, Provenance::Claimed)]);
    let strict = parse(&entry("a", &selectors, "")).unwrap();
    assert!(ids(&strict, &claimed).is_empty());
    let misses = strict.near_misses(&claimed, 3);
    assert_eq!(misses[0].differences[0].note, "known only as claimed; the entry does not accept that");
    assert_eq!(misses[0].differences[0].actual, script);

    let accepting = parse(&entry("a", &selectors, "accept_claimed = true")).unwrap();
    assert_eq!(ids(&accepting, &claimed), ["a"]);
}

#[test]
fn a_claim_alone_is_never_an_identity() {
    let script = format!("script:sha256:{SHA_A}");
    let entries = parse(&entry("a", &format!("[\"{script}\"]"), "accept_claimed = true")).unwrap();
    let claimed = facts(&[(&script, Provenance::Claimed)]);
    assert!(ids(&entries, &claimed).is_empty());
    assert_eq!(entries.near_misses(&claimed, 1)[0].differences.len(), 1);
    // The same fact from a better source is enough, in whichever order the two stand.
    let both = facts(&[(&script, Provenance::Claimed), (&script, Provenance::Measured)]);
    assert_eq!(ids(&entries, &both), ["a"]);
    let both = facts(&[(&script, Provenance::Measured), (&script, Provenance::Claimed)]);
    assert_eq!(ids(&entries, &both), ["a"]);
}

#[test]
fn an_entry_can_refuse_processes_older_than_the_kernel_programs() {
    let entries =
        parse(&[entry("strict", r#"["unix:uid:1"]"#, "seeded = false"), entry("z", r#"["unix:uid:1"]"#, "")].concat());
    let entries = entries.unwrap();
    assert_eq!(ids(&entries, &kernel(&["unix:uid:1"])), ["strict", "z"]);
    let seeded = kernel(&["unix:uid:1", SEEDED_SELECTOR]);
    assert_eq!(ids(&entries, &seeded), ["z"]);
    assert_eq!(entries.near_misses(&seeded, 5)[0].differences[0].actual, SEEDED_SELECTOR);
}

#[test]
fn near_misses_name_the_one_fact_that_differs() {
    let entries = parse(
        &[
            entry("far", r#"["unix:uid:1000", "unix:gid:7", "unix:path:/y"]"#, ""),
            entry("near", &format!(r#"["unix:uid:1000", ["unix:sha256:{SHA_A}", "unix:path:/z"]]"#), ""),
            entry("unrelated", r#"["unix:uid:5"]"#, ""),
        ]
        .concat(),
    )
    .unwrap();
    let facts = kernel(&["unix:uid:1000", "unix:path:/x", "unix:gid:1"]);
    let misses = entries.near_misses(&facts, 10);
    assert_eq!(misses.iter().map(|miss| miss.entry.id.as_str()).collect::<Vec<_>>(), ["near", "far"]);
    assert_eq!(
        misses[0].differences,
        [Difference {
            expected: format!("unix:sha256:{SHA_A} or unix:path:/z"),
            actual: "unix:path:/x".into(),
            note: String::new()
        }]
    );
    assert_eq!(entries.near_misses(&facts, 1).len(), 1);
    // Nothing in common with anything: better the nearest of them than no explanation.
    assert_eq!(entries.near_misses(&kernel(&["unix:uid:77"]), 1)[0].entry.id.as_str(), "unrelated");
}

#[test]
fn every_error_of_every_file_is_reported_with_its_place() {
    let bad = [
        entry("ok", r#"["unix:uid:1"]"#, ""),
        entry("ok", r#"["unix:uid:1"]"#, ""),
        entry("empty", "[]", ""),
        entry("pid", r#"["unix:pid:1"]"#, ""),
        entry("hex", r#"["unix:sha256:ABC"]"#, ""),
        entry("path", r#"["unix:path:/bin/x", "exec:memfd"]"#, ""),
        entry("weak", r#"[["unix:uid:1", "unix:path:/bin/x"]]"#, ""),
        entry("number", r#"["unix:uid:007"]"#, ""),
        entry("typo", r#"["unix:uid:1"]"#, "acept_claimed = true"),
        entry("has space", r#"["unix:uid:1"]"#, "groups = [\"x y\"]"),
        entry("own", r#"["unix:uid:1"]"#, "").replace("org/own", "org/agent-daemon/own"),
        "[[entry]]\nid = \"f\"\nspiffe_id = \"spiffe://evil.org/a\"\nkind = \"robot\"\nselectors = [[]]\n".into(),
    ]
    .concat();
    let second = SourceFile { name: "more.toml".into(), text: "[[entries]]\nid = \"a\"\n".into() };
    let third = SourceFile { name: "broken.toml".into(), text: "[[entry]]\nid = \n".into() };
    let found = Entries::parse(&[file(&bad), second, third], &"example.org".parse().unwrap()).unwrap_err();
    let lines: Vec<String> =
        found.iter().map(|d| format!("{}:{}:{} {}", d.file, d.line, d.column, d.message)).collect();
    let expected = [
        "unknown field `acept_claimed`",
        "duplicate id \"ok\"",
        "selectors is empty",
        "unknown selector \"unix:pid\"",
        "unix:sha256: a SHA-256 is written as 64",
        "a path or a flag alone",
        "a path or a flag alone",
        "unix:uid: \"007\"",
        "\"has space\" is not an id",
        "character ' ' is not allowed in a path",
        "\"x y\" is not a group's name",
        "names below /agent-daemon/ are the daemon's own",
        "trust domain evil.org",
        "unknown kind \"robot\"",
        "0 alternatives",
        "more.toml:1:3 unknown key \"entries\"",
        "broken.toml:2:",
    ];
    assert_eq!(found.len(), expected.len(), "{lines:#?}");
    for part in expected {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} is not in {lines:#?}");
    }
    assert!(lines.iter().all(|line| !line.contains(":0:0 ")), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "entries.toml:8:6 duplicate id \"ok\""), "{lines:#?}");
}

#[test]
fn the_number_of_selectors_and_alternatives_is_bounded() {
    let many = |n: usize| (0..n).map(|i| format!("\"unix:uid:{i}\"")).collect::<Vec<_>>().join(",");
    assert!(parse(&entry("a", &format!("[{}]", many(MAX_SELECTORS)), "")).is_ok());
    assert!(parse(&entry("a", &format!("[{}]", many(MAX_SELECTORS + 1)), "")).is_err());
    assert!(parse(&entry("a", &format!("[[{}]]", many(MAX_ALTERNATIVES)), "")).is_ok());
    assert!(parse(&entry("a", &format!("[[{}]]", many(MAX_ALTERNATIVES + 1)), "")).is_err());
}

#[test]
#[expect(clippy::print_stderr, reason = "the figure is for whoever runs this by hand")]
fn matching_cost_does_not_follow_the_size_of_the_set() {
    let text: String = (0..1000)
        .map(|i| entry(&format!("e{i}"), &format!(r#"["unix:uid:1000", "unix:sha256:{i:064x}"]"#), ""))
        .collect();
    let entries = parse(&text).unwrap();
    let sha = format!("unix:sha256:{:064x}", 500);
    let known = kernel(&["unix:uid:1000", "unix:gid:1000", &sha]);
    assert_eq!(ids(&entries, &known), ["e500"]);
    // The shared uid is not what the index goes by.
    let uid: Selector = "unix:uid:1000".parse().unwrap();
    assert!(!entries.index.contains_key(&uid));
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(entries.matching(&known).len(), 1);
    }
    let matching = started.elapsed() / 100;
    let started = Instant::now();
    assert_eq!(entries.near_misses(&known, 3).len(), 3);
    eprintln!("1,000 entries: matching {matching:?}, near misses {:?} (debug build)", started.elapsed());
}

#[test]
fn what_a_tree_may_execute_is_read_and_what_is_wrong_with_it_is_said() {
    let with = |more: &str| parse(&entry("a", r#"["unix:uid:1"]"#, more));
    let digest = SHA_A;
    let listed = format!(
        "egress = {{ mode = \"audit\" }}\nexec = {{ mode = \"enforce\", programs = [\"/bin/sh\", \"/usr/bin/\", {{ path = \"/x\", sha256 = \"{digest}\" }}] }}"
    );
    let entries = with(&listed).unwrap();
    let entry = entries.entry("a").unwrap();
    assert_eq!(entry.governs.map(|settings| settings.images), Some(ImageRule::Listed));
    let expected = [
        Allowed::File { path: "/bin/sh".into(), sha256: None },
        Allowed::Directory("/usr/bin/".into()),
        Allowed::File { path: "/x".into(), sha256: Some(digest.into()) },
    ];
    assert_eq!(entry.programs, expected);
    let audited = with(&listed.replace("enforce", "audit")).unwrap();
    assert_eq!(audited.entry("a").unwrap().governs.map(|settings| settings.images), Some(ImageRule::Audited));
    assert_eq!(with("egress = { mode = \"audit\" }").unwrap().entry("a").unwrap().programs, []);
    for (exec, expected) in [
        (r#"{ mode = "enforce", programs = [] }"#, "0 programs"),
        (r#"{ mode = "enforce", programs = ["bin/sh"] }"#, "\"bin/sh\" is not an absolute path"),
        (r#"{ mode = "enforce", programs = ["/bin/../x"] }"#, "is not an absolute path"),
        (r#"{ mode = "enforce", programs = ["/bin/./x"] }"#, "is not an absolute path"),
        (r#"{ mode = "enforce", programs = [{ path = "/x", sha256 = "AB" }] }"#, "\"AB\" is not a SHA-256"),
        (&format!(r#"{{ mode = "enforce", programs = [{{ path = "/x/", sha256 = "{digest}" }}] }}"#), "a directory"),
        (r#"{ mode = "deny", programs = ["/x"] }"#, "unknown variant"),
        (r#"{ mode = "enforce" }"#, "missing field `programs`"),
        (r#"{ mode = "enforce", programs = ["/x"], more = 1 }"#, "unknown field"),
    ] {
        let wrong = with(&format!("egress = {{ mode = \"audit\" }}\nexec = {exec}")).unwrap_err();
        assert!(wrong[0].message.contains(expected), "{exec}: {}", wrong[0].message);
    }
    let alone = with(r#"exec = { mode = "enforce", programs = ["/x"] }"#).unwrap_err();
    assert_eq!(alone[0].message, "exec without egress");
}
