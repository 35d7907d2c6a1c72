// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sessions on the real kernel: programs that know nothing of them, started by `agentctl run`; runtimes that serve several
//! users; and tokens of a real issuer.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::{Actor, NOBODY, OTHER, SOON, Setup, World, binaries, python_script, wait_until, with_daemon};
use serde_json::{Value, json};

use crate::calls::{denied, release_as, release_loose, released};
use crate::issuer::Issuer;

/// `agentctl` opens sessions, and so does the gateway, which has no right to anything else.
const OPENERS: &str = r#"
[[entry]]
id = "launcher"
spiffe_id = "spiffe://example.org/launcher"
kind = "workload"
selectors = ["unix:uid:65534", "unix:path:@BIN@/agentctl"]

[[entry]]
id = "tool"
spiffe_id = "spiffe://example.org/tool"
kind = "tool"
selectors = ["unix:uid:65534", "unix:path:@BIN@/tool"]
groups = ["agents"]

[[entry]]
id = "coder"
spiffe_id = "spiffe://example.org/agent/coder"
kind = "agent"
selectors = ["unix:uid:65534", "unix:path:@BIN@/other", "session:agent:coder"]
groups = ["agents"]
"#;

const ACT: &str = r#"
@id("launcher-acts")
permit (principal == Workload::"spiffe://example.org/launcher", action == Action::"actFor", resource)
when { resource.verified_by != "oidc" || resource.subject == "ada" || resource.subject == "bob" };

// It gets nothing itself, since no binding names it; what it starts may get what it could.
@id("launcher-bounds-nobody")
permit (principal == Workload::"spiffe://example.org/launcher", action == Action::"release", resource)
when { context has session };

@id("gateway-acts")
permit (principal == Workload::"spiffe://example.org/component/gateway", action == Action::"actFor", resource);
"#;

pub(crate) fn setup() -> Setup {
    Setup::default().with_entries(OPENERS).with_policies(ACT)
}

pub(crate) fn install(world: &World) -> Result<String> {
    let target = world.path("bin/agentctl");
    fs::copy(binaries()?.join("agentctl"), &target).context("agentctl is not built")?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    world.install("tool")?;
    Ok(world.program("agentctl"))
}

/// An actor that `agentctl run` became.
pub(crate) fn run(world: &World, further: &[&str], program: &str) -> Result<Actor> {
    let socket = world.socket();
    let start = ["run", "--agent", "coder", "--agent-socket", &socket];
    let arguments = [&start, further, &["--", program]].concat();
    let mut actor = world.spawn(&world.program("agentctl"), NOBODY, &arguments)?;
    world.open_channel(&mut actor)?;
    Ok(actor)
}

/// What a plain program does when it is started by `agentctl run`.
fn plain(world: &World, uid: u32, further: &[&str], command: &[&str], input: &str) -> Result<Output> {
    let mut run = Command::new(world.program("agentctl"));
    run.args(["run", "--agent", "coder", "--agent-socket", &world.socket()]).args(further).arg("--").args(command);
    run.env_clear().env("PATH", "/usr/bin:/bin").env("KEPT", "a b").uid(uid).gid(uid).current_dir("/");
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?)
}

fn session_of(world: &World, actor: &Actor) -> Result<String> {
    let process = world.process(actor.pid())?;
    Ok(process["session_id"].as_str().with_context(|| format!("in no session: {process}"))?.to_owned())
}

pub(crate) fn decision(world: &World, id: &str) -> Result<Value> {
    world.record("decision", &[("/decision_id", id.into())])
}

