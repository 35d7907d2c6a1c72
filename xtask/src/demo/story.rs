// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The story, step by step. Each step checks first and tells then.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Options;
use super::actor::{Actor, User, exit_text};
use super::agentctl::{Agentctl, all, text};
use super::stage::{AGENT_UID, AUDIENCE, DESTINATION, Stage, TRUST_DOMAIN};

const WRITER: &str = "spiffe://example.org/agent/report-writer";
const CHECKER: &str = "spiffe://example.org/agent/report-checker";
const AGENTS: User = User::Unprivileged(AGENT_UID);

type Step = (&'static str, fn(&mut World) -> Result<()>);

const STEPS: &[Step] = &[
    ("A Python agent connects to the API, then asks for a token for that connection", python_agent),
    ("A Rust agent does the same", rust_agent),
    ("An impostor: same user, same interpreter, same code, same request; another script", impostor),
    ("A tool that the agent starts has no right of its own", child_tool),
    ("An agent execs something else, which speaks on the agent's old channel", old_channel),
    ("The agent's process ends, and its credential with it", end_of_agent),
    ("The record is whole, and holds no secret", record),
];

/// Everything that is alive during the story.
struct World {
    stage: Stage,
    binaries: PathBuf,
    agentctl: Agentctl,
    agent_socket: String,
    authority: String,
    api_port: u16,
    python_agent: Option<Actor>,
    rust_agent: Option<Actor>,
    /// Files with copies of released tokens.
    copies: Vec<PathBuf>,
    daemon: Option<Actor>,
    _api: Actor,
}

/// Tells the whole story, or says which step did not hold.
pub(super) fn tell(root: &Path, folder: &Path, options: &Options) -> Result<()> {
    let mut world = World::open(root, folder, options).context("the demo could not start")?;
    for (number, (title, step)) in (1_u32..).zip(STEPS) {
        println!("\n{number}. {title}\n");
        step(&mut world).with_context(|| {
            let complaint = world.daemon.as_ref().map(Actor::complaint).unwrap_or_default();
            format!("step {number} ({title}) failed{complaint}", complaint = complaint.replace("; it", "; the daemon"))
        })?;
    }
    println!("\nAll {} steps held.", STEPS.len());
    Ok(())
}

impl Drop for World {
    /// The kernel half outlives its daemon on purpose; the demo's must not outlive the demo.
    fn drop(&mut self) {
        drop(self.daemon.take());
        let mut unload = Command::new(self.binaries.join("agent-daemon"));
        unload.arg("--unload").arg("--config").arg(&self.stage.config);
        if !unload.status().is_ok_and(|status| status.success()) {
            println!("warning: the demo's programs could not be taken out of the kernel");
        }
    }
}

impl World {
    fn open(root: &Path, folder: &Path, options: &Options) -> Result<Self> {
        let folder = folder.canonicalize()?;
        let stage = Stage::install(root, &folder, AGENT_UID, options)?;

        // The API comes first because the destination names its port; it asks the authority only when it is asked.
        let mut command = Command::new(options.binaries.join("demo-api"));
        command.arg("--until-stdin-closes").arg("--ca-out").arg(&stage.ca);
        command.args(["--authority", &stage.authority(), "--trust-domain", TRUST_DOMAIN]);
        command.args(["--audience", AUDIENCE]);
        let api = Actor::start("demo-api", command, User::Root, stage.logs.join("demo-api"))?;
        let api_port = api.line("READY ")?.parse().context("the API did not say its port")?;
        stage.configure(root, api_port)?;

        let mut command = Command::new(options.binaries.join("agent-daemon"));
        command.arg("--config").arg(&stage.config);
        let daemon = Actor::start("agent-daemon", command, User::Root, stage.logs.join("agent-daemon"))?;
        let agent_socket = daemon.line("AGENT_SOCKET=")?;
        let admin_socket = daemon.line("AGENT_ADMIN_SOCKET=")?;
        let authority = daemon.line("AUTHORITY_HTTP=")?;
        ensure!(authority == stage.authority(), "the daemon's authority listens at {authority}");
        println!("The daemon is ready; agents find it at {agent_socket}. The API listens on 127.0.0.1:{api_port}.");

        let agentctl = Agentctl { program: options.binaries.join("agentctl"), admin_socket };
        Ok(Self {
            stage,
            binaries: options.binaries.clone(),
            agentctl,
            agent_socket,
            authority,
            api_port,
            python_agent: None,
            rust_agent: None,
            copies: Vec::new(),
            daemon: Some(daemon),
            _api: api,
        })
    }

    /// An installed program as the agents' user, with nothing of our environment.
    fn agent(&self, program: &str, log: &str, arguments: &[&str]) -> Result<Actor> {
        let mut command = Command::new(self.stage.agents.join(program));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("AGENT_SOCKET", &self.agent_socket);
        command.envs(self.stage.python.environment()).current_dir("/");
        command.args(["--destination", DESTINATION, "--connect", &self.api()]);
        command.arg("--ca").arg(&self.stage.ca).args(arguments);
        Actor::start(program, command, AGENTS, self.stage.logs.join(log))
    }

    /// Where an agent is to leave a copy of its token.
    fn copy(&mut self, name: &str) -> Result<String> {
        let path = self.stage.copies.join(name);
        self.copies.push(path.clone());
        path.into_os_string().into_string().ok().context("the demo's folder is not UTF-8")
    }

    fn api(&self) -> String {
        format!("127.0.0.1:{}", self.api_port)
    }

    /// What the authority says about a copy of a token.
    fn introspected(&self, copy: &str) -> Result<Value> {
        self.thief("introspected", &["introspect", "--token-file", copy, "--authority", &self.authority])
    }

    /// What the API says to somebody who shows a copy of a token.
    fn presented(&self, copy: &str) -> Result<Value> {
        let ca = self.stage.ca.to_string_lossy();
        self.thief("response", &["present", "--token-file", copy, "--connect", &self.api(), "--ca", &ca])
    }

    fn thief(&self, step: &str, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.binaries.join("raw-ask"));
        command.args(arguments);
        let actor = Actor::start("raw-ask", command, User::Root, self.stage.logs.join("raw-ask"))?;
        actor.step(step)
    }
}

