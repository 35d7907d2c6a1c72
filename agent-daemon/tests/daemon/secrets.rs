// SPDX-License-Identifier: Apache-2.0 OR MIT

//! No secret is anywhere but in the answer.

use std::fs;
use std::path::Path;

use agent_daemon::audit::Caller;
use agent_daemon::node::{Ask, Doomed};
use agent_daemon::testing::{Setup, TestNode};

use super::{release, token};

const CANARY: &str = "canary-6f1d2c9b";

fn files(directory: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(fs::read(path).unwrap()) }
    }
}

/// Neither the text nor its bytes as numbers, which is how a careless `Debug` shows a vector.
fn assert_absent(secret: &str, text: &str, place: &str) {
    let numbers: Vec<String> = secret.bytes().take(8).map(|byte| byte.to_string()).collect();
    assert!(!text.contains(secret), "{place} holds the secret");
    assert!(!text.contains(&numbers.join(", ")), "{place} holds the secret in numbers");
}

fn assert_kept(t: &TestNode, secret: &str) {
    let mut found = Vec::new();
    files(t.directory.path(), &mut found);
    assert!(found.len() > 3);
    for bytes in found {
        assert_absent(secret, &String::from_utf8_lossy(&bytes), "a file");
    }
    assert_absent(secret, &format!("{t:?}"), "the node");
    assert_absent(secret, &format!("{t:#?}"), "the node");
}

#[tokio::test]
async fn a_static_secret_is_nowhere_but_in_the_answer() {
    let catalog = Setup::catalog("enforce", "required", "key");
    let t = Setup { catalog, ..Setup::default() }.build();
    t.node.secrets.put("api-key", CANARY.as_bytes()).unwrap();
    let released = release(&t).await;
    assert_eq!(released.secret.as_slice(), CANARY.as_bytes());
    assert_absent(CANARY, &format!("{released:?}"), "the answer's Debug");
    assert_kept(&t, CANARY);
    t.node.secrets.put("api-key", format!("{CANARY}-2").as_bytes()).unwrap();
    t.node.renew(&t.peer(), released.lease.id.clone(), Ask::default()).await.unwrap();
    t.node.revoke(&Doomed::Tgid(t.tgid), "test".to_owned(), Caller::default()).unwrap();
    assert_kept(&t, CANARY);
}

#[tokio::test]
async fn a_token_is_nowhere_but_in_the_answer() {
    let t = Setup::default().build();
    let released = release(&t).await;
    let token = token(&released);
    assert_absent(&token, &format!("{released:?}"), "the answer's Debug");
    assert_kept(&t, &token);
    let signature = token.rsplit('.').next().unwrap();
    assert_kept(&t, signature);
}

#[tokio::test]
async fn errors_do_not_repeat_what_a_secret_was() {
    let catalog = Setup::catalog("enforce", "required", "key");
    let t = Setup { catalog, ..Setup::default() }.build();
    t.node.secrets.put("api-key", CANARY.as_bytes()).unwrap();
    let sealed = t.directory.path().join("secrets/api-key.sealed");
    let mut bytes = fs::read(&sealed).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&sealed, bytes).unwrap();
    let refusal = t.node.release(&t.peer(), t.ask()).await.unwrap_err();
    assert_absent(CANARY, &format!("{refusal:?} {refusal}"), "the refusal");
    assert_eq!(t.last("decision")["outcome"], "deny");
    assert!(t.node.leases.is_empty());
    assert_kept(&t, CANARY);
}
