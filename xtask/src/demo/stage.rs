// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Installs the example agents where their own user cannot change them, and fills in the example configuration.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::Options;
use super::python::{self, Python};

/// `nobody`: the agents need no right at all.
pub(crate) const AGENT_UID: u32 = 65534;
pub(crate) const TRUST_DOMAIN: &str = "example.org";
/// What `examples/destinations.toml` fixes for it.
pub(crate) const AUDIENCE: &str = "https://reports.example.org";
pub(crate) const DESTINATION: &str = "reports-api";

/// Everything on disk.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// Agents, owned by root.
    pub(crate) agents: PathBuf,
    pub(crate) python: Python,
    /// The daemon's configuration file.
    pub(crate) config: PathBuf,
    /// The daemon's state: keys, audit log.
    pub(crate) state: PathBuf,
    /// The daemon's sockets.
    pub(crate) sockets: PathBuf,
    /// What the processes write to standard error.
    pub(crate) logs: PathBuf,
    /// Belongs to the agents' user: where they keep copies of their tokens for the demo.
    pub(crate) copies: PathBuf,
    /// The API's authority.
    pub(crate) ca: PathBuf,
    uid: u32,
}

impl Stage {
    /// Installs the agents under `folder` for this user.
    pub(crate) fn install(root: &Path, folder: &Path, uid: u32, options: &Options) -> Result<Self> {
        python::set_mode(folder, 0o755)?;
        let subfolder = |name: &str, mode: u32| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
            python::set_mode(&path, mode)?;
            Ok(path)
        };
        let agents = subfolder("agents", 0o755)?;
        let stage = Self {
            python: python::install(&options.python, folder, uid)?,
            config: subfolder("config", 0o700)?.join("config.toml"),
            state: subfolder("state", 0o700)?,
            sockets: subfolder("sockets", 0o755)?,
            logs: subfolder("logs", 0o700)?,
            copies: subfolder("copies", 0o700)?,
            ca: agents.join("api-ca.pem"),
            agents,
            uid,
        };
        std::os::unix::fs::chown(&stage.copies, Some(uid), Some(uid))?;

        let scripts = root.join("examples/agents/python");
        python::copy_tree(&scripts.join("gen"), &stage.agents.join("gen"), &["__pycache__"], 0)?;
        for name in ["report_agent.py", "impostor_agent.py", "report_tool.py"] {
            let source = scripts.join(name);
            let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
            let target = stage.agents.join(name);
            fs::write(&target, with_interpreter(&text, &stage.python.interpreter)?)?;
            python::set_mode(&target, 0o755)?;
        }
        for name in ["rust-agent", "raw-ask"] {
            python::copy_file(&options.binaries.join(name), &stage.agents.join(name))?;
        }
        Ok(stage)
    }

    /// Where the API will find the daemon's keys and introspection.
    pub(crate) fn authority(&self) -> String {
        format!("unix:{}", self.sockets.join("authority.sock").display())
    }

    /// Writes the daemon's configuration from `examples/`, with the blanks filled in.
    pub(crate) fn configure(&self, root: &Path, api_port: u16) -> Result<()> {
        let path = |path: &Path| -> Result<String> {
            Ok(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?.to_owned())
        };
        let rust_agent = self.agents.join("rust-agent");
        let blanks = [
            ("UID", self.uid.to_string()),
            ("PYTHON", path(&self.python.interpreter)?),
            ("REPORT_AGENT_SHA256", sha256(&self.agents.join("report_agent.py"))?),
            ("RUST_AGENT", path(&rust_agent)?),
            ("RUST_AGENT_SHA256", sha256(&rust_agent)?),
            ("API_PORT", api_port.to_string()),
        ];
        let target = self.config.parent().context("bug: the configuration has no folder")?;
        fs::create_dir_all(target.join("policies"))?;
        for name in ["entries.toml", "destinations.toml", "policies/reports.cedar"] {
            let source = root.join("examples").join(name);
            let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
            let filled = fill(&text, &blanks).with_context(|| format!("in {}", source.display()))?;
            fs::write(target.join(name), filled)?;
        }
        fs::write(&self.config, self.config_text(target))?;
        Ok(())
    }

    /// The daemon's own file.
    fn config_text(&self, target: &Path) -> String {
        let demo = std::process::id();
        let (state, sockets, target) = (self.state.display(), self.sockets.display(), target.display());
        format!(
            r#"trust_domain = "{TRUST_DOMAIN}"
state_dir = "{state}"
entries = ["{target}/entries.toml"]
destinations = ["{target}/destinations.toml"]
policies = ["{target}/policies/reports.cedar"]

[kernel]
pin_dir = "/sys/fs/bpf/agent-demo-{demo}"

[api]
agent_socket = "{sockets}/agent.sock"
agent_socket_mode = "0666"
admin_socket = "{sockets}/admin.sock"

[authority]
listen = "unix:{sockets}/authority.sock"
"#
        )
    }
}