#[test]
fn what_agentctl_run_starts_is_in_a_session_with_its_whole_tree() -> Result<()> {
    with_daemon(setup(), |world| {
        install(world)?;
        let mut agent = run(world, &["--purpose", "the report"], &world.program("agent"))?;
        let session = session_of(world, &agent)?;
        let got = released(&mut agent, &release_loose())?;
        let record = decision(world, &got.decision)?;
        assert_eq!((&record["session_id"], &record["user"]), (&json!(session), &json!("uid:65534")));
        let opened =
            world.record("decision", &[("/action", "act_for".into()), ("/session_id", session.as_str().into())])?;
        assert_eq!(opened["session"]["agent"], "coder");
        assert_eq!(opened["session"]["purpose"], "the report");
        assert_eq!(opened["spiffe_id"], "spiffe://example.org/launcher");
        // A child, and one whose parent is gone.
        let mut child = agent.fork(None)?;
        world.open_channel(&mut child)?;
        released(&mut child, &release_loose())?;
        let mut orphan = child.fork(None)?;
        child.exit()?;
        world.open_channel(&mut orphan)?;
        let got = released(&mut orphan, &release_loose())?;
        assert_eq!(decision(world, &got.decision)?["session_id"], session);
        // The agent that the session names: an identity that this program has nowhere else.
        let mut named = agent.fork(None)?;
        named.exec(&world.program("other"), &[])?;
        world.open_channel(&mut named)?;
        let got = released(&mut named, &release_loose())?;
        assert_eq!(decision(world, &got.decision)?["spiffe_id"], "spiffe://example.org/agent/coder");
        let mut outside = world.spawn(&world.program("other"), NOBODY, &[])?;
        world.open_channel(&mut outside)?;
        denied(world, &mut outside, &release_loose(), "no_identity")?;
        // An operator sees it and ends it.
        let listed = world.ask(&["sessions"])?;
        assert_eq!(listed["sessions"][0]["session_id"], session, "{listed}");
        assert_eq!(listed["sessions"][0]["user"], "uid:65534");
        assert!(world.authority.is_active(&got.token)?);
        assert_eq!(world.ask(&["sessions", &session, "--end"])?["ended"], 1);
        assert!(!world.authority.is_active(&got.token)?);
        denied(world, &mut agent, &release_loose(), "session_ended")?;
        denied(world, &mut orphan, &release_loose(), "session_ended")?;
        let record = world.record("session_ended", &[("/session_id", session.as_str().into())])?;
        assert_eq!(record["cause"], "revoked");
        assert_eq!(world.ctl(&["sessions", &session, "--end"])?.code, 1);
        Ok(())
    })
}

#[test]
fn a_program_under_agentctl_run_is_as_it_is_without() -> Result<()> {
    with_daemon(setup(), |world| {
        install(world)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let script = "printf %s \"$KEPT\"; tr a-z A-Z; echo err >&2; echo $$ $PPID; exit 7";
        let ran = plain(world, NOBODY, &[], &["sh", "-c", script], "words\n")?;
        assert_eq!(ran.status.code(), Some(7), "{}", text(&ran.stderr));
        assert_eq!(text(&ran.stderr), "err\n");
        let said = text(&ran.stdout);
        assert!(said.starts_with("a bWORDS\n"), "{said}");
        // Nobody stands between: its parent is this test.
        assert!(said.trim_end().ends_with(&format!(" {}", std::process::id())), "{said}");
        let environment = plain(world, NOBODY, &[], &["env"], "")?;
        let mut environment: Vec<_> = text(&environment.stdout).lines().map(str::to_owned).collect();
        environment.sort();
        assert_eq!(environment, ["KEPT=a b", "PATH=/usr/bin:/bin"]);
        let killed = plain(world, NOBODY, &[], &["sh", "-c", "kill -INT $$"], "")?;
        assert_eq!(killed.status.signal(), Some(2));
        // A pipe that nobody reads ends it, as it ends any program.
        let piped = plain(world, NOBODY, &[], &["sh", "-c", "yes | head -1; echo ${PIPESTATUS:-}"], "")?;
        assert_eq!(text(&piped.stdout).lines().next(), Some("y"));
        assert_eq!(text(&piped.stderr), "", "yes should have ended by its signal");
        for (uid, further, command, code, words) in [
            (NOBODY, &[][..], &["/nowhere/to/be/found"][..], 127, "cannot start /nowhere/to/be/found: no such file"),
            (NOBODY, &[], &["/etc/passwd"], 126, "cannot start /etc/passwd: permission denied"),
            (OTHER, &[], &["true"], 125, "no session: the daemon does not allow this: denied"),
            (NOBODY, &["--agent-socket", "/nowhere"], &["true"], 125, "cannot connect to the agent socket /nowhere"),
            (NOBODY, &["--user-token-file", "/nowhere"], &["true"], 125, "cannot read /nowhere"),
        ] {
            let further: Vec<&str> = further.to_vec();
            let ran = match further.first() {
                // The flag may be given once.
                Some(&"--agent-socket") => {
                    let mut run = Command::new(world.program("agentctl"));
                    run.args(["run", "--agent", "x"]).args(&further).arg("--").args(command);
                    run.env_clear().uid(uid).gid(uid).output()?
                }
                _ => plain(world, uid, &further, command, "")?,
            };
            assert_eq!(ran.status.code(), Some(code), "{command:?}: {}", text(&ran.stderr));
            assert!(text(&ran.stderr).contains(words), "{command:?}: {}", text(&ran.stderr));
        }
        // Sessions in which nobody is left end by themselves.
        wait_until("no session is left", || {
            Ok(world.ask(&["sessions"])?["sessions"].as_array().is_some_and(Vec::is_empty))
        })?;
        let ended = world.ask(&["sessions", "--ended"])?;
        assert!(
            ended["sessions"].as_array().context("a list")?.iter().all(|one| one["state"] == "abandoned"),
            "{ended}"
        );
        Ok(())
    })
}

