// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::time::Duration;

use super::*;
use crate::credential::{Mode, ObservedConnect, SourceKind};

const GOOD: &str = r#"
[[destination]]
name = "reports-api"
hosts = ["reports.internal"]
cidrs = ["127.0.0.1/32", "::1/128"]
ports = [8443, 443]
protocol = "tcp"
audience = "https://reports.internal"
mode = "enforce"
labels = ["tier:1"]

[[destination]]
name = "dns"
cidrs = ["127.0.0.0/8"]
ports = [53]
protocol = "udp"
audience = "dns"
mode = "audit"

[[source]]
name = "node-jwt"
type = "jwt-svid"

[[source]]
name = "partner-key"
type = "static"
secret = "partner-key"

[[binding]]
name = "reports-token"
destination = "reports-api"
identities = ["spiffe://example.org/agent/report-writer", "spiffe://example.org/tools/*"]
source = "node-jwt"
delivery = "release"
observed_connect = "required"
ttl = "5m"
releases_per_connection = 2

[[binding]]
name = "reports-key"
destination = "reports-api"
identities = ["spiffe://example.org/*"]
source = "partner-key"
observed_connect = "optional"
ttl = "90s"
"#;

fn file(name: &str, text: &str) -> SourceFile {
    SourceFile { name: name.to_owned(), text: text.to_owned() }
}

fn parse(files: &[SourceFile]) -> Result<Catalog, Vec<Diagnostic>> {
    Catalog::parse(files, &"example.org".parse().unwrap())
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org/{path}").parse().unwrap()
}

/// The findings of a text, one a line: `line:column: message / help`.
fn findings(text: &str) -> Vec<String> {
    let Err(report) = parse(&[file("c.toml", text)]) else { return Vec::new() };
    let help = |finding: &Diagnostic| finding.help.clone().unwrap_or_default();
    report.iter().map(|one| format!("{}:{}: {} / {}", one.line, one.column, one.message, help(one))).collect()
}

#[test]
fn a_whole_catalog_is_read() {
    let catalog = parse(&[file("c.toml", GOOD)]).unwrap();
    let reports = catalog.destination("reports-api").unwrap();
    assert_eq!(reports.ports, [443, 8443]);
    assert_eq!(&*reports.audience, "https://reports.internal");
    assert_eq!(reports.mode, Mode::Enforce);
    assert_eq!(reports.labels, ["tier:1".into()]);
    assert_eq!(catalog.destination("dns").unwrap().mode, Mode::Audit);
    assert!(catalog.destination("other").is_none());
    assert_eq!(catalog.sources()[1].kind, SourceKind::Static { secret: "partner-key".into() });
    let [token, key] = catalog.bindings() else { panic!("two bindings") };
    assert_eq!((token.ttl, token.releases_per_connection), (Duration::from_secs(300), 2));
    assert_eq!((key.ttl, key.observed_connect), (Duration::from_secs(90), ObservedConnect::Optional));
    assert_eq!(&*key.source.name, "partner-key");
}

#[test]
fn defaults_are_the_safe_ones() {
    let text = r#"
        [[destination]]
        name = "a"
        hosts = ["a.example"]
        ports = [443]
        [[source]]
        name = "s"
        type = "jwt-svid"
        [[binding]]
        name = "b"
        destination = "a"
        source = "s"
        identities = ["spiffe://example.org/x"]
    "#;
    let catalog = parse(&[file("c.toml", text)]).unwrap();
    let binding = &catalog.bindings()[0];
    assert_eq!(binding.observed_connect, ObservedConnect::Required);
    assert_eq!(binding.releases_per_connection, 1);
    assert_eq!(binding.ttl, Duration::from_secs(300));
    assert_eq!(binding.destination.mode, Mode::Enforce);
    assert_eq!(binding.destination.protocol, Protocol::TCP);
    assert_eq!(&*binding.destination.audience, "https://a.example");
}

#[test]
fn the_default_audience_names_the_first_port_unless_it_is_443() {
    for (ports, expected) in [("[443]", "https://a.example"), ("[8443, 443]", "https://a.example:8443")] {
        let text = format!("[[destination]]\nname = 'a'\nhosts = ['a.example', 'b.example']\nports = {ports}");
        assert_eq!(&*parse(&[file("c", &text)]).unwrap().destination("a").unwrap().audience, expected);
    }
}

