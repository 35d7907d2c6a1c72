// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A CA that somebody else signs, or keeps in files: what is taken, what is refused, and that the last good one goes
//! on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_daemon::authority::{CaFiles, CaSource, Error};
use agent_daemon::clock::Clock as _;
use agent_daemon::node::{OwnError, Refusal};
use agent_daemon::testing::{FakeClock, FakeUpstream, Setup, Signing, TestNode};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::*;

use super::served::until;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const CA_LIFE: Duration = Duration::from_secs(600);

fn below(upstream_life: Duration) -> (TestNode, Arc<FakeUpstream>) {
    let clock = Arc::new(FakeClock::default());
    let upstream = Arc::new(FakeUpstream::new(Arc::clone(&clock), upstream_life));
    let setup = Setup {
        clock,
        upstream: Some(Box::new(Arc::clone(&upstream))),
        key_lifetime: CA_LIFE,
        ..super::spiffe::setup(1)
    };
    (setup.build(), upstream)
}

/// The certificates of a fresh SVID, the SVID first, and the roots.
pub(crate) async fn svid(t: &TestNode) -> Result<(Vec<Vec<u8>>, Vec<u8>), Refusal> {
    let peer = t.peer();
    let svids = t.node.x509_svids(&peer, &agent_daemon::node::Wanted::All, &[]).await?;
    let mut rest = svids.svids[0].1.chain.as_slice();
    let mut chain = Vec::new();
    while !rest.is_empty() {
        let (behind, _) = parse_x509_certificate(rest).unwrap();
        chain.push(rest[..rest.len() - behind.len()].to_vec());
        rest = behind;
    }
    Ok((chain, svids.bundles.own.x509.to_vec()))
}

/// In the key directory.
fn stored_cas(t: &TestNode) -> usize {
    let names = fs::read_dir(t.directory.path().join("keys")).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("ca-")).count()
}

/// Runs the rotation until something holds.
async fn rotating(t: &TestNode, what: &str, holds: impl Fn() -> bool) {
    let cancel = CancellationToken::new();
    tokio::select! {
        () = t.node.rotate_keys(cancel.clone()) => {}
        () = until(what, holds) => {}
    }
}

