// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What is released, and for what it is not.

use std::sync::Arc;

use agent_daemon::clock::Clock as _;
use agent_daemon::node::{Ask, ConnectionRef, Refusal};
use agent_daemon::process::{ExecId, Namespaces, Protocol};
use agent_daemon::testing::{Call, Fault, Setup, TestNode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use serde_json::Value;

use super::{counts, denied, is_active, release, token};

/// What a resource server does: the key by its id out of the JWKS, then the signature. Shares no code with the daemon.
fn verify(jwks: &[u8], token: &str) -> Value {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("not a compact JWS") };
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!(header["alg"], "ES256");
    let jwks: Value = serde_json::from_slice(jwks).unwrap();
    let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
    let mut point = vec![4];
    point.extend(decode(key["x"].as_str().unwrap()));
    point.extend(decode(key["y"].as_str().unwrap()));
    let signed = &token[..token.rfind('.').unwrap()];
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), &decode(signature)).unwrap();
    serde_json::from_slice(&decode(claims)).unwrap()
}

#[tokio::test]
async fn an_allowed_release_is_a_token_that_verifies_and_introspects_as_active() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let claims = verify(&t.node.authority.jwt.jwks().unwrap(), &token(&released));
    assert_eq!(claims["sub"], "spiffe://example.org/agent/a");
    assert_eq!(claims["aud"], serde_json::json!(["https://reports.example"]));
    assert_eq!(claims["jti"], released.lease.id.as_str());
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
    assert!(is_active(&t, &released));
    assert_eq!(t.kernel.watched(), [ExecId(1001)]);
    let record = t.last("decision");
    assert_eq!(record["outcome"], "allow");
    assert_eq!(record["lease_id"], released.lease.id.as_str());
    assert_eq!(record["policy_ids"], serde_json::json!(["release"]));
    assert_eq!(record["connection"]["matched_by"], "cidr 192.0.2.0/24");
    assert_eq!(record["exec"]["exec_id"], 1001);
}

#[tokio::test]
async fn a_connection_can_be_named_by_its_addresses() {
    let t = Setup::default().build();
    let (local, remote) = ("[::ffff:192.0.2.9]:40000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    t.kernel.connect_from(t.tgid, Some("192.0.2.9:40000".parse().unwrap()), remote);
    let ask = Ask { connection: Some(ConnectionRef::Tuple { local, remote }), ..t.ask() };
    t.node.release(&t.peer(), ask).await.unwrap();
}

#[tokio::test]
async fn addresses_are_looked_up_in_the_callers_own_network_namespace() {
    let t = Setup::default().build();
    let (local, remote) = ("192.0.2.9:40000".parse().unwrap(), "192.0.2.1:443".parse().unwrap());
    // As the kernel says that it was elsewhere, and `/proc` that it is here now.
    t.kernel.change(t.tgid, |instance| instance.namespaces.net += 1);
    t.kernel.connect_from(t.tgid, Some(local), remote);
    let ask = Ask { connection: Some(ConnectionRef::Tuple { local, remote }), ..t.ask() };
    assert_eq!(denied(&t, t.node.release(&t.peer(), ask).await), "connection_unknown");
}

#[tokio::test]
async fn what_is_not_asked_for_rightly_is_denied_with_its_reason() {
    type Wrong = fn(&TestNode) -> Ask;
    let wrong: [(&str, Wrong); 8] = [
        ("no_destination", |t| Ask { destination: "payroll".to_owned(), ..t.ask() }),
        ("no_destination", |t| Ask { destination: String::new(), ..t.ask() }),
        ("no_binding", |t| Ask { binding: Some("other".to_owned()), ..t.ask() }),
        ("identity_not_yours", |t| Ask { spiffe_id: Some("spiffe://example.org/agent/b".to_owned()), ..t.ask() }),
        ("connection_required", |t| Ask { connection: None, ..t.ask() }),
        ("connection_unknown", |t| t.ask_on(1)),
        ("connection_elsewhere", |t| t.ask_on(t.connect("203.0.113.1:443"))),
        ("connection_elsewhere", |t| t.ask_on(t.connect("192.0.2.1:8443"))),
    ];
    for (reason, ask) in wrong {
        let t = Setup::default().build();
        t.resolver.tell("reports.example", &["192.0.2.77"]);
        let ask = ask(&t);
        assert_eq!(denied(&t, t.node.release(&t.peer(), ask.clone()).await), reason, "{ask:?}");
    }
}

#[tokio::test]
async fn a_datagram_socket_is_not_a_connection_to_a_tcp_destination() {
    let t = Setup::default().build();
    let cookie = t.connect("192.0.2.1:443");
    t.kernel.change_connection(cookie, |connection| connection.protocol = Protocol::UDP);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask_on(cookie)).await), "connection_elsewhere");
}

