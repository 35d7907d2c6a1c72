// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The SPIFFE Workload API as any client of it sees it.

use std::time::Duration;

use agent_daemon::audit::Slot;
use agent_daemon::clock::Clock as _;
use agent_daemon::node::Wanted;
use agent_daemon::testing::{FakeProc, Setup};
use agent_proto::spiffe::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest, X509svidResponse,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, Streaming};
use x509_parser::prelude::*;

use super::served::{Served, shell_on, soon, until};

const DEFAULT: &str = "spiffe://example.org/agent/a";
pub(crate) const SECOND: &str = "spiffe://example.org/agent/b";
pub(crate) const AUDIENCE: &str = "https://reports.example";

/// One identity, or two of which the first is the more specific; a destination for tokens, one for certificates.
pub(crate) fn setup(identities: usize) -> Setup {
    let gid = format!(", \"unix:gid:{}\"", rustix::process::getegid().as_raw());
    let mut entries = Setup::entry("agent", "agent/a", &gid).replace("groups", "hint = \"internal\"\ngroups");
    if identities > 1 {
        entries += &Setup::entry("second", "agent/b", "").replace("groups", "dns_names = [\"b.example\"]\ngroups");
    }
    let catalog = r#"
        [[destination]]
        name = "reports"
        audience = "https://reports.example"

        [[destination]]
        name = "mesh"
        audience = "spiffe://example.org"

        [[source]]
        name = "jwt"
        type = "jwt-svid"

        [[source]]
        name = "x509"
        type = "x509-svid"

        [[binding]]
        name = "reports-token"
        destination = "reports"
        identities = ["spiffe://example.org/agent/*"]
        source = "jwt"
        delivery = "workload-api"
        ttl = "1m"

        [[binding]]
        name = "certificates"
        destination = "mesh"
        identities = ["spiffe://example.org/agent/*"]
        source = "x509"
        delivery = "workload-api"
        ttl = "2s"
    "#;
    Setup { entries, catalog: catalog.to_owned(), ..Setup::default() }
}

pub(crate) fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

pub(crate) fn token_for(audience: &str) -> Request<JwtsvidRequest> {
    with_metadata(JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: String::new() })
}

async fn svids(served: &Served) -> Result<Streaming<X509svidResponse>, Status> {
    Ok(served.spiffe().await.fetch_x509svid(with_metadata(X509svidRequest {})).await?.into_inner())
}

/// The next message, which has to come.
pub(crate) async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    soon("a message comes", stream.message()).await.map(|message| message.unwrap())
}

fn uri(chain: &[u8]) -> String {
    let (_, certificate) = parse_x509_certificate(chain).unwrap();
    certificate.subject_alternative_name().unwrap().unwrap().value.general_names[0].to_string()
}

#[tokio::test]
async fn every_identity_gets_a_certificate_that_the_bundle_verifies_the_default_first() {
    let served = Served::new(setup(2));
    let mut stream = svids(&served).await.unwrap();
    let answer = next(&mut stream).await.unwrap();
    let ids: Vec<&str> = answer.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, [DEFAULT, SECOND]);
    let hints: Vec<&str> = answer.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["internal", ""]);
    for svid in &answer.svids {
        let (_, root) = parse_x509_certificate(&svid.bundle).unwrap();
        let (_, leaf) = parse_x509_certificate(&svid.x509_svid).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        assert_eq!(uri(&svid.x509_svid), format!("URI({})", svid.spiffe_id));
        assert!(!svid.x509_svid_key.is_empty());
    }
    let decisions = served.t.records_of("decision");
    assert_eq!(decisions.len(), 2, "one record for each");
    assert!(decisions.iter().all(|record| record["outcome"] == "allow" && record["credential_type"] == "x509-svid"));
    assert_eq!(served.t.node.leases.len(), 2);
}