#[test]
fn a_tool_never_has_more_than_the_agent_that_started_it() -> Result<()> {
    let forbid = r#"
@id("agent-one-may-not")
forbid (principal == Workload::"spiffe://example.org/agent/one", action == Action::"release", resource);
"#;
    with_daemon(setup().with_policies(forbid), |world| {
        install(world)?;
        let tool = world.program("tool");
        // Alone, and started by the launcher, it may.
        let mut alone = run(world, &[], &tool)?;
        released(&mut alone, &release_loose())?;
        // Started by the agent, it may not, whether that lives on, becomes the tool, or is gone.
        let mut agent = run(world, &[], &world.program("agent"))?;
        denied(world, &mut agent, &release_loose(), "policy_forbid")?;
        let mut child = agent.fork(None)?;
        let mut grandchild = child.fork(None)?;
        child.exec(&tool, &[])?;
        world.open_channel(&mut child)?;
        let record = denied(world, &mut child, &release_loose(), "ancestor_not_permitted")?;
        assert!(record["detail"].as_str().is_some_and(|detail| detail.contains("its ancestor x")), "{record}");
        grandchild.exec(&tool, &[])?;
        agent.exec(&tool, &[])?;
        for actor in [&mut grandchild, &mut agent] {
            world.open_channel(actor)?;
            denied(world, actor, &release_loose(), "ancestor_not_permitted")?;
        }
        // The daemon that starts anew knows no more and no less.
        world.daemon.stop()?;
        world.daemon.start()?;
        for actor in [&mut grandchild, &mut agent] {
            world.open_channel(actor)?;
            denied(world, actor, &release_loose(), "ancestor_not_permitted")?;
        }
        world.open_channel(&mut alone)?;
        released(&mut alone, &release_loose())?;
        Ok(())
    })
}

fn open(actor: &mut Actor, further: &Value) -> Result<(String, String)> {
    let mut call = json!({"do": "call", "call": "open_session", "on": "channel"});
    for (name, value) in further.as_object().context("members")? {
        call[name] = value.clone();
    }
    let answer = actor.act(&call)?;
    let text = |name: &str| answer["ok"][name].as_str().map(str::to_owned);
    text("session").zip(text("handle")).with_context(|| format!("not opened: {answer}"))
}

fn release_in(handle: &str) -> Value {
    let mut call = release_loose();
    call["handle"] = handle.into();
    call
}

