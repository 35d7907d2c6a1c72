// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What every member's Cargo.toml must and must not say.

use super::{File, Finding};

const LINTS: &str = "every member has `[lints] workspace = true`: a lint that reaches no crate checks nothing";
const CLI: &str = "agentctl depends on the API only, never on the daemon";

pub(super) fn check(files: &[File], findings: &mut Vec<Finding>) {
    let Some(root) = files.iter().find(|file| file.path == "Cargo.toml") else { return };
    let members = table(root).and_then(|root| {
        let members = root.get("workspace")?.get("members")?.as_array()?.clone();
        Some(members.iter().filter_map(|member| member.as_str().map(str::to_owned)).collect::<Vec<_>>())
    });
    let mut report = |path: String, detail: String, rule: &'static str| {
        findings.push(Finding { path, line: 0, detail, rule });
    };
    let Some(members) = members else {
        return report(root.path.clone(), "has no list of workspace members".into(), LINTS);
    };
    for member in members {
        let path = format!("{member}/Cargo.toml");
        let Some(manifest) = files.iter().find(|file| file.path == path).and_then(table) else {
            report(path, "is missing or not TOML".into(), LINTS);
            continue;
        };
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        if lints != Some(true) {
            report(path.clone(), "does not take the workspace's lints".into(), LINTS);
        }
        if member == "agentctl" {
            for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
                if manifest.get(section).is_some_and(|section| section.get("agent-daemon").is_some()) {
                    report(path.clone(), format!("has agent-daemon in [{section}]"), CLI);
                }
            }
        }
    }
}

fn table(file: &File) -> Option<toml::Table> {
    file.text.parse().ok()
}