#[tokio::test]
async fn an_attempt_that_nobody_answered_is_no_connection() {
    let t = Setup::default().build();
    let cookie = t.connect("192.0.2.1:443");
    t.kernel.change_connection(cookie, |connection| connection.is_open = false);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask_on(cookie)).await), "connection_not_open");
}

#[tokio::test]
async fn a_closed_connection_is_no_connection() {
    let t = Setup::default().build();
    let cookie = t.connect("192.0.2.1:443");
    t.kernel.close(cookie);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask_on(cookie)).await), "connection_unknown");
}

#[tokio::test]
async fn the_connection_of_a_parent_or_child_is_not_ones_own() {
    let t = Setup::default().build();
    t.kernel.fork(t.tgid, 999_999);
    let of_child = t.kernel.connect(999_999, "192.0.2.1:443".parse().unwrap());
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask_on(of_child)).await), "connection_not_yours");
    let record = t.last("decision");
    assert_eq!(record["expected"], "opened by x1001");
    assert_eq!(record["actual"], "opened by x1002");
}

#[tokio::test]
async fn the_connection_of_the_image_before_exec_is_not_ones_own() {
    let t = Setup::default().build();
    let before = t.connect("192.0.2.1:443");
    t.kernel.exec(t.tgid, |_| {});
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask_on(before)).await), "connection_not_yours");
}

#[tokio::test]
async fn a_connection_carries_one_credential() {
    let t = Setup::default().build();
    let cookie = t.connect("192.0.2.1:443");
    let peer = t.peer();
    let first = t.node.release(&peer, t.ask_on(cookie)).await.unwrap();
    let second = t.node.release(&peer, t.ask_on(cookie)).await;
    assert!(matches!(second, Err(Refusal::Denied { .. })));
    assert_eq!(t.last("decision")["reason"], "connection_used");
    assert!(is_active(&t, &first), "the first one is not touched");
    assert_eq!(counts(&t), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_on_one_connection_exactly_one_gets_a_credential() {
    let t = Arc::new(Setup::default().build());
    let cookie = t.connect("192.0.2.1:443");
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let t = Arc::clone(&t);
        asking.spawn(async move { t.node.release(&t.peer(), t.ask_on(cookie)).await.is_ok() });
    }
    let granted = asking.join_all().await.into_iter().filter(|granted| *granted).count();
    assert_eq!(granted, 1);
    assert_eq!(counts(&t), (1, 1, 0));
    let used = t.records_of("decision").iter().filter(|record| record["reason"] == "connection_used").count();
    assert_eq!(used, 63, "every one of the others has its record");
}

#[tokio::test]
async fn without_identity_the_nearest_entry_and_the_one_differing_fact_are_named() {
    let entries = Setup::entry("near", "agent/a", r#", "unix:gid:4000000000""#);
    let t = Setup { entries, ..Setup::default() }.build();
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "no_identity");
    let record = t.last("decision");
    assert_eq!(record["near_misses"][0]["entry_id"], "near");
    assert_eq!(record["near_misses"][0]["differences"].as_array().unwrap().len(), 1);
    assert_eq!(record["expected"], "unix:gid:4000000000");
    let gid = rustix::process::getegid().as_raw();
    assert_eq!(record["actual"], format!("unix:gid:{gid}"));
    assert_eq!(record.get("spiffe_id"), None);
}

#[tokio::test]
async fn a_changed_executable_has_no_path_and_so_no_identity() {
    let t = Setup::default().build();
    t.kernel.change(t.tgid, |instance| instance.exe.inode += 1);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "no_identity");
    assert!(t.last("decision")["exec"].get("sha256").is_none(), "another file's hash is not its hash");
}

#[tokio::test]
async fn a_name_in_another_mount_or_user_namespace_is_only_a_claim() {
    let elsewhere: [fn(&mut Namespaces); 2] = [|namespaces| namespaces.mnt += 1, |namespaces| namespaces.user += 1];
    for change in elsewhere {
        let t = Setup::default().build();
        t.kernel.change(t.tgid, |instance| change(&mut instance.namespaces));
        assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "no_identity");
        let record = t.last("decision");
        assert!(record["exec"]["sha256"].is_string(), "the content is measured wherever it runs: {record}");
        let note = record["near_misses"][0]["differences"][0]["note"].as_str().unwrap_or_default().to_owned();
        assert!(note.contains("claimed"), "{record}");
    }
}

