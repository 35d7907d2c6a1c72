// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A CA that a real OpenBao signs, and what becomes of it when that goes away.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    CLIENT, CLIENT_ID, SERVER, SERVER_ID, SOON, Setup, World, free_port, python, two_workloads, wait_for, wait_until,
};
use serde_json::{Value, json};

/// Of everybody who may do everything there.
const ROOT_TOKEN: &str = "root-of-the-test";
/// What the daemon's login may do, and nothing else.
const POLICY: &str = r#"path "pki/root/sign-intermediate" { capabilities = ["update"] }"#;

/// An OpenBao server with a PKI. It ends with this guard.
struct Bao {
    child: Child,
    program: PathBuf,
    address: String,
    folder: PathBuf,
}

impl Bao {
    fn start(world: &World) -> Result<Self> {
        let program = world.interop()?.join("bin/bao");
        let folder = world.path("bao");
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(&program);
        command.args(["server", "-dev", "-dev-tls", "-dev-no-store-token"]);
        command.arg(format!("-dev-tls-cert-dir={}", folder.display()));
        command.args([format!("-dev-root-token-id={ROOT_TOKEN}"), format!("-dev-listen-address={listen}")]);
        command.env_clear().env("HOME", &folder).stdin(Stdio::null());
        let log = fs::File::create(folder.join("log"))?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("cannot run OpenBao")?;
        let bao = Self { child, program, address: format!("https://{listen}"), folder };
        wait_until("OpenBao should be up", || Ok(bao.run(&["status"], None).is_ok()))?;
        bao.run(&["secrets", "enable", "pki"], None)?;
        bao.run(&["secrets", "tune", "-max-lease-ttl=87600h", "pki"], None)?;
        bao.run(&["write", "pki/root/generate/internal", "common_name=Test Root", "ttl=87600h"], None)?;
        bao.run(&["policy", "write", "agent-daemon", "-"], Some(POLICY))?;
        Ok(bao)
    }

    fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        use std::io::Write as _;
        let mut command = Command::new(&self.program);
        command.args(arguments).env_clear().env("HOME", &self.folder);
        command.envs([("BAO_ADDR", self.address.as_str()), ("BAO_TOKEN", ROOT_TOKEN)]);
        command.env("BAO_CACERT", self.certificate());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("bug: no pipe")?;
        stdin.write_all(input.unwrap_or_default().as_bytes())?;
        drop(stdin);
        let done = child.wait_with_output()?;
        ensure!(done.status.success(), "bao {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }

    /// How many tokens are good there.
    fn tokens(&self) -> Result<usize> {
        Ok(self.run(&["list", "auth/token/accessors"], None)?.lines().count())
    }

    fn certificate(&self) -> PathBuf {
        self.folder.join("vault-ca.pem")
    }

    /// A file that the daemon may read, in which a login stands.
    fn secret(&self, text: &str) -> Result<PathBuf> {
        let path = self.folder.join("login");
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }

    fn root(&self) -> Result<Vec<u8>> {
        let text = self.run(&["read", "-field=certificate", "pki/cert/ca"], None)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes())?;
        Ok(pem.contents)
    }

    fn use_it(&self, setup: Setup, login: &str, secret: &str) -> Result<Setup> {
        Ok(setup
            .set("authority.upstream", json!("openbao"))
            .set("openbao.address", json!(self.address))
            .set("openbao.ca_file", json!(self.certificate()))
            .set("openbao.login", json!(login))
            .set("openbao.secret_file", json!(self.secret(secret)?)))
    }

    fn stop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let end = log.len().saturating_sub(4000);
            drop(std::io::Write::write_all(&mut std::io::stderr(), log.get(end..).unwrap_or_default().as_bytes()));
        }
    }
}

fn next_authority_record(world: &World, seen: usize) -> Result<Value> {
    wait_for("the next record of the CA", || {
        Ok(world.audit()?.into_iter().filter(|record| record["kind"] == "authority").nth(seen))
    })
}

/// Whether two programs with SVIDs of this moment trust each other. New ones each time: this library's server does not
/// take a new certificate.
fn trust_each_other(world: &World) -> Result<bool> {
    let server = python(world, SERVER, &["serve", CLIENT_ID])?;
    let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
    let said = python(world, CLIENT, &["call", &port, SERVER_ID])?.next(SOON)?;
    Ok(said["answer"] == "echo:hello")
}

