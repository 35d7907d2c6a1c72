// SPDX-License-Identifier: Apache-2.0 OR MIT

use x509_parser::prelude::*;

use super::*;
use crate::authority::file::private_tempdir;
use crate::identity::SpiffeId;

const LIFETIME: Duration = Duration::from_secs(600);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn authority(directory: &Path, now: i64) -> X509Authority {
    let sealer = Sealer::from_bytes(&[7; 32]).unwrap();
    X509Authority::open(directory, &sealer, "example.org".parse().unwrap(), CaSource::Embedded, LIFETIME, at(now))
        .unwrap()
}

fn issue(authority: &X509Authority, from: i64, to: i64) -> Result<X509Svid, Error> {
    let spiffe_id: SpiffeId = "spiffe://example.org/agent/a".parse().unwrap();
    let dns_names = ["reports.internal".into()];
    let subject = Subject {
        spiffe_id: &spiffe_id,
        dns_names: &dns_names,
        serial: &[0xfe; 16],
        begins_at: at(from),
        ends_at: at(to),
    };
    authority.issue(&subject, at(from))
}

#[test]
fn an_svid_has_the_extensions_that_the_specification_asks_for() {
    let directory = private_tempdir();
    let authority = authority(directory.path(), 0);
    let svid = issue(&authority, 5, 65).unwrap();
    let (rest, leaf) = parse_x509_certificate(&svid.chain).unwrap();
    assert!(rest.is_empty());
    let roots = authority.roots();
    let (_, root) = parse_x509_certificate(&roots[0]).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
    assert_eq!(leaf.issuer(), root.subject());

    let san = leaf.subject_alternative_name().unwrap().unwrap();
    let names: Vec<String> = san.value.general_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["URI(spiffe://example.org/agent/a)", "DNSName(reports.internal)"]);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap();
    assert!(extended.value.server_auth && extended.value.client_auth && !extended.value.any);
    assert_eq!(leaf.raw_serial(), [&[0][..], &[0xfe; 16]].concat());
    let (begins, ends) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert_eq!((begins, ends), (at(5 - 10).as_second(), at(65).as_second()));

    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca && constraints.value.path_len_constraint == Some(0));
    let usage = root.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    let san = root.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        san.value.general_names.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["URI(spiffe://example.org)"]
    );
}

#[test]
fn every_svid_has_a_key_of_its_own_that_signs_for_its_certificate() {
    let directory = private_tempdir();
    let authority = authority(directory.path(), 0);
    let (one, other) = (issue(&authority, 0, 60).unwrap(), issue(&authority, 0, 60).unwrap());
    assert_ne!(*one.key, *other.key);
    let (_, leaf) = parse_x509_certificate(&one.chain).unwrap();
    let key = rcgen::KeyPair::try_from(one.key.as_slice()).unwrap();
    assert_eq!(leaf.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert_eq!(format!("{one:?}"), "X509Svid(\"...\")");
}

#[test]
fn no_svid_outlives_its_issuer() {
    let directory = private_tempdir();
    let authority = authority(directory.path(), 0);
    assert!(issue(&authority, 590, 600).is_ok());
    assert!(matches!(issue(&authority, 590, 601), Err(Error::Outlives { .. })));
    assert!(matches!(issue(&authority, 600, 600), Err(Error::NoSigner { .. })));
    assert!(matches!(authority.ends_at(at(600)), Err(Error::NoSigner { .. })));
}

#[test]
fn a_ca_is_trusted_before_it_signs_and_until_all_that_it_signed_is_over() {
    let directory = private_tempdir();
    let first = authority(directory.path(), 0);
    let rotate = |authority: &X509Authority, now| {
        let known = authority.unrecorded().len();
        authority.rotate(at(now), |_| Ok(())).unwrap();
        assert!(!authority.is_due(at(now)), "nobody has to be asked");
        authority.unrecorded().len() > known
    };
    assert_eq!(first.unrecorded().len(), 1);
    assert!(!rotate(&first, 299));
    assert!(rotate(&first, 300));
    assert_eq!(first.roots().len(), 2);
    assert_eq!(first.ends_at(at(499)).unwrap(), at(600));
    // The same CAs after a restart.
    let again = authority(directory.path(), 500);
    assert_eq!(again.roots(), first.roots());
    assert_eq!(again.ends_at(at(500)).unwrap(), at(900));
    assert!(again.unrecorded().is_empty());
    assert!(rotate(&again, 600));
    assert_eq!(again.roots()[0], first.roots()[1]);
    let svid = issue(&again, 600, 660).unwrap();
    let (_, leaf) = parse_x509_certificate(&svid.chain).unwrap();
    let roots = again.roots();
    let (_, root) = parse_x509_certificate(&roots[0]).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
}

#[test]
fn a_ca_file_that_was_changed_stops_the_start() {
    let directory = private_tempdir();
    authority(directory.path(), 0);
    let path = directory.path().join("ca-1.sealed");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let sealer = Sealer::from_bytes(&[7; 32]).unwrap();
    let opened = X509Authority::open(
        directory.path(),
        &sealer,
        "example.org".parse().unwrap(),
        CaSource::Embedded,
        LIFETIME,
        at(0),
    );
    assert!(matches!(opened, Err(Error::Unseal { .. })));
}
