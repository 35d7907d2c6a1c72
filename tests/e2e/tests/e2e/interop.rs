// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Peers of other makers that live on our SVIDs: the Python libraries, and two Envoys between which nothing else is
//! trusted.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::{
    CLIENT, CLIENT_ID, SERVER, SERVER_ID, SOON, World, free_port, python, two_workloads, wait_until, with_daemon,
};
use serde_json::{Value, json};

#[test]
fn the_python_library_gets_and_validates_svids() -> Result<()> {
    with_daemon(two_workloads(), |world| {
        let client = python(world, CLIENT, &["svids", e2e::AUDIENCE])?;
        let said = client.next(SOON)?;
        assert_eq!(said, json!({"x509": [CLIENT_ID], "offline": CLIENT_ID, "online": CLIENT_ID}));
        let refused = client.next(SOON)?;
        let words = refused["refused"].as_str().with_context(|| format!("not refused: {refused}"))?;
        ensure!(words.contains("PERMISSION_DENIED") && words.contains("no identity issued"), "{words}");
        let rotating = python(world, CLIENT, &["rotations", "3"])?;
        let serials = rotating.next(SOON)?;
        assert_eq!(serials["serials"].as_array().map(Vec::len), Some(3), "{serials}");
        Ok(())
    })
}

#[test]
fn two_python_programs_trust_each_other_and_nobody_else() -> Result<()> {
    with_daemon(two_workloads(), |world| {
        let server = python(world, SERVER, &["serve", CLIENT_ID])?;
        let port = server.next(SOON)?["port"].as_u64().context("no port")?.to_string();
        let client = python(world, CLIENT, &["call", &port, SERVER_ID])?;
        let said = client.next(SOON)?;
        assert_eq!(said, json!({"answer": "echo:hello", "version": "TLSv1.3"}));
        // The server is not whom this one expects; and this one is not whom the server expects.
        let mistaken = python(world, CLIENT, &["call", &port, CLIENT_ID])?;
        ensure!(mistaken.next(SOON)?["refused"].is_string(), "an unexpected server was trusted");
        let stranger = python(world, SERVER, &["call", &port, SERVER_ID])?;
        let said = stranger.next(SOON)?;
        ensure!(said["answer"] != "echo:hello", "an unexpected client was trusted: {said}");
        Ok(())
    })
}

/// An Envoy of the test's. It ends with this guard.
struct Envoy {
    child: Child,
    admin: u16,
    port: u16,
    log: PathBuf,
}

struct Wiring<'a> {
    name: &'a str,
    uid: u32,
    peer: &'a str,
    upstream: u16,
    api: &'a str,
}

impl Envoy {
    fn start(world: &World, template: &str, wiring: &Wiring<'_>) -> Result<Self> {
        let root = std::env::var("AGENT_TEST_ROOT").context("AGENT_TEST_ROOT is not set: use xtask test")?;
        let (port, admin) = (free_port()?, free_port()?);
        let own = if wiring.uid == SERVER { SERVER_ID } else { CLIENT_ID };
        let text = fs::read_to_string(PathBuf::from(root).join("tests/e2e/envoy").join(template))?
            .replace("@SOCKET@", &world.text("sockets/spiffe.sock"))
            .replace("@PORT@", &port.to_string())
            .replace("@ADMIN@", &admin.to_string())
            .replace("@UPSTREAM@", &wiring.upstream.to_string())
            .replace("@ID@", own)
            .replace("@PEER@", wiring.peer)
            .replace("@API@", wiring.api);
        let config = world.path(&format!("bin/{}.yaml", wiring.name));
        fs::write(&config, text)?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644))?;
        let log = world.path(&format!("{}.log", wiring.name));
        let mut command = Command::new(binary(world)?);
        command.arg("-c").arg(&config).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
        command.env_clear().current_dir("/").uid(wiring.uid).gid(wiring.uid).stdin(Stdio::null());
        let child =
            command.stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn().context("cannot run Envoy")?;
        let envoy = Self { child, admin, port, log };
        wait_until("Envoy should be live", || Ok(envoy.ask("/ready").is_ok_and(|said| said.contains("LIVE"))))?;
        Ok(envoy)
    }

    /// What its own administration says.
    fn ask(&self, path: &str) -> Result<String> {
        http(self.admin, path)
    }

    /// The serial numbers of the certificates that it uses now.
    fn serials(&self) -> Result<Vec<String>> {
        let said = self.ask("/certs")?;
        let body = said.split_once("\r\n\r\n").map_or(said.as_str(), |(_, body)| body);
        let start = body.find('{').context("no JSON from Envoy")?;
        let end = body.rfind('}').context("no JSON from Envoy")?;
        let certificates: Value = serde_json::from_str(body.get(start..=end).unwrap_or_default())?;
        let all = certificates["certificates"].as_array().into_iter().flatten();
        let chains = all.flat_map(|one| one["cert_chain"].as_array().into_iter().flatten());
        Ok(chains.filter_map(|one| one["serial_number"].as_str().map(str::to_owned)).collect())
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            drop(writeln!(std::io::stderr(), "Envoy's log:\n{log}"));
        }
    }
}

