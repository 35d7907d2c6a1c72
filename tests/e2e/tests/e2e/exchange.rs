// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A shared tool server is given a token by each of its callers and exchanges it for one of its own (RFC 8693).

use std::fs;

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, OTHER, SOON, Setup, World, python_script, wait_until, with_daemon};
use serde_json::{Value, json};

use crate::calls::{Released, denied, release_as, released};
use crate::issuer::Issuer;
use crate::sessions::{decision, install, run, setup};

/// The tool server is a destination of its callers, and has destinations of its own.
const DESTINATIONS: &str = r#"
[[source]]
name = "access"
type = "access-token"

[[destination]]
name = "tools"
audience = "spiffe://example.org/tool"
labels = ["code"]

[[destination]]
name = "backend"
audience = "https://backend.example.org"
labels = ["code"]

[[destination]]
name = "vault"
audience = "https://vault.example.org"
labels = ["code"]

[[destination]]
name = "mail"
audience = "https://mail.example.org"

[[binding]]
name = "for-tools"
destination = "tools"
identities = ["spiffe://example.org/*"]
source = "access"
observed_connect = "optional"

[[binding]]
name = "for-backend"
destination = "backend"
identities = ["spiffe://example.org/*"]
source = "access"
observed_connect = "optional"

[[binding]]
name = "for-vault"
destination = "vault"
identities = ["spiffe://example.org/*"]
source = "access"
observed_connect = "optional"

[[binding]]
name = "for-mail"
destination = "mail"
identities = ["spiffe://example.org/*"]
source = "access"
observed_connect = "optional"
"#;

const POLICY: &str = r#"
@id("no-vault-for-agents")
forbid (principal == Workload::"spiffe://example.org/agent/one", action, resource == Destination::"vault");
"#;

pub(crate) fn delegating() -> Setup {
    setup().with_destinations(DESTINATIONS).with_policies(POLICY)
}

/// An agent that acts for a user, and its token for the tool server.
fn agent_for(world: &World, issuer: &Issuer, user: &str) -> Result<(Actor, Released)> {
    let file = world.path(&format!("open/{user}"));
    fs::write(&file, issuer.token(&format!("sub={user}"))?)?;
    let further = ["--user-token-file", &file.to_string_lossy(), "--scope", "code", "--scope", "mail"];
    let mut agent = run(world, &further, &world.program("agent"))?;
    let ask = json!({"do": "call", "call": "release", "on": "channel", "destination": "tools"});
    let token = released(&mut agent, &ask)?;
    Ok((agent, token))
}

fn exchange(actor: &mut Actor, token: &str, further: &str) -> Result<(u64, Value)> {
    let form = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token={token}\
         &subject_token_type=urn:ietf:params:oauth:token-type:access_token&{further}"
    );
    let answer = actor.act(&json!({"do": "call", "call": "exchange", "on": "channel", "form": form}))?;
    Ok((answer["http"].as_u64().with_context(|| format!("no answer: {answer}"))?, answer["body"].clone()))
}

fn exchanged(actor: &mut Actor, token: &str, further: &str) -> Result<String> {
    let (status, body) = exchange(actor, token, further)?;
    ensure!(status == 200, "{further}: {status} {body}");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    Ok(body["access_token"].as_str().context("no token")?.to_owned())
}

fn not_exchanged(actor: &mut Actor, token: &str, further: &str, error: &str, words: &str) -> Result<Value> {
    let (status, body) = exchange(actor, token, further)?;
    let told = body["error_description"].as_str().unwrap_or_default();
    ensure!(status == 400 && body["error"] == error && told.contains(words), "{further}: {status} {body}");
    Ok(body)
}

/// What a service makes of a token.
fn claims(world: &World, token: &str, audience: &str) -> Result<Value> {
    let keys = world.get("/jwks.json")?.to_string();
    let arguments = [&keys, token, "spiffe://example.org", audience];
    python_script(world, OTHER, "resource_server.py", &arguments)?.next(SOON)
}

