// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Secret discovery as an Envoy sees it.

use std::time::Duration;

use agent_daemon::testing::Setup;
use agent_proto::envoy::config::core::v3::data_source::Specifier;
use agent_proto::envoy::config::core::v3::{DataSource, Node};
use agent_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use agent_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use agent_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use agent_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use agent_proto::google::rpc;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::served::{Served, channel, soon};
use super::spiffe::setup;

const ID: &str = "spiffe://example.org/agent/a";

/// A stream, and what is asked on it.
struct Stream<Q, A> {
    ask: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

impl<Q, A> Stream<Q, A> {
    async fn say(&self, request: Q) {
        self.ask.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Result<A, Status> {
        soon("an answer comes", self.answers.message()).await.map(|answer| answer.unwrap())
    }
}

async fn whole(served: &Served, request: DiscoveryRequest) -> Stream<DiscoveryRequest, DiscoveryResponse> {
    let (ask, requests) = mpsc::channel(4);
    ask.send(request).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel(&served.spiffe).await);
    let answers = client.stream_secrets(ReceiverStream::new(requests)).await.unwrap().into_inner();
    Stream { ask, answers }
}

async fn delta(
    served: &Served,
    request: DeltaDiscoveryRequest,
) -> Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
    let (ask, requests) = mpsc::channel(4);
    ask.send(request).await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel(&served.spiffe).await);
    let answers = client.delta_secrets(ReceiverStream::new(requests)).await.unwrap().into_inner();
    Stream { ask, answers }
}

fn asking(names: &[&str]) -> DiscoveryRequest {
    let resource_names = names.iter().map(|name| (*name).to_owned()).collect();
    DiscoveryRequest { node: Some(Node::default()), resource_names, ..DiscoveryRequest::default() }
}

fn subscribing(names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
    DeltaDiscoveryRequest { node: Some(Node::default()), resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
}

fn secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    response.resources.iter().map(|any| Secret::decode(any.value.as_slice()).unwrap()).collect()
}

fn names(response: &DiscoveryResponse) -> Vec<String> {
    secrets(response).into_iter().map(|secret| secret.name).collect()
}

fn text(source: &Option<DataSource>) -> String {
    match source.as_ref().and_then(|source| source.specifier.clone()) {
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).unwrap(),
        other => panic!("not inline: {other:?}"),
    }
}

#[tokio::test]
async fn every_name_that_spire_knows_is_served_and_several_for_the_same_thing_too() {
    let served = Served::new(setup(2));
    let asked = ["default", ID, "spiffe://example.org/agent/b", "ROOTCA", "ALL", "spiffe://example.org"];
    let mut stream = whole(&served, asking(&asked)).await;
    let answer = stream.next().await.unwrap();
    let mut found = names(&answer);
    found.sort();
    let mut expected = asked.map(str::to_owned);
    expected.sort();
    assert_eq!(found, expected);
    for secret in secrets(&answer) {
        match secret.r#type.unwrap() {
            Type::TlsCertificate(certificate) => {
                assert!(text(&certificate.certificate_chain).starts_with("-----BEGIN CERTIFICATE-----\n"));
                assert!(text(&certificate.private_key).starts_with("-----BEGIN PRIVATE KEY-----\n"));
            }
            Type::ValidationContext(context) => {
                assert!(context.trusted_ca.is_none(), "Envoy's SPIFFE validator is used");
                assert_eq!(context.custom_validator_config.unwrap().name, "envoy.tls.cert_validator.spiffe");
            }
        }
    }
    assert_eq!(served.t.node.leases.len(), 2, "one for each identity, by however many names it is asked");
}

#[tokio::test]
async fn who_asks_for_no_name_gets_everything_it_has() {
    let served = Served::new(setup(2));
    let mut stream = whole(&served, asking(&[])).await;
    assert_eq!(names(&stream.next().await.unwrap()), [ID, "spiffe://example.org/agent/b", "spiffe://example.org"]);
}

#[tokio::test]
async fn authorities_alone_cost_no_certificate() {
    let served = Served::new(setup(1));
    let mut stream = whole(&served, asking(&["ROOTCA"])).await;
    assert_eq!(names(&stream.next().await.unwrap()), ["ROOTCA"]);
    assert!(served.t.node.leases.is_empty());
}

#[tokio::test]
async fn rotation_is_pushed_and_neither_an_ack_nor_a_nack_is_answered() {
    let served = Served::new(setup(1));
    let mut stream = whole(&served, asking(&["default"])).await;
    let first = stream.next().await.unwrap();
    let reply = |error: Option<&str>| DiscoveryRequest {
        version_info: first.version_info.clone(),
        response_nonce: first.nonce.clone(),
        error_detail: error.map(|message| rpc::Status { message: message.to_owned(), ..rpc::Status::default() }),
        node: None,
        ..asking(&["default"])
    };
    stream.say(reply(None)).await;
    stream.say(reply(Some("bad\x1b[2J key"))).await;
    let stale = DiscoveryRequest { response_nonce: "ffff".to_owned(), ..asking(&["ROOTCA"]) };
    stream.say(stale).await;
    served.t.clock.advance(Duration::from_millis(1200));
    let second = stream.next().await.unwrap();
    assert_eq!(names(&second), ["default"]);
    assert_ne!(first.version_info, second.version_info);
    assert_ne!(first.resources, second.resources);
    assert_eq!(served.t.records_of("decision").len(), 2, "nothing was made for the replies");
}

