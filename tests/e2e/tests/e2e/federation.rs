// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Two daemons of two trust domains that trust each other over their bundle endpoints, and OIDC discovery for clouds.

use std::fs;
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{CLIENT, SERVER, SOON, Setup, World, free_port, python, wait_for, wait_until, with_daemon};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use serde_json::{Value, json};

const OWN: &str = "example.org";
const PARTNER: &str = "partner.example";
const SERVER_ID: &str = "spiffe://example.org/workload/server";
const CLIENT_ID: &str = "spiffe://partner.example/workload/client";

/// A daemon of one trust domain whose workload is one user, and which fetches the other's bundle at a port.
fn setup(domain: &str, name: &str, uid: u32, other: &str, port: u16, profile: &str) -> Setup {
    let entries = format!(
        r#"
        [[entry]]
        id = "{name}"
        spiffe_id = "spiffe://{domain}/workload/{name}"
        kind = "workload"
        selectors = ["unix:uid:{uid}"]
        groups = ["agents"]
        federates_with = ["{other}"]

        [[federation]]
        trust_domain = "{other}"
        url = "https://127.0.0.1:{port}/"
        {profile}
        "#
    );
    let mut setup = Setup::default().with_svids("4s");
    setup.entries = entries;
    setup.destinations = setup.destinations.replace("spiffe://example.org/", &format!("spiffe://{domain}/"));
    setup.destinations = setup.destinations.replace("\"spiffe://example.org\"", &format!("\"spiffe://{domain}\""));
    setup.policies = setup.policies.replace("spiffe://example.org/", &format!("spiffe://{domain}/"));
    setup.set("trust_domain", json!(domain)).set("authority.bundle_refresh_hint", json!("1s"))
}

fn by_spiffe(domain: &str) -> String {
    format!("profile = \"https_spiffe\"\nendpoint_id = \"spiffe://{domain}/agent-daemon/bundle-endpoint\"")
}

/// A certificate for 127.0.0.1 that is its own root, with its key.
fn web_certificate(world: &World) -> Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (world.path("config/web.pem"), world.path("config/web.key"));
    let program = "import sys, datetime, ipaddress\n\
        from cryptography import x509\n\
        from cryptography.hazmat.primitives import hashes, serialization as s\n\
        from cryptography.hazmat.primitives.asymmetric import ec\n\
        key = ec.generate_private_key(ec.SECP256R1())\n\
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'web')])\n\
        now = datetime.datetime.now(datetime.timezone.utc)\n\
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address('127.0.0.1'))])\n\
        made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())\n\
        made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))\n\
        made = made.add_extension(names, False).sign(key, hashes.SHA256())\n\
        open(sys.argv[1], 'wb').write(made.public_bytes(s.Encoding.PEM))\n\
        form = (s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())\n\
        open(sys.argv[2], 'wb').write(key.private_bytes(*form))";
    let mut command = Command::new(world.interop()?.join("bin/python3"));
    let done = command.args(["-c", program]).args([&certificate, &key]).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    Ok((certificate, key))
}

fn bundle(world: &World, domain: &str) -> Result<Value> {
    let told = world.ctl(&["spiffe", "bundle", "show", "--trust-domain", domain])?;
    Ok(told.said["bundles"][0].clone())
}

fn is_fetched(world: &World, domain: &str) -> Result<bool> {
    Ok(bundle(world, domain)?["fetched_at"].is_string())
}

/// Whether a server of the one trust domain and a client of the other do.
fn trust_each_other(own: &World, partner: &World) -> Result<Value> {
    let server = python(own, SERVER, &["serve", CLIENT_ID])?;
    let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
    python(partner, CLIENT, &["call", &port, SERVER_ID])?.next(SOON)
}