#[test]
fn a_runtime_serves_two_users_and_their_tools_know_nothing_of_each_other() -> Result<()> {
    with_daemon(setup(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        let mut gateway = world.spawn(&world.program("gateway"), NOBODY, &[])?;
        world.open_channel(&mut gateway)?;
        let bounds = r#"
@id("gateway-bounds-nobody")
permit (principal == Workload::"spiffe://example.org/component/gateway", action == Action::"release", resource)
when { context has session };
"#;
        issuer.name_it(world, &setup().with_policies(bounds))?;
        let mut opened = Vec::new();
        for user in ["ada", "bob"] {
            let token = issuer.token(&format!("sub={user}"))?;
            opened.push(open(&mut gateway, &json!({"token": token, "by_handle": true, "scopes": ["api"]}))?);
        }
        let tools: Vec<Actor> = opened
            .iter()
            .map(|(_, handle)| {
                let mut tool = gateway.fork(None)?;
                world.open_channel(&mut tool)?;
                let enter = json!({"do": "call", "call": "enter_session", "on": "channel", "handle": handle});
                ensure!(tool.act(&enter)?["ok"].is_object(), "not entered");
                tool.exec(&world.program("tool"), &[])?;
                world.open_channel(&mut tool)?;
                Ok(tool)
            })
            .collect::<Result<_>>()?;
        for ((mut tool, (session, handle)), user) in tools.into_iter().zip(&opened).zip(["corp:ada", "corp:bob"]) {
            let got = released(&mut tool, &release_loose())?;
            let record = decision(world, &got.decision)?;
            assert_eq!((&record["session_id"], &record["user"]), (&json!(session), &json!(user)));
            // Its own handle names the same, the other user's nothing that it may act in.
            released(&mut tool, &release_in(handle))?;
            for (_, other) in opened.iter().filter(|(other, _)| other != session) {
                denied(world, &mut tool, &release_in(other), "session_not_yours")?;
            }
        }
        // Nobody outside of the gateway's tree can use a handle, whoever it is.
        let mut stranger = world.spawn(&world.program("tool"), NOBODY, &[])?;
        world.open_channel(&mut stranger)?;
        let handle = &opened[0].1;
        denied(world, &mut stranger, &release_in(handle), "session_not_yours")?;
        let enter = json!({"do": "call", "call": "enter_session", "on": "channel", "handle": handle});
        denied(world, &mut stranger, &enter, "session_not_yours")?;
        let close = json!({"do": "call", "call": "close_session", "on": "channel", "handle": handle});
        stranger.act(&close)?;
        assert_eq!(world.ask(&["sessions"])?["sessions"].as_array().map(Vec::len), Some(2), "a stranger ends nothing");
        gateway.act(&close)?;
        assert_eq!(world.ask(&["sessions"])?["sessions"].as_array().map(Vec::len), Some(1));
        Ok(())
    })
}