#[test]
fn openbao_signs_the_ca_for_every_login_and_programs_trust_each_other_by_its_root() -> Result<()> {
    let mut world = World::prepare(two_workloads())?;
    let mut bao = Bao::start(&world)?;
    bao.run(&["auth", "enable", "approle"], None)?;
    bao.run(&["write", "auth/approle/role/node", "token_policies=agent-daemon"], None)?;
    let role = bao.run(&["read", "-field=role_id", "auth/approle/role/node/role-id"], None)?;
    let secret = bao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/node/secret-id"], None)?;
    let token = bao.run(&["token", "create", "-policy=agent-daemon", "-field=token"], None)?;
    let (key, jwt) = foreign_jwt(&world)?;
    bao.run(&["auth", "enable", "-path=nodes", "jwt"], None)?;
    bao.run(&["write", "auth/nodes/config", &format!("jwt_validation_pubkeys={key}")], None)?;
    let role_settings = ["role_type=jwt", "user_claim=sub", "bound_audiences=openbao", "token_policies=agent-daemon"];
    bao.run(&[&["write", "auth/nodes/role/node"], role_settings.as_slice()].concat(), None)?;
    let logins = [
        bao.use_it(two_workloads(), "token", &token)?,
        bao.use_it(two_workloads(), "approle", &secret)?.set("openbao.role", json!(role)),
        bao.use_it(two_workloads(), "jwt", &jwt)?
            .set("openbao.role", json!("node"))
            .set("openbao.login_mount", json!("nodes")),
    ];
    for (place, (setup, secret)) in logins.into_iter().zip([&token, &secret, &jwt]).enumerate() {
        bao.secret(secret)?;
        // A life of its own, so that the CA of the login before is not the one that goes on.
        let setup = setup.set("authority.ca_lifetime", json!("1h"));
        world.rewrite(setup)?;
        for ca in ["ca-1", "ca-2"].map(|name| world.path(&format!("state/keys/{name}.sealed"))) {
            fs::remove_file(ca).or_else(absent)?;
        }
        let logins = bao.tokens()?;
        world.daemon.start()?;
        let record = next_authority_record(&world, place)?;
        assert_eq!(bao.tokens()?, logins, "a token that was made for the request is given back");
        assert_eq!((&record["outcome"], &record["upstream"]), (&json!("allow"), &json!("openbao")), "{record}");
        if place < 2 {
            world.daemon.stop()?;
        }
    }
    ensure!(trust_each_other(&world)?);
    let bundle = world.get("/bundle.json")?;
    let root = bundle["keys"][0]["x5c"][0].as_str().context("no root in the bundle")?;
    assert_eq!(e2e::base64(root), Some(bao.root()?), "others trust OpenBao's root and no other: {bundle}");
    // Without the upstream the sealed CA goes on, after a restart too.
    bao.stop();
    world.daemon.stop()?;
    world.daemon.start()?;
    ensure!(trust_each_other(&world)?);
    let log = world.daemon.log()?;
    ensure!(![&token, &secret, &jwt].into_iter().any(|login| log.contains(login.as_str())), "a login is in the log");
    Ok(())
}

#[test]
fn a_ca_of_openbao_is_replaced_while_programs_use_it_and_a_refusal_leaves_the_last_good_one() -> Result<()> {
    let mut world = World::prepare(two_workloads())?;
    let bao = Bao::start(&world)?;
    let token = bao.run(&["token", "create", "-policy=agent-daemon", "-field=token"], None)?;
    let setup = bao.use_it(two_workloads(), "token", &token)?.set("authority.ca_lifetime", json!("12s"));
    world.rewrite(setup)?;
    world.daemon.start()?;
    next_authority_record(&world, 0)?;
    let records = || -> Result<Vec<Value>> {
        Ok(world.audit()?.into_iter().filter(|record| record["kind"] == "authority").collect())
    };
    let mut calls = 0;
    while records()?.len() < 3 {
        ensure!(trust_each_other(&world)?, "after {calls} calls");
        calls += 1;
    }
    ensure!(records()?.iter().all(|record| record["outcome"] == "allow"), "{:?}", records()?);
    // Nobody may ask any more: what signs goes on until it ends, and no longer.
    bao.run(&["policy", "write", "agent-daemon", "-"], Some(r#"path "nothing" { capabilities = ["read"] }"#))?;
    let refused = wait_for("the refusal", || Ok(records()?.into_iter().find(|record| record["outcome"] == "deny")))?;
    let words = refused["error"].as_str().context("no error")?;
    ensure!(words.contains("403") && words.contains("permission denied"), "{words}");
    ensure!(trust_each_other(&world)?);
    // The new one is there at half of its life: it ends in six seconds and a little, and gives its root no end.
    thread::sleep(Duration::from_secs(13));
    let server = python(&world, SERVER, &["serve", CLIENT_ID])?;
    ensure!(server.next(Duration::from_secs(3)).is_err(), "an SVID was given without a CA");
    assert_eq!(world.get("/bundle.json")?["keys"][0]["x5c"].as_array().map(Vec::len), Some(1), "the root stays");
    let allowed = records()?.iter().filter(|record| record["outcome"] == "allow").count();
    bao.run(&["policy", "write", "agent-daemon", "-"], Some(POLICY))?;
    let is_new = |record: &&Value| record["outcome"] == "allow";
    wait_until("a CA is there again", || Ok(records()?.iter().filter(is_new).count() > allowed))?;
    ensure!(trust_each_other(&world)?);
    Ok(())
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// A token of an issuer that OpenBao trusts, with that issuer's public key.
fn foreign_jwt(world: &World) -> Result<(String, String)> {
    let program = "import jwt, time\n\
        from cryptography.hazmat.primitives import serialization as s\n\
        from cryptography.hazmat.primitives.asymmetric import ec\n\
        key = ec.generate_private_key(ec.SECP256R1())\n\
        public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode()\n\
        now = int(time.time())\n\
        token = jwt.encode({'sub': 'node-1', 'aud': 'openbao', 'iat': now, 'exp': now + 600}, key, algorithm='ES256')\n\
        import json; print(json.dumps({'key': public, 'token': token}))";
    let done = Command::new(world.interop()?.join("bin/python3")).args(["-c", program]).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said: Value = serde_json::from_slice(&done.stdout)?;
    let text = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
    Ok((text("key")?, text("token")?))
}