#[tokio::test]
async fn an_upstream_signs_the_ca_and_its_root_is_what_others_trust() {
    let (t, upstream) = below(YEAR);
    assert!(matches!(svid(&t).await, Err(Refusal::Authority(Error::NoSigner { .. }))), "nothing is signed before");
    t.node.rotate_once().await.unwrap();
    let (chain, roots) = svid(&t).await.unwrap();
    assert_eq!(roots, upstream.certificate());
    let [leaf, ca] = chain.as_slice() else { panic!("{} certificates", chain.len()) };
    let (_, leaf) = parse_x509_certificate(leaf).unwrap();
    let (_, ca) = parse_x509_certificate(ca).unwrap();
    let (_, root) = parse_x509_certificate(&roots).unwrap();
    leaf.verify_signature(Some(ca.public_key())).unwrap();
    ca.verify_signature(Some(root.public_key())).unwrap();
    t.node.rotate_once().await.unwrap();
    assert_eq!(upstream.asked(), 1, "and not again before half of its life");
    t.clock.advance(CA_LIFE / 2);
    t.node.rotate_once().await.unwrap();
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn the_ca_is_there_after_a_restart_without_the_upstream() {
    let (t, upstream) = below(YEAR);
    t.node.rotate_once().await.unwrap();
    let (chain, _) = svid(&t).await.unwrap();
    let (directory, clock, kernel) = (Arc::clone(&t.directory), Arc::clone(&t.clock), Arc::clone(&t.kernel));
    drop(t);
    upstream.set(Signing { fails: Some("sealed".to_owned()), ..Signing::default() });
    let again = Setup {
        directory,
        clock,
        kernel: Some(kernel),
        upstream: Some(Box::new(upstream)),
        key_lifetime: CA_LIFE,
        ..super::spiffe::setup(1)
    };
    assert_eq!(svid(&again.build()).await.unwrap().0[1], chain[1]);
}

#[tokio::test]
async fn after_a_change_of_upstream_the_new_one_signs_and_the_old_root_is_trusted_until_it_is_over() {
    let setup = || Setup { key_lifetime: CA_LIFE, ..super::spiffe::setup(1) };
    let t = setup().build();
    svid(&t).await.unwrap();
    let old = t.node.authority.x509.roots();
    let (directory, clock, kernel) = (Arc::clone(&t.directory), Arc::clone(&t.clock), Arc::clone(&t.kernel));
    drop(t);
    let upstream = Arc::new(FakeUpstream::new(Arc::clone(&clock), YEAR));
    let above = Some(Box::new(Arc::clone(&upstream)) as Box<dyn agent_daemon::upstream::Upstream>);
    let t = Setup { directory, clock, kernel: Some(kernel), upstream: above, ..setup() }.build();
    assert!(matches!(svid(&t).await, Err(Refusal::Authority(Error::NoSigner { .. }))), "the old one signs no more");
    t.node.rotate_once().await.unwrap();
    let root = vec![upstream.certificate().to_vec()];
    assert_eq!(t.node.authority.x509.roots(), [old, root.clone()].concat());
    assert_eq!(svid(&t).await.unwrap().0.len(), 2);
    t.clock.advance(CA_LIFE);
    t.node.rotate_once().await.unwrap();
    assert_eq!(t.node.authority.x509.roots(), root);
}

#[tokio::test]
async fn what_an_upstream_signs_wrongly_is_refused_recorded_once_and_the_last_good_ca_goes_on() {
    let (t, upstream) = below(YEAR);
    t.node.rotate_once().await.unwrap();
    let before = svid(&t).await.unwrap().0[1].clone();
    t.clock.advance(CA_LIFE / 2);
    let good = Signing::default;
    let cases = [
        (Signing { fails: Some("it is sealed".to_owned()), ..good() }, "it is sealed"),
        (Signing { uri: "spiffe://other.example".to_owned(), ..good() }, "not for spiffe://example.org"),
        (Signing { uri: "spiffe://example.org/path".to_owned(), ..good() }, "not for spiffe://example.org"),
        (Signing { uri: "https://example.org".to_owned(), ..good() }, "not for spiffe://example.org"),
        (Signing { life: Some(CA_LIFE + Duration::from_secs(90)), ..good() }, "longer than was asked for"),
        (Signing { life: Some(CA_LIFE / 2), ..good() }, "no later than the one before it"),
        (Signing { is_ca: false, ..good() }, "not one of a CA"),
        (Signing { other_key: true, ..good() }, "no certificate is for the key"),
        (Signing { with_root: false, ..good() }, "nothing leads to a root"),
    ];
    for (signing, words) in cases {
        upstream.set(signing);
        let error = t.node.rotate_once().await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(svid(&t).await.unwrap().0[1], before);
    }
    let asked = upstream.asked();
    let records = || t.records_of("authority").iter().filter(|record| record["outcome"] == "deny").count();
    rotating(&t, "it is asked twice", || upstream.asked() >= asked + 2).await;
    assert_eq!(records(), 1, "one record for one thing that is wrong");
    assert_eq!(t.last("authority")["upstream"], "openbao");
    upstream.set(Signing::default());
    rotating(&t, "the next is there", || t.last("authority")["outcome"] == "allow").await;
    t.clock.advance(CA_LIFE / 3);
    t.node.rotate_once().await.unwrap();
    assert_ne!(svid(&t).await.unwrap().0[1], before);
}

#[tokio::test]
async fn no_svid_outlives_its_ca_nor_the_ca_its_root() {
    let (t, upstream) = below(Duration::from_secs(60));
    t.node.rotate_once().await.unwrap();
    // The CA says 600 s, and the root ends after 60.
    let ends_at = t.node.authority.x509.ends_at(t.node.clock.now()).unwrap();
    assert_eq!(ends_at.duration_since(t.node.clock.now()).as_secs(), 60);
    t.clock.advance(Duration::from_secs(61));
    assert!(matches!(svid(&t).await, Err(Refusal::Authority(Error::NoSigner { .. }))));
    let error = t.node.rotate_once().await.unwrap_err().to_string();
    assert!(error.contains("is over"), "{error}");
    assert_eq!(upstream.asked(), 2);
    assert_eq!(t.node.authority.x509.roots(), [upstream.certificate()], "others may still have something below it");
}

#[tokio::test]
async fn an_issuer_that_ends_soon_is_not_asked_for_ca_after_ca_that_end_with_it() {
    let (t, upstream) = below(Duration::from_secs(400));
    t.node.rotate_once().await.unwrap();
    let before = svid(&t).await.unwrap().0[1].clone();
    for second in 200..400 {
        t.clock.set(upstream.began_at() + Duration::from_secs(second));
        let error = t.node.rotate_once().await.unwrap_err().to_string();
        assert!(error.contains("no later than the one before it"), "{error}");
        assert_eq!(svid(&t).await.unwrap().0[1], before);
    }
    assert_eq!(stored_cas(&t), 1);
}

#[tokio::test]
async fn a_second_certificate_for_the_same_key_does_not_stand_in_for_the_one_that_was_looked_at() {
    let files = Files::new();
    files.write("roots.pem", &files.root_pem);
    let key = KeyPair::generate().unwrap();
    files.write_ca(&key, &ca_params("one", BasicConstraints::Constrained(0)));
    let t = on_disk(&files);
    // The right name below nobody's root, and the wrong one below ours.
    let right = ca_params("one", BasicConstraints::Constrained(0));
    let mut wrong = right.clone();
    wrong.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())];
    let nobody = Issuer::new(ca_params("nobody", BasicConstraints::Unconstrained), KeyPair::generate().unwrap());
    let (right, wrong) =
        (right.signed_by(&key, &nobody).unwrap().pem(), wrong.signed_by(&key, &files.root).unwrap().pem());
    files.write("ca.pem", &format!("{right}{wrong}"));
    let error = with_causes(&t.node.rotate_once().await.unwrap_err());
    assert!(error.contains("another certificate for the same key"), "{error}");
}

