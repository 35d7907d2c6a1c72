// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;
use crate::{
    credential::resolve::{Limits, tests::FakeResolver},
    diagnostic::SourceFile,
};

const CATALOG: &str = r#"
[[destination]]
name = "both"
hosts = ["one.internal", "two.internal"]
cidrs = ["127.0.0.1/32", "2001:db8::/32"]
ports = [443, 8443]

[[destination]]
name = "names"
hosts = ["one.internal", "lost.internal"]
ports = [443]

[[destination]]
name = "quic"
hosts = ["one.internal"]
ports = [443]
protocol = "udp"

[[destination]]
name = "nothing"
audience = "x"
ports = [443]
"#;

fn catalog() -> Catalog {
    let file = SourceFile { name: "c.toml".to_owned(), text: CATALOG.to_owned() };
    Catalog::parse(&[file], &"example.org".parse().unwrap()).unwrap()
}

fn resolver() -> (Arc<FakeResolver>, CachingResolver) {
    let names: &[(&str, &[&str])] = &[("one.internal", &["10.0.0.1", "fd00::1"]), ("two.internal", &["10.0.0.2"])];
    let fake = Arc::new(FakeResolver::knowing(names));
    (Arc::clone(&fake), CachingResolver::new(fake, Limits::default()))
}

fn observed(address: &str, port: u16, protocol: u16) -> Observed {
    Observed::new(SocketAddr::new(address.parse().unwrap(), port), Protocol(protocol))
}

/// What ties the connection to the destination, or that nothing does.
async fn tie(destination: &str, observed: Observed) -> String {
    let catalog = catalog();
    let (_fake, resolver) = resolver();
    match evaluate(observed, catalog.destination(destination).unwrap(), &resolver).await {
        Ok(Verdict::Matched(Matched::Cidr(network))) => format!("cidr {network}"),
        Ok(Verdict::Matched(Matched::Resolved { host })) => format!("resolved {host}"),
        Ok(Verdict::Mismatch(_)) => "mismatch".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_connection_belongs_to_a_destination_by_range_or_by_our_own_look_up() {
    for (destination, address, port, protocol, expected) in [
        ("both", "127.0.0.1", 443, 6, "cidr 127.0.0.1/32"),
        ("both", "::ffff:127.0.0.1", 8443, 6, "cidr 127.0.0.1/32"),
        ("both", "2001:db8::7", 443, 6, "cidr 2001:db8::/32"),
        ("both", "10.0.0.1", 443, 6, "resolved one.internal"),
        ("both", "::ffff:10.0.0.1", 443, 6, "resolved one.internal"),
        ("both", "fd00::1", 443, 6, "resolved one.internal"),
        ("both", "10.0.0.2", 443, 6, "resolved two.internal"),
        ("quic", "10.0.0.1", 443, 17, "resolved one.internal"),
        ("names", "10.0.0.1", 443, 6, "resolved one.internal"),
    ] {
        assert_eq!(tie(destination, observed(address, port, protocol)).await, expected, "{destination} {address}");
    }
}

#[tokio::test]
async fn a_connection_to_anywhere_else_is_a_mismatch() {
    for (destination, address, port, protocol) in [
        ("both", "127.0.0.2", 443, 6),
        ("both", "10.0.0.3", 443, 6),
        ("both", "0.0.0.0", 443, 6),
        ("both", "127.0.0.1", 444, 6),
        ("both", "127.0.0.1", 0, 6),
        ("both", "127.0.0.1", 443, 17),
        ("both", "127.0.0.1", 443, 262),
        ("both", "10.0.0.1", 444, 6),
        ("both", "10.0.0.1", 443, 17),
        ("quic", "10.0.0.1", 443, 6),
        ("nothing", "10.0.0.1", 443, 6),
    ] {
        let what = tie(destination, observed(address, port, protocol)).await;
        assert_eq!(what, "mismatch", "{destination} {address} {port} {protocol}");
    }
}

#[tokio::test]
async fn a_host_that_cannot_be_resolved_leaves_it_open_unless_another_one_matches() {
    assert_eq!(tie("names", observed("10.0.0.9", 443, 6)).await, "look-up of lost.internal failed");
}

#[tokio::test]
async fn a_mismatch_tells_what_was_expected_and_what_was_there() {
    let catalog = catalog();
    let (_fake, resolver) = resolver();
    for (address, port, protocol, expected, actual) in [
        (
            "::ffff:10.0.0.9",
            443,
            6,
            "tcp port 443, 8443 at 127.0.0.1/32, 2001:db8::/32, one.internal (10.0.0.1, fd00::1), two.internal (10.0.0.2)",
            "tcp 10.0.0.9:443",
        ),
        (
            "fd00::9",
            22,
            262,
            "tcp port 443, 8443 at 127.0.0.1/32, 2001:db8::/32, one.internal, two.internal",
            "protocol 262 [fd00::9]:22",
        ),
    ] {
        let verdict =
            evaluate(observed(address, port, protocol), catalog.destination("both").unwrap(), &resolver).await;
        let mismatch = Mismatch { expected: expected.to_owned(), actual: actual.to_owned() };
        assert_eq!(verdict.unwrap(), Verdict::Mismatch(mismatch));
    }
}

#[tokio::test]
async fn nothing_is_looked_up_when_port_protocol_or_range_decide() {
    let catalog = catalog();
    let (fake, resolver) = resolver();
    for seen in [observed("10.0.0.1", 1, 6), observed("10.0.0.1", 443, 17), observed("127.0.0.1", 443, 6)] {
        evaluate(seen, catalog.destination("both").unwrap(), &resolver).await.unwrap();
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn a_known_name_that_matches_spares_the_other_look_ups() {
    let catalog = catalog();
    let (fake, resolver) = resolver();
    resolver.addresses("one.internal").await.unwrap();
    evaluate(observed("10.0.0.1", 443, 6), catalog.destination("both").unwrap(), &resolver).await.unwrap();
    assert_eq!(fake.asked(), ["one.internal"]);
}

#[tokio::test]
async fn display_uses_what_is_known_and_asks_nobody() {
    let catalog = catalog();
    let (fake, resolver) = resolver();
    let names = |seen: Observed| -> Vec<String> {
        declared(seen, &catalog, &resolver).iter().map(|destination| destination.name.to_string()).collect()
    };
    assert_eq!(names(observed("10.0.0.1", 443, 6)), [""; 0]);
    assert_eq!(names(observed("127.0.0.1", 443, 6)), ["both"]);
    assert!(fake.asked().is_empty());
    resolver.addresses("one.internal").await.unwrap();
    assert_eq!(names(observed("10.0.0.1", 443, 6)), ["both", "names"]);
    assert_eq!(names(observed("10.0.0.1", 443, 17)), ["quic"]);
    assert_eq!(names(observed("10.0.0.1", 443, 262)), [""; 0]);
}

#[test]
fn long_lists_are_cut() {
    let items: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(listed(items.into_iter()), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
}
