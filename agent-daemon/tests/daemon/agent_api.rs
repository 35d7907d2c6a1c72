// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The agents' socket with a real client.

use std::sync::Arc;
use std::time::Duration;

use agent_daemon::api::Limits;
use agent_daemon::testing::{FakeProc, Setup};
use agent_proto::admin::StatusRequest;
use agent_proto::admin::admin_service_client::AdminServiceClient;
use agent_proto::v1::agent_service_client::AgentServiceClient;
use agent_proto::v1::{
    AttestConnectionRequest, AttestRequest, ConnectionRef, GiveBackRequest, Provenance, ReleaseRequest, RenewRequest,
    Tuple, connection_ref,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::counts;
use super::served::{Served, channel, soon, until};

#[tokio::test]
async fn a_caller_learns_who_it_is() {
    let served = Served::new(Setup::default());
    let caller = served.agent().await.attest(AttestRequest {}).await.unwrap().into_inner().caller.unwrap();
    assert_eq!((caller.exec_id, caller.tgid), (1001, served.t.tgid));
    assert_eq!(caller.spiffe_ids, ["spiffe://example.org/agent/a"]);
    let uid = format!("unix:uid:{}", rustix::process::geteuid().as_raw());
    let selector = caller.selectors.iter().find(|selector| selector.value == uid).unwrap();
    assert_eq!(selector.provenance(), Provenance::Kernel);
    let sha256 = caller.selectors.iter().find(|selector| selector.value.starts_with("unix:sha256:")).unwrap();
    assert_eq!(sha256.provenance(), Provenance::Measured);
}

#[tokio::test]
async fn a_credential_is_released_renewed_and_given_back() {
    let served = Served::new(Setup::default());
    let mut agent = served.agent().await;
    let first = agent.release(served.ask()).await.unwrap().into_inner();
    let credential = first.credential.unwrap();
    assert_eq!((credential.r#type.as_str(), credential.audience.as_str()), ("jwt-svid", "https://reports.example"));
    let token = |secret: Vec<u8>| String::from_utf8(secret).unwrap();
    let first_token = token(credential.secret);
    assert!(served.t.node.introspect(&first_token).is_active());
    assert_eq!(served.t.last("decision")["decision_id"], first.decision_id.as_str());
    let lease_id = first.lease.unwrap().lease_id;
    let second = agent.renew(RenewRequest { lease_id, ..RenewRequest::default() }).await.unwrap().into_inner();
    let second_token = token(second.credential.unwrap().secret);
    assert!(!served.t.node.introspect(&first_token).is_active());
    assert!(served.t.node.introspect(&second_token).is_active());
    let lease_id = second.lease.unwrap().lease_id;
    agent.give_back(GiveBackRequest { lease_id: lease_id.clone() }).await.unwrap();
    agent.give_back(GiveBackRequest { lease_id }).await.unwrap();
    assert!(!served.t.node.introspect(&second_token).is_active());
    assert_eq!(counts(&served.t), (0, 2, 2));
}

#[tokio::test]
async fn a_denial_tells_its_id_and_nothing_else() {
    let served = Served::new(Setup::default());
    let ask = ReleaseRequest { destination: "payroll".to_owned(), ..served.ask() };
    let status = served.agent().await.release(ask).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let record = served.t.last("decision");
    assert!(status.message().contains(record["decision_id"].as_str().unwrap()));
    for told in ["payroll", "no_destination", "example.org", "agent/a", "reports"] {
        assert!(!status.message().contains(told), "{}", status.message());
    }
    assert!(
        status.details().is_empty()
            && status
                .metadata()
                .keys()
                .all(|key| format!("{key:?}").contains("date") || format!("{key:?}").contains("content-")),
        "{:?}",
        status.metadata()
    );
}

#[tokio::test]
async fn a_malformed_request_names_its_field_and_decides_nothing() {
    let served = Served::new(Setup::default());
    let mut agent = served.agent().await;
    let tuple = |local: &str, port| ConnectionRef {
        by: Some(connection_ref::By::Tuple(Tuple {
            local_address: local.to_owned(),
            local_port: port,
            remote_address: "192.0.2.1".to_owned(),
            remote_port: 443,
        })),
    };
    let good = served.ask();
    for (field, ask) in [
        ("destination", ReleaseRequest { destination: String::new(), ..good.clone() }),
        ("destination", ReleaseRequest { destination: "x".repeat(129), ..good.clone() }),
        ("destination", ReleaseRequest { destination: "a\nb".to_owned(), ..good.clone() }),
        ("binding", ReleaseRequest { binding: "x".repeat(129), ..good.clone() }),
        ("spiffe_id", ReleaseRequest { spiffe_id: "x".repeat(2049), ..good.clone() }),
        ("traceparent", ReleaseRequest { traceparent: "0".repeat(65), ..good.clone() }),
        (
            "connection.cookie",
            ReleaseRequest {
                connection: Some(ConnectionRef { by: Some(connection_ref::By::Cookie(0)) }),
                ..good.clone()
            },
        ),
        ("connection.tuple", ReleaseRequest { connection: Some(tuple("nonsense", 1)), ..good.clone() }),
        ("connection.tuple", ReleaseRequest { connection: Some(tuple("192.0.2.9", 65536)), ..good.clone() }),
    ] {
        let status = agent.release(ask).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        assert!(status.message().starts_with(field), "{field}: {status:?}");
    }
    for lease_id in ["", "x", "../../etc", &"A".repeat(23), &"A".repeat(100_000)] {
        let status = agent.renew(RenewRequest { lease_id: lease_id.to_owned(), ..RenewRequest::default() }).await;
        assert_ne!(status.unwrap_err().code(), Code::Ok);
        assert!(agent.give_back(GiveBackRequest { lease_id: lease_id.to_owned() }).await.is_err());
    }
    assert!(agent.attest_connection(AttestConnectionRequest::default()).await.is_err());
    assert!(served.t.records_of("decision").is_empty());
    agent.release(good).await.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_before_it_is_read() {
    let served = Served::with(Setup::default(), |config| config.max_message_bytes = 4096);
    let mut agent = served.agent().await;
    let ask = ReleaseRequest { traceparent: "x".repeat(100_000), ..served.ask() };
    let status = agent.release(ask).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    assert!(served.t.records_of("decision").is_empty());
    agent.release(served.ask()).await.unwrap();
}

#[tokio::test]
async fn exec_after_accept_leaves_a_dead_channel_that_answers_nothing() {
    let served = Served::new(Setup::default());
    let mut old = served.agent().await;
    let lease_id = old.release(served.ask()).await.unwrap().into_inner().lease.unwrap().lease_id;
    served.t.kernel.exec(served.t.tgid, |_| {});
    let statuses = [
        old.attest(AttestRequest {}).await.map(|_| ()).unwrap_err(),
        old.release(served.ask()).await.map(|_| ()).unwrap_err(),
        old.renew(RenewRequest { lease_id: lease_id.clone(), ..RenewRequest::default() })
            .await
            .map(|_| ())
            .unwrap_err(),
        old.give_back(GiveBackRequest { lease_id }).await.map(|_| ()).unwrap_err(),
    ];
    for status in statuses {
        assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "originator gone"));
    }
    assert_eq!(served.t.records_of("caller_refused").len(), 4);
    served.agent().await.release(served.ask()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_process_is_cut_off_at_the_door_and_recorded() {
    let served = Served::new(Setup::default());
    served.t.kernel.forget(served.t.tgid);
    let mut stream = UnixStream::connect(&served.agent).await.unwrap();
    let read = soon("the connection ends", stream.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "nothing is answered: {read:?}");
    assert_eq!(served.t.last("caller_refused")["reason"], "unresolvable");
}

#[tokio::test]
async fn one_user_cannot_take_all_connections() {
    let limits = Limits { connections: 10, connections_of_one: 2 };
    let served = Served::with(Setup::default(), |config| config.limits = limits);
    let (first, mut second) = (served.agent().await, served.agent().await);
    second.attest(AttestRequest {}).await.unwrap();
    let mut third = UnixStream::connect(&served.agent).await.unwrap();
    let read = soon("the third is cut off", third.read(&mut [0; 1])).await;
    assert!(matches!(read, Ok(0) | Err(_)));
    assert_eq!(served.t.last("caller_refused")["reason"], "connection_limit");
    second.attest(AttestRequest {}).await.unwrap();
    drop(first);
    served.until_admitted().await;
}

async fn health(path: &std::path::Path, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let checked = HealthClient::new(channel(path).await).check(request).await;
    checked.map(|response| response.into_inner().status()).map_err(|status| status.code())
}

async fn reflected(path: &std::path::Path) -> Result<Vec<String>, Code> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel(path).await);
    let called = client.server_reflection_info(tokio_stream::once(request)).await;
    let mut stream = called.map_err(|status| status.code())?.into_inner();
    let response: ServerReflectionResponse = stream.next().await.unwrap().map_err(|status| status.code())?;
    let Some(MessageResponse::ListServicesResponse(list)) = response.message_response else { panic!("{response:?}") };
    Ok(list.service.into_iter().map(|service| service.name).collect())
}

#[tokio::test]
async fn health_is_on_both_sockets_each_for_its_own_service() {
    let served = Served::new(Setup::default());
    let (agent, admin) = ("agent.v1.AgentService", "agent.admin.v1.AdminService");
    assert_eq!(health(&served.agent, "").await, Ok(ServingStatus::Serving));
    assert_eq!(health(&served.agent, agent).await, Ok(ServingStatus::Serving));
    assert_eq!(health(&served.agent, admin).await, Err(Code::NotFound));
    assert_eq!(health(&served.admin, "").await, Ok(ServingStatus::Serving));
    assert_eq!(health(&served.admin, admin).await, Ok(ServingStatus::Serving));
    assert_eq!(health(&served.admin, agent).await, Err(Code::NotFound));
}

#[tokio::test]
async fn reflection_is_on_the_admin_socket_only() {
    let served = Served::new(Setup::default());
    assert_eq!(reflected(&served.agent).await, Err(Code::Unimplemented));
    let services = reflected(&served.admin).await.unwrap();
    assert!(services.contains(&"agent.admin.v1.AdminService".to_owned()), "{services:?}");
}

#[tokio::test]
async fn neither_socket_answers_for_the_other() {
    let served = Served::new(Setup::default());
    let status = AdminServiceClient::new(channel(&served.agent).await).status(StatusRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = AgentServiceClient::new(channel(&served.admin).await).attest(AttestRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_call_that_takes_too_long_ends_without_a_lease() {
    let served = Served::with(Setup::default(), |config| config.request_timeout = Duration::from_millis(100));
    served.t.resolver.tell("reports.example", &["203.0.113.1"]);
    served.t.resolver.hold();
    let cookie = served.t.connect("203.0.113.1:443");
    let connection = Some(ConnectionRef { by: Some(connection_ref::By::Cookie(cookie)) });
    let ask = ReleaseRequest { connection, ..served.ask() };
    let status = soon("the call ends", served.agent().await.release(ask.clone())).await.unwrap_err();
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    served.t.resolver.let_go();
    assert!(served.t.node.leases.is_empty());
    // The place on the connection is free.
    served.agent().await.release(ask).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_lease_and_no_place_taken() {
    let served = Served::new(Setup::default());
    served.t.resolver.tell("reports.example", &["203.0.113.1"]);
    served.t.resolver.hold();
    let cookie = served.t.connect("203.0.113.1:443");
    let connection = Some(ConnectionRef { by: Some(connection_ref::By::Cookie(cookie)) });
    let ask = ReleaseRequest { connection, ..served.ask() };
    let mut agent = served.agent().await;
    let call = tokio::time::timeout(Duration::from_secs(5), agent.release(ask.clone()));
    tokio::select! {
        _ = call => panic!("it cannot be answered yet"),
        () = until("the look-up is under way", || served.t.resolver.lookups() > 0) => {}
    }
    drop(agent);
    until("the daemon has seen it go", || served.connections() == 0).await;
    served.t.resolver.let_go();
    served.agent().await.release(ask).await.unwrap();
    assert_eq!(counts(&served.t).0, 1);
}

#[tokio::test]
async fn a_change_of_uid_on_an_open_channel_is_seen_at_the_next_call() {
    let proc = FakeProc::new();
    let served = Served::new(Setup::default().with_proc(&proc));
    let mut agent = served.agent().await;
    agent.release(served.ask()).await.unwrap();
    proc.set_ids(served.t.tgid, 4_000_000_001, 4_000_000_001);
    assert_eq!(agent.release(served.ask()).await.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_at_once_each_get_their_own() {
    let served = Arc::new(Served::new(Setup::default()));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let served = Arc::clone(&served);
        clients.spawn(async move {
            let mut agent = served.agent().await;
            for _ in 0..5 {
                agent.release(served.ask()).await.unwrap();
            }
        });
    }
    clients.join_all().await;
    assert_eq!(counts(&served.t), (80, 80, 0));
}