#[tokio::test]
async fn an_entry_can_refuse_processes_that_are_older_than_the_programs() {
    let entries = format!("{}\nseeded = false", Setup::entry("agent", "agent/a", ""));
    let t = Setup { entries, ..Setup::default() }.build();
    t.kernel.change(t.tgid, |instance| instance.flags.0 |= agent_ebpf::flags::SEEDED);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "no_identity");
}

#[tokio::test]
async fn policy_has_the_last_word() {
    let permit = Setup::PERMIT;
    for (reason, policies) in [
        ("policy_no_permit", r#"@id("x") permit (principal, action == Action::"attest", resource);"#.to_owned()),
        ("policy_forbid", format!(r#"{permit} @id("no") forbid (principal, action == Action::"release", resource);"#)),
        (
            "policy_error",
            format!(
                r#"{permit} @id("overflow") forbid (principal, action == Action::"release", resource)
                   when {{ context.evidence.uid + 9223372036854775807 + 9223372036854775807 > 0 }};"#
            ),
        ),
    ] {
        let t = Setup { policies, ..Setup::default() }.build();
        assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), reason);
    }
}

#[tokio::test]
async fn a_destination_in_audit_mode_releases_against_policy_and_says_so() {
    let catalog = Setup::catalog("audit", "required", "jwt");
    let policies = r#"@id("no") forbid (principal, action == Action::"release", resource);"#.to_owned();
    let t = Setup { catalog, policies, ..Setup::default() }.build();
    let released = release(&t).await;
    assert!(is_active(&t, &released));
    let record = t.last("decision");
    assert_eq!((&record["outcome"], &record["audit_mode"]), (&"allow".into(), &true.into()));
    assert_eq!(record["reason"], "policy_forbid");
    // Audit mode overrules policy, not the proof of the connection.
    let unproved = t.node.release(&t.peer(), Ask { connection: None, ..t.ask() }).await;
    assert!(matches!(unproved, Err(Refusal::Denied { .. })));
}

#[tokio::test]
async fn an_error_in_policy_denies_even_in_audit_mode() {
    let catalog = Setup::catalog("audit", "required", "jwt");
    let policies = format!(
        r#"{} @id("overflow") permit (principal, action == Action::"release", resource)
           when {{ context.evidence.uid + 9223372036854775807 + 9223372036854775807 > 0 }};"#,
        Setup::PERMIT
    );
    let t = Setup { catalog, policies, ..Setup::default() }.build();
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask()).await), "policy_error");
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_recorded_and_may_pass() {
    let t = Setup::default().build();
    t.resolver.go_down();
    let cookie = t.connect("203.0.113.1:443");
    let refusal = t.node.release(&t.peer(), t.ask_on(cookie)).await.unwrap_err();
    let Refusal::Unavailable { decision_id } = refusal else { panic!("{refusal:?}") };
    let record = t.last("decision");
    assert_eq!(record["decision_id"], *decision_id);
    assert_eq!((&record["outcome"], &record["reason"]), (&"deny".into(), &"resolve_failed".into()));
    assert!(t.node.leases.is_empty());
}

#[tokio::test]
async fn an_address_counts_only_if_the_daemon_itself_resolves_the_name_to_it() {
    let t = Setup::default().build();
    t.resolver.tell("reports.example", &["203.0.113.5"]);
    let there = t.connect("203.0.113.5:443");
    t.node.release(&t.peer(), t.ask_on(there)).await.unwrap();
    assert_eq!(t.last("decision")["connection"]["matched_by"], "resolved reports.example");
    let elsewhere = t.connect("203.0.113.6:443");
    assert!(t.node.release(&t.peer(), t.ask_on(elsewhere)).await.is_err());
    assert_eq!(t.last("decision")["reason"], "connection_elsewhere");
}

