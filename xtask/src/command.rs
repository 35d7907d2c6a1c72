// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Running other programs: said aloud, and an error names the whole command.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A line of progress. Standard error, so that it never mixes with what a command prints as its result.
pub(crate) fn say(line: impl Display) {
    eprintln!("xtask: {line}");
}

/// The result of a command, on standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot print the result")
}

/// Runs it with our terminal; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(format_args!("$ {}", text(command)));
    let status = command.status().with_context(|| format!("cannot run `{}`", text(command)))?;
    ensure!(status.success(), "`{}` failed: {status}", text(command));
    Ok(())
}

/// Runs it quietly and gives its standard output; its standard error goes into the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run `{}`", text(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", text(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` did not print text", text(command)))
}

/// Runs it quietly; only whether it succeeded counts.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Whether we are root. Without a system call of our own: `/proc/self` belongs to the effective user.
pub(crate) fn is_root() -> Result<bool> {
    Ok(std::fs::metadata("/proc/self").context("/proc is not mounted")?.uid() == 0)
}

/// `program` as root with these variables: itself when we are root already, else through sudo, said aloud.
/// Variables are given by name, because sudo keeps none that it does not know.
pub(crate) fn as_root(why: &str, program: &Path, environment: &[(&str, &OsStr)]) -> Result<Command> {
    if is_root()? {
        let mut command = Command::new(program);
        command.envs(environment.iter().copied());
        return Ok(command);
    }
    let sudo = on_path("sudo").with_context(|| format!("{why} needs root and there is no sudo: run it as root"))?;
    say(format_args!("{why} needs root: using sudo, which may ask for your password"));
    Ok(through(&sudo, program, environment))
}

fn through(sudo: &Path, program: &Path, environment: &[(&str, &OsStr)]) -> Command {
    let mut command = Command::new(sudo);
    command.args(["--", "env"]);
    for (name, value) in environment {
        let mut pair = OsString::from(name);
        pair.push("=");
        pair.push(value);
        command.arg(pair);
    }
    command.arg(program);
    command
}

/// The first executable of this name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(name)).find(|file| {
        std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// PATH with a folder put before it.
pub(crate) fn path_with(folder: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(folder.to_owned()).chain(env::split_paths(&path)))
        .with_context(|| format!("{} cannot stand in PATH", folder.display()))
}

fn text(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = capture(Command::new("sh").args(["-c", "echo broken pipe dream >&2; exit 3"])).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("sh -c") && error.contains("broken pipe dream") && error.contains('3'), "{error}");
    }

    #[test]
    fn sudo_gets_every_variable_by_name_and_cannot_take_one_for_an_option() {
        let environment: [(&str, &OsStr); 2] = [("PATH", "/a b".as_ref()), ("CI", "".as_ref())];
        let command = through(Path::new("/usr/bin/sudo"), Path::new("/t/test"), &environment);
        let arguments: Vec<&OsStr> = command.get_args().collect();
        assert_eq!(arguments, ["--", "env", "PATH=/a b", "CI=", "/t/test"]);
    }

    #[test]
    fn a_missing_program_is_an_error_and_not_a_success() {
        assert!(run(&mut Command::new("/nonexistent/program")).is_err());
        assert!(!succeeds(&mut Command::new("/nonexistent/program")));
        assert_eq!(on_path("no-such-program-anywhere"), None);
    }
}
