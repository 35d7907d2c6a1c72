// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The sockets themselves, and how serving ends.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use agent_daemon::api::{Config, Limits, Sockets};
use agent_daemon::testing::{PrivateDirectory, Setup, while_none_is_built};
use agent_proto::v1::{ConnectionRef, ReleaseRequest, connection_ref};

use super::served::{Served, mode, soon, until};

fn config(directory: &PrivateDirectory) -> Config {
    Config {
        agent_socket: directory.path().join("agent.sock"),
        agent_socket_mode: 0o660,
        admin_socket: directory.path().join("admin.sock"),
        spiffe_socket: directory.path().join("spiffe.sock"),
        spiffe_socket_mode: 0o640,
        limits: Limits { connections: 1, connections_of_one: 1 },
        max_streams_per_connection: 1,
        max_message_bytes: 1024,
        request_timeout: Duration::from_secs(1),
    }
}

fn bind(config: Config) -> std::io::Result<Sockets> {
    while_none_is_built(|| Sockets::bind(config))
}

#[test]
fn sockets_have_the_modes_they_were_given() {
    let directory = PrivateDirectory::new();
    let _sockets = bind(config(&directory)).unwrap();
    assert_eq!(mode(&config(&directory).agent_socket) & 0o777, 0o660);
    assert_eq!(mode(&config(&directory).spiffe_socket) & 0o777, 0o640);
    assert_eq!(mode(&config(&directory).admin_socket) & 0o777, 0o600);
}

#[test]
fn a_socket_that_is_served_is_left_alone_and_a_stale_one_replaced() {
    let directory = PrivateDirectory::new();
    let path = config(&directory).agent_socket;
    let other = UnixListener::bind(&path).unwrap();
    assert!(bind(config(&directory)).is_err());
    UnixStream::connect(&path).unwrap();
    drop(other);
    bind(config(&directory)).unwrap();
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let directory = PrivateDirectory::new();
    let path = config(&directory).admin_socket;
    std::fs::write(&path, "precious").unwrap();
    assert!(bind(config(&directory)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&elsewhere, "precious").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(bind(config(&directory)).is_err());
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"precious");
}

#[tokio::test]
async fn a_call_in_flight_is_finished_and_nobody_new_comes_in() {
    let served = Served::new(Setup::default());
    served.t.resolver.tell("reports.example", &["203.0.113.1"]);
    served.t.resolver.hold();
    let cookie = served.t.connect("203.0.113.1:443");
    let connection = Some(ConnectionRef { by: Some(connection_ref::By::Cookie(cookie)) });
    let ask = ReleaseRequest { connection, ..served.ask() };
    let mut agent = served.agent().await;
    let call = async { agent.release(ask).await };
    let path = served.agent.clone();
    let t = std::sync::Arc::clone(&served.t);
    let stopping = async {
        until("the look-up is under way", || t.resolver.lookups() > 0).await;
        served.cancel.cancel();
        until("nobody is let in any more", || UnixStream::connect(&path).is_err()).await;
        t.resolver.let_go();
        served.stop().await
    };
    let (released, t) = soon("both end", async { tokio::join!(call, stopping) }).await;
    let secret = released.unwrap().into_inner().credential.unwrap().secret;
    assert!(t.node.introspect(&String::from_utf8(secret).unwrap()).is_active());
}

#[tokio::test]
async fn when_serving_has_ended_the_sockets_are_gone() {
    let served = Served::new(Setup::default());
    let (agent, admin) = (served.agent.clone(), served.admin.clone());
    let client = served.agent().await;
    served.stop().await;
    assert!(!agent.exists() && !admin.exists());
    drop(client);
}