fn python_agent(world: &mut World) -> Result<()> {
    let copy = world.copy("python-agent")?;
    let agent = world.agent("report_agent.py", "report_agent", &["--token-out", &copy, "--hold"])?;
    served(&agent, WRITER)?;
    agent.step("holding")?;
    world.agentctl.show(&["ps", &agent.pid().to_string()], 0)?;
    world.agentctl.show(&["leases", &agent.pid().to_string()], 0)?;
    world.python_agent = Some(agent);
    Ok(())
}

fn rust_agent(world: &mut World) -> Result<()> {
    let copy = world.copy("rust-agent")?;
    let agent = world.agent("rust-agent", "rust-agent", &["--token-out", &copy, "--hold"])?;
    served(&agent, CHECKER)?;
    agent.step("holding")?;
    world.agentctl.show(&["connections", &agent.pid().to_string()], 0)?;
    world.rust_agent = Some(agent);
    Ok(())
}

fn impostor(world: &mut World) -> Result<()> {
    let agent = world.agent("impostor_agent.py", "impostor", &["--hold"])?;
    let cookie = text(&tell_step(agent.step("connected")?), "cookie").to_owned();
    let refused = tell_step(agent.step("refused")?);
    expect(&refused, "code", "PERMISSION_DENIED")?;
    for hint in ["sha256", "report_agent", "report-writer"] {
        ensure!(!text(&refused, "message").contains(hint), "the refusal tells the impostor about {hint}");
    }
    agent.step("holding")?;

    let pid = agent.pid().to_string();
    let question = ["explain", &pid, "--destination", DESTINATION, "--cookie", &cookie];
    world.agentctl.show(&question, 1)?;
    let answer = world.agentctl.json(&question, 1)?;
    let nearest = all(&answer, "near_misses").into_iter().find_map(|misses| misses.get(0));
    let nearest = nearest.context("the explanation names no near miss")?;
    expect(nearest, "entry_id", "report-writer")?;
    let differences = nearest.get("differences").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let [difference] = differences else { bail!("one fact should differ, not {}", differences.len()) };
    ensure!(text(difference, "expected").starts_with("script:sha256:"), "another fact differs: {difference}");
    world.agentctl.show(&["decisions", "--denied", "-n", "1"], 0)?;
    ends_with(agent, 1)
}