#[tokio::test]
async fn a_name_that_stands_for_nothing_is_answered_when_it_does() {
    let served = Served::new(setup(1));
    let mut stream = whole(&served, asking(&["spiffe://example.org/agent/b", "ROOTCA"])).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::PermissionDenied, "a certificate of somebody else");
    let mut stream = whole(&served, asking(&["default", "spiffe://example.org/agent/b"])).await;
    assert_eq!(names(&stream.next().await.unwrap()), ["default"]);
    served.t.sources.write_entries(&setup(2).entries);
    served.t.node.reload("test", None).unwrap();
    assert_eq!(names(&stream.next().await.unwrap()), ["default", "spiffe://example.org/agent/b"]);
}

#[tokio::test]
async fn whoever_has_no_identity_gets_not_even_authorities() {
    let served = Served::new(Setup { entries: String::new(), ..setup(1) });
    for name in ["default", "ROOTCA", ID] {
        let mut stream = whole(&served, asking(&[name])).await;
        assert_eq!(stream.next().await.unwrap_err().code(), Code::PermissionDenied, "{name}");
        let mut stream = delta(&served, subscribing(&[name])).await;
        assert_eq!(stream.next().await.unwrap_err().code(), Code::PermissionDenied, "{name}");
    }
    assert!(served.t.records_of("decision").iter().all(|record| record["reason"] == "no_identity"));
}

#[tokio::test]
async fn what_is_out_of_bounds_ends_the_stream() {
    let served = Served::new(setup(1));
    let many: Vec<String> = (0..300).map(|number| format!("name-{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let of_another_type = DiscoveryRequest { type_url: "type.googleapis.com/other".to_owned(), ..asking(&["default"]) };
    for request in [asking(&many), of_another_type] {
        let mut stream = whole(&served, request).await;
        assert_eq!(stream.next().await.unwrap_err().code(), Code::InvalidArgument);
    }
    let mut stream = delta(&served, subscribing(&many)).await;
    assert_eq!(stream.next().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_exec_ends_the_stream() {
    let served = Served::new(setup(1));
    let mut stream = whole(&served, asking(&["default"])).await;
    stream.next().await.unwrap();
    let mut changes = delta(&served, subscribing(&["ROOTCA"])).await;
    changes.next().await.unwrap();
    let event = served.t.kernel.exec(served.t.tgid, |_| {});
    served.t.node.apply(event);
    assert_eq!(stream.next().await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(changes.next().await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn of_changes_only_what_changed_is_sent() {
    let served = Served::new(setup(1));
    let mut stream = delta(&served, subscribing(&["default", "ROOTCA", "nonsense"])).await;
    let first = stream.next().await.unwrap();
    let names = |answer: &DeltaDiscoveryResponse| -> Vec<String> {
        answer.resources.iter().map(|resource| resource.name.clone()).collect()
    };
    assert_eq!(names(&first), ["default", "ROOTCA"]);
    assert_eq!(first.removed_resources, ["nonsense"]);
    served.t.clock.advance(Duration::from_millis(1200));
    let second = stream.next().await.unwrap();
    assert_eq!(names(&second), ["default"], "the authorities are the same");
    // Asked for again, it is answered although it did not change.
    let again = DeltaDiscoveryRequest { response_nonce: second.nonce.clone(), ..subscribing(&["ROOTCA"]) };
    stream.say(again).await;
    assert!(names(&stream.next().await.unwrap()).contains(&"ROOTCA".to_owned()));
    let unsubscribe = vec!["default".to_owned()];
    stream.say(DeltaDiscoveryRequest { resource_names_unsubscribe: unsubscribe, ..subscribing(&["ALL"]) }).await;
    assert_eq!(names(&stream.next().await.unwrap()), ["ALL"]);
}

#[tokio::test]
async fn a_client_that_comes_back_with_what_it_has_is_told_only_what_differs() {
    let served = Served::new(setup(1));
    let mut stream = delta(&served, subscribing(&["ROOTCA"])).await;
    let first = stream.next().await.unwrap();
    let initial_resource_versions =
        first.resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())).collect();
    let back = DeltaDiscoveryRequest { initial_resource_versions, ..subscribing(&["default"]) };
    let mut stream = delta(&served, back).await;
    let answer = stream.next().await.unwrap();
    assert_eq!(answer.resources.len(), 1);
    assert_eq!(answer.resources[0].name, "default");
    assert_eq!(answer.removed_resources, ["ROOTCA"], "it is not subscribed to any more");
}

#[tokio::test]
async fn one_answer_is_to_be_had_without_a_stream() {
    let served = Served::new(setup(1));
    let mut client = SecretDiscoveryServiceClient::new(channel(&served.spiffe).await);
    let answer = client.fetch_secrets(asking(&["default", "ROOTCA"])).await.unwrap().into_inner();
    assert_eq!(names(&answer), ["default", "ROOTCA"]);
}
