// SPDX-License-Identifier: Apache-2.0 OR MIT

//! No secret is anywhere but in the answer.

use std::fs;
use std::path::Path;

use agent_daemon::audit::Caller;
use agent_daemon::node::{Ask, Doomed, Wanted};
use agent_daemon::testing::{Setup, TestNode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

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
async fn the_key_of_a_certificate_is_nowhere_but_in_the_answer() {
    let t = super::spiffe::setup(1).build();
    let svids = t.node.x509_svids(&t.peer(), &Wanted::All, &[]).await.unwrap();
    let key = &svids.svids[0].1.secret;
    let scalar = private_scalar(key);
    for text in [format!("{svids:?}"), format!("{t:#?}")] {
        assert_absent(&STANDARD.encode(scalar), &text, "a Debug");
        assert_absent(&hex(scalar), &text, "a Debug");
        let numbers: Vec<String> = scalar.iter().take(8).map(u8::to_string).collect();
        assert!(!text.contains(&numbers.join(", ")), "a Debug holds the key in numbers");
    }
    let mut found = Vec::new();
    files(t.directory.path(), &mut found);
    assert!(found.len() > 3);
    for bytes in found {
        assert!(!bytes.windows(scalar.len()).any(|window| window == scalar), "a file holds the key");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(&STANDARD.encode(key)) && !text.contains(&hex(scalar)), "a file holds the key");
    }
}

/// The 32 bytes that are secret in a PKCS#8 key of P-256: the only octet string of this length.
fn private_scalar(pkcs8: &[u8]) -> &[u8] {
    let at = pkcs8.windows(2).position(|two| two == [0x04, 0x20]).unwrap();
    &pkcs8[at + 2..at + 34]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