fn binary(world: &World) -> Result<PathBuf> {
    let libraries = world.interop()?.join("lib");
    for entry in fs::read_dir(&libraries)? {
        let binary = entry?.path().join("site-packages/envoy/_bin/envoy");
        if binary.is_file() {
            return Ok(binary);
        }
    }
    anyhow::bail!("there is no Envoy below {}", libraries.display())
}

/// One request on a connection of its own.
fn http(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Answers everybody the same, until the test program ends.
fn backend() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The whole of it: what is left unread when a socket closes resets the connection.
            let mut request = Vec::new();
            let mut part = [0; 1024];
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read(&mut part) {
                    Ok(length) if length > 0 => request.extend_from_slice(part.get(..length).unwrap_or_default()),
                    _ => break,
                }
            }
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached"));
        }
    });
    Ok(port)
}

#[test]
fn two_envoys_speak_mtls_while_their_certificates_rotate_under_load() -> Result<()> {
    for api in ["GRPC", "DELTA_GRPC"] {
        with_daemon(two_workloads(), |world| {
            let server = Wiring { name: "server", uid: SERVER, peer: CLIENT_ID, upstream: backend()?, api };
            let server = Envoy::start(world, "server.yaml", &server)?;
            let client = Wiring { name: "client", uid: CLIENT, peer: SERVER_ID, upstream: server.port, api };
            let client = Envoy::start(world, "client.yaml", &client)?;
            wait_until("the first request should come through", || {
                Ok(http(client.port, "/").is_ok_and(|answer| answer.ends_with("reached")))
            })?;
            let mut seen = vec![(client.serials()?, server.serials()?)];
            let (mut requests, began) = (0, Instant::now());
            while seen.len() < 4 {
                let answer = http(client.port, "/").with_context(|| format!("request {requests} of {seen:?}"))?;
                ensure!(answer.ends_with("reached"), "request {requests} was answered {answer:?}");
                requests += 1;
                let now = (client.serials()?, server.serials()?);
                let is_new = seen.last().is_some_and(|last| last.0 != now.0 && last.1 != now.1);
                if is_new {
                    seen.push(now);
                }
                ensure!(began.elapsed() < SOON * 2, "certificates do not rotate: {seen:?}");
            }
            ensure!(requests >= 50, "only {requests} requests in {:?}", began.elapsed());
            // What they use is what the daemon recorded.
            let serial = seen.last().and_then(|(client, _)| client.first()).context("no certificate")?;
            let of = |id: &str| {
                e2e::base64url(id).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            };
            let is_it = |record: &Value| {
                record["lease_id"]
                    .as_str()
                    .is_some_and(|id| of(id).trim_start_matches('0') == serial.trim_start_matches('0'))
            };
            ensure!(world.audit()?.iter().any(is_it), "no record of the certificate {serial}");
            // Whoever has no certificate does not come through, and neither does whoever trusts another peer.
            let plain = http(server.port, "/").unwrap_or_default();
            ensure!(!plain.contains("reached"), "a client without a certificate came through");
            let mistaken = Wiring { name: "mistaken", uid: CLIENT, peer: CLIENT_ID, upstream: server.port, api };
            let mistaken = Envoy::start(world, "client.yaml", &mistaken)?;
            let answer = http(mistaken.port, "/").unwrap_or_default();
            ensure!(!answer.contains("reached"), "an unexpected server was trusted");
            Ok(())
        })?;
    }
    Ok(())
}
