// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::free_port;

/// The agent may take a while until its server's first answer.
const READY: Duration = Duration::from_secs(60);

/// A real SPIRE server and agent on loopback, in a folder of their own. Dropped, they end.
#[derive(Debug)]
pub struct Spire {
    server: Process,
    agent: Process,
    programs: [PathBuf; 2],
    folder: PathBuf,
    trust_domain: String,
    /// The Workload API of the agent.
    pub socket: PathBuf,
    /// Where the server listens.
    pub port: u16,
    /// As they say it.
    pub version: String,
}

/// How a SPIRE is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpireSetup {
    /// As it comes: the agent looks at the user and the group of its caller, and the server signs 500 tokens a second
    /// for it.
    AsItComes,
    /// Without that limit.
    Unlimited,
    /// Without that limit, and the agent looks at the program's path and its hash, too, again at every call
    /// (`discover_workload_path`).
    Measuring,
}

#[derive(Debug)]
struct Process(Child);

impl Process {
    fn stop(&mut self) {
        // It keeps nothing that anybody needs.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Spire {
    /// Starts both of a folder of programs; the agent is `spiffe://TRUST_DOMAIN/node`.
    ///
    /// # Errors
    /// When one is missing or does not come up.
    pub fn start(bin: &Path, folder: PathBuf, trust_domain: &str, setup: SpireSetup) -> Result<Self> {
        for name in ["server", "agent"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let programs = ["spire-server", "spire-agent"].map(|name| bin.join(name));
        for program in &programs {
            ensure!(program.is_file(), "there is no {}", program.display());
        }
        let [server, agent] = &programs;
        let (api, socket) = (folder.join("server/api.sock"), folder.join("agent/api.sock"));
        let port = free_port()?;
        fs::write(folder.join("server.conf"), server_conf(&folder.join("server"), &api, port, trust_domain, setup))?;
        fs::write(folder.join("agent.conf"), agent_conf(&folder.join("agent"), &socket, port, trust_domain, setup))?;
        let version = said(Command::new(agent).arg("--version"))?.trim().to_owned();
        let running = Process(run(server, &folder.join("server.conf"), &folder.join("server.log"), &[])?);
        let of_server = |arguments: &[&str]| said(Command::new(server).args(arguments).arg("-socketPath").arg(&api));
        until("SPIRE's server is ready", || of_server(&["healthcheck"]).is_ok())?;
        let node = format!("spiffe://{trust_domain}/node");
        let token = of_server(&["token", "generate", "-spiffeID", &node])?;
        let token = token.trim().strip_prefix("Token: ").context("no join token")?.to_owned();
        let started = run(agent, &folder.join("agent.conf"), &folder.join("agent.log"), &["-joinToken", &token])?;
        let trust_domain = trust_domain.to_owned();
        let (server, agent) = (running, Process(started));
        Ok(Self { server, agent, programs, folder, trust_domain, socket, port, version })
    }

    /// What a command of the server says.
    ///
    /// # Errors
    /// When it fails.
    pub fn server(&self, arguments: &[&str]) -> Result<String> {
        let [server, _] = &self.programs;
        said(Command::new(server).args(arguments).arg("-socketPath").arg(self.folder.join("server/api.sock")))
    }

    /// An entry below the agent, for processes of a user.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn entry(&self, path: &str, uid: u32, further: &[&str]) -> Result<String> {
        let domain = &self.trust_domain;
        let (parent, id) = (format!("spiffe://{domain}/node"), format!("spiffe://{domain}{path}"));
        let selector = format!("unix:uid:{uid}");
        let entry = ["entry", "create", "-parentID", &parent, "-spiffeID", &id, "-selector", &selector];
        self.server(&[&entry, further].concat())
    }

    /// Waits until the agent has an entry for processes like this one. Until then it denies, and clients take that as
    /// final.
    ///
    /// # Errors
    /// When it gets none.
    pub fn wait_for_identity(&self) -> Result<()> {
        let [_, agent] = &self.programs;
        until("SPIRE's agent has the entry", || {
            said(Command::new(agent).args(["api", "fetch", "x509", "-socketPath"]).arg(&self.socket)).is_ok()
        })
    }

    /// Ends both.
    pub fn stop(&mut self) {
        self.agent.stop();
        self.server.stop();
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

fn server_conf(folder: &Path, api: &Path, port: u16, trust_domain: &str, setup: SpireSetup) -> String {
    let (folder, api) = (folder.display(), api.display());
    let is_limited = setup == SpireSetup::AsItComes;
    format!(
        r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{api}"
  trust_domain = "{trust_domain}"
  data_dir = "{folder}"
  log_level = "WARN"
  ratelimit {{ signing = {is_limited} }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{folder}/datastore.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#
    )
}

fn agent_conf(folder: &Path, socket: &Path, port: u16, trust_domain: &str, setup: SpireSetup) -> String {
    let (folder, socket) = (folder.display(), socket.display());
    let discovers = setup == SpireSetup::Measuring;
    format!(
        r#"agent {{
  data_dir = "{folder}"
  log_level = "WARN"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{socket}"
  trust_domain = "{trust_domain}"
  insecure_bootstrap = true
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = {discovers} }} }}
}}
"#
    )
}
