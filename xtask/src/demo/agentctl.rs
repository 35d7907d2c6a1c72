// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The CLI as an operator uses it: what it prints is shown as it is, and what it says to programs is checked.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// `agentctl` with the demo's daemon.
pub(crate) struct Agentctl {
    pub(crate) program: PathBuf,
    pub(crate) admin_socket: String,
}

impl Agentctl {
    /// Runs it, shows command and output, and wants exactly this exit code (0 allow or ok, 1 deny or finding).
    pub(crate) fn show(&self, arguments: &[&str], expected_exit: i32) -> Result<String> {
        println!("\n    $ agentctl {}", arguments.join(" "));
        let output = self.output(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in text.lines() {
            println!("    {line}");
        }
        self.ensure_exit(arguments, &output, expected_exit)?;
        Ok(text)
    }

    /// The same question, answered for programs.
    pub(crate) fn json(&self, arguments: &[&str], expected_exit: i32) -> Result<Value> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--output", "json"]).collect();
        let output = self.output(&arguments)?;
        self.ensure_exit(&arguments, &output, expected_exit)?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`agentctl {}` did not print JSON", arguments.join(" ")))
    }

    fn output(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.program)
            .args(arguments)
            .args(["--color", "never"])
            .env("AGENT_ADMIN_SOCKET", &self.admin_socket)
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))
    }

    fn ensure_exit(&self, arguments: &[&str], output: &Output, expected: i32) -> Result<()> {
        ensure!(
            output.status.code() == Some(expected),
            "`agentctl {}` should exit with {expected}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

/// Every value under this key, at any depth.
pub(crate) fn all<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == key {
                    found.push(member);
                }
                found.extend(all(member, key));
            }
        }
        Value::Array(items) => found.extend(items.iter().flat_map(|item| all(item, key))),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found
}

/// The text under this key, or nothing.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_at_any_depth() {
        let value = serde_json::json!({"a": 1, "b": [{"a": 2}, {"c": {"a": [3]}}]});
        assert_eq!(all(&value, "a"), [&serde_json::json!(1), &serde_json::json!(2), &serde_json::json!([3])]);
        assert!(all(&value, "x").is_empty());
        assert_eq!(text(&value, "a"), "");
    }
}