#[tokio::test]
async fn a_certificate_is_replaced_at_half_its_life_and_the_old_lease_with_it() {
    let served = Served::new(setup(1));
    let mut stream = svids(&served).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    served.t.clock.advance(Duration::from_millis(1200));
    let second = next(&mut stream).await.unwrap();
    assert_ne!(first.svids[0].x509_svid_key, second.svids[0].x509_svid_key);
    assert_eq!(served.t.node.leases.len(), 1);
    assert_eq!(served.t.last("decision")["action"], "renew");
    assert_eq!(served.t.last("lease_ended")["cause"], "renewed");
}

#[tokio::test]
async fn an_exec_ends_the_stream_at_once() {
    let served = Served::new(setup(1));
    let mut stream = svids(&served).await.unwrap();
    next(&mut stream).await.unwrap();
    let mut bundles =
        served.spiffe().await.fetch_x509_bundles(with_metadata(X509BundlesRequest {})).await.unwrap().into_inner();
    next(&mut bundles).await.unwrap();
    let event = served.t.kernel.exec(served.t.tgid, |_| {});
    served.t.node.apply(event);
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(next(&mut bundles).await.unwrap_err().code(), Code::Unauthenticated);
    until("the leases ended", || served.t.node.leases.is_empty()).await;
    drop((stream, bundles));
    until("nobody is watched any more", || served.t.kernel.watched().is_empty()).await;
}

#[tokio::test]
async fn a_stream_without_a_lease_is_watched_and_found_out_by_the_sweep_when_the_event_is_lost() {
    let served = Served::new(setup(1));
    let mut bundles =
        served.spiffe().await.fetch_jwt_bundles(with_metadata(JwtBundlesRequest {})).await.unwrap().into_inner();
    next(&mut bundles).await.unwrap();
    assert_eq!(served.t.kernel.watched().len(), 1);
    let _lost = served.t.kernel.exec(served.t.tgid, |_| {});
    served.t.node.sweep_holders();
    assert_eq!(next(&mut bundles).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_change_of_user_ends_every_stream_at_the_next_sweep() {
    let proc = FakeProc::new();
    let served = Served::new(setup(1).with_proc(&proc));
    let mut stream = svids(&served).await.unwrap();
    next(&mut stream).await.unwrap();
    let mut bundles =
        served.spiffe().await.fetch_x509_bundles(with_metadata(X509BundlesRequest {})).await.unwrap().into_inner();
    next(&mut bundles).await.unwrap();
    proc.set_ids(served.t.tgid, 4_000_000_001, 4_000_000_001);
    served.t.node.sweep_holders();
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(next(&mut bundles).await.unwrap_err().code(), Code::Unauthenticated);
    until("the leases ended", || served.t.node.leases.is_empty()).await;
}

#[tokio::test]
async fn a_reload_is_told_at_once_and_one_that_takes_the_identity_ends_the_stream() {
    let served = Served::new(setup(1));
    let mut stream = svids(&served).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 1);
    served.t.sources.write_entries(&setup(2).entries);
    served.t.node.reload("test", None).unwrap();
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 2);
    served.t.sources.write_entries("");
    served.t.node.reload("test", None).unwrap();
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(served.t.last("decision")["reason"], "no_identity");
}

#[tokio::test]
async fn a_new_authority_is_told_at_once() {
    let served = Served::new(Setup { key_lifetime: Duration::from_secs(600), ..setup(1) });
    let mut stream = svids(&served).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    let mut keys =
        served.spiffe().await.fetch_jwt_bundles(with_metadata(JwtBundlesRequest {})).await.unwrap().into_inner();
    let before = next(&mut keys).await.unwrap();
    served.t.clock.advance(Duration::from_secs(301));
    served.t.node.authority.rotate(served.t.clock.now()).unwrap();
    let after = next(&mut keys).await.unwrap();
    let count =
        |bundle: &[u8]| serde_json::from_slice::<serde_json::Value>(bundle).unwrap()["keys"].as_array().unwrap().len();
    let own = "spiffe://example.org";
    assert_eq!((count(&before.bundles[own]), count(&after.bundles[own])), (1, 2));
    let second = next(&mut stream).await.unwrap();
    assert!(second.svids[0].bundle.starts_with(&first.svids[0].bundle));
    assert!(second.svids[0].bundle.len() > first.svids[0].bundle.len());
}