#[test]
fn bindings_come_in_the_order_of_the_file_and_only_to_those_they_name() {
    let catalog = parse(&[file("c.toml", GOOD)]).unwrap();
    let names = |path: &str, name: Option<&str>| -> Vec<String> {
        let found = catalog.bindings_for("reports-api", &id(path), None, name);
        found.iter().map(|binding| binding.name.to_string()).collect()
    };
    assert_eq!(names("agent/report-writer", None), ["reports-token", "reports-key"]);
    assert_eq!(names("tools/fetch", None), ["reports-token", "reports-key"]);
    assert_eq!(names("tools/fetch/deep", Some("reports-token")), ["reports-token"]);
    assert_eq!(names("tools", None), ["reports-key"]);
    assert_eq!(names("agent/report-writer/child", None), ["reports-key"]);
    assert_eq!(names("agent/other", Some("reports-token")), [""; 0]);
    assert_eq!(names("agent/report-writer", Some("other")), [""; 0]);
    assert!(catalog.bindings_for("dns", &id("agent/report-writer"), None, None).is_empty());
    assert!(catalog.bindings_for("other", &id("agent/report-writer"), None, None).is_empty());
    let foreign: SpiffeId = "spiffe://example.com/agent/report-writer".parse().unwrap();
    assert!(catalog.bindings_for("reports-api", &foreign, None, None).is_empty());
}

#[test]
fn a_binding_is_found_once_however_many_of_its_patterns_fit() {
    let text = GOOD.replace("\"spiffe://example.org/tools/*\"]", "\"spiffe://example.org/agent/*\"]");
    let catalog = parse(&[file("c.toml", &text)]).unwrap();
    assert_eq!(catalog.bindings_for("reports-api", &id("agent/report-writer"), None, None).len(), 2);
}

#[test]
fn an_address_belongs_to_the_destinations_that_list_it_with_port_and_protocol() {
    let catalog = parse(&[file("c.toml", GOOD)]).unwrap();
    for (address, port, protocol, expected) in [
        ("127.0.0.1", 8443, Protocol::TCP, vec!["reports-api"]),
        ("::ffff:127.0.0.1", 8443, Protocol::TCP, vec!["reports-api"]),
        ("::1", 443, Protocol::TCP, vec!["reports-api"]),
        ("127.0.0.1", 8443, Protocol::UDP, vec![]),
        ("127.0.0.1", 8444, Protocol::TCP, vec![]),
        ("127.0.0.2", 8443, Protocol::TCP, vec![]),
        ("127.9.9.9", 53, Protocol::UDP, vec!["dns"]),
    ] {
        let found = catalog.destinations_for_address(address.parse().unwrap(), port, protocol);
        assert_eq!(found.iter().map(|one| &*one.name).collect::<Vec<_>>(), expected, "{address} {port} {protocol}");
    }
}

#[test]
fn files_are_one_set() {
    let (destinations, rest) = GOOD.split_at(GOOD.find("[[source]]").unwrap());
    let catalog = parse(&[file("bindings.toml", rest), file("destinations.toml", destinations)]).unwrap();
    assert_eq!(catalog.bindings().len(), 2);
    assert!(parse(&[]).unwrap().destinations().is_empty());
}

