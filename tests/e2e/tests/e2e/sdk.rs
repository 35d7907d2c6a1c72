// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The SDKs against the real daemon.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{NOBODY, OTHER, SOON, Talker, World, node_script, python_script, sdk_script, with_daemon};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::{Value, json};

use crate::exchange::{acting, delegating};
use crate::issuer::Issuer;
use crate::sessions::{decision, install};

/// Programs of one interpreter are told apart by their user here.
const PROGRAMS: &str = r#"
[[entry]]
id = "sdk-agent"
spiffe_id = "spiffe://example.org/agent/sdk"
kind = "agent"
selectors = ["unix:uid:65533"]
groups = ["agents"]
"#;

/// Its packages take long to load.
const SLOWLY: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
@id("sdk-acts")
permit (principal == Workload::"spiffe://example.org/agent/sdk", action == Action::"actFor", resource);
"#;

const ON_BEHALF: &str = r#"
[[binding]]
name = "on-behalf"
destination = "api"
identities = ["spiffe://example.org/*"]
source = "access"
observed_connect = "optional"
"#;

/// Starts a program of an SDK as a user.
type Start = fn(&World, u32, &[&str]) -> Result<Talker>;

#[test]
fn an_agent_in_python_serves_two_users_and_its_tool_acts_for_each() -> Result<()> {
    serves_two_users(|world, uid, arguments| sdk_script(world, uid, "sdk_agent.py", arguments))
}

#[test]
fn an_agent_in_typescript_serves_two_users_and_its_tool_acts_for_each() -> Result<()> {
    serves_two_users(|world, uid, arguments| node_script(world, uid, "sdk_agent.mjs", arguments))
}

fn serves_two_users(start: Start) -> Result<()> {
    let mut setup = delegating().with_entries(PROGRAMS).with_policies(POLICY).with_destinations(ON_BEHALF);
    // The tool is a program of the same interpreter.
    setup.entries = setup.entries.replace("[\"unix:uid:65534\", \"unix:path:@BIN@/tool\"]", "[\"unix:uid:65534\"]");
    with_daemon(setup.clone(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup)?;
        let folder = world.path("open");
        let tokens = [issuer.token("sub=ada")?, issuer.token("sub=bob")?];
        let arguments = ["agent", &folder.to_string_lossy(), &tokens[0], &tokens[1]];
        let mut agent = start(world, OTHER, &arguments)?;
        assert_eq!(agent.next(SOON)?, json!({"spiffe_ids": ["spiffe://example.org/agent/sdk"]}));
        let keys = world.get("/jwks.json")?.to_string();
        let claims = |token: &str, audience: &str| -> Result<Value> {
            let arguments = [&keys, token, "spiffe://example.org", audience];
            python_script(world, OTHER, "resource_server.py", &arguments)?.next(SOON)
        };
        for user in ["corp:ada", "corp:bob"] {
            let did = agent.next(SOON)?;
            let text = |name: &str| did[name].as_str().with_context(|| format!("no {name}: {did}"));
            assert_eq!(did["user"], user, "{did}");
            assert_eq!((&did["statuses"], &did["same"]), (&json!([200, 200]), &json!(true)), "{did}");
            assert_eq!((&did["in_step"], &did["secret_shows"]), (&json!(true), &json!(false)), "{did}");
            assert_eq!(did["elsewhere"], "", "another host got the credential");
            let of_api = claims(text("token")?, "https://api.example.org")?;
            assert_eq!((&of_api["sub"], &of_api["act"]), (&json!(user), &acting(&["agent/sdk"])));
            let record = world.record("decision", &[("/lease_id", of_api["jti"].clone())])?;
            assert_eq!((&record["user"], &record["step"]["span_id"]), (&json!(user), &did["span"]));
            assert_eq!((&record["step"]["name"], &record["step"]["joined_by"]), (&json!("search"), &json!("trace")));
            for reason in ["out_of_scope", "out_of_scope"] {
                let denied = agent.next(SOON)?;
                let id = denied["denied"].as_str().with_context(|| format!("not denied: {denied}"))?;
                assert_eq!(decision(world, id)?["reason"], reason);
            }
            let tool = start(world, NOBODY, &["tool", text("passed_on")?])?;
            let own = tool.next(SOON)?;
            let own = own["token"].as_str().with_context(|| format!("not exchanged: {own}"))?;
            let of_tool = claims(own, "https://backend.example.org")?;
            assert_eq!((&of_tool["sub"], &of_tool["act"]), (&json!(user), &acting(&["tool", "agent/sdk"])));
            assert_eq!(tool.next(SOON)?, json!({"code": "invalid_scope"}));
            fs::write(folder.join(text("session")?), "")?;
        }
        // What was done in a session that is over is denied.
        let denied = agent.next(SOON)?;
        let id = denied["denied"].as_str().with_context(|| format!("not denied: {denied}"))?;
        assert_eq!(decision(world, id)?["reason"], "session_ended");
        ensure!(agent.wait()?.success(), "the agent failed");
        // Every step was ended by who took it.
        let is_left = |record: &Value| record["kind"] == "step_ended" && record["cause"] == "session_ended";
        ensure!(!world.audit()?.iter().any(is_left), "a step was not ended");
        Ok(())
    })
}

