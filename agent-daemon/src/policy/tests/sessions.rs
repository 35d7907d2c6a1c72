// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What policy sees of a session, and that no answer is given for another one.

use super::*;

fn session(user: &str) -> SessionContext {
    SessionContext {
        id: "s0000000000000001".into(),
        user: UserContext {
            id: user.into(),
            verified_by: "oidc".into(),
            issuer: Some("https://idp.example".into()),
            subject: "ada".into(),
            name: Some("Ada".into()),
            groups: vec!["corp:staff".into()],
        },
        agent: Some("coder".into()),
        purpose: Some("a report".into()),
        scopes: Some(vec!["mail".into()]),
        depth: 1,
        opener: "spiffe://example.org/launcher".into(),
        is_bound: true,
    }
}

fn with_session<T>(session: Option<&SessionContext>, ask: impl FnOnce(&Request<'_>) -> T) -> T {
    let session = session.map(|session| PreparedSession::new(session).unwrap());
    with_release(true, |request| {
        let Action::Release { destination, connection, credential, renewal, .. } = request.action else {
            panic!("not a release")
        };
        let action = Action::Release { destination, connection, credential, renewal, session: session.as_ref() };
        ask(&Request { action, ..*request })
    })
}

#[test]
fn every_fact_of_a_session_reaches_the_policy() {
    for condition in [
        "context.session.id == \"s0000000000000001\"",
        "context.session.user == User::\"corp:ada\"",
        "context.session.user in Group::\"corp:staff\"",
        "context.session.user.subject == \"ada\"",
        "context.session.user.verified_by == \"oidc\"",
        "context.session.user has issuer && context.session.user.issuer == \"https://idp.example\"",
        "context.session.user has name && context.session.user.name == \"Ada\"",
        "context.session has agent && context.session.agent == \"coder\"",
        "context.session has purpose && context.session.purpose == \"a report\"",
        "context.session has scopes && context.session.scopes == [\"mail\"]",
        "context.session.depth == 1",
        "context.session.opener == \"spiffe://example.org/launcher\"",
        "context.session.bound",
    ] {
        let set = policies(&permit_when(&format!("context has session && {condition}")));
        let decision = with_session(Some(&session("corp:ada")), |request| set.evaluate_anew(request).0);
        assert!(decision.is_allow(), "{condition}: {decision:?}");
        let decision = with_session(None, |request| set.evaluate_anew(request).0);
        assert_eq!(decision.reason, Reason::NoPermit, "{condition}");
    }
}

#[test]
fn an_answer_for_one_session_is_not_that_for_another_or_for_none() {
    let set = policies(&permit_when("context has session && context.session.user == User::\"corp:ada\""));
    let sessions = [session("corp:ada"), session("corp:bob")].map(|one| PreparedSession::new(&one).unwrap());
    with_release(true, |request| {
        let Action::Release { destination, connection, credential, renewal, .. } = request.action else {
            panic!("not a release")
        };
        let in_session = |session| {
            let action = Action::Release { destination, connection, credential, renewal, session };
            set.evaluate(&Request { action, ..*request }).is_allow()
        };
        for _ in 0..2 {
            assert!(in_session(Some(&sessions[0])));
            assert!(!in_session(Some(&sessions[1])));
            assert!(!in_session(None));
        }
    });
}

#[test]
fn whom_an_agent_may_act_for_is_said_by_user_and_group() {
    let principal = PreparedPrincipal::new(&principal(AGENT, &["mailers"]), &evidence()).unwrap();
    let decide = |text: &str| {
        let session = PreparedSession::new(&session("corp:ada")).unwrap();
        let action = Action::ActFor { session: &session, lifetime_seconds: 600 };
        policies(text).evaluate(&Request { principal: &principal, action, now: now() }).reason
    };
    for (scope, expected) in [
        ("action == Action::\"actFor\", resource == User::\"corp:ada\"", Reason::Permit),
        ("action == Action::\"actFor\", resource == User::\"corp:bob\"", Reason::NoPermit),
        ("action == Action::\"actFor\", resource in Group::\"corp:staff\"", Reason::Permit),
        ("action == Action::\"actFor\", resource in Group::\"staff\"", Reason::NoPermit),
        ("action == Action::\"actFor\", resource is User", Reason::Permit),
        ("action, resource is Destination", Reason::NoPermit),
        ("action == Action::\"release\", resource", Reason::NoPermit),
    ] {
        assert_eq!(decide(&format!("permit (principal, {scope});")), expected, "{scope}");
    }
    let life = |limit: u32| {
        decide(&format!(
            "permit (principal, action == Action::\"actFor\", resource) when {{ context.lifetime_seconds <= {limit} }};"
        ))
    };
    assert_eq!((life(600), life(599)), (Reason::Permit, Reason::NoPermit));
}
