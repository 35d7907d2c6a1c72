// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A WIT-SVID of the real daemon: another library verifies it and proves with its key, and the verifier library believes
//! that.

use std::io::Write as _;
use std::process::{Command, Stdio};

use agent_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use agent_proto::spiffe::{WitBundlesRequest, WitsvidRequest};
use anyhow::{Context as _, Result, ensure};
use e2e::{Setup, World, with_daemon};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use svid_verifier::wit::{Bundles, Request, Seen, verify};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

const ID: &str = "spiffe://example.org/workload/tester";
const URI: &str = "https://reports.example/month";
/// Of processes of root that run this very file.
const ENTRY: &str = r#"
[[entry]]
id = "tester"
spiffe_id = "spiffe://example.org/workload/tester"
kind = "workload"
selectors = ["unix:uid:0", "unix:path:@SELF@"]
groups = ["agents"]
"#;
const CATALOG: &str = r#"
[[destination]]
name = "mesh"
audience = "spiffe://example.org"

[[source]]
name = "wit"
type = "wit-svid"

[[binding]]
name = "proved"
destination = "mesh"
identities = ["spiffe://example.org/workload/*"]
source = "wit"
delivery = "workload-api"
ttl = "1m"
"#;
/// PyJWT and its cryptography, which know nothing of us: verifies the token by the key set, and proves with its key.
const PROVE: &str = r#"
import base64, hashlib, json, jwt, sys, time, uuid
given = json.load(sys.stdin)
token = given["token"]
header = jwt.get_unverified_header(token)
keys = {key.key_id: key for key in jwt.PyJWKSet.from_dict(given["keys"]).keys}
claims = jwt.decode(token, keys[header["kid"]], algorithms=["ES256"])
key = jwt.PyJWK.from_dict(given["key"], algorithm="ES256").key
digest = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
proof = {"aud": given["uri"], "exp": int(time.time()) + 30, "jti": str(uuid.uuid4()), "wth": digest}
proof = jwt.encode(proof, key, algorithm="ES256", headers={"typ": "wpt+jwt"})
print(json.dumps({"header": header, "claims": claims, "proof": proof}))
"#;

fn asked<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", tonic::metadata::MetadataValue::from_static("true"));
    request
}

async fn fetch(world: &World) -> Result<(String, String, String)> {
    let socket = world.path("sockets/spiffe.sock");
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://daemon.invalid").connect_with_connector(connector).await?;
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let mut stream = client.fetch_witsvid(asked(WitsvidRequest {})).await?.into_inner();
    let svid = stream.message().await?.context("no message")?.svids.into_iter().next().context("no SVID")?;
    assert_eq!(svid.spiffe_id, ID);
    let mut stream = client.fetch_wit_bundles(asked(WitBundlesRequest {})).await?.into_inner();
    let mut bundles = stream.message().await?.context("no message")?.bundles;
    let keys = bundles.remove("spiffe://example.org").context("no bundle")?;
    Ok((svid.wit_svid, svid.wit_svid_key, keys))
}

fn python(world: &World, given: &Value) -> Result<Value> {
    let mut command = Command::new(world.interop()?.join("bin/python3"));
    command.args(["-c", PROVE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run Python")?;
    let mut stdin = child.stdin.take().context("bug: no pipe")?;
    stdin.write_all(given.to_string().as_bytes())?;
    drop(stdin);
    let done = child.wait_with_output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(serde_json::from_slice(&done.stdout)?)
}

#[test]
fn another_library_verifies_a_wit_svid_and_its_proof_is_believed_once() -> Result<()> {
    let own = std::env::current_exe()?.canonicalize()?;
    let entry = ENTRY.replace("@SELF@", &own.to_string_lossy());
    let setup = Setup::default().with_entries(&entry).with_destinations(CATALOG);
    with_daemon(setup.set("experimental.wit_svid", json!(true)), |world| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (token, key, keys) = runtime.block_on(fetch(world))?;
        let key: Value = serde_json::from_str(&key)?;
        let key_set: Value = serde_json::from_str(&keys)?;
        let said = python(world, &json!({"token": token, "key": key, "keys": key_set, "uri": URI}))?;
        assert_eq!((&said["header"]["typ"], &said["header"]["alg"]), (&json!("wit+jwt"), &json!("ES256")));
        let claims = &said["claims"];
        assert_eq!(claims["sub"], ID);
        assert_eq!((&claims["cnf"]["jwk"]["x"], &claims["cnf"]["jwk"]["alg"]), (&key["x"], &json!("ES256")));
        ensure!(claims.get("iss").is_none() && claims["cnf"]["jwk"].get("d").is_none(), "{claims}");
        let mut bundles = Bundles::default();
        bundles.set("example.org", keys.as_bytes())?;
        let proof = said["proof"].as_str().context("no proof")?;
        let request = Request { token: &token, proof, audiences: &[URI], ..Request::default() };
        let now = claims["iat"].as_u64().context("no iat")?;
        let mut seen = Seen::new(10);
        let caller = verify(&bundles, &request, now, &mut seen)?;
        assert_eq!((caller.spiffe_id.as_str(), caller.jti.as_deref()), (ID, claims["jti"].as_str()));
        ensure!(verify(&bundles, &request, now, &mut seen).is_err(), "a proof was good twice");
        Ok(())
    })
}