#[test]
fn a_user_is_whom_a_good_token_names_and_nobody_else() -> Result<()> {
    with_daemon(setup(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        let file = world.path("open/token");
        let run = |world: &World, token: &str| -> Result<Output> {
            fs::write(&file, token)?;
            plain(world, NOBODY, &["--user-token-file", &file.to_string_lossy()], &["true"], "")
        };
        let refused = |world: &World, token: &str, words: &str| -> Result<()> {
            let ran = run(world, token)?;
            let complaint = String::from_utf8_lossy(&ran.stderr).into_owned();
            ensure!(ran.status.code() == Some(125), "{words}: {complaint}");
            ensure!(
                !complaint.contains(words) && !complaint.contains(token),
                "the caller is told too much: {complaint}"
            );
            let id = complaint.lines().next().and_then(|line| line.rsplit(' ').next()).context("no decision")?;
            let record = decision(world, id)?;
            ensure!(record["reason"] == "invalid_token", "{words}: {record}");
            ensure!(record["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{words}: {record}");
            ensure!(!record.to_string().contains(token), "the token is in the log");
            Ok(())
        };
        refused(world, &issuer.token("")?, "of an issuer that nobody named")?;
        issuer.name_it(world, &setup())?;
        let ran = run(world, &issuer.token("name=Ada&azp=agent-daemon")?)?;
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let opened = world.record("decision", &[("/action", "act_for".into()), ("/user", "corp:ada".into())])?;
        assert_eq!(opened["session"]["verified_by"], "oidc");
        assert_eq!(opened["session"]["issuer"], issuer.url);
        for (claims, words) in [
            ("exp_in=-60", "it has expired"),
            ("iat_in=3600", "not valid yet"),
            ("nbf_in=3600", "not valid yet"),
            ("aud=another", "for another audience"),
            ("azp=another", "to another party"),
            ("iss=http://127.0.0.1:1", "of an issuer that nobody named"),
            ("sub=", "names no user"),
            ("alg=none", "algorithm is not one of its key"),
            ("alg=HS256", "algorithm is not one of its key"),
            ("kid=no-such-key", "key is unknown"),
            ("typ=logout%2Bjwt", "another type of token"),
        ] {
            refused(world, &issuer.token(claims)?, words)?;
        }
        let good = issuer.token("")?;
        let (signed, signature) = good.rsplit_once('.').context("three parts")?;
        let other = issuer.token("sub=bob")?;
        let (of_other, _) = other.rsplit_once('.').context("three parts")?;
        refused(world, &format!("{of_other}.{signature}"), "signature does not fit")?;
        refused(world, &format!("{signed}."), "signature does not fit")?;
        // Another user whom policy does not know.
        let ran = run(world, &issuer.token("sub=eve")?)?;
        assert_eq!(ran.status.code(), Some(125));
        world.record("decision", &[("/user", "corp:eve".into()), ("/reason", "policy_no_permit".into())])?;
        // What is too long is no token, and is not sent.
        let ran = run(world, &"x".repeat(9000))?;
        assert!(String::from_utf8_lossy(&ran.stderr).contains("larger than 8192 bytes"));
        // A token of a key that its issuer took back, as soon as its keys are fetched again: for a key that is not known.
        let before = issuer.token("")?;
        issuer.get("/rotate")?;
        wait_until("the new key is known", || Ok(run(world, &issuer.token("")?)?.status.success()))?;
        refused(world, &before, "key is unknown")?;
        // An issuer that is down: its last keys do for a while, and a new key does not.
        issuer.get("/down")?;
        assert!(run(world, &issuer.token("")?)?.status.success());
        Ok(())
    })
}

#[test]
fn a_trace_of_one_credential_is_its_chain_and_nothing_of_anybody_else() -> Result<()> {
    with_daemon(setup(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup())?;
        let file = world.path("open/token");
        let mut told = Vec::new();
        for user in ["ada", "bob"] {
            fs::write(&file, issuer.token(&format!("sub={user}"))?)?;
            let token = file.to_string_lossy().into_owned();
            let purpose = format!("for {user}");
            let mut agent = run(world, &["--user-token-file", &token, "--purpose", &purpose], &world.program("agent"))?;
            let mut tool = agent.fork(None)?;
            tool.exec(&world.program("tool"), &[])?;
            world.open_channel(&mut tool)?;
            let cookie = tool.connect("api", &world.api("127.0.0.1"))?;
            let got = released(&mut tool, &crate::calls::release_for(cookie))?;
            released(&mut agent, &release_loose())?;
            told.push((user, session_of(world, &agent)?, cookie, got));
            tool.exit()?;
        }
        world.record("lease_ended", &[("/lease_id", told[1].3.lease.as_str().into())])?;
        for (user, session, cookie, got) in &told {
            let other = if *user == "ada" { "bob" } else { "ada" };
            let jti = world.ask(&["audit", "trace", &got.lease])?;
            let text = jti.to_string();
            ensure!(!text.contains(&format!("corp:{other}")) && !text.contains(&format!("for {other}")), "{text}");
            assert_eq!(jti["users"].as_array().map(Vec::len), Some(1), "{text}");
            assert_eq!(jti["programs"], json!([]));
            assert_eq!(jti["users"][0]["user"], format!("corp:{user}"));
            let found = &jti["users"][0]["sessions"][0];
            assert_eq!((&found["session_id"], &found["purpose"]), (&json!(session), &json!(format!("for {user}"))));
            // Opener, agent, tool; one decision, with its connection and its credential.
            let mut program = &found["programs"][0];
            for path in ["agentctl", "agent", "tool"] {
                ensure!(program["path"] == world.program(path), "{path}: {program}");
                if path != "tool" {
                    assert_eq!(program["decisions"], json!([]), "{text}");
                    program = &program["programs"][0];
                }
            }
            assert_eq!(program["decisions"].as_array().map(Vec::len), Some(1), "{text}");
            let decision = &program["decisions"][0];
            assert_eq!(decision["connection"]["cookie"], cookie.to_string());
            assert_eq!(decision["credential"]["lease_id"], got.lease);
            assert_eq!(decision["credential"]["cause"], "exited");
            assert_eq!(decision["policy_ids"], json!(["agents-release"]));
            // The same by the connection and by the decision; the session and the user have the agent's own, too.
            for subject in [format!("cookie:{cookie}"), got.decision.clone()] {
                assert_eq!(world.ask(&["audit", "trace", &subject])?["users"], jti["users"], "{subject}");
            }
            for subject in [session.clone(), format!("corp:{user}")] {
                let all = world.ask(&["audit", "trace", &subject])?.to_string();
                ensure!(all.contains(&got.lease) && all.matches("\"action\":\"release\"").count() == 2, "{all}");
                ensure!(!all.contains(&format!("corp:{other}")), "{all}");
            }
        }
        let page = world.path("open/page.html");
        world.ask(&["audit", "trace", "corp:ada", "--html", &page.to_string_lossy()])?;
        let page = fs::read_to_string(page)?;
        ensure!(page.starts_with("<!doctype html>") && page.contains("for ada") && !page.contains("for bob"), "{page}");
        assert_eq!(world.printed("html", &["audit", "trace", "corp:ada"])?, page);
        assert_eq!(world.ctl(&["audit", "trace", "corp:eve"])?.code, 1);
        assert_eq!(world.ctl(&["audit", "trace", "nonsense"])?.code, 2);
        let by_agent = world.ask(&["audit", "query", "--where", "session.agent=coder", "--where", "user=corp:bob"])?;
        assert_eq!(by_agent["record"]["user"], "corp:bob", "one record is not a list: {by_agent}");
        Ok(())
    })
}

