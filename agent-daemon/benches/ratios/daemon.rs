// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The real daemon in a process of its own, with a configuration for one measurement.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agent_daemon::kernel;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Setting, cleanup};

pub(crate) const DESTINATIONS: [&str; 4] = ["bench-0", "bench-1", "bench-2", "bench-3"];
/// As many as there may be.
pub(crate) const ALL_LEASES: u32 = 65_536;
const STOP: Duration = Duration::from_secs(15);

/// How a daemon is set up.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) durability: &'static str,
    pub(crate) policies: usize,
    /// Of one process.
    pub(crate) leases: u32,
}

/// What a [`Plan`] became on disk.
#[derive(Debug)]
pub(crate) struct Installed {
    binary: PathBuf,
    folder: PathBuf,
    pub(crate) pin_dir: PathBuf,
}

/// A running daemon. Dropped, it is stopped; its pins stay until the [`Installed`] goes.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
    pub(crate) spiffe: PathBuf,
    /// From its exec to the line with its socket.
    pub(crate) ready_after: Duration,
}

impl Installed {
    pub(crate) fn new(setting: &Setting, plan: &Plan) -> anyhow::Result<Self> {
        let folder = setting.state.join(plan.name);
        let policies = folder.join("policies");
        fs::create_dir_all(&policies)?;
        let pin_dir = cleanup::pin_dir(plan.name)?;
        let client = std::env::current_exe()?;
        fs::write(folder.join("config.toml"), config(plan, &pin_dir))?;
        fs::write(folder.join("entries.toml"), entries(&client))?;
        fs::write(folder.join("destinations.toml"), destinations())?;
        fs::write(policies.join("bench.cedar"), policy_set(plan.policies))?;
        Ok(Self { binary: setting.daemon.clone(), folder, pin_dir })
    }

    /// Takes the programs out of the kernel and forgets keys and log: the next start is a first one.
    pub(crate) fn reset(&self) -> anyhow::Result<()> {
        kernel::unload(&self.pin_dir)?;
        let state = self.folder.join("state");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        Ok(())
    }

    /// One of its files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn start(&self) -> anyhow::Result<Daemon> {
        let log = self.folder.join("log");
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(self.folder.join("config.toml")).args(["--log-format", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.binary.display()))?;
        let lines = BufReader::new(child.stdout.take().context("bug: the daemon's output is not piped")?);
        let (socket, spiffe) = (PathBuf::new(), PathBuf::new());
        let mut daemon = Daemon { child, socket, spiffe, ready_after: Duration::ZERO };
        for line in lines.lines() {
            let line = line?;
            if let Some(socket) = line.strip_prefix("AGENT_SOCKET=unix:") {
                daemon.ready_after = began.elapsed();
                daemon.socket = socket.into();
            }
            if let Some(socket) = line.strip_prefix("SPIFFE_ENDPOINT_SOCKET=unix:") {
                daemon.spiffe = socket.into();
                return Ok(daemon);
            }
        }
        let log = fs::read_to_string(&log).unwrap_or_default();
        bail!("the daemon did not become ready:\n{log}")
    }
}