#[test]
fn two_trust_domains_trust_each_other_by_both_profiles() -> Result<()> {
    let (own_port, partner_port) = (free_port()?, free_port()?);
    let web = "profile = \"https_web\"";
    let own = setup(OWN, "server", SERVER, PARTNER, partner_port, web);
    let own = own.set("bundle_endpoint.listen", json!(format!("127.0.0.1:{own_port}")));
    let mut own = World::prepare(own)?;
    let partner = setup(PARTNER, "client", CLIENT, OWN, own_port, &by_spiffe(OWN));
    let mut partner = World::prepare(partner.set("authority.ca_lifetime", json!("30s")))?;
    let (certificate, key) = web_certificate(&partner)?;
    let with_web = setup(PARTNER, "client", CLIENT, OWN, own_port, &by_spiffe(OWN))
        .set("authority.ca_lifetime", json!("30s"))
        .set("bundle_endpoint.listen", json!(format!("127.0.0.1:{partner_port}")))
        .set("bundle_endpoint.profile", json!("https_web"))
        .set("bundle_endpoint.certificate_file", json!(certificate))
        .set("bundle_endpoint.key_file", json!(key))
        .set("federation.min_refresh", json!("1s"));
    partner.rewrite(with_web)?;
    let with_root = setup(OWN, "server", SERVER, PARTNER, partner_port, web)
        .set("bundle_endpoint.listen", json!(format!("127.0.0.1:{own_port}")))
        .set("federation.ca_file", json!(certificate))
        .set("federation.min_refresh", json!("1s"));
    own.rewrite(with_root)?;
    own.daemon.start()?;
    partner.daemon.start()?;
    wait_until("the bundle comes by the web", || is_fetched(&own, PARTNER))?;
    // By SPIFFE it takes a first bundle, because nothing else says who the server is.
    let failed = wait_for("the refusal without a first bundle", || {
        Ok(bundle(&partner, OWN)?["error"].as_str().map(str::to_owned))
    })?;
    ensure!(failed.contains("spiffe bundle set"), "{failed}");
    let first = own.get("/bundle.json")?;
    partner.write("config/first.json", &first.to_string())?;
    let set = ["spiffe", "bundle", "set", "--trust-domain", OWN, &partner.text("config/first.json")];
    let told = partner.ctl(&set)?;
    assert_eq!((told.code, &told.said["changed"]), (0, &json!(true)), "{}", told.complaint);
    wait_until("the bundle comes by SPIFFE", || is_fetched(&partner, OWN))?;
    let said = trust_each_other(&own, &partner)?;
    assert_eq!(said["answer"], "echo:hello", "{said}");
    // The partner's CA is replaced, and the other side learns of it in time.
    let before = bundle(&own, PARTNER)?["sequence"].as_u64().context("no sequence")?;
    wait_until("a new authority of the partner is known", || {
        Ok(bundle(&own, PARTNER)?["sequence"].as_u64().is_some_and(|sequence| sequence > before))
    })?;
    let said = trust_each_other(&own, &partner)?;
    assert_eq!(said["answer"], "echo:hello", "{said}");
    let told = own.ctl(&["spiffe", "bundle", "remove", PARTNER])?;
    assert_eq!(told.code, 0, "{}", told.complaint);
    let mut records = partner.audit()?;
    records.extend(own.audit()?);
    for operation in ["fetch", "set", "remove"] {
        let is_it = |record: &&Value| record["kind"] == "bundle" && record["operation"] == operation;
        ensure!(records.iter().any(|record| is_it(&record)), "no record of a {operation}");
    }
    Ok(())
}