#[test]
fn a_fork_that_opens_a_session_has_a_place_in_the_lineage_of_what_it_becomes() -> Result<()> {
    with_daemon(setup(), |world| {
        install(world)?;
        // The gateway forks, the child opens a session for itself and becomes the tool.
        let bounds = r#"
@id("gateway-bounds-nobody")
permit (principal == Workload::"spiffe://example.org/component/gateway", action == Action::"release", resource)
when { context has session };
"#;
        world.rewrite(setup().with_policies(bounds))?;
        ensure!(world.ask(&["reload"])?["accepted"] == true, "not taken");
        let mut gateway = world.spawn(&world.program("gateway"), NOBODY, &[])?;
        let mut child = gateway.fork(None)?;
        world.open_channel(&mut child)?;
        let (session, _) = open(&mut child, &json!({"agent": "coder"}))?;
        let opener = world.process(child.pid())?["exec_id"].clone();
        child.exec(&world.program("tool"), &[])?;
        world.open_channel(&mut child)?;
        let got = released(&mut child, &release_loose())?;
        let record = decision(world, &got.decision)?;
        assert_eq!(record["session_id"], session);
        let above = record["lineage"].as_array().context("a lineage")?;
        ensure!(above.iter().any(|one| json!(format!("x{}", one["exec_id"])) == opener), "{opener} is not in {record}");
        // One that only execs has none.
        let mut plain = gateway.fork(None)?;
        let fork = world.process(plain.pid())?["exec_id"].clone();
        plain.exec(&world.program("agent"), &[])?;
        world.open_channel(&mut plain)?;
        let got = released(&mut plain, &release_loose())?;
        let record = decision(world, &got.decision)?;
        let above = record["lineage"].as_array().context("a lineage")?;
        ensure!(above.iter().all(|one| json!(format!("x{}", one["exec_id"])) != fork), "{fork} is in {record}");
        Ok(())
    })
}