impl Daemon {
    /// Resident bytes, as the kernel says: all, and of them those of its own (not of files or the event buffer).
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<(f64, f64)> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let bytes = |name: &str| -> anyhow::Result<f64> {
            let kib = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            let kib: u32 = kib.with_context(|| format!("the kernel does not say {name}"))?.parse()?;
            Ok(f64::from(kib) * 1024.0)
        };
        Ok((bytes("VmRSS:")?, bytes("RssAnon:")?))
    }

    pub(crate) fn cpu_time(&self) -> anyhow::Result<Duration> {
        cpu_time(self.child.id())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn has_ended_by(&mut self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                _ => return true,
            }
        }
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if !asked || !self.has_ended_by(Instant::now() + STOP) {
            crate::say("a daemon did not stop when asked; it is killed");
            // Nothing is left to be done about one that cannot be killed.
            let _killed = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// How long the threads of a process ran in all: what waiting for a CPU or the disk does not change.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Limits out of the way, everything else as it comes.
fn config(plan: &Plan, pin_dir: &Path) -> String {
    let (durability, leases, pin_dir) = (plan.durability, plan.leases, pin_dir.display());
    format!(
        r#"trust_domain = "bench.example"
state_dir = "state"
[kernel]
pin_dir = "{pin_dir}"
[api]
agent_socket = "agent.sock"
admin_socket = "admin.sock"
max_connections_per_uid = 4096
rate_burst = 1000000
rate_refill = "1us"
[spiffe]
socket = "spiffe.sock"
[authority]
listen = "unix:authority.sock"
[credentials]
max_leases = 65536
max_leases_per_process = {leases}
[audit]
durability = "{durability}"
"#
    )
}

fn entries(client: &Path) -> String {
    let client = client.display();
    format!(
        r#"[[entry]]
id = "bench-client"
spiffe_id = "spiffe://bench.example/agent/client"
kind = "agent"
selectors = ["unix:uid:0", "unix:path:{client}"]
groups = ["bench-clients"]
"#
    )
}

fn destinations() -> String {
    let mut text = r#"[[source]]
name = "node-jwt"
type = "jwt-svid"
[[source]]
name = "node-x509"
type = "x509-svid"
[[destination]]
name = "any"
audience = "*"
labels = ["bench"]
[[binding]]
name = "any-token"
destination = "any"
identities = ["spiffe://bench.example/agent/client"]
source = "node-jwt"
delivery = "workload-api"
ttl = "5m"
[[destination]]
name = "mesh"
audience = "spiffe://bench.example"
labels = ["bench"]
[[binding]]
name = "certificates"
destination = "mesh"
identities = ["spiffe://bench.example/agent/client"]
source = "node-x509"
delivery = "workload-api"
ttl = "5m"
"#
    .to_owned();
    for name in DESTINATIONS {
        text.push_str(&format!(
            r#"[[destination]]
name = "{name}"
cidrs = ["127.0.0.0/8"]
ports = [443]
audience = "https://{name}.example"
labels = ["bench"]
[[binding]]
name = "{name}-token"
destination = "{name}"
identities = ["spiffe://bench.example/agent/client"]
source = "node-jwt"
observed_connect = "optional"
ttl = "5m"
"#
        ));
    }
    text
}

/// Three that apply to every request here; the others are for other identities or destinations.
fn policy_set(count: usize) -> String {
    let mut text = r#"@id("clients-may")
permit (principal in Group::"bench-clients", action == Action::"release", resource)
when { resource.labels.contains("bench") && context.credential.ttl_seconds <= 300 && context.evidence.uid == 0 };
@id("labelled")
permit (principal, action == Action::"release", resource)
when { resource.labels.contains("public") };
@id("no-doubtful-images")
forbid (principal, action == Action::"release", resource)
when { context.evidence.flags.containsAny(["memfd", "deleted", "traced"]) };
"#
    .to_owned();
    text.push_str(
        r#"@id("clients-act")
permit (principal in Group::"bench-clients", action == Action::"actFor", resource);
"#,
    );
    for number in 3..count {
        let scope = match number % 3 {
            0 => format!(
                r#"principal == Workload::"spiffe://bench.example/agent/other-{number}", action == Action::"release", resource"#
            ),
            1 => format!(r#"principal, action == Action::"release", resource == Destination::"other-{number}""#),
            _ => format!(
                r#"principal in Group::"others-{number}", action == Action::"release", resource == Destination::"other-{number}""#
            ),
        };
        // Writing to a text does not fail.
        let _written = writeln!(
            text,
            "@id(\"other-{number}\")\npermit ({scope})\nwhen {{ context.credential.ttl_seconds <= 300 }};"
        );
    }
    text
}