fn child_tool(world: &mut World) -> Result<()> {
    let copy = world.copy("tool-starter")?;
    let tool = world.stage.agents.join("report_tool.py").to_string_lossy().into_owned();
    let agent =
        world.agent("report_agent.py", "tool-starter", &["--token-out", &copy, "--child-tool", &tool, "--hold"])?;
    served(&agent, WRITER)?;
    let connected = tell_step(agent.step("connected")?);
    expect(&connected, "program", "report_tool.py")?;
    let refused = tell_step(agent.step("refused")?);
    expect(&refused, "program", "report_tool.py")?;
    expect(&refused, "code", "PERMISSION_DENIED")?;
    let ended = tell_step(agent.step("tool ended")?);
    ensure!(ended.get("exit").and_then(Value::as_i64) == Some(1), "the tool was not refused: {ended}");
    agent.step("holding")?;
    let pid = refused.get("pid").and_then(Value::as_u64).context("the tool did not say its pid")?.to_string();
    world.agentctl.show(&["audit", "query", "--pid", &pid, "--kind", "decision", "--outcome", "deny"], 0)?;
    ends_with(agent, 0)
}

fn old_channel(world: &mut World) -> Result<()> {
    let copy = world.copy("exec-agent")?;
    let other = world.stage.agents.join("raw-ask").to_string_lossy().into_owned();
    let agent = world.agent(
        "rust-agent",
        "exec-agent",
        &["--token-out", &copy, "--then-exec", &other, "release", "--destination", DESTINATION],
    )?;
    let lease = served(&agent, CHECKER)?;
    tell_step(agent.step("exec")?);
    let refused = tell_step(agent.step("refused")?);
    expect(&refused, "program", "raw-ask")?;
    expect(&refused, "code", "UNAUTHENTICATED")?;
    ends_with(agent, 1)?;
    // The exec alone ended what the agent had been given.
    expect(&world.ended(&lease)?, "state", "exec")?;
    inactive(world, &copy)?;
    world.agentctl.show(&["audit", "query", "--lease", &lease], 0)?;
    Ok(())
}

fn end_of_agent(world: &mut World) -> Result<()> {
    let agent = world.python_agent.take().context("bug: the agent is gone")?;
    let copy = world.copies.first().context("bug: no copy of its token")?.to_string_lossy().into_owned();
    // Otherwise the refusal below would prove nothing.
    let introspected = world.introspected(&copy)?;
    ensure!(introspected.get("active") == Some(&Value::Bool(true)), "the living agent's token is not active");
    let presented = world.presented(&copy)?;
    ensure!(
        presented.get("status").and_then(Value::as_u64) == Some(200),
        "the living agent's token fails: {presented}"
    );
    println!("    While the agent lives, a copy of its token still works: introspection says active, the API 200.");

    let lease = text(&introspected, "jti").to_owned();
    ends_with(agent, 0)?;
    inactive(world, &copy)?;
    let presented = world.presented(&copy)?;
    ensure!(presented.get("status").and_then(Value::as_u64) == Some(401), "the dead agent's token works: {presented}");
    println!("    The API says 401 to the copy: {}", presented.get("body").unwrap_or(&Value::Null));
    expect(&world.ended(&lease)?, "state", "exited")?;
    world.agentctl.show(&["leases", "--ended"], 0)?;
    Ok(())
}

fn record(world: &mut World) -> Result<()> {
    world.agentctl.show(&["audit", "verify"], 0)?;
    if let Some(agent) = world.rust_agent.take() {
        ends_with(agent, 0)?;
    }
    let daemon = world.daemon.take().context("bug: the daemon is gone")?;
    let complaint = daemon.complaint();
    let status = daemon.terminate()?;
    ensure!(status.success(), "the daemon ended with {}{complaint}", exit_text(status));

    let mut needles = Vec::new();
    for copy in &world.copies {
        let token = fs::read_to_string(copy).with_context(|| format!("cannot read {}", copy.display()))?;
        // The signature alone would be enough for somebody who has the claims from elsewhere.
        let (_, signature) = token.rsplit_once('.').context("a released token is not a JWT")?;
        needles.push(signature.as_bytes().to_vec());
    }
    let mut searched = Searched::default();
    for folder in [&world.stage.state, &world.stage.logs] {
        search(folder, &needles, &mut searched)?;
    }
    ensure!(searched.bytes > 0, "there was nothing to search: the audit log is elsewhere");
    println!(
        "\n    {} tokens were released; none of them is anywhere in {} files ({} bytes) of state, audit log and output.",
        needles.len(),
        searched.files,
        searched.bytes
    );
    Ok(())
}