#[test]
fn an_access_token_names_the_user_and_everybody_down_to_the_tool() -> Result<()> {
    let binding = r#"
[[source]]
name = "access"
type = "access-token"

[[binding]]
name = "on-behalf"
destination = "api"
identities = ["spiffe://example.org/*"]
source = "access"
observed_connect = "optional"
"#;
    let setup = setup().with_destinations(binding).set("experimental.transaction_ids", true);
    with_daemon(setup.clone(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup)?;
        let file = world.path("open/token");
        fs::write(&file, issuer.token("sub=ada")?)?;
        let token_file = file.to_string_lossy().into_owned();
        let further = ["--user-token-file", &token_file, "--scope", "api", "--scope", "elsewhere"];
        let mut agent = run(world, &further, &world.program("agent"))?;
        let mut tool = agent.fork(None)?;
        tool.exec(&world.program("tool"), &[])?;
        world.open_channel(&mut tool)?;
        let got = released(&mut tool, &release_as("on-behalf"))?;
        let keys = world.get("/jwks.json")?.to_string();
        let check = |token: &str| -> Result<Value> {
            let arguments = [&keys, token, "spiffe://example.org", "https://api.example.org"];
            python_script(world, OTHER, "resource_server.py", &arguments)?.next(SOON)
        };
        let claims = check(&got.token)?;
        let opened = world.record("decision", &[("/action", "act_for".into()), ("/user", "corp:ada".into())])?;
        let chain = ["tool", "agent/one", "launcher"].map(|name| format!("spiffe://example.org/{name}"));
        let act = chain.iter().rev().fold(Value::Null, |above, sub| match above {
            Value::Null => json!({"sub": sub}),
            above => json!({"sub": sub, "act": above}),
        });
        for (claim, expected) in [
            ("sub", json!("corp:ada")),
            ("sub_id", json!({"format": "iss_sub", "iss": issuer.url, "sub": "ada"})),
            ("client_id", json!(chain[0])),
            ("act", act),
            ("scope", json!("api")),
            ("sid", opened["session_id"].clone()),
            ("txn", opened["decision_id"].clone()),
        ] {
            assert_eq!(claims[claim], expected, "{claim}: {claims}");
        }
        assert_eq!(decision(world, &got.decision)?["actors"], json!(chain));
        assert!(world.authority.is_active(&got.token)?);
        // The same tool without the agent says so.
        let mut alone = run(world, &further, &world.program("tool"))?;
        let claims = check(&released(&mut alone, &release_as("on-behalf"))?.token)?;
        assert_eq!(claims["act"], json!({"sub": chain[0], "act": {"sub": chain[2]}}));
        // A token about the agent alone is none of these, and on nobody's behalf there is none.
        let svid = released(&mut tool, &release_loose())?;
        assert_eq!(check(&svid.token)?["refused"], "it is no access token");
        assert!(world.authority.verify(&got.token).is_err(), "an access token passes for an SVID");
        let mut outside = world.spawn(&world.program("tool"), NOBODY, &[])?;
        world.open_channel(&mut outside)?;
        denied(world, &mut outside, &release_as("on-behalf"), "session_required")?;
        // It ends with its session.
        world.ask(&["sessions", claims["sid"].as_str().context("a session")?, "--end"])?;
        world.ask(&["sessions", opened["session_id"].as_str().context("a session")?, "--end"])?;
        assert!(!world.authority.is_active(&got.token)?);
        Ok(())
    })
}