#[tokio::test]
async fn a_ca_of_a_moment_is_refused_and_a_start_goes_on_without_one() {
    let (t, upstream) = below(YEAR);
    upstream.set(Signing { life: Some(Duration::from_secs(59)), ..Signing::default() });
    let error = t.node.rotate_once().await.unwrap_err().to_string();
    assert!(error.contains("in less than 60 s"), "{error}");
    assert_eq!(stored_cas(&t), 0);
    upstream.set(Signing::default());
    t.node.rotate_once().await.unwrap();
    svid(&t).await.unwrap();
}

#[tokio::test]
async fn a_ca_signs_nothing_before_its_root_is_published_and_is_recorded_once() {
    let (t, upstream) = below(YEAR);
    t.node.rotate_once().await.unwrap();
    // There is room for no file of this name.
    let published = t.directory.path().join("keys/bundle.json");
    fs::remove_file(&published).unwrap();
    fs::create_dir(&published).unwrap();
    t.clock.advance(CA_LIFE);
    assert!(t.node.rotate_once().await.is_err());
    assert!(svid(&t).await.is_err(), "the old one is over, and the new one is known to nobody");
    fs::remove_dir(&published).unwrap();
    t.node.rotate_once().await.unwrap();
    svid(&t).await.unwrap();
    assert_eq!(upstream.asked(), 2);
    let records = || t.records_of("authority").len();
    assert_eq!(records(), 2);
    t.node.rotate_once().await.unwrap();
    assert_eq!(records(), 2);
}

#[tokio::test]
async fn the_first_ca_of_a_node_is_recorded() {
    let t = super::spiffe::setup(1).build();
    t.node.rotate_once().await.unwrap();
    let record = t.last("authority");
    assert_eq!((&record["outcome"], &record["upstream"]), (&"allow".into(), &"embedded".into()));
}

#[tokio::test]
async fn the_daemons_own_svid_is_recorded_and_made_anew_when_what_it_stands_on_changes() {
    let (t, _) = below(YEAR);
    assert!(t.node.own_svid("x").is_err(), "there is no CA yet");
    t.node.rotate_once().await.unwrap();
    let own = t.node.own_svid("x").unwrap().mark();
    let record = t.last("authority");
    assert_eq!(record["spiffe_id"], "spiffe://example.org/agent-daemon/x");
    assert!(t.node.is_current(&own));
    let start = t.node.clock.now();
    t.clock.set(start - Duration::from_secs(1));
    assert!(!t.node.is_current(&own), "the clock was set back");
    t.clock.set(start + CA_LIFE / 2);
    assert!(!t.node.is_current(&own), "half of its life is over");
    t.node.rotate_once().await.unwrap();
    let own = t.node.own_svid("x").unwrap().mark();
    assert!(t.node.is_current(&own));
    t.clock.advance(CA_LIFE / 3);
    t.node.rotate_once().await.unwrap();
    assert!(!t.node.is_current(&own), "another CA signs");
    assert!(matches!(t.node.own_svid("a b"), Err(OwnError::Name(_))));
}

#[tokio::test]
async fn a_clock_that_was_set_back_finds_the_ca_again_and_one_set_forward_asks_for_another() {
    let (t, upstream) = below(YEAR);
    let start = t.node.clock.now();
    t.node.rotate_once().await.unwrap();
    t.clock.advance(CA_LIFE * 2);
    t.node.rotate_once().await.unwrap();
    assert_eq!(upstream.asked(), 2);
    svid(&t).await.unwrap();
    t.clock.set(start);
    t.node.rotate_once().await.unwrap();
    svid(&t).await.unwrap();
}

