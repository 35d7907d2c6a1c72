// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Requests that no client of the Workload API may make: their codes, and what is recorded of them.

use agent_proto::spiffe::{JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest};
use tonic::{Code, Request};

use super::served::Served;
use super::spiffe::{AUDIENCE, SECOND, setup, token_for, with_metadata};

#[tokio::test]
async fn what_the_specification_forbids_gets_its_code() {
    let served = Served::new(setup(1));
    let mut client = served.spiffe().await;
    let bare = || JwtsvidRequest { audience: vec![AUDIENCE.to_owned()], spiffe_id: String::new() };
    let with_value = |value: &'static str| {
        let mut request = Request::new(bare());
        request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
        request
    };
    let twice = {
        let mut request = with_metadata(bare());
        request.metadata_mut().append("workload.spiffe.io", "true".parse().unwrap());
        request
    };
    let audiences = |audience: Vec<String>| with_metadata(JwtsvidRequest { audience, spiffe_id: String::new() });
    for (case, request, code) in [
        ("no metadata", Request::new(bare()), Code::InvalidArgument),
        ("another value", with_value("True"), Code::InvalidArgument),
        ("twice", twice, Code::InvalidArgument),
        ("no audience", audiences(vec![]), Code::InvalidArgument),
        ("an empty audience", audiences(vec![String::new()]), Code::InvalidArgument),
        ("two audiences", audiences(vec![AUDIENCE.to_owned(), "https://b.example".to_owned()]), Code::InvalidArgument),
        ("a thousand", audiences(vec!["a".to_owned(); 1000]), Code::InvalidArgument),
        ("too long", audiences(vec!["a".repeat(257)]), Code::InvalidArgument),
        ("not declared", token_for("https://unknown.example"), Code::PermissionDenied),
        (
            "another's identity",
            with_metadata(JwtsvidRequest { audience: vec![AUDIENCE.to_owned()], spiffe_id: SECOND.to_owned() }),
            Code::PermissionDenied,
        ),
    ] {
        let refused = client.fetch_jwtsvid(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{case}: {refused:?}");
    }
    assert!(served.t.node.leases.is_empty());
    let refused = served.t.records_of("caller_refused");
    assert_eq!(refused.len(), 8, "each that was not decided");
    for record in &refused {
        let said = [&record["socket"], &record["action"], &record["reason"]];
        assert_eq!(said, ["spiffe", "fetch_jwt_svid", "bad_request"], "{record}");
        assert_eq!(record["caller"]["tgid"], served.t.tgid);
    }
    assert!(refused[0]["detail"].as_str().unwrap().contains("metadata"));
    assert!(refused[6]["detail"].as_str().unwrap().starts_with("audience: "));
    let bare = served.spiffe().await.fetch_x509svid(Request::new(X509svidRequest {})).await.unwrap_err();
    assert_eq!(bare.code(), Code::InvalidArgument);
    assert_eq!(served.t.last("caller_refused")["action"], "fetch_x509_svid");
    let huge = with_metadata(JwtsvidRequest { audience: vec!["a".repeat(100_000)], spiffe_id: String::new() });
    let refused = client.fetch_jwtsvid(huge).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
}

#[tokio::test]
async fn bad_tokens_that_others_made_a_service_show_hide_no_refused_caller_and_fill_no_log() {
    let served = Served::new(setup(1));
    let mut client = served.spiffe().await;
    for _ in 0..150 {
        let ask = ValidateJwtsvidRequest { audience: AUDIENCE.into(), svid: "a.b.c".into() };
        client.validate_jwtsvid(with_metadata(ask)).await.unwrap_err();
    }
    let recorded = served.t.records_of("caller_refused").len();
    assert!((50..60).contains(&recorded), "{recorded}");
    let counters = served.t.node.counts();
    let count = |name: &str| counters.iter().find(|counter| counter.name == name).unwrap().value;
    assert_eq!((count("bad_requests"), count("callers_refused")), (150, 0));
    assert_eq!(usize::try_from(count("bad_requests_unrecorded")).unwrap(), 150 - recorded);
    // What the next image of the process writes is not put down to the one that is gone.
    let peer = served.t.peer();
    served.t.kernel.exec(served.t.tgid, |_| {});
    served.t.node.refuse_request("fetch_jwt_svid", "bad_request", "x", &peer);
    assert_eq!(served.t.last("caller_refused")["reason"], "originator_gone");
}
