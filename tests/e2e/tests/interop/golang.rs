// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Programs that live on our SVIDs by go-spiffe, which is what most software in Go uses.

use anyhow::{Context as _, Result, ensure};
use e2e::{CLIENT, CLIENT_ID, SERVER, SERVER_ID, SOON, python, two_workloads, with_daemon};
use serde_json::json;

use super::client;

#[test]
fn go_spiffe_gets_and_validates_svids_and_follows_their_rotation() -> Result<()> {
    with_daemon(two_workloads(), |world| {
        let program = client(world)?;
        let talker = world.talk(&program, CLIENT, &["svids", e2e::AUDIENCE])?;
        assert_eq!(talker.next(SOON)?, json!({"x509": [CLIENT_ID], "offline": CLIENT_ID, "online": CLIENT_ID}));
        let refused = talker.next(SOON)?;
        let words = refused["refused"].as_str().with_context(|| format!("not refused: {refused}"))?;
        ensure!(words.contains("PermissionDenied") && words.contains("no identity issued"), "{words}");
        let rotating = world.talk(&program, CLIENT, &["rotations", "4"])?;
        let serials = rotating.next(SOON)?;
        assert_eq!(serials["serials"].as_array().map(Vec::len), Some(4), "{serials}");
        Ok(())
    })
}

#[test]
fn a_server_in_go_goes_on_over_rotations_with_clients_in_go_and_python() -> Result<()> {
    with_daemon(two_workloads(), |world| {
        let program = client(world)?;
        let server = world.talk(&program, SERVER, &["serve", CLIENT_ID])?;
        let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
        // SVIDs live for 4 s: this server shows at least three of them meanwhile.
        let began = std::time::Instant::now();
        while began.elapsed().as_secs() < 8 {
            let said = world.talk(&program, CLIENT, &["call", &port, SERVER_ID])?.next(SOON)?;
            assert_eq!(said, json!({"answer": "echo:hello", "version": "TLS 1.3"}));
        }
        let said = python(world, CLIENT, &["call", &port, SERVER_ID])?.next(SOON)?;
        assert_eq!(said["answer"], "echo:hello", "{said}");
        let mistaken = world.talk(&program, CLIENT, &["call", &port, CLIENT_ID])?.next(SOON)?;
        ensure!(mistaken["refused"].is_string(), "an unexpected server was trusted: {mistaken}");
        let stranger = world.talk(&program, SERVER, &["call", &port, SERVER_ID])?.next(SOON)?;
        ensure!(stranger["refused"].is_string(), "an unexpected client was trusted: {stranger}");
        Ok(())
    })
}