/// A CA in files.
struct Files {
    folder: tempfile::TempDir,
    root: Issuer<'static, KeyPair>,
    root_pem: String,
}

impl Files {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params("root", BasicConstraints::Unconstrained);
        let root_pem = params.self_signed(&key).unwrap().pem();
        Self { folder: tempfile::tempdir().unwrap(), root: Issuer::new(params, key), root_pem }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// In one step, as whoever replaces such files should.
    fn write(&self, name: &str, text: &str) {
        let next = self.path("next");
        fs::write(&next, text).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, self.path(name)).unwrap();
    }

    fn write_ca(&self, key: &KeyPair, params: &CertificateParams) {
        self.write("ca.pem", &params.signed_by(key, &self.root).unwrap().pem());
        self.write("ca.key", &key.serialize_pem());
    }

    fn source(&self, with_bundle: bool) -> CaSource {
        let bundle = with_bundle.then(|| self.path("roots.pem"));
        CaSource::Disk(CaFiles { certificate: self.path("ca.pem"), key: self.path("ca.key"), bundle })
    }
}

fn ca_params(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI("spiffe://example.org".try_into().unwrap())];
    params
}

fn on_disk(files: &Files) -> TestNode {
    Setup { ca: files.source(true), ..super::spiffe::setup(1) }.build()
}

#[tokio::test]
async fn a_ca_in_files_signs_and_is_replaced_when_they_are() {
    let files = Files::new();
    files.write("roots.pem", &files.root_pem);
    files.write_ca(&KeyPair::generate().unwrap(), &ca_params("one", BasicConstraints::Constrained(0)));
    let t = on_disk(&files);
    let (chain, roots) = svid(&t).await.unwrap();
    assert_eq!(chain.len(), 2);
    assert_eq!(roots, ::pem::parse(&files.root_pem).unwrap().into_contents());
    assert_eq!(stored_cas(&t), 0, "the key is copied nowhere");
    t.node.rotate_once().await.unwrap();
    assert_eq!(svid(&t).await.unwrap().0[1], chain[1], "nothing changed");
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    files.write_ca(&other, &ca_params("two", BasicConstraints::Constrained(0)));
    t.node.rotate_once().await.unwrap();
    let (again, _) = svid(&t).await.unwrap();
    assert_ne!(again[1], chain[1]);
}