#[tokio::test]
async fn no_svid_outlives_its_issuer() {
    let served = Served::new(Setup { key_lifetime: Duration::from_secs(30), ..setup(1) });
    served.t.clock.advance(Duration::from_secs(10));
    let answer = served.spiffe().await.fetch_jwtsvid(token_for(AUDIENCE)).await.unwrap().into_inner();
    let claims = served.t.node.authority.jwt.verify_jwt(&answer.svids[0].svid).unwrap();
    let lease = served.t.last("decision");
    let issued = served.t.clock.now().as_second();
    assert_eq!(claims["exp"].as_i64().unwrap() - issued, 20, "and not the minute of the binding: {lease}");
}

#[tokio::test]
async fn a_token_is_for_the_audience_that_was_asked_and_validates_until_its_holder_is_over() {
    let served = Served::new(setup(2));
    let mut client = served.spiffe().await;
    let answer = client.fetch_jwtsvid(token_for(AUDIENCE)).await.unwrap().into_inner();
    let ids: Vec<&str> = answer.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, [DEFAULT, SECOND]);
    let one = with_metadata(JwtsvidRequest { audience: vec![AUDIENCE.to_owned()], spiffe_id: SECOND.to_owned() });
    let one = client.fetch_jwtsvid(one).await.unwrap().into_inner();
    assert_eq!(one.svids.len(), 1);
    let svid = one.svids[0].svid.clone();
    let ask = |audience: &str, svid: &str| {
        with_metadata(ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() })
    };
    let valid = client.validate_jwtsvid(ask(AUDIENCE, &svid)).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, SECOND);
    assert!(valid.claims.unwrap().fields.contains_key("exp"));
    for (audience, svid) in [("https://other.example", svid.as_str()), (AUDIENCE, "a.b.c"), (AUDIENCE, ""), ("", &svid)]
    {
        let refused = client.validate_jwtsvid(ask(audience, svid)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{audience} {svid}");
    }
    let records = served.t.records_of("caller_refused");
    let reasons: Vec<&str> = records.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["invalid_token", "invalid_token", "bad_request", "bad_request"]);
    assert_eq!(records[0]["detail"], "it is for another audience");
    let lease = served.t.last("decision")["lease_id"].as_str().unwrap().to_owned();
    let doomed = agent_daemon::node::Doomed::Lease(agent_daemon::credential::LeaseId::parse(&lease).unwrap());
    served.t.node.revoke(&doomed, "test".to_owned(), agent_daemon::audit::Caller::default()).unwrap();
    assert_eq!(client.validate_jwtsvid(ask(AUDIENCE, &svid)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_exit_ends_the_stream_although_somebody_else_keeps_the_connection() {
    let served = Served::new(setup(1));
    let mut stream = svids(&served).await.unwrap();
    next(&mut stream).await.unwrap();
    // The connection of this test stays open, as that of a child that inherited it would.
    let event = served.t.kernel.exit(served.t.tgid);
    served.t.node.apply(event);
    assert_eq!(next(&mut stream).await.unwrap_err().code(), Code::Unauthenticated);
    until("the leases ended", || served.t.node.leases.is_empty()).await;
    assert_eq!(served.t.last("lease_ended")["cause"], "exited");
}

#[tokio::test]
async fn the_bundles_are_what_verifies_and_those_who_came_together_do_not_come_back_together() {
    let served = Served::new(setup(2));
    let mut bundles =
        served.spiffe().await.fetch_x509_bundles(with_metadata(X509BundlesRequest {})).await.unwrap().into_inner();
    let answer = next(&mut bundles).await.unwrap();
    assert_eq!(answer.bundles.keys().collect::<Vec<_>>(), ["spiffe://example.org"]);
    let (rest, root) = parse_x509_certificate(&answer.bundles["spiffe://example.org"]).unwrap();
    assert!(rest.is_empty(), "one root");
    let mut names = Vec::new();
    let mut turns = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let svids = served.t.node.x509_svids(&served.t.peer(), &Wanted::All, &[]).await.unwrap();
        for (entry, svid) in &svids.svids {
            let (_, leaf) = parse_x509_certificate(&svid.chain).unwrap();
            leaf.verify_signature(Some(root.public_key())).unwrap();
            let names_of = |extension: &SubjectAlternativeName<'_>| {
                let dns = extension.general_names.iter().filter(|name| matches!(name, GeneralName::DNSName(_)));
                dns.map(ToString::to_string).collect::<Vec<_>>()
            };
            names.push((entry.id.to_string(), names_of(leaf.subject_alternative_name().unwrap().unwrap().value)));
            let life = svid.lease.expires_at.duration_since(svid.lease.issued_at).as_millis_f64();
            let part = svids.rotate_at.duration_since(svid.lease.issued_at).as_millis_f64() / life;
            assert!((0.4..=0.6).contains(&part), "{part}");
            turns.insert(svids.rotate_at);
        }
    }
    assert!(turns.len() > 1, "all would come back at {turns:?}");
    let of = |id: &str| names.iter().find(|(entry, _)| entry == id).map(|(_, names)| names.clone()).unwrap();
    assert!(of("agent").is_empty());
    assert_eq!(of("second"), ["DNSName(b.example)"]);
}