pub(crate) fn acting(names: &[&str]) -> Value {
    names.iter().rev().fold(Value::Null, |above, name| {
        let sub = format!("spiffe://example.org/{name}");
        if above.is_null() { json!({"sub": sub}) } else { json!({"sub": sub, "act": above}) }
    })
}

#[test]
fn a_tool_server_for_everybody_acts_for_each_of_its_callers_and_never_has_more_than_they() -> Result<()> {
    let setup = delegating();
    with_daemon(setup.clone(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup)?;
        let (ada, for_ada) = agent_for(world, &issuer, "ada")?;
        let (_bob, for_bob) = agent_for(world, &issuer, "bob")?;
        let mut tool = world.spawn(&world.program("tool"), NOBODY, &[])?;
        world.open_channel(&mut tool)?;
        let backend = "audience=https%3A%2F%2Fbackend.example.org";
        let mut got = Vec::new();
        for (user, token) in [("corp:ada", &for_ada), ("corp:bob", &for_bob)] {
            let own = exchanged(&mut tool, &token.token, backend)?;
            let before = claims(world, &token.token, "spiffe://example.org/tool")?;
            let after = claims(world, &own, "https://backend.example.org")?;
            assert_eq!(before["act"], acting(&["agent/one", "launcher"]));
            assert_eq!(after["act"], acting(&["tool", "agent/one", "launcher"]));
            for (claim, expected) in [
                ("sub", json!(user)),
                ("client_id", json!("spiffe://example.org/tool")),
                ("scope", json!("code")),
                ("sid", before["sid"].clone()),
            ] {
                assert_eq!(after[claim], expected, "{claim}: {after}");
            }
            ensure!(after["exp"].as_i64() <= before["exp"].as_i64(), "{after} outlives {before}");
            got.push((own, after));
        }
        let jti = got[0].1["jti"].as_str().context("no jti")?.to_owned();
        let record = world.record("decision", &[("/lease_id", jti.as_str().into())])?;
        assert_eq!((&record["action"], &record["subject_lease_id"]), (&json!("exchange"), &json!(for_ada.lease)));
        let chain = ["tool", "agent/one", "launcher"].map(|name| format!("spiffe://example.org/{name}"));
        assert_eq!((&record["user"], &record["actors"]), (&json!("corp:ada"), &json!(chain)));
        // Whoever investigates sees the agent and its tool, and nothing of the other user.
        let traced = world.ask(&["audit", "trace", &jti])?.to_string();
        for (word, is_there) in
            [(jti.as_str(), true), (&for_ada.lease, true), ("corp:bob", false), (&for_bob.lease, false)]
        {
            assert_eq!(traced.contains(word), is_there, "{word}: {traced}");
        }
        // What the holder itself exchanges only narrows, and names nobody twice.
        let narrower = exchanged(&mut tool, &got[0].0, "resource=spiffe%3A%2F%2Fexample.org%2Ftool&scope=code")?;
        let narrower_claims = claims(world, &narrower, "spiffe://example.org/tool")?;
        assert_eq!(narrower_claims["act"], acting(&["tool", "agent/one", "launcher"]));
        // No more than the agent may have, nor than the token's scopes reach.
        not_exchanged(&mut tool, &for_ada.token, "audience=vault", "invalid_target", "denied")?;
        let denied = world.record("decision", &[("/action", "exchange".into()), ("/outcome", "deny".into())])?;
        assert_eq!(denied["reason"], "ancestor_not_permitted", "{denied}");
        ensure!(denied["detail"].as_str().is_some_and(|detail| detail.contains("agent/one")), "{denied}");
        not_exchanged(&mut tool, &for_ada.token, "audience=mail", "invalid_target", "denied")?;
        world.record("decision", &[("/action", "exchange".into()), ("/reason", "out_of_scope".into())])?;
        let wider = format!("{backend}&scope=code+mail");
        not_exchanged(&mut tool, &for_ada.token, &wider, "invalid_scope", "more than the token has")?;
        not_exchanged(&mut tool, &for_ada.token, "audience=nowhere", "invalid_target", "denied")?;
        // It all ends with the agent.
        assert!(world.authority.is_active(&narrower)?);
        ada.exit()?;
        for token in [&got[0].0, &narrower] {
            wait_until("what was exchanged should end", || Ok(!world.authority.is_active(token)?))?;
        }
        assert!(world.authority.is_active(&got[1].0)?, "the other user's token ended, too");
        let ended = world.record("lease_ended", &[("/lease_id", jti.as_str().into())])?;
        assert_eq!(ended["cause"], "subject_ended");
        not_exchanged(&mut tool, &for_ada.token, backend, "invalid_request", "it is over")?;
        Ok(())
    })
}