/// The script with this interpreter in its first line. Through `env` the kernel would see two execs, and the script
/// would belong to the first one only.
fn with_interpreter(script: &str, interpreter: &Path) -> Result<String> {
    let interpreter = interpreter.to_str().context("the interpreter's path is not UTF-8")?;
    // The kernel reads 256 bytes at most, and cuts at white space.
    ensure!(
        interpreter.len() < 200 && !interpreter.contains(char::is_whitespace),
        "{interpreter} cannot stand in a #! line"
    );
    match script.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => Ok(format!("#!{interpreter}\n{rest}")),
        _ => bail!("the script does not start with #!"),
    }
}

/// Puts the value for each `@NAME@`. A name that is not known is an error: half a configuration is none.
fn fill(text: &str, blanks: &[(&str, String)]) -> Result<String> {
    let mut filled = String::with_capacity(text.len());
    for line in text.lines() {
        // In a comment the names explain themselves.
        if line.trim_start().starts_with(['#', '/']) {
            filled.push_str(line);
        } else {
            let line =
                blanks.iter().fold(line.to_owned(), |line, (name, value)| line.replace(&format!("@{name}@"), value));
            if let Some(name) = blank(&line) {
                bail!("nothing is known for @{name}@");
            }
            filled.push_str(&line);
        }
        filled.push('\n');
    }
    Ok(filled)
}

/// The first `@NAME@` in a line.
fn blank(line: &str) -> Option<&str> {
    let capital = |letter: u8| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == b'_';
    let (inner, _) = line.split_once('@')?.1.rsplit_once('@')?;
    inner.split('@').find(|name| !name.is_empty() && name.bytes().all(capital))
}

fn sha256(path: &Path) -> Result<String> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &content);
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blanks() -> Vec<(&'static str, String)> {
        vec![("UID", "1000".into()), ("API_PORT", "8443".into())]
    }

    #[test]
    fn blanks_are_filled_and_comments_left_alone() {
        let text = "# @UID@ is the user\nuid = @UID@ # x\nports = [@API_PORT@]\n@id(\"policy\")\n";
        let filled = fill(text, &blanks()).unwrap();
        assert_eq!(filled, "# @UID@ is the user\nuid = 1000 # x\nports = [8443]\n@id(\"policy\")\n");
    }

    #[test]
    fn an_unknown_blank_is_an_error() {
        let error = fill("x = \"@PYTHON@\"\n", &blanks()).unwrap_err().to_string();
        assert!(error.contains("@PYTHON@"), "{error}");
    }

    #[test]
    fn the_interpreter_replaces_the_first_line_only() {
        let script = "#!/usr/bin/env python3\nprint('#!')\n";
        let placed = with_interpreter(script, Path::new("/usr/bin/python3.11")).unwrap();
        assert_eq!(placed, "#!/usr/bin/python3.11\nprint('#!')\n");
        assert!(with_interpreter("print()\n", Path::new("/usr/bin/python3")).is_err());
        assert!(with_interpreter(script, Path::new("/home/a b/python3")).is_err());
    }

    #[test]
    fn the_examples_have_no_blank_that_is_not_filled() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        let mut known = blanks();
        known.extend(
            ["PYTHON", "REPORT_AGENT_SHA256", "RUST_AGENT", "RUST_AGENT_SHA256"].map(|name| (name, "x".into())),
        );
        for name in ["entries.toml", "destinations.toml"] {
            let filled = fill(&fs::read_to_string(root.join(name)).unwrap(), &known).unwrap();
            toml::from_str::<toml::Table>(&filled).unwrap();
        }
        fill(&fs::read_to_string(root.join("policies/reports.cedar")).unwrap(), &known).unwrap();
    }
}
