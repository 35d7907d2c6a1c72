// SPDX-License-Identifier: Apache-2.0 OR MIT

//! WIT-SVIDs from the socket to a service that verifies the proof.

use std::time::Duration;

use agent_daemon::clock::Clock as _;
use agent_daemon::testing::Setup;
use agent_proto::spiffe::{WitBundlesRequest, Witsvid, WitsvidRequest};
use svid_verifier::wit::{Bundles, Holder, Request, Seen, verify};
use tonic::Code;

use super::served::Served;
use super::spiffe::{next, with_metadata};

const URI: &str = "https://reports.example/month";
const ID: &str = "spiffe://example.org/agent/a";

fn setup() -> Setup {
    let base = super::spiffe::setup(1);
    let catalog = base.catalog.clone()
        + r#"
        [[source]]
        name = "wit"
        type = "wit-svid"

        [[binding]]
        name = "proved"
        destination = "mesh"
        identities = ["spiffe://example.org/agent/*"]
        source = "wit"
        delivery = "workload-api"
        ttl = "1m"
    "#;
    Setup { catalog, wit: true, ..base }
}

async fn svid(served: &Served) -> Witsvid {
    let stream = served.spiffe().await.fetch_witsvid(with_metadata(WitsvidRequest {})).await.unwrap();
    next(&mut stream.into_inner()).await.unwrap().svids.remove(0)
}

async fn bundles(served: &Served) -> Bundles {
    let stream = served.spiffe().await.fetch_wit_bundles(with_metadata(WitBundlesRequest {})).await.unwrap();
    let mut bundles = Bundles::default();
    for (domain, keys) in next(&mut stream.into_inner()).await.unwrap().bundles {
        bundles.set(&domain, keys.as_bytes()).unwrap();
    }
    bundles
}

fn now(served: &Served) -> u64 {
    served.t.clock.now().as_second().try_into().unwrap()
}

#[tokio::test]
async fn a_service_knows_the_workload_by_its_token_and_a_proof_for_this_request() {
    let served = Served::new(setup());
    let Witsvid { spiffe_id, wit_svid, wit_svid_key, hint } = svid(&served).await;
    assert_eq!((spiffe_id.as_str(), hint.as_str()), (ID, "internal"));
    let (bundles, now) = (bundles(&served).await, now(&served));
    let holder = Holder::new(wit_svid, &wit_svid_key).unwrap();
    let proof = holder.prove(URI, now + 10, None, &[]).unwrap();
    let request = Request { token: holder.token(), proof: &proof, audiences: &[URI], ..Request::default() };
    let caller = verify(&bundles, &request, now, &mut Seen::new(10)).unwrap();
    assert_eq!((caller.spiffe_id.as_str(), caller.token_expires_at), (ID, now + 60));
    // The same name in the audit log.
    let record = served.t.last("decision");
    assert_eq!(record["credential_type"], "wit-svid");
    assert_eq!(record["lease_id"].as_str(), caller.jti.as_deref());
}

#[tokio::test]
async fn it_is_no_bearer_token_and_its_key_signs_nothing_else() {
    let served = Served::new(setup());
    let token = svid(&served).await.wit_svid;
    let peer = served.t.peer();
    let invalid = served.t.node.validate(&peer, &token, "https://reports.example").await.unwrap().unwrap_err();
    assert!(invalid.to_string().contains("another type of token"), "{invalid}");
    assert!(!served.t.node.introspect(&token).is_active());
    let bundle: serde_json::Value = serde_json::from_slice(&served.t.node.authority.bundle().document).unwrap();
    let kids = |usage: &str| -> Vec<&str> {
        let keys = bundle["keys"].as_array().unwrap().iter().filter(|key| key["use"] == usage);
        keys.map(|key| key["kid"].as_str().unwrap()).collect()
    };
    assert_eq!((kids("jwt-svid").len(), kids("wit-svid").len()), (1, 1));
    assert_ne!(kids("jwt-svid"), kids("wit-svid"));
    let jwks = String::from_utf8(served.t.node.authority.jwt.jwks().unwrap()).unwrap();
    assert!(!jwks.contains(kids("wit-svid")[0]), "who looks for bearer tokens does not find the key");
}

#[tokio::test]
async fn each_stream_gets_a_new_one_in_time_and_one_that_is_off_is_not_there() {
    let short = setup();
    let served = Served::new(Setup { catalog: short.catalog.replace("1m", "2s"), ..short });
    let mut stream = served.spiffe().await.fetch_witsvid(with_metadata(WitsvidRequest {})).await.unwrap().into_inner();
    let first = next(&mut stream).await.unwrap().svids.remove(0);
    served.t.clock.advance(Duration::from_millis(1200));
    let second = next(&mut stream).await.unwrap().svids.remove(0);
    assert_ne!((first.wit_svid, first.wit_svid_key), (second.wit_svid, second.wit_svid_key));
    let off = Served::new(Setup { wit: false, ..setup() });
    let refused = off.spiffe().await.fetch_witsvid(with_metadata(WitsvidRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let refused = off.spiffe().await.fetch_wit_bundles(with_metadata(WitBundlesRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    // And without a binding nobody gets one.
    let none = Served::new(Setup { catalog: super::spiffe::setup(1).catalog, ..setup() });
    let refused = none.spiffe().await.fetch_witsvid(with_metadata(WitsvidRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(none.t.last("decision")["detail"].as_str().unwrap().contains("a wit-svid"));
}