#[test]
fn everything_wrong_is_told_in_one_run_with_its_place() {
    let text = r#"surprise = 1

[[destination]]
name = "Bad Name"
hosts = ["10.0.0.1", "*.example", "UPPER.example"]
cidrs = ["10.0.0.1/8", 7]
ports = [0, 65536, -1]
protocol = "sctp"
mode = "off"
colour = "red"

[[destination]]
name = "empty"

[[source]]
name = "s"
type = "vault"

[[binding]]
name = "b"
destination = "nowhere"
source = "s"
identities = ["spiffe://other.org/x"]
delivery = "inject"
observed_connect = "maybe"
ttl = "2h"
releases_per_connection = 17
"#;
    let expected = [
        "1:1: unknown field \"surprise\" / a file has [[destination]], [[source]] and [[binding]]",
        "4:8: \"Bad Name\" is not a name / 1 to 64 of a-z 0-9 . _ - and no dot in front",
        "5:10: host \"10.0.0.1\" is an address / addresses belong into cidrs",
        "5:22: \"*.example\" is not a host name / a DNS name in lower case, without wildcard, port or dot at the end",
        "5:35: \"UPPER.example\" is not a host name / a DNS name in lower case, without wildcard, port or dot at the end",
        "6:24: an item of cidrs is integer, expected an array of strings / see the documentation of [[destination]]",
        "6:10: \"10.0.0.1/8\" has bits set after the prefix / write 10.0.0.0/8",
        "7:10: port out of range / ports = [443]; each from 1 to 65535",
        "7:13: port out of range / ports = [443]; each from 1 to 65535",
        "7:20: port out of range / ports = [443]; each from 1 to 65535",
        "8:12: unknown protocol \"sctp\" / one of \"tcp\", \"udp\"",
        "9:8: unknown mode \"off\" / one of \"enforce\", \"audit\"",
        "3:1: the destination has neither a host nor an audience / what the service expects in the token's aud, for example audience = \"https://reports.internal\"",
        "10:1: unknown field \"colour\" in a destination / a destination has: name, hosts, cidrs, ports, protocol, mode, labels, audience",
        "12:1: the destination has neither a host nor an audience / what the service expects in the token's aud, for example audience = \"https://reports.internal\"",
        "17:8: unknown source type \"vault\" / one of \"jwt-svid\", \"access-token\", \"x509-svid\", \"wit-svid\", \"static\"",
        "21:15: unknown destination \"nowhere\" / declared are: empty",
        "23:15: \"spiffe://other.org/x\" is not in the trust domain example.org / spiffe://TRUST-DOMAIN/path, or with /* at the end for everything below a path",
        "24:12: unknown delivery \"inject\" / one of \"release\", \"workload-api\"",
        "25:20: unknown observed_connect \"maybe\" / one of \"required\", \"optional\"",
        "26:7: ttl \"2h\" is out of range / from 1s to 1h",
        "27:27: releases_per_connection is out of range / from 1 to 16",
    ];
    let found = findings(text);
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn an_access_token_goes_no_way_that_is_for_svids() {
    let text = GOOD.replacen("type = \"jwt-svid\"", "type = \"access-token\"", 1);
    assert_eq!(findings(&text), Vec::<String>::new());
    let found = findings(&text.replacen("delivery = \"release\"", "delivery = \"workload-api\"", 1));
    assert!(found.iter().any(|finding| finding.contains("the Workload API gives SVIDs")), "{found:#?}");
}

#[test]
fn one_wrong_value_is_one_finding() {
    for (from, to, expected) in [
        ("name = \"dns\"", "name = \"reports-api\"", "declared twice"),
        ("[[binding]]", "[[source]]\nname = \"node-jwt\"\ntype = \"jwt-svid\"\n[[binding]]", "declared twice"),
        ("name = \"reports-key\"", "name = \"reports-token\"", "declared twice"),
        ("secret = \"partner-key\"\n", "", "a static source has no secret"),
        ("type = \"jwt-svid\"", "type = \"jwt-svid\"\nsecret = \"a\"", "a jwt-svid source has no secret"),
        ("type = \"jwt-svid\"", "type = \"access-token\"\nsecret = \"a\"", "an access-token source has no secret"),
        ("name = \"node-jwt\"\ntype = \"jwt-svid\"", "name = \"node-jwt\"", "the source has no type"),
        ("source = \"partner-key\"\n", "", "the binding has no source"),
        ("source = \"partner-key\"\n", "source = 7\n", "source is integer, expected a string"),
        ("identities = [\"spiffe://example.org/*\"]", "identities = []", "the binding has no identities"),
        ("ttl = \"90s\"", "ttl = \"0s\"", "out of range"),
        ("ttl = \"90s\"", "ttl = \"61m\"", "out of range"),
        ("ttl = \"90s\"", "ttl = \"soon\"", "is not a duration"),
        ("ttl = \"90s\"", "ttl = 90", "ttl is integer, expected a string"),
        ("releases_per_connection = 2", "releases_per_connection = 0", "out of range"),
        ("releases_per_connection = 2", "releases_per_connection = -1", "out of range"),
        ("releases_per_connection = 2", "releases_per_connection = 99999999999999999999", "out of range"),
        ("audience = \"dns\"", "audience = \"a b\"", "the audience is empty, longer"),
        ("audience = \"dns\"", "audience = \"\"", "the audience is empty, longer"),
        ("labels = [\"tier:1\"]", "labels = [\"\"]", "is not a label"),
        ("ports = [53]\n", "\n", "the destination has no ports"),
        ("type = \"jwt-svid\"", "type = \"x509-svid\"", "an x509-svid is not handed out by release"),
        (
            "source = \"partner-key\"\n",
            "source = \"partner-key\"\ndelivery = \"workload-api\"\n",
            "no words for a static",
        ),
        ("delivery = \"release\"", "delivery = \"workload-api\"", "no connection can be named"),
        ("ttl = \"90s\"", "ttl = \"90s\"\nevidence = true", "evidence is a claim of a token"),
        ("ttl = \"5m\"", "ttl = \"5m\"\nevidence = 1", "evidence is integer, expected true or false"),
        ("ports = [53]", "ports = 53", "ports is integer, expected an array"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let found = findings(&GOOD.replacen(from, to, 1));
        let told = found.iter().any(|finding| finding.contains(expected));
        assert!(told, "{to}: {found:#?}");
        assert!(found.len() == 1 || to == "ports = 53", "{to}: {found:#?}");
    }
}

#[test]
fn a_required_connection_must_be_observable() {
    let text = GOOD.replace("destination = \"reports-api\"", "destination = \"nowhere\"")
        + "[[destination]]\nname = \"nowhere\"\naudience = \"x\"\nports = [1]\n";
    let found = findings(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("no connection to \"nowhere\" can be observed"), "{found:#?}");
}

#[test]
fn a_secret_pasted_in_place_of_its_name_is_not_repeated() {
    let found = findings(&GOOD.replace("secret = \"partner-key\"", "secret = \"Sup3r/Secret\""));
    assert_eq!(found.len(), 1);
    assert!(!found[0].contains("Sup3r"), "{found:?}");
}

#[test]
fn names_with_dots_in_front_or_slashes_are_refused() {
    for name in ["", ".hidden", "..", "a/b", "a b", "A", &"a".repeat(65), "ä", "a\\u0000"] {
        let text = format!("[[source]]\nname = \"{name}\"\ntype = \"jwt-svid\"");
        assert!(findings(&text).iter().any(|finding| finding.contains("is not a name")), "{name:?}");
    }
}

#[test]
fn host_names_that_resolvers_read_as_something_else_are_refused() {
    for host in ["", ".", "a..b", "a.", "-a", "a-", "0x7f000001", "127.1", "a.1", "a:80", "a b", "ä.example", "::1"] {
        let text = format!("[[destination]]\nname = 'a'\naudience = 'a'\nports = [1]\nhosts = ['{host}']");
        assert_eq!(findings(&text).len(), 1, "{host:?}");
    }
}

#[test]
fn a_file_that_is_not_toml_refuses_the_set_without_blaming_the_others() {
    let (destinations, rest) = GOOD.split_at(GOOD.find("[[source]]").unwrap());
    let broken = format!("{destinations}\nname = = 1\n");
    let report = parse(&[file("broken.toml", &broken), file("rest.toml", rest)]).unwrap_err();
    assert!(report.iter().all(|finding| finding.file == "broken.toml" && finding.line > 0), "{report:#?}");
    for text in
        ["destination = 1", "[destination]\nname = 'a'", "destination = [1]", "binding = 'x'", "\0", "[[", "a = [["]
    {
        assert!(!findings(text).is_empty(), "{text:?}");
    }
}

#[test]
fn lists_and_reports_are_bounded() {
    let ports: Vec<String> = (1..=65).map(|port| port.to_string()).collect();
    let text = format!("[[destination]]\nname = 'a'\naudience = 'a'\nports = [{}]", ports.join(","));
    assert!(findings(&text)[0].contains("ports has 65 items"));
    let many = "[[source]]\n".repeat(MAX_TABLES + 10);
    assert_eq!(findings(&many).len(), MAX_DIAGNOSTICS);
    let mut hosts = String::new();
    for number in 0..=MAX_NAMES {
        hosts += &format!("[[destination]]\nname = 'd{number}'\nports = [1]\nhosts = ['h{number}.example']\n");
    }
    assert!(findings(&hosts)[0].contains("1025 different hosts are declared"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(cut in 0_usize..1200, junk in "[\\PC\n]{0,40}") {
        let start: String = GOOD.chars().take(cut).collect();
        let end: String = GOOD.chars().skip(cut).collect();
        let _unused = findings(&format!("{start}{junk}{end}"));
    }
}
