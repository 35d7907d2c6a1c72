// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::VecDeque;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::actor::Actor;
use crate::authority::Authority;
use crate::control::Control;
use crate::daemon::{Daemon, binaries, sweep_pins};
use crate::setup::{Setup, TRUST_DOMAIN};
use crate::talker::Talker;
use crate::wait::wait_for;
use crate::watcher::Watcher;

/// The user of every agent: it owns nothing.
pub const NOBODY: u32 = 65534;
/// Another such user.
pub const OTHER: u32 = 65533;

/// Root's alone down from the top, so that scripts in it can be measured; `/tmp` is everybody's.
const SCRATCH: &str = "/var/lib";
const PINS: &str = "/sys/fs/bpf";
/// Connections that the destination keeps open.
const KEPT: usize = 256;
const PREFIX: &str = "agent-e2e-";

/// A daemon, a destination, and a place for programs.
#[derive(Debug)]
pub struct World {
    /// The daemon under test. Declared first: it ends before its files do.
    pub daemon: Daemon,
    /// What services see.
    pub authority: Authority,
    control: Arc<Control>,
    audit_dir: PathBuf,
    defaults: Vec<(&'static str, String)>,
    dir: TempDir,
    port: u16,
    _udp: UdpSocket,
}

/// What `agentctl` did.
#[derive(Debug)]
pub struct Told {
    /// Its exit code.
    pub code: i32,
    /// Its JSON; null when it wrote none.
    pub said: Value,
    /// What it complained about.
    pub complaint: String,
}

impl World {
    /// Installs everything and starts the daemon.
    pub(crate) fn start(setup: Setup) -> Result<Self> {
        let mut world = Self::prepare(setup)?;
        world.daemon.start()?;
        Ok(world)
    }