#[derive(Default)]
struct Searched {
    files: usize,
    bytes: usize,
}

/// Fails when a file below `folder` holds one of the needles.
fn search(folder: &Path, needles: &[Vec<u8>], searched: &mut Searched) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            search(&entry.path(), needles, searched)?;
        } else if kind.is_file() {
            let content = fs::read(entry.path())?;
            for needle in needles {
                let found = content.windows(needle.len()).any(|window| window == needle);
                ensure!(!found, "{} holds a released token", entry.path().display());
            }
            searched.files += 1;
            searched.bytes += content.len();
        }
    }
    Ok(())
}

impl World {
    /// The ended lease with this id.
    fn ended(&self, lease: &str) -> Result<Value> {
        let answer = self.agentctl.json(&["leases", "--ended"], 0)?;
        let leases = all(&answer, "leases").into_iter().filter_map(Value::as_array).flatten();
        let found = leases.into_iter().find(|view| all(view, "lease_id").iter().any(|id| *id == lease));
        found.cloned().with_context(|| format!("agentctl does not list the ended lease {lease}"))
    }
}

/// An agent gets its token and its report; its lease id is returned.
fn served(agent: &Actor, spiffe_id: &str) -> Result<String> {
    tell_step(agent.step("connected")?);
    let released = tell_step(agent.step("released")?);
    expect(&released, "spiffe_id", spiffe_id)?;
    let response = tell_step(agent.step("response")?);
    ensure!(response.get("status").and_then(Value::as_u64) == Some(200), "the API refused: {response}");
    let body = response.get("body").unwrap_or(&Value::Null);
    expect(body, "served_to", spiffe_id)?;
    let lease = text(&released, "lease_id");
    expect(body, "jti", lease)?;
    Ok(lease.to_owned())
}

fn inactive(world: &World, copy: &str) -> Result<()> {
    let introspected = world.introspected(copy)?;
    ensure!(introspected.get("active") == Some(&Value::Bool(false)), "the token is still active: {introspected}");
    println!("    Introspection of the agent's token: inactive.");
    Ok(())
}

fn ends_with(agent: Actor, code: i32) -> Result<()> {
    let status = agent.let_go()?;
    ensure!(status.code() == Some(code), "it should have ended with {code}, not {}", exit_text(status));
    Ok(())
}

fn expect(value: &Value, key: &str, expected: &str) -> Result<()> {
    let found = text(value, key);
    ensure!(found == expected, "{key} should be {expected}, not {found}: {value}");
    Ok(())
}

/// Shows a step to the reader as one short line.
fn tell_step(step: Value) -> Value {
    let told = match text(&step, "step") {
        "connected" => format!("connected to {} (socket cookie {})", text(&step, "remote"), text(&step, "cookie")),
        "released" => format!("was given a token as {}, lease {}", text(&step, "spiffe_id"), text(&step, "lease_id")),
        "refused" => format!("was refused: {}: {}", text(&step, "code"), text(&step, "message")),
        "response" => format!(
            "the API answered {}: {}",
            step.get("status").unwrap_or(&Value::Null),
            step.get("body").unwrap_or(&Value::Null)
        ),
        "exec" => format!("execs {}, which inherits its channel", text(&step, "image")),
        other => other.to_owned(),
    };
    let pid = step.get("pid").unwrap_or(&Value::Null);
    println!("    {} (pid {pid}) {told}", text(&step, "program"));
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_any_file_below_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("audit")).unwrap();
        fs::write(folder.path().join("audit/log"), b"a\0bcanary\xff").unwrap();
        let mut searched = Searched::default();
        search(folder.path(), &[b"absent".to_vec()], &mut searched).unwrap();
        assert_eq!((searched.files, searched.bytes), (1, 10));
        assert!(search(folder.path(), &[b"absent".to_vec(), b"canary".to_vec()], &mut searched).is_err());
    }
}