#[tokio::test]
async fn a_hint_that_two_have_picks_the_first_alone() {
    let mut both = setup(2);
    both.entries = both.entries.replace("dns_names = [\"b.example\"]", "hint = \"internal\"");
    let served = Served::new(both);
    let answer = next(&mut svids(&served).await.unwrap()).await.unwrap();
    let hints: Vec<&str> = answer.svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["internal", ""]);
}

#[tokio::test]
async fn while_nothing_can_sign_the_answer_says_so_and_is_recorded() {
    let served = Served::new(Setup { key_lifetime: Duration::from_secs(600), ..setup(1) });
    // Further than any key lives, before anybody makes the next.
    served.t.clock.advance(Duration::from_secs(100_000_000));
    for code in [
        served.spiffe().await.fetch_jwtsvid(token_for(AUDIENCE)).await.unwrap_err().code(),
        svids(&served).await.unwrap_err().code(),
    ] {
        assert_eq!(code, Code::Unavailable);
        assert_eq!(served.t.last("decision")["reason"], "authority_error");
    }
    // Whoever looks after the keys is told, and does not wait for his next look.
    let answered = async {
        while svids(&served).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let looks_again = async {
        served.t.node.rotate_once().await.unwrap();
        served.t.clock.advance(Duration::from_secs(100_000_000));
        tokio::time::timeout(Duration::from_secs(20), answered).await.expect("a new CA signs");
    };
    tokio::select! {
        () = served.t.node.rotate_keys(CancellationToken::new()) => {}
        () = looks_again => {}
    }
    served.spiffe().await.fetch_jwtsvid(token_for(AUDIENCE)).await.unwrap();
}

#[tokio::test]
async fn whoever_has_no_identity_is_denied_everything_and_recorded() {
    let served = Served::new(Setup { entries: String::new(), ..setup(1) });
    let mut client = served.spiffe().await;
    let codes = [
        client.fetch_x509svid(with_metadata(X509svidRequest {})).await.unwrap_err().code(),
        client.fetch_x509_bundles(with_metadata(X509BundlesRequest {})).await.unwrap_err().code(),
        client.fetch_jwtsvid(token_for(AUDIENCE)).await.unwrap_err().code(),
        client.fetch_jwt_bundles(with_metadata(JwtBundlesRequest {})).await.unwrap_err().code(),
        client
            .validate_jwtsvid(with_metadata(ValidateJwtsvidRequest { audience: "a".into(), svid: "a.b.c".into() }))
            .await
            .unwrap_err()
            .code(),
    ];
    assert_eq!(codes, [Code::PermissionDenied; 5]);
    let reasons: Vec<_> = served.t.records_of("decision").iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(reasons, ["no_identity"; 5]);
}

#[tokio::test]
async fn an_identity_without_a_binding_or_a_permit_is_denied() {
    let no_binding = setup(1).catalog.replace("source = \"x509\"", "source = \"jwt\"");
    let no_permit = "@id(\"tokens\") permit (principal, action, resource) when { context has credential && context.credential.type == \"jwt-svid\" };";
    for (setup, reason) in [
        (Setup { catalog: no_binding, ..setup(1) }, "no_binding"),
        (Setup { policies: no_permit.to_owned(), ..setup(1) }, "policy_no_permit"),
    ] {
        let served = Served::new(setup);
        assert_eq!(svids(&served).await.unwrap_err().code(), Code::PermissionDenied);
        assert_eq!(served.t.last("decision")["reason"], reason);
        assert!(served.t.node.leases.is_empty());
    }
}

#[tokio::test]
async fn the_audience_of_a_declared_destination_is_not_reached_around_its_bindings() {
    let any = r#"
        [[destination]]
        name = "any"
        audience = "*"

        [[destination]]
        name = "vault"
        audience = "https://vault.example"

        [[binding]]
        name = "any-token"
        destination = "any"
        identities = ["spiffe://example.org/agent/*"]
        source = "jwt"
        delivery = "workload-api"
    "#;
    let base = setup(1);
    let served = Served::new(Setup { catalog: base.catalog.clone() + any, ..base });
    let mut client = served.spiffe().await;
    let answer = client.fetch_jwtsvid(token_for("https://anything.example")).await.unwrap().into_inner();
    let claims = served.t.node.authority.jwt.verify_jwt(&answer.svids[0].svid).unwrap();
    assert_eq!(claims["aud"], serde_json::json!(["https://anything.example"]));
    assert_eq!(served.t.last("decision")["destination"], "any");
    let refused = client.fetch_jwtsvid(token_for("https://vault.example")).await.unwrap_err();
    assert_eq!((refused.code(), &served.t.last("decision")["reason"]), (Code::PermissionDenied, &"no_binding".into()));
}

#[tokio::test]
async fn several_audiences_are_one_token_only_where_they_may_be_and_each_is_permitted() {
    let forbid = format!(
        "{}@id(\"no\") forbid (principal, action, resource) when {{ context has credential && context.credential.audiences.contains(\"https://no.example\") }};",
        Setup::PERMIT
    );
    let any = "[[destination]]\nname = \"any\"\naudience = \"*\"\n[[binding]]\nname = \"any-token\"\ndestination = \"any\"\nidentities = [\"spiffe://example.org/agent/*\"]\nsource = \"jwt\"\ndelivery = \"workload-api\"\nttl = \"10s\"\n";
    let base = setup(1);
    let catalog = base.catalog.clone() + any;
    let served = Served::new(Setup { catalog, policies: forbid, max_audiences: 2, ..base });
    let mut client = served.spiffe().await;
    let ask = |second: &str| {
        let audience = vec![AUDIENCE.to_owned(), second.to_owned()];
        with_metadata(JwtsvidRequest { audience, spiffe_id: String::new() })
    };
    let answer = client.fetch_jwtsvid(ask("https://b.example")).await.unwrap().into_inner();
    let claims = served.t.node.authority.jwt.verify_jwt(&answer.svids[0].svid).unwrap();
    assert_eq!(claims["aud"], serde_json::json!([AUDIENCE, "https://b.example"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 10, "no longer than either");
    let refused = client.fetch_jwtsvid(ask("https://no.example")).await.unwrap_err();
    assert_eq!(
        (refused.code(), &served.t.last("decision")["reason"]),
        (Code::PermissionDenied, &"policy_forbid".into())
    );
}

#[tokio::test]
async fn a_client_that_fetches_without_end_loses_its_oldest_tokens_and_is_never_refused() {
    for (total, per_exec) in [(100, 3), (3, 100)] {
        let mut setup = setup(1);
        (setup.leases.total, setup.leases.per_exec) = (total, per_exec);
        let served = Served::new(setup);
        let mut client = served.spiffe().await;
        for _ in 0..10 {
            client.fetch_jwtsvid(token_for(AUDIENCE)).await.unwrap();
            served.t.clock.advance(Duration::from_millis(1));
        }
        assert_eq!(served.t.node.leases.len(), 3);
        let ended = served.t.records_of("lease_ended");
        assert_eq!(ended.len(), 7);
        assert!(ended.iter().all(|record| record["cause"] == "superseded"));
        // Tokens make room for a certificate too.
        let mut stream = svids(&served).await.unwrap();
        next(&mut stream).await.unwrap();
        assert_eq!(served.t.node.leases.len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_that_fetch_without_end_at_once_are_not_refused_either() {
    let mut setup = setup(1);
    setup.leases.per_exec = 16;
    setup.rates.burst = std::num::NonZeroU32::new(10_000).unwrap();
    let t = std::sync::Arc::new(setup.build());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let t = std::sync::Arc::clone(&t);
        tasks.spawn(async move {
            let peer = t.peer();
            for _ in 0..300 {
                t.node.jwt_svids(&peer, &[AUDIENCE.into()], None).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn a_stream_gets_new_certificates_when_the_clock_was_set_back() {
    let served = Served::new(setup(1));
    let mut stream = svids(&served).await.unwrap();
    let first = next(&mut stream).await.unwrap();
    let now = served.t.clock.now();
    served.t.clock.set(now - Duration::from_secs(600));
    let second = next(&mut stream).await.unwrap();
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
}

#[tokio::test]
async fn a_child_that_inherits_the_connection_gets_nothing_and_ends_it() {
    let served = Served::new(setup(1));
    let stream = std::os::unix::net::UnixStream::connect(&served.spiffe).unwrap();
    shell_on(stream.try_clone().unwrap(), "printf 'PRI * HTTP/2.0'");
    until("the writer is found out", || !served.t.records_of("caller_refused").is_empty()).await;
    let record = served.t.last("caller_refused");
    assert_eq!((&record["socket"], &record["reason"]), (&"spiffe".into(), &"originator_mismatch".into()));
}

#[tokio::test]
async fn streams_do_not_hold_up_the_stop() {
    let served = Served::new(setup(1));
    let mut stream = svids(&served).await.unwrap();
    next(&mut stream).await.unwrap();
    let (stopped, last) = tokio::join!(served.stop(), next(&mut stream));
    assert_eq!(last.unwrap_err().code(), Code::Unavailable);
    drop(stopped);
}

/// All the room that the audit log has.
fn full(served: &Served) -> Vec<Slot> {
    std::iter::from_fn(|| served.t.node.log.reserve().ok()).collect()
}

#[tokio::test]
async fn what_is_missing_for_a_moment_ends_no_stream_and_takes_no_identity_away() {
    let mut setup = setup(2);
    // As many as there are: a new one has to take the place of its own.
    setup.leases.total = 2;
    let served = Served::new(setup);
    let mut stream = svids(&served).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 2);
    // The log takes nothing for a while, so nothing is issued.
    let held = full(&served);
    served.t.clock.advance(Duration::from_millis(1200));
    let waits = tokio::time::timeout(Duration::from_millis(1500), stream.message()).await;
    assert!(waits.is_err(), "something is said: {waits:?}");
    drop(held);
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 2);
}

#[tokio::test]
async fn a_change_that_comes_while_something_is_missing_is_told_as_soon_as_it_is_there() {
    let served = Served::new(setup(1));
    let mut stream = svids(&served).await.unwrap();
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 1);
    served.t.sources.write_entries(&setup(2).entries);
    served.t.node.reload("test", None).unwrap();
    let held = full(&served);
    let waits = tokio::time::timeout(Duration::from_millis(500), stream.message()).await;
    assert!(waits.is_err(), "something is said: {waits:?}");
    drop(held);
    // The clock stands still, so no certificate is due.
    assert_eq!(next(&mut stream).await.unwrap().svids.len(), 2);
}