#[tokio::test]
async fn files_that_are_replaced_are_noticed_without_being_told() {
    let files = Files::new();
    files.write("roots.pem", &files.root_pem);
    files.write_ca(&KeyPair::generate().unwrap(), &ca_params("one", BasicConstraints::Constrained(0)));
    let t = on_disk(&files);
    let before = svid(&t).await.unwrap().0;
    let noticed = async {
        // It has looked once, and looks again by itself.
        tokio::time::sleep(Duration::from_secs(1)).await;
        files.write_ca(&KeyPair::generate().unwrap(), &ca_params("two", BasicConstraints::Constrained(0)));
        while svid(&t).await.unwrap().0[1] == before[1] {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        () = t.node.rotate_keys(CancellationToken::new()) => {}
        noticed = tokio::time::timeout(Duration::from_secs(30), noticed) => noticed.expect("the files are noticed"),
    }
}

#[tokio::test]
async fn files_that_are_of_no_use_are_refused_and_the_last_good_ca_goes_on() {
    let files = Files::new();
    files.write("roots.pem", &files.root_pem);
    let good = || ca_params("one", BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    files.write_ca(&key, &good());
    let t = on_disk(&files);
    let stranger = Files::new();
    let refusals: [(&str, &dyn Fn()); 12] = [
        ("no certificate is for the key", &|| files.write("ca.key", &KeyPair::generate().unwrap().serialize_pem())),
        ("neither P-256, P-384 nor RSA", &|| {
            files.write_ca(&KeyPair::generate_for(&PKCS_ED25519).unwrap(), &good());
        }),
        ("holds no PKCS#8 key", &|| {
            files.write("ca.key", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n");
        }),
        ("holds no certificates", &|| files.write("ca.pem", "nothing")),
        ("cannot read the CA from", &|| {
            fs::set_permissions(files.path("ca.key"), fs::Permissions::from_mode(0o604)).unwrap();
        }),
        ("cannot read the CA from", &|| fs::remove_file(files.path("ca.pem")).unwrap()),
        ("nothing leads to a root", &|| files.write("roots.pem", &stranger.folder_root())),
        ("not for spiffe://example.org", &|| {
            let mut params = good();
            params.subject_alt_names = vec![SanType::URI("spiffe://other.example".try_into().unwrap())];
            files.write_ca(&key, &params);
        }),
        ("does not allow to sign", &|| {
            let mut params = good();
            params.key_usages = vec![KeyUsagePurpose::CrlSign];
            files.write_ca(&key, &params);
        }),
        ("would not verify", &|| {
            let mut params = good();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            files.write_ca(&key, &params);
        }),
        ("would not verify", &|| {
            let mut params = good();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            files.write_ca(&key, &params);
        }),
        ("names something twice", &|| {
            files.write("ca.pem", include_str!("../vectors/ca-two-units.pem"));
            files.write("ca.key", include_str!("../vectors/ca-two-units.key"));
            files.write("roots.pem", include_str!("../vectors/ca-two-units.pem"));
        }),
    ];
    for (words, spoil) in refusals {
        files.write("roots.pem", &files.root_pem);
        files.write_ca(&key, &good());
        t.node.rotate_once().await.unwrap();
        let before = svid(&t).await.unwrap().0[1].clone();
        spoil();
        let error = with_causes(&t.node.rotate_once().await.unwrap_err());
        assert!(error.contains(words), "{words}: {error}");
        assert_eq!(svid(&t).await.unwrap().0[1], before, "{words}");
    }
}

#[tokio::test]
async fn of_two_roots_with_one_name_the_one_that_signed_says_when_it_ends() {
    let files = Files::new();
    let clock = Arc::new(FakeClock::default());
    let at = |seconds: u64| {
        let now = ::time::OffsetDateTime::from_unix_timestamp(clock.now().as_second()).unwrap();
        now + Duration::from_secs(seconds)
    };
    let root = |from: ::time::OffsetDateTime, to: ::time::OffsetDateTime, key: &KeyPair| {
        let mut params = ca_params("root", BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (from, to);
        params.self_signed(key).unwrap().pem()
    };
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let long = root(at(0), at(9000), &other);
    let begins_later = root(at(50), at(9000), &key);
    for (roots, seconds) in [
        (vec![root(at(0), at(100), &key), long.clone()], 100),
        (vec![long.clone(), root(at(0), at(100), &key)], 100),
        // The same root, signed again.
        (vec![root(at(0), at(100), &key), root(at(0), at(300), &key)], 300),
        (vec![root(at(0), at(100), &key), begins_later.clone()], 100),
    ] {
        files.write("roots.pem", &roots.concat());
        let issuer = Issuer::new(ca_params("root", BasicConstraints::Unconstrained), &key);
        let ca = KeyPair::generate().unwrap();
        let params = ca_params("ca", BasicConstraints::Constrained(0));
        files.write("ca.pem", &params.signed_by(&ca, &issuer).unwrap().pem());
        files.write("ca.key", &ca.serialize_pem());
        let t = Setup { clock: Arc::clone(&clock), ca: files.source(true), ..super::spiffe::setup(1) }.build();
        let ends_at = t.node.authority.x509.ends_at(clock.now()).unwrap();
        assert_eq!(ends_at.duration_since(clock.now()).as_secs(), seconds);
    }
    let t = Setup { clock, ca: files.source(true), ..super::spiffe::setup(1) }.build();
    files.write("roots.pem", &begins_later);
    let error = t.node.rotate_once().await.unwrap_err().to_string();
    assert!(error.contains("is not good yet"), "{error}");
}

#[tokio::test]
async fn a_ca_below_one_that_allows_none_is_refused() {
    let files = Files::new();
    files.write("roots.pem", &files.root_pem);
    files.write_ca(&KeyPair::generate().unwrap(), &ca_params("one", BasicConstraints::Constrained(0)));
    let t = on_disk(&files);
    // The middle allows no CA below it, and only somebody who verifies a whole chain finds out.
    let middle_key = KeyPair::generate().unwrap();
    let middle = ca_params("middle", BasicConstraints::Constrained(0));
    let middle_pem = middle.signed_by(&middle_key, &files.root).unwrap().pem();
    let middle = Issuer::new(middle, middle_key);
    let key = KeyPair::generate().unwrap();
    let below = ca_params("below", BasicConstraints::Unconstrained);
    files.write("ca.pem", &format!("{}{middle_pem}", below.signed_by(&key, &middle).unwrap().pem()));
    files.write("ca.key", &key.serialize_pem());
    let error = with_causes(&t.node.rotate_once().await.unwrap_err());
    assert!(error.contains("would not verify"), "{error}");
    svid(&t).await.unwrap();
}

impl Files {
    fn folder_root(&self) -> String {
        let key = KeyPair::generate().unwrap();
        ca_params("stranger", BasicConstraints::Unconstrained).self_signed(&key).unwrap().pem()
    }
}

fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