    /// Installs everything and does not start the daemon.
    ///
    /// # Errors
    /// When this machine cannot run the test, with the reason.
    pub fn prepare(mut setup: Setup) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        ensure!(rustix::process::geteuid().is_root(), "these tests load programs into the kernel: run them as root");
        sweep_pins(Path::new(PINS), PREFIX);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(SCRATCH)?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        for (name, mode) in
            [("bin", 0o755), ("config", 0o700), ("config/policies", 0o700), ("sockets", 0o755), ("open", 0o1777)]
        {
            fs::create_dir(dir.path().join(name))?;
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode))?;
        }
        // Both families: v4-mapped connections come in here too.
        let tcp = TcpListener::bind("[::]:0").context("this machine has no IPv6")?;
        let port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind(("::", port))?;
        std::thread::spawn(move || keep(&tcp));
        let control = Arc::new(Control::bind(&dir.path().join("sockets/control"))?);
        let path = |name: &str| format!("{:?}", dir.path().join(name));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let defaults = vec![
            ("trust_domain", format!("{TRUST_DOMAIN:?}")),
            ("state_dir", path("state")),
            ("kernel.pin_dir", format!("\"{PINS}/{PREFIX}{}-{number}\"", std::process::id())),
            ("api.agent_socket", path("sockets/agent.sock")),
            ("api.admin_socket", path("sockets/admin.sock")),
            ("spiffe.socket", path("sockets/spiffe.sock")),
            ("authority.listen", format!("\"unix:{}\"", dir.path().join("sockets/authority.sock").display())),
        ];
        setup = setup.with_defaults(&defaults);
        let daemon = Daemon::new(dir.path().join("config/config.toml"), dir.path().join("daemon.log"))?;
        let authority = Authority::new(dir.path().join("sockets/authority.sock"))?;
        let audit_dir = match setup.value("audit.dir") {
            Some(dir) => PathBuf::from(dir.trim_matches('"')),
            None => dir.path().join("state/audit"),
        };
        let world = Self { daemon, authority, control, audit_dir, defaults, dir, port, _udp: udp };
        for name in ["agent", "gateway", "other"] {
            world.install(name)?;
        }
        world.write_setup(&setup)?;
        Ok(world)
    }

    /// Writes the whole configuration.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn write_setup(&self, setup: &Setup) -> Result<()> {
        self.write("config/config.toml", &setup.config())?;
        self.write("config/entries.toml", &setup.entries)?;
        self.write("config/destinations.toml", &setup.destinations)?;
        self.write("config/policies/e2e.cedar", &setup.policies)
    }

    /// Another configuration, for the next start.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn rewrite(&self, setup: Setup) -> Result<()> {
        self.write_setup(&setup.with_defaults(&self.defaults))
    }

    /// What the endpoint for verifiers answers.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub fn get(&self, path: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(self.path("sockets/authority.sock"))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        serde_json::from_str(body).with_context(|| format!("not JSON: {body}"))
    }

    /// Other entries for a daemon that runs.
    ///
    /// # Errors
    /// When they are not taken.
    pub fn write_entries_and_reload(&self, setup: &Setup) -> Result<()> {
        self.write("config/entries.toml", &setup.entries)?;
        let reloads = self.audit()?.iter().filter(|record| record["kind"] == "reload").count();
        self.daemon.signal(rustix::process::Signal::HUP)?;
        let next = || Ok(self.audit()?.into_iter().filter(|record| record["kind"] == "reload").nth(reloads));
        let record = wait_for("a reload", next)?;
        ensure!(record["outcome"] == "allow", "not taken: {record}");
        Ok(())
    }

    /// Writes a file below the test's folder, blanks filled in.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path(name), self.fill(text)?)?)
    }

    /// Text with the blanks filled in.
    ///
    /// # Errors
    /// When the actor cannot be measured.
    pub fn fill(&self, text: &str) -> Result<String> {
        let mut text = text
            .replace("@BIN@", &self.text("bin"))
            .replace("@DIR@", &self.text(""))
            .replace("@PORT@", &self.port.to_string());
        if text.contains("@SHA256@") {
            text = text.replace("@SHA256@", &sha256(&self.path("bin/agent"))?);
        }
        Ok(text)
    }

    /// A path below the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().trim_end_matches('/').to_owned()
    }

    /// Where programs go.
    pub fn program(&self, name: &str) -> String {
        self.text(&format!("bin/{name}"))
    }

    /// A copy of the actor under this name, root's and for everybody to run.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn install(&self, name: &str) -> Result<String> {
        self.install_as("actor", name)
    }

    /// A copy of one of the programs of these tests.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn install_as(&self, program: &str, name: &str) -> Result<String> {
        let target = self.path("bin").join(name);
        fs::copy(test_program(program)?, &target).with_context(|| format!("cannot install {}", target.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        Ok(self.program(name))
    }

    /// The smallest program there can be: it ends with 0.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install_tiny(&self) -> Result<String> {
        self.install_bytes("bin/tiny", &crate::tiny::program())
    }

    /// One that writes a byte with its first instructions and ends, below the test's folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install_loud(&self, name: &str) -> Result<String> {
        self.install_bytes(name, &crate::tiny::loud())
    }

    /// Its content.
    pub fn loud() -> Vec<u8> {
        crate::tiny::loud()
    }

    fn install_bytes(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let target = self.path(name);
        fs::write(&target, bytes)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        Ok(self.text(name))
    }

    /// The destination, at this address.
    pub fn api(&self, address: &str) -> String {
        if address.contains(':') { format!("[{address}]:{}", self.port) } else { format!("{address}:{}", self.port) }
    }

    /// The daemon's socket for workloads.
    pub fn socket(&self) -> String {
        self.text("sockets/agent.sock")
    }

    /// Starts a program as a user.
    ///
    /// # Errors
    /// When it does not report.
    pub fn spawn(&self, program: &str, uid: u32, arguments: &[&str]) -> Result<Actor> {
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("E2E_CONTROL", self.control.path()).stdin(Stdio::null());
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        let child = command.current_dir("/").spawn().with_context(|| format!("cannot start {program}"))?;
        Actor::of_child(child, &self.control)
    }

    /// The environment with the clients and peers that we did not write.
    ///
    /// # Errors
    /// When it is not set.
    pub fn interop(&self) -> Result<PathBuf> {
        let folder = std::env::var_os("AGENT_TEST_INTEROP").context("AGENT_TEST_INTEROP is not set: use xtask test")?;
        Ok(PathBuf::from(folder))
    }

    /// Starts a program that speaks SPIFFE and says what it sees; all it is told is where the daemon is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn talk(&self, program: &str, uid: u32, arguments: &[&str]) -> Result<Talker> {
        self.talk_over("sockets/spiffe.sock", program, uid, arguments)
    }

    /// The same with the Workload API elsewhere in the folder of this world.
    ///
    /// # Errors
    /// When it does not start.
    pub fn talk_over(&self, socket: &str, program: &str, uid: u32, arguments: &[&str]) -> Result<Talker> {
        let mut command = Command::new(program);
        let endpoint = format!("unix:{}", self.text(socket));
        command.args(arguments).env_clear().env("SPIFFE_ENDPOINT_SOCKET", endpoint).current_dir("/");
        if uid != 0 {
            command.uid(uid).gid(uid);
        }
        Talker::start(command).with_context(|| format!("cannot start {program}"))
    }

    /// Starts the agent that has an identity.
    ///
    /// # Errors
    /// When it does not report.
    pub fn agent(&self) -> Result<Actor> {
        self.spawn(&self.program("agent"), NOBODY, &[])
    }

    /// An agent with a channel to the daemon, called `channel`.
    ///
    /// # Errors
    /// When it cannot.
    pub fn agent_with_channel(&self) -> Result<Actor> {
        let mut agent = self.agent()?;
        self.open_channel(&mut agent)?;
        Ok(agent)
    }

    /// Opens a channel to the daemon, called `channel`.
    ///
    /// # Errors
    /// When it cannot.
    pub fn open_channel(&self, actor: &mut Actor) -> Result<()> {
        actor.act(&json!({"do": "channel", "as": "channel", "to": self.socket()})).map(drop)
    }

    /// What `agentctl` prints in a form for others (`--output`).
    ///
    /// # Errors
    /// When it cannot be run, or prints none.
    pub fn printed(&self, form: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binaries()?.join("agentctl"));
        command.args(["--output", form, "--admin-socket"]).arg(self.path("sockets/admin.sock")).args(arguments);
        let output = command.env_remove("AGENT_ADMIN_SOCKET").stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `agentctl` says.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Told> {
        let mut command = Command::new(binaries()?.join("agentctl"));
        command.args(["--output", "json", "--admin-socket"]).arg(self.path("sockets/admin.sock")).args(arguments);
        let output = command.env_remove("AGENT_ADMIN_SOCKET").stdin(Stdio::null()).output()?;
        let text = String::from_utf8(output.stdout)?;
        // Streams give one document a line.
        let documents: Vec<Value> = serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>()?;
        let said = match documents.as_slice() {
            [] => Value::Null,
            [one] => one.clone(),
            _ => Value::Array(documents),
        };
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(Told { code: output.status.code().unwrap_or(-1), said, complaint })
    }

    /// Watches the kernel as an operator does, from now on: a program that ends at once is run until it is seen.
    ///
    /// # Errors
    /// When `agentctl` cannot be run, or sees nothing.
    pub fn watch(&self, tiny: &str) -> Result<Watcher> {
        let watcher = Watcher::start(&self.path("sockets/admin.sock"))?;
        wait_for("the watcher should see a program that ends at once", || {
            ensure!(Command::new(tiny).env_clear().stdin(Stdio::null()).status()?.success(), "{tiny} failed");
            Ok(watcher.sees(|event| event["path"] == tiny)?.then_some(()))
        })?;
        Ok(watcher)
    }

    /// What `agentctl` says, where it has to work.
    ///
    /// # Errors
    /// When it does not.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let told = self.ctl(arguments)?;
        ensure!(told.code == 0, "agentctl {arguments:?} gave {}: {} {}", told.code, told.complaint, told.said);
        Ok(told.said)
    }

    /// A counter of `agentctl status`.
    ///
    /// # Errors
    /// When there is no such counter.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let told = self.ctl(&["status"])?;
        let counters = told.said["counters"].as_array().with_context(|| format!("no counters: {}", told.complaint))?;
        let found = counters.iter().find(|counter| counter["name"] == name);
        found
            .and_then(|counter| counter["value"].as_u64())
            .with_context(|| format!("no counter {name} in {counters:?}"))
    }

    /// The process as the daemon sees it.
    ///
    /// # Errors
    /// When it does not.
    pub fn process(&self, pid: u32) -> Result<Value> {
        let told = self.ask(&["ps", &pid.to_string()])?;
        Ok(told["processes"].get(0).with_context(|| format!("process {pid} is not there"))?.clone())
    }

    /// The audit log as it stands on disk, in order.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let mut segments: Vec<PathBuf> = self.segments()?;
        segments.sort();
        let mut records = Vec::new();
        for segment in segments {
            let text = fs::read_to_string(&segment)?;
            // The last line may be on its way.
            let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
            for line in whole.lines() {
                records.push(serde_json::from_str(line).with_context(|| format!("in {}", segment.display()))?);
            }
        }
        Ok(records)
    }

    /// The files of the audit log.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn segments(&self) -> Result<Vec<PathBuf>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.audit_dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                segments.push(path);
            }
        }
        ensure!(!segments.is_empty(), "the audit log has no segments");
        Ok(segments)
    }

    /// The first record, once it is there, of a kind with these members.
    ///
    /// # Errors
    /// When it does not come.
    pub fn record(&self, kind: &str, members: &[(&str, Value)]) -> Result<Value> {
        let fits = |record: &Value| {
            record["kind"] == kind && members.iter().all(|(path, value)| record.pointer(path) == Some(value))
        };
        wait_for(&format!("a record {kind} with {members:?}"), || {
            Ok(self.audit()?.into_iter().find(|record| fits(record)))
        })
    }
}

/// Keeps the newest connections open until the test program ends.
fn keep(listener: &TcpListener) {
    let mut kept = VecDeque::new();
    while let Ok((connection, _)) = listener.accept() {
        kept.push_back(connection);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
}

/// Cargo puts them beside the folder of the test program.
fn test_program(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe()?.ancestors().nth(2).context("no place for the programs of the tests")?.join(name))
}

fn sha256(path: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(path).output().context("cannot run sha256sum")?;
    ensure!(output.status.success(), "sha256sum failed");
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("sha256sum said nothing")?.to_owned())
}