#[test]
fn an_agent_of_the_openai_sdk_takes_its_steps_in_the_session_of_the_user_it_runs_for() -> Result<()> {
    let setup = delegating().with_entries(PROGRAMS).with_policies(POLICY).with_destinations(ON_BEHALF);
    with_daemon(setup.clone(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup)?;
        let keys = world.get("/jwks.json")?.to_string();
        let tokens = [issuer.token("sub=ada")?, issuer.token("sub=bob")?];
        let mut agent = sdk_script(world, OTHER, "openai_agent.py", &[&keys, &tokens[0], &tokens[1]])?;
        let did = [agent.next(SLOWLY)?, agent.next(SOON)?];
        // Nothing goes to whoever made that SDK.
        assert_eq!(agent.next(SOON)?, json!({"spans_seen": 0}));
        ensure!(agent.wait()?.success(), "the agent failed");
        for (own, other, user) in [(&did[0], &did[1], "corp:ada"), (&did[1], &did[0], "corp:bob")] {
            assert_eq!(own["user"], user, "{own}");
            assert_eq!(own["said"], format!("search for {user}; count for {user}"), "{own}");
            // The model server was shown a token about this user, which no file and no environment holds.
            let model = own["model"].as_array().context("no model")?;
            assert_eq!((model.len(), &model[0]["sub"], &model[1]["sub"]), (2, &json!(user), &json!(user)), "{own}");
            let kinds = |span: &Value| -> Result<Value> {
                let record = world.record("step", &[("/step/span_id", span.clone())])?;
                assert_eq!((&record["session_id"], &record["user"]), (&own["session"], &json!(user)), "{record}");
                world.record("step_ended", &[("/step/span_id", span.clone()), ("/cause", "done".into())])?;
                Ok(json!([record["step"]["kind"], record["step"]["name"], record["step"]["parent_span_id"]]))
            };
            let around = &own["instruction"]["span"];
            assert_eq!(kinds(around)?, json!(["instruction", "write the report", null]));
            for turn in model {
                assert_eq!(kinds(&turn["span"])?, json!(["reasoning", "model-1", around]));
            }
            for (release, tool) in own["releases"].as_array().context("no releases")?.iter().zip(["search", "count"]) {
                assert_eq!(kinds(&release["span"])?, json!(["tool_call", tool, around]));
                // The one runs in the loop and the other in a thread, both at once.
                assert_eq!(release["on_main_thread"], tool == "search", "{release}");
                let lease = release["lease"].as_str().context("no lease")?;
                let told = world.ask(&["audit", "trace", lease])?;
                let decision = world.record("decision", &[("/lease_id", lease.into())])?;
                assert_eq!(decision["step"]["span_id"], release["span"], "{decision}");
                assert_eq!(decision["step"]["joined_by"], "trace");
                for name in ["user", "session"] {
                    let foreign = other[name].as_str().context("a text")?;
                    ensure!(!told.to_string().contains(foreign), "{foreign} is in {told}");
                }
                ensure!(told.to_string().contains(user), "{told}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_stubs_of_the_python_sdk_are_those_of_the_proto() -> Result<()> {
    with_daemon(delegating(), |world| {
        let said = sdk_script(world, OTHER, "sdk_agent.py", &["stubs"])?.next(SOON)?;
        let stub = STANDARD.decode(said["descriptor"].as_str().context("no descriptor")?)?;
        let stub = FileDescriptorProto::decode(stub.as_slice())?;
        let ours = FileDescriptorSet::decode(agent_proto::DESCRIPTORS)?;
        let ours = ours.file.into_iter().find(|file| file.name() == "agent/v1/agent.proto").context("no such file")?;
        ensure!(bare(stub) == bare(ours), "make them anew: sdk/python/requirements-codegen.txt");
        Ok(())
    })
}

/// Without what compilers add, each in its own way.
fn bare(mut file: FileDescriptorProto) -> FileDescriptorProto {
    fn strip(message: &mut DescriptorProto) {
        message.field.iter_mut().for_each(|field| field.json_name = None);
        message.nested_type.iter_mut().for_each(strip);
    }
    file.source_code_info = None;
    file.message_type.iter_mut().for_each(strip);
    file
}
