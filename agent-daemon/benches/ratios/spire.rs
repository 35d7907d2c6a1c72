// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A real SPIRE server and agent, as their release ships them, on loopback and in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// The agent may take a while until its server's first answer.
const READY: Duration = Duration::from_secs(60);

/// Both of them. Dropped, they end.
#[derive(Debug)]
pub(crate) struct Spire {
    _agent: Process,
    _server: Process,
    /// The Workload API.
    pub(crate) socket: PathBuf,
    /// As they say it.
    pub(crate) version: String,
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It keeps nothing that anybody needs.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Spire {
    pub(crate) fn start(bin: &Path, state: &Path) -> Result<Self> {
        let folder = state.join("spire");
        for name in ["server", "agent"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let (server, agent) = (bin.join("spire-server"), bin.join("spire-agent"));
        for program in [&server, &agent] {
            ensure!(
                program.is_file(),
                "there is no {}: --spire names the folder with both programs",
                program.display()
            );
        }
        let (api, socket) = (folder.join("server/api.sock"), folder.join("agent/api.sock"));
        let port = free_port()?;
        fs::write(folder.join("server.conf"), server_conf(&folder.join("server"), &api, port))?;
        fs::write(folder.join("agent.conf"), agent_conf(&folder.join("agent"), &socket, port))?;
        let version = said(Command::new(&agent).arg("--version"))?;
        let running = run(&server, &folder.join("server.conf"), &folder.join("server.log"), &[])?;
        let api = api.to_string_lossy().into_owned();
        let of_server = |arguments: &[&str]| said(Command::new(&server).args(arguments).args(["-socketPath", &api]));
        until("SPIRE's server is ready", || of_server(&["healthcheck"]).is_ok())?;
        let token = of_server(&["token", "generate", "-spiffeID", "spiffe://peer.example/node"])?;
        let token = token.trim().strip_prefix("Token: ").context("no join token")?.to_owned();
        of_server(&[
            "entry",
            "create",
            "-parentID",
            "spiffe://peer.example/node",
            "-spiffeID",
            "spiffe://peer.example/client",
            "-selector",
            "unix:uid:0",
        ])?;
        let started = run(&agent, &folder.join("agent.conf"), &folder.join("agent.log"), &["-joinToken", &token])?;
        let path = socket.to_string_lossy().into_owned();
        // It denies until its first sync, and clients take that as final.
        until("SPIRE's agent has the entry", || {
            said(Command::new(&agent).args(["api", "fetch", "x509", "-socketPath", &path])).is_ok()
        })?;
        Ok(Self { _agent: Process(started), _server: Process(running), socket, version: version.trim().to_owned() })
    }
}

fn run(program: &Path, config: &Path, log: &Path, further: &[&str]) -> Result<Child> {
    let log = fs::File::create(log)?;
    let mut command = Command::new(program);
    command.arg("run").arg("-config").arg(config).args(further);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("cannot run {}", program.display()))
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("cannot run SPIRE")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "SPIRE: {}{}", text(&output.stdout), text(&output.stderr));
    // Versions go to standard error.
    Ok(text(&output.stdout) + &text(&output.stderr))
}

fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > READY {
            bail!("it did not come to this: {what}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn server_conf(folder: &Path, api: &Path, port: u16) -> String {
    let (folder, api) = (folder.display(), api.display());
    format!(
        r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{api}"
  trust_domain = "peer.example"
  data_dir = "{folder}"
  log_level = "WARN"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/datastore.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}

fn agent_conf(folder: &Path, socket: &Path, port: u16) -> String {
    let (folder, socket) = (folder.display(), socket.display());
    format!(
        r#"agent {{
  data_dir = "{folder}"
  log_level = "WARN"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{socket}"
  trust_domain = "peer.example"
  insecure_bootstrap = true
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#
    )
}
