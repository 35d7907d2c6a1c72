// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Tokens that name the user and everybody who acts.

use agent_daemon::node::{OnBehalf, OpenAsk};
use agent_daemon::process::ExecInstance;
use agent_daemon::testing::{Setup, TestNode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{denied, release, token};

const AGENTS: &str = "spiffe://example.org/agent";
const MAY: &str = r#"
    @id("all") permit (principal in Group::"agents", action, resource);
    @id("act") permit (principal in Group::"agents", action == Action::"actFor", resource is User);
"#;

/// A launcher that opens a session, an agent that it becomes, of which nothing certain can be said once it is over, and the
/// tool that this becomes.
fn setup() -> Setup {
    let entries = [
        Setup::entry("launcher", "agent/launcher", ", \"exec:setuid\""),
        Setup::entry("agent", "agent/coder", ", \"exec:traced\""),
        Setup::entry("hidden", "agent/hidden", ", \"exec:deleted\", \"cgroup:path:/nowhere\""),
        Setup::entry("second", "agent/second", ", \"exec:setuid\""),
        // What the hidden one is taken for where nothing more is known of it.
        Setup::entry("plain", "agent/plain", ", \"exec:deleted\""),
        Setup::entry("tool", "agent/tool", ", \"exec:no-new-privs\""),
    ];
    let catalog = Setup::catalog("enforce", "optional", "access");
    let labelled = catalog.replace("audience =", "labels = [\"internal\"]\naudience =");
    let source = "[[source]]\nname = \"access\"\ntype = \"access-token\"\n";
    Setup {
        entries: entries.concat(),
        catalog: format!("{labelled}{source}"),
        policies: MAY.into(),
        ..Setup::default()
    }
}

fn become_one(t: &TestNode, flag: u32) {
    let _event = t.kernel.exec(t.tgid, flagged(flag));
}

fn flagged(flag: u32) -> impl FnOnce(&mut ExecInstance) {
    move |instance| instance.flags.0 = flag
}

async fn open(t: &TestNode, scopes: Option<&[&str]>) -> agent_daemon::node::Opened {
    open_as(t, scopes, "launcher").await
}

async fn open_as(t: &TestNode, scopes: Option<&[&str]>, name: &str) -> agent_daemon::node::Opened {
    let scopes = scopes.map(|scopes| scopes.iter().map(|scope| Box::from(*scope)).collect());
    let ask = OpenAsk {
        user: if t.node.sessions().active().is_empty() { OnBehalf::Local } else { OnBehalf::Inherited },
        agent: None,
        purpose: None,
        scopes,
        lifetime: None,
        is_bound: true,
        parent: None,
        spiffe_id: (name != "launcher").then(|| format!("{AGENTS}/{name}")),
    };
    t.node.open_session(&t.peer(), ask).await.unwrap()
}

/// Header and claims.
fn read(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap_or_default();
    (next(), next())
}

#[tokio::test]
async fn the_user_is_the_subject_and_everybody_down_to_the_caller_acts() {
    let t = setup().build();
    t.kernel.change(t.tgid, flagged(agent_ebpf::flags::SETUID));
    let opened = open(&t, Some(&["elsewhere", "internal", "reports"])).await;
    become_one(&t, agent_ebpf::flags::TRACED);
    become_one(&t, agent_ebpf::flags::NO_NEW_PRIVS);
    let released = release(&t).await;
    let (header, claims) = read(&token(&released));
    assert_eq!(header["typ"], "at+jwt");
    let act = json!({
        "sub": format!("{AGENTS}/tool"),
        "act": {"sub": format!("{AGENTS}/coder"), "act": {"sub": format!("{AGENTS}/launcher")}},
    });
    let user = &*opened.session.user.id;
    let expected = json!({
        "iss": "spiffe://example.org",
        "sub": user,
        "aud": ["https://reports.example"],
        "iat": released.lease.issued_at.as_second(),
        "exp": released.lease.expires_at.as_second(),
        "jti": released.lease.id.as_str(),
        "client_id": format!("{AGENTS}/tool"),
        "act": act,
        "scope": "internal reports",
        "sid": opened.session.id.to_string(),
    });
    assert_eq!(claims, expected);
    let record = t.last("decision");
    let actors = ["tool", "coder", "launcher"].map(|name| format!("{AGENTS}/{name}"));
    assert_eq!((&record["actors"], &record["credential_type"]), (&json!(actors), &json!("access-token")));
    // Whoever checks it learns the same, until the session ends.
    let answer = serde_json::to_value(t.node.introspect(&token(&released))).unwrap();
    assert_eq!((&answer["active"], &answer["sub"], &answer["act"]), (&json!(true), &json!(user), &act));
    assert_eq!(answer["scope"], "internal reports");
    t.node.end_session(opened.session.id, agent_daemon::session::Cause::Revoked, None);
    let answer = serde_json::to_value(t.node.introspect(&token(&released))).unwrap();
    assert_eq!(answer, json!({"active": false}));
}

#[tokio::test]
async fn an_actor_is_not_left_out_because_nobody_can_say_any_more_who_it_was() {
    let t = setup().build();
    t.kernel.change(t.tgid, flagged(agent_ebpf::flags::SETUID));
    open(&t, None).await;
    become_one(&t, agent_ebpf::flags::DELETED);
    become_one(&t, agent_ebpf::flags::NO_NEW_PRIVS);
    let (_, claims) = read(&token(&release(&t).await));
    assert_eq!(
        claims["act"]["act"],
        json!({"sub": "spiffe://example.org", "act": {"sub": format!("{AGENTS}/launcher")}})
    );
    assert_eq!(claims.get("scope"), None, "a session without scopes reaches all that policy permits");
}

#[tokio::test]
async fn without_a_session_there_is_nobody_to_name() {
    let t = setup().build();
    t.kernel.change(t.tgid, flagged(agent_ebpf::flags::NO_NEW_PRIVS));
    let result = t.node.release(&t.peer(), t.ask()).await;
    assert_eq!(denied(&t, result), "session_required");
}

#[tokio::test]
async fn an_access_token_is_no_svid() {
    let t = setup().build();
    t.kernel.change(t.tgid, flagged(agent_ebpf::flags::NO_NEW_PRIVS));
    open(&t, None).await;
    let token = token(&release(&t).await);
    let validated = t.node.validate(&t.peer(), &token, "https://reports.example").await.unwrap();
    assert_eq!(validated.unwrap_err().to_string(), "the token is not valid: it is another type of token");
    assert!(t.node.introspect(&token).is_active());
}

#[tokio::test]
async fn whoever_opens_sessions_under_two_names_acts_as_both() {
    let t = setup().build();
    t.kernel.change(t.tgid, flagged(agent_ebpf::flags::SETUID));
    open(&t, None).await;
    open_as(&t, None, "second").await;
    let own = |claims: &Value| claims["act"].clone();
    let launcher = json!({"sub": format!("{AGENTS}/launcher")});
    let ask = agent_daemon::node::Ask { spiffe_id: Some(format!("{AGENTS}/second")), ..t.ask() };
    let (_, claims) = read(&token(&t.node.release(&t.peer(), ask).await.unwrap()));
    assert_eq!(own(&claims), json!({"sub": format!("{AGENTS}/second"), "act": launcher}));
    become_one(&t, agent_ebpf::flags::NO_NEW_PRIVS);
    let (_, claims) = read(&token(&release(&t).await));
    let second = json!({"sub": format!("{AGENTS}/second"), "act": launcher});
    assert_eq!(own(&claims), json!({"sub": format!("{AGENTS}/tool"), "act": second}));
}