#[test]
fn a_token_is_exchanged_by_nobody_whom_it_is_not_for() -> Result<()> {
    let setup = delegating();
    with_daemon(setup.clone(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup)?;
        let (_ada, for_ada) = agent_for(world, &issuer, "ada")?;
        let (mut bob, for_bob) = agent_for(world, &issuer, "bob")?;
        let backend = "audience=backend";
        // A thief of another identity, and a tool in the session of somebody else.
        not_exchanged(&mut bob, &for_ada.token, backend, "invalid_request", "somebody else")?;
        let mut tool = bob.fork(None)?;
        tool.exec(&world.program("tool"), &[])?;
        world.open_channel(&mut tool)?;
        not_exchanged(&mut tool, &for_ada.token, backend, "invalid_request", "in another session")?;
        let own = exchanged(&mut tool, &for_bob.token, backend)?;
        // A renewal would forget who gave it the token.
        let lease = claims(world, &own, "https://backend.example.org")?["jti"].clone();
        let renew = json!({"do": "call", "call": "renew", "on": "channel", "lease": lease});
        denied(world, &mut tool, &renew, "lease_not_yours")?;
        let refused = world.record("caller_refused", &[("/reason", "invalid_subject_token".into())])?;
        assert_eq!(refused["action"], "exchange");
        // A process with no identity at all.
        let mut nobody = world.spawn(&world.program("tool"), OTHER, &[])?;
        world.open_channel(&mut nobody)?;
        not_exchanged(&mut nobody, &for_ada.token, backend, "invalid_request", "somebody else")?;
        // Tokens that are none of ours, or not of this kind, or changed.
        let mut tool = world.spawn(&world.program("tool"), NOBODY, &[])?;
        world.open_channel(&mut tool)?;
        let svid = released(&mut tool, &release_as("loose"))?;
        let (signed, signature) = for_ada.token.rsplit_once('.').context("no signature")?;
        let (_, other) = for_bob.token.rsplit_once('.').context("no signature")?;
        let (header, rest) = for_ada.token.split_once('.').context("no header")?;
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0";
        for token in [
            svid.token,
            issuer.token("sub=ada")?,
            format!("{signed}.{other}"),
            format!("{signed}."),
            format!("{none}.{}", rest.trim_end_matches(signature)),
            header.to_owned(),
        ] {
            not_exchanged(&mut tool, &token, backend, "invalid_request", "no access token of this node")?;
        }
        let plain = format!("{backend}&actor_token=a&actor_token_type=b");
        not_exchanged(&mut tool, &for_ada.token, &plain, "invalid_request", "whom the kernel attests")?;
        // It ends with the session, too.
        let own = exchanged(&mut tool, &for_ada.token, backend)?;
        let session = decision(world, &for_ada.decision)?["session_id"].as_str().context("a session")?.to_owned();
        world.ask(&["sessions", &session, "--end"])?;
        assert!(!world.authority.is_active(&own)?);
        not_exchanged(&mut tool, &for_ada.token, backend, "invalid_request", "it is over")?;
        Ok(())
    })
}