#[tokio::test]
async fn records_that_cannot_be_read_release_nothing() {
    for call in [Call::Process, Call::Current, Call::Connection] {
        for fault in [Fault::Map, Fault::Unstable, Fault::Malformed] {
            let t = Setup::default().build();
            let (peer, ask) = (t.peer(), t.ask());
            t.kernel.fail(call, fault);
            let refusal = t.node.release(&peer, ask.clone()).await.unwrap_err();
            let Refusal::Caller(failure) = refusal else { panic!("{call:?} {fault:?}: {refusal:?}") };
            assert_eq!(failure.reason(), "unavailable", "{call:?} {fault:?}");
            assert_eq!(counts(&t), (0, 0, 0), "{call:?} {fault:?}");
            t.kernel.mend();
            t.node.release(&peer, ask).await.unwrap();
        }
    }
}

#[tokio::test]
async fn records_that_fail_after_issuing_end_the_lease() {
    for call in [Call::Current, Call::Connection] {
        let t = Setup::default().build();
        let (peer, ask) = (t.peer(), t.ask());
        t.kernel.before(Call::Watch, 1, move |kernel| kernel.fail(call, Fault::Map));
        assert!(matches!(t.node.release(&peer, ask).await, Err(Refusal::Caller(_))), "{call:?}");
        assert_eq!(counts(&t), (0, 1, 1), "{call:?}");
    }
}

#[tokio::test]
async fn a_holder_that_cannot_be_watched_still_gets_its_credential_and_the_sweep_ends_it() {
    let t = Setup::default().build();
    t.kernel.fail(Call::Watch, Fault::Map);
    let released = release(&t).await;
    assert!(t.kernel.watched().is_empty());
    let _lost = t.kernel.exit(t.tgid);
    t.node.sweep_holders();
    assert!(!is_active(&t, &released));
    assert_eq!(t.last("lease_ended")["cause"], "exited");
}

#[tokio::test]
async fn a_static_secret_is_released_as_it_is_and_its_absence_is_a_denial() {
    let catalog = Setup::catalog("enforce", "required", "key");
    let t = Setup { catalog, ..Setup::default() }.build();
    let refusal = t.node.release(&t.peer(), t.ask()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Unavailable { .. }), "{refusal:?}");
    assert_eq!(t.last("decision")["reason"], "secret_missing");
    assert!(t.node.leases.is_empty());
    t.node.secrets.put("api-key", b"s3cret").unwrap();
    assert_eq!(release(&t).await.secret.as_slice(), b"s3cret");
}

#[tokio::test]
async fn a_binding_without_observed_connection_releases_without_one_but_checks_one_that_is_named() {
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let t = Setup { catalog, ..Setup::default() }.build();
    let elsewhere = t.connect("203.0.113.1:443");
    t.resolver.tell("reports.example", &["192.0.2.1"]);
    assert_eq!(denied(&t, t.node.release(&t.peer(), t.ask_on(elsewhere)).await), "connection_elsewhere");
    let released = t.node.release(&t.peer(), Ask { connection: None, ..t.ask() }).await.unwrap();
    assert_eq!(released.lease.cookie, None);
    assert!(is_active(&t, &released));
}

#[tokio::test]
async fn the_lifetime_is_the_bindings_and_ends_to_the_second() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let until = released.lease.expires_at.duration_since(t.clock.now());
    assert_eq!(until, jiff::SignedDuration::from_mins(5));
    t.clock.set(released.lease.expires_at);
    assert!(!is_active(&t, &released), "at its expiry it is over, swept or not");
}

#[tokio::test]
async fn a_token_says_what_is_known_of_its_holder_only_where_the_binding_asks_for_it() {
    let plain = Setup::catalog("enforce", "required", "jwt");
    let catalog = plain.replace("ttl = \"5m\"", "ttl = \"5m\"\nevidence = true");
    let t = Setup { catalog, ..Setup::default() }.build();
    let released = release(&t).await;
    let claims = t.node.authority.jwt.verify_jwt(&token(&released)).unwrap();
    let (att, record) = (&claims["att"], t.last("decision"));
    assert_eq!(att["exec_id"], format!("x{}", record["exec"]["exec_id"]));
    assert_eq!(att["boot_id"], agent_daemon::testing::BOOT_ID);
    assert_eq!(att["exe"]["sha256"], record["exec"]["sha256"]);
    assert_eq!(att["exe"]["source"], "measured");
    assert_eq!(att["policy_generation"], record["policy_generation"]);
    let ancestors = record.get("lineage").and_then(|lineage| lineage.as_array()).map_or(0, Vec::len);
    assert_eq!(att["lineage"]["depth"], ancestors);
    let t = Setup { catalog: plain, ..Setup::default() }.build();
    let claims = t.node.authority.jwt.verify_jwt(&token(&release(&t).await)).unwrap();
    assert!(!claims.contains_key("att"));
}