#[test]
fn a_cloud_finds_the_keys_by_oidc_discovery() -> Result<()> {
    let port = free_port()?;
    let issuer = format!("https://127.0.0.1:{port}/node");
    let mut world = World::prepare(Setup::default())?;
    let (certificate, key) = web_certificate(&world)?;
    let setup = Setup::default()
        .set("issuer", json!(issuer))
        .set("authority.jwt_key_lifetime", json!("12s"))
        .set("oidc.listen", json!(format!("127.0.0.1:{port}")))
        .set("oidc.certificate_file", json!(certificate))
        .set("oidc.key_file", json!(key));
    world.rewrite(setup.with_entries(WORKLOAD).with_svids("1m"))?;
    world.daemon.start()?;
    // Each token is verified a while after it was made, by what is published then.
    let program = "import sys, ssl, json, time, jwt, urllib.request as r\n\
        from spiffe import WorkloadApiClient\n\
        context = ssl.create_default_context(cafile=sys.argv[2])\n\
        get = lambda url: json.load(r.urlopen(url, context=context))\n\
        found = get(sys.argv[1] + '/.well-known/openid-configuration')\n\
        assert found['issuer'] == sys.argv[1], found\n\
        assert found['id_token_signing_alg_values_supported'] == ['ES256'], found\n\
        kids, verified = set(), set()\n\
        until = time.time() + 13\n\
        with WorkloadApiClient(default_timeout=15) as client:\n\
        \x20   while time.time() < until:\n\
        \x20       token = client.fetch_jwt_svid(audience={'https://api.example.org'}).token\n\
        \x20       kid = jwt.get_unverified_header(token)['kid']\n\
        \x20       kids.add(kid)\n\
        \x20       time.sleep(0.5)\n\
        \x20       if jwt.decode(token, options={'verify_signature': False})['exp'] <= time.time(): continue\n\
        \x20       keys = {k['kid']: k for k in get(found['jwks_uri'])['keys']}\n\
        \x20       key = jwt.PyJWK(keys[kid])\n\
        \x20       jwt.decode(token, key, algorithms=['ES256'], audience='https://api.example.org', issuer=sys.argv[1])\n\
        \x20       verified.add(kid)\n\
        print(json.dumps({'keys': len(kids), 'verified': len(verified)}), flush=True)";
    let readable = world.path("open/web.pem");
    fs::copy(&certificate, &readable)?;
    fs::set_permissions(&readable, fs::Permissions::from_mode(0o644))?;
    let interpreter = world.interop()?.join("bin/python3");
    let readable = readable.to_string_lossy().into_owned();
    let cloud = world.talk(&interpreter.to_string_lossy(), CLIENT, &["-c", program, &issuer, &readable])?;
    let said = cloud.next(SOON)?;
    ensure!(said["keys"].as_u64().is_some_and(|keys| keys >= 2), "the key was not replaced meanwhile: {said}");
    assert_eq!(said["keys"], said["verified"], "a key signed tokens that nobody could verify");
    Ok(())
}

const WORKLOAD: &str = r#"
[[entry]]
id = "cloud"
spiffe_id = "spiffe://example.org/workload/cloud"
kind = "workload"
selectors = ["unix:uid:65531"]
groups = ["agents"]
"#;

#[test]
fn one_machine_cannot_take_every_place_of_the_bundle_endpoint() -> Result<()> {
    let port = free_port()?;
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let setup = Setup::default().set("bundle_endpoint.listen", json!(address.to_string()));
    with_daemon(setup, |_| {
        wait_until("the endpoint listens", || Ok(TcpStream::connect(address).is_ok()))?;
        let is_turned_away = |mut stream: TcpStream| -> Result<bool> {
            stream.set_read_timeout(Some(Duration::from_millis(300)))?;
            Ok(stream.read(&mut [0]).is_ok_and(|length| length == 0))
        };
        // A quarter of 64. Each says nothing, and loses its place after 5 s.
        let silent = (0..16).map(|_| TcpStream::connect(address)).collect::<io::Result<Vec<_>>>()?;
        wait_until("the next one is turned away", || is_turned_away(TcpStream::connect(address)?))?;
        let elsewhere = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&elsewhere, &SocketAddr::from(([127, 0, 0, 2], 0)))?;
        rustix::net::connect(&elsewhere, &address)?;
        ensure!(!is_turned_away(elsewhere.into())?, "another machine is turned away too");
        drop(silent);
        Ok(())
    })
}
