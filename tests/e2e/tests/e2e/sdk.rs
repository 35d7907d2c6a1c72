// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The Python SDK against the real daemon.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{NOBODY, OTHER, SOON, python_script, sdk_script, with_daemon};
use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use serde_json::{Value, json};

use crate::exchange::{acting, delegating};
use crate::issuer::Issuer;
use crate::sessions::{decision, install};

/// Python programs are told apart by their user here.
const PROGRAMS: &str = r#"
[[entry]]
id = "python-agent"
spiffe_id = "spiffe://example.org/agent/python"
kind = "agent"
selectors = ["unix:uid:65533"]
groups = ["agents"]
"#;

const POLICY: &str = r#"
@id("python-acts")
permit (principal == Workload::"spiffe://example.org/agent/python", action == Action::"actFor", resource);
"#;

const ON_BEHALF: &str = r#"
[[binding]]
name = "on-behalf"
destination = "api"
identities = ["spiffe://example.org/*"]
source = "access"
observed_connect = "optional"
"#;

#[test]
fn an_agent_in_python_serves_two_users_and_its_tool_acts_for_each() -> Result<()> {
    let mut setup = delegating().with_entries(PROGRAMS).with_policies(POLICY).with_destinations(ON_BEHALF);
    // The tool is a Python program, too.
    setup.entries = setup.entries.replace("[\"unix:uid:65534\", \"unix:path:@BIN@/tool\"]", "[\"unix:uid:65534\"]");
    with_daemon(setup.clone(), |world| {
        install(world)?;
        let issuer = Issuer::start(world)?;
        issuer.name_it(world, &setup)?;
        let folder = world.path("open");
        let tokens = [issuer.token("sub=ada")?, issuer.token("sub=bob")?];
        let arguments = ["agent", &folder.to_string_lossy(), &tokens[0], &tokens[1]];
        let mut agent = sdk_script(world, OTHER, "sdk_agent.py", &arguments)?;
        assert_eq!(agent.next(SOON)?, json!({"spiffe_ids": ["spiffe://example.org/agent/python"]}));
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
            assert_eq!((&of_api["sub"], &of_api["act"]), (&json!(user), &acting(&["agent/python"])));
            let record = world.record("decision", &[("/lease_id", of_api["jti"].clone())])?;
            assert_eq!((&record["user"], &record["step"]["span_id"]), (&json!(user), &did["span"]));
            assert_eq!((&record["step"]["name"], &record["step"]["joined_by"]), (&json!("search"), &json!("trace")));
            for reason in ["out_of_scope", "out_of_scope"] {
                let denied = agent.next(SOON)?;
                let id = denied["denied"].as_str().with_context(|| format!("not denied: {denied}"))?;
                assert_eq!(decision(world, id)?["reason"], reason);
            }
            let tool = sdk_script(world, NOBODY, "sdk_agent.py", &["tool", text("passed_on")?])?;
            let own = tool.next(SOON)?;
            let own = own["token"].as_str().with_context(|| format!("not exchanged: {own}"))?;
            let of_tool = claims(own, "https://backend.example.org")?;
            assert_eq!((&of_tool["sub"], &of_tool["act"]), (&json!(user), &acting(&["tool", "agent/python"])));
            assert_eq!(tool.next(SOON)?, json!({"code": "invalid_scope"}));
            fs::write(folder.join(text("session")?), "")?;
        }
        // What was done in a session that is over is denied.
        let denied = agent.next(SOON)?;
        let id = denied["denied"].as_str().with_context(|| format!("not denied: {denied}"))?;
        assert_eq!(decision(world, id)?["reason"], "session_ended");
        ensure!(agent.wait()?.success(), "the agent failed");
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
