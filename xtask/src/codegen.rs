// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `proto/proto/**.proto` → `proto/src/gen`, which is committed so that a build needs no protoc.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;

use crate::command::say;
use crate::digest::files_below;
use crate::workspace::Workspace;

/// In the order in which they stand in the descriptor set.
const FILES: [&str; 12] = [
    "agent/v1/agent.proto",
    "agent/admin/v1/admin.proto",
    "spiffe/workload.proto",
    "google/rpc/status.proto",
    "envoy/type/v3/semantic_version.proto",
    "envoy/config/core/v3/core.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/service/secret/v3/sds.proto",
    "spire/api/types/bundle.proto",
    "spire/api/server/svid/v1/svid.proto",
    "spire/api/server/bundle/v1/bundle.proto",
];

/// Messages with a secret in them: their `Debug` is written by hand in `proto/src/redacted.rs`.
const SKIP_DEBUG: [&str; 18] = [
    "agent.v1.Credential",
    "agent.v1.ReleaseRequest",
    "agent.v1.RenewRequest",
    "agent.v1.OpenSessionRequest",
    "agent.v1.OpenSessionResponse",
    "agent.v1.UserToken",
    "agent.v1.EnterSessionRequest",
    "agent.v1.CloseSessionRequest",
    "agent.v1.BeginStepRequest",
    "agent.v1.EndStepRequest",
    "agent.admin.v1.PutSecretRequest",
    "X509SVID",
    "JWTSVID",
    "WITSVID",
    "ValidateJWTSVIDRequest",
    "envoy.config.core.v3.DataSource",
    "envoy.service.discovery.v3.DiscoveryResponse",
    "envoy.service.discovery.v3.Resource",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail if the committed code is not what the .proto files give
    #[arg(long)]
    pub(crate) check: bool,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let sources = workspace.root().join("proto/proto");
    let committed = workspace.root().join("proto/src/gen");
    let generated = generate(&sources)?;
    let differing = differences(&generated, &committed)?;
    if differing.is_empty() {
        say("codegen: the committed code is what the .proto files give");
        return Ok(());
    }
    if options.check {
        bail!("proto/src/gen is not what the .proto files give ({}): run `cargo xtask codegen`", differing.join(", "));
    }
    fs::create_dir_all(&committed).with_context(|| format!("cannot create {}", committed.display()))?;
    for name in differing {
        let path = committed.join(&name);
        match generated.get(&name) {
            Some(content) => {
                fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
                say(format_args!("codegen: wrote proto/src/gen/{name}"));
            }
            None => {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                say(format_args!("codegen: removed proto/src/gen/{name}"));
            }
        }
    }
    Ok(())
}

/// Names and contents of everything generated.
fn generate(sources: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    for file in files_below(sources, &[])? {
        let name = file.strip_prefix(sources).unwrap_or(&file);
        let listed = FILES.iter().any(|listed| Path::new(listed) == name);
        ensure!(listed, "{} is not listed in xtask/src/codegen.rs", name.display());
    }
    let descriptors = protox::compile(FILES, [sources]).context("compiling proto/proto")?;
    let out = tempfile::tempdir().context("cannot create a temporary folder")?;
    fs::write(out.path().join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .skip_debug(SKIP_DEBUG)
        .compile_fds(descriptors)
        .context("generating Rust from the descriptors")?;
    contents(out.path())
}

/// Names that were added, changed or must go.
fn differences(generated: &BTreeMap<String, Vec<u8>>, committed: &Path) -> Result<Vec<String>> {
    let committed = if committed.exists() { contents(committed)? } else { BTreeMap::new() };
    let mut names: Vec<String> = generated.keys().chain(committed.keys()).cloned().collect();
    names.sort();
    names.dedup();
    names.retain(|name| generated.get(name) != committed.get(name));
    Ok(names)
}

fn contents(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut contents = BTreeMap::new();
    for file in files_below(folder, &[])? {
        let name = file.strip_prefix(folder).unwrap_or(&file).to_string_lossy().into_owned();
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        contents.insert(name, content);
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_what_the_proto_files_give() {
        let root = Workspace::source_root().unwrap();
        let generated = generate(&root.join("proto/proto")).unwrap();
        let differing = differences(&generated, &root.join("proto/src/gen")).unwrap();
        assert!(differing.is_empty(), "run `cargo xtask codegen`: {differing:?}");
    }

    #[test]
    fn a_changed_a_missing_and_a_left_over_file_are_all_drift() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("same.rs"), "1").unwrap();
        fs::write(folder.path().join("changed.rs"), "1").unwrap();
        fs::write(folder.path().join("left_over.rs"), "1").unwrap();
        let generated =
            [("same.rs", "1"), ("changed.rs", "2"), ("new.rs", "3")].map(|(name, text)| (name.into(), text.into()));
        let differing = differences(&generated.into(), folder.path()).unwrap();
        assert_eq!(differing, ["changed.rs", "left_over.rs", "new.rs"]);
    }

    #[test]
    fn a_proto_file_that_is_not_listed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("forgotten.proto"), "syntax = \"proto3\";").unwrap();
        let error = generate(folder.path()).unwrap_err();
        assert!(format!("{error:#}").contains("forgotten.proto is not listed"), "{error:#}");
    }
}
