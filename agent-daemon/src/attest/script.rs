// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What an interpreter runs: `script:path` and `script:sha256`.
//!
//! Under `#!` the kernel itself resolved the name that was executed, so the path is its word. The interpreter
//! then opens that name a second time, so the content is `measured` only if nobody but root could have put
//! another file there in between: the name was resolved in the daemon's own namespaces, the process is still
//! there, and every directory on the way, and the file, belong to root and cannot be written by others. Anything
//! else is `claimed`, as is a script that only stands in the arguments (`python file`).

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use agent_ebpf::flags;
use rustix::fs::{Mode, OFlags};

use super::evidence::Program;
use super::measure::Measurer;
use super::mounts;
use super::proc::{Home, ProcessDir, open_plain, plain_components};
use crate::identity::Provenance;
use crate::process::ExecInstance;

/// Directories deeper than this are not walked.
const DEPTH: usize = 64;
/// Write permission for the group or for all.
const OTHERS_WRITE: u32 = 0o022;
/// Interpreters whose first plain argument is a script. Only ever a claim, so a short list is enough.
const INTERPRETERS: [&str; 9] = ["python", "node", "ruby", "perl", "bash", "sh", "dash", "deno", "bun"];

/// The script, if this is an interpreter that runs one. `home`: our own namespaces, if it was executed in them.
pub(super) fn read(
    process: &ProcessDir,
    instance: &ExecInstance,
    uid: u32,
    home: Option<Home>,
    measurer: &Measurer,
) -> Option<Program> {
    let (name, by_kernel) = if instance.flags.has(flags::SCRIPT) && !instance.flags.has(flags::FILENAME_TRUNCATED) {
        (PathBuf::from(OsStr::from_bytes(&instance.filename)), true)
    } else {
        (argument(process)?, false)
    };
    // A relative name was relative to the directory the process had then; we know the one it has now.
    let is_absolute = name.is_absolute();
    let path = if is_absolute { name } else { process.link("cwd").ok()?.join(name) };
    let claimed = |sha256: Option<String>, why: String| {
        let path = path.to_str()?.to_owned();
        let provenance = Provenance::Claimed;
        Some(Program { path, path_provenance: provenance, sha256, provenance, note: Some(why) })
    };
    // `fexecve` of a script: the descriptor is gone or another by now.
    if path.starts_with("/dev/fd") || path.starts_with("/proc") {
        return claimed(None, "a script executed by descriptor has no name to measure it by".to_owned());
    }
    let opened = match open(process, &path) {
        Ok(opened) => opened,
        Err(why) => return claimed(None, why),
    };
    let mut file = opened.file;
    let digest = match measurer.measure(&mut file) {
        Ok(digest) => digest.to_string(),
        Err(error) => return claimed(None, format!("not measured: {error}")),
    };
    let weakness = [
        (!by_kernel).then(|| "the script stands only in the arguments".to_owned()),
        (!is_absolute).then(|| "the script was executed by a relative name".to_owned()),
        home.is_none().then(|| "the script was executed in another mount or user namespace".to_owned()),
        // Asked last: it may have left before the name was looked up, and there is no way back.
        (process.home() != home).then(|| "its process has left for another mount or user namespace".to_owned()),
        (uid == 0).then(|| "a process of root can replace its own script".to_owned()),
        opened.weakness,
    ];
    match weakness.into_iter().flatten().next() {
        Some(why) => claimed(Some(digest), why),
        None => Some(Program {
            path: path.to_str()?.to_owned(),
            path_provenance: Provenance::Kernel,
            sha256: Some(digest),
            provenance: Provenance::Measured,
            note: None,
        }),
    }
}

struct Opened {
    file: File,
    /// Who else could have changed it, if anybody.
    weakness: Option<String>,
}

/// Whether nobody but root can put another file at a path of the daemon's own root.
pub(super) fn is_out_of_reach(path: &Path) -> bool {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    root.is_ok_and(|root| walk(root, path).is_ok_and(|opened| opened.weakness.is_none()))
}

/// Walks to the file in the process's own root, looking at every directory on the way.
fn open(process: &ProcessDir, path: &Path) -> Result<Opened, String> {
    walk(process.directory("root").map_err(|error| format!("not measured: {error}"))?, path)
}

fn walk(root: OwnedFd, path: &Path) -> Result<Opened, String> {
    let components = plain_components(path).ok_or("not measured: the path goes through `..`")?;
    if components.len() > DEPTH {
        return Err("not measured: the path is too deep".to_owned());
    }
    let (name, directories) = components.split_last().ok_or("not measured: the path names no file")?;
    let mut weakness = None;
    let mut at = root;
    let mut walked = PathBuf::from("/");
    for directory in directories {
        note_weakness(&mut weakness, &at, &walked, Next::Directory);
        walked.push(directory);
        at = open_plain(at.as_fd(), directory, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|error| format!("not measured: {} is not a plain directory: {error}", walked.display()))?;
    }
    note_weakness(&mut weakness, &at, &walked, Next::Script);
    let file = open_plain(at.as_fd(), name, OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK)
        .map_err(|error| format!("not measured: the script is not a plain file: {error}"))?;
    note_weakness(&mut weakness, &file, path, Next::Nothing);
    Ok(Opened { file: file.into(), weakness })
}

/// What is looked up in a file on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Directory,
    Script,
    Nothing,
}

fn note_weakness(weakness: &mut Option<String>, fd: &OwnedFd, path: &Path, next: Next) {
    if weakness.is_some() {
        return;
    }
    let why = match (rustix::fs::fstat(fd), mounts::is_served_by_program(fd)) {
        (Err(error), _) => Some(format!("cannot be examined: {error}")),
        (_, Err(error)) => Some(format!("cannot be examined: {error}")),
        (_, Ok(true)) => Some("is served by a program".to_owned()),
        (Ok(stat), _) if stat.st_uid != 0 => Some(format!("belongs to user {}", stat.st_uid)),
        (Ok(stat), _) if stat.st_mode & OTHERS_WRITE != 0 && !keeps_directories(stat.st_mode, next) => {
            Some("can be written by others than its owner".to_owned())
        }
        (Ok(_), Ok(false)) => None,
    };
    *weakness = why.map(|why| format!("{} {why}", path.display()));
}

/// In `/tmp` and its like anybody may add names, but only its owner may replace one. A directory of root's there
/// was put there by root. A file was not for sure: anybody may move one here from a directory of their own, or
/// link one where `fs.protected_hardlinks` is off, after something else was run under its name.
fn keeps_directories(mode: u32, next: Next) -> bool {
    let mode = rustix::fs::RawMode::from(mode);
    next == Next::Directory
        && rustix::fs::FileType::from_raw_mode(mode).is_dir()
        && Mode::from_raw_mode(mode).contains(Mode::SVTX)
}

/// The first plain argument of an interpreter.
fn argument(process: &ProcessDir) -> Option<PathBuf> {
    let exe = process.link("exe").ok()?;
    let name = exe.file_name()?.to_str()?.to_owned();
    let is_interpreter = INTERPRETERS.iter().any(|interpreter| {
        name.strip_prefix(interpreter)
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
    });
    if !is_interpreter {
        return None;
    }
    named_script(&process.bytes("cmdline").ok()?)
}

/// The first plain argument, unless an option before it says that what runs is no file.
fn named_script(arguments: &[u8]) -> Option<PathBuf> {
    for argument in arguments.split(|byte| *byte == 0).skip(1) {
        if matches!(argument, b"-c" | b"-m" | b"-e" | b"-") {
            return None;
        }
        if !argument.starts_with(b"-") {
            return (!argument.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(argument)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_or_a_program_in_the_arguments_is_no_script() {
        let check = |arguments: &str, expected: Option<&str>| {
            let found = named_script(arguments.replace(' ', "\0").as_bytes());
            assert_eq!(found, expected.map(PathBuf::from), "{arguments}");
        };
        check("python3 agent.py --fast", Some("agent.py"));
        check("python3 -u agent.py", Some("agent.py"));
        check("python3 -m http.server", None);
        check("python3 -u -c import", None);
        check("perl -e print x", None);
        check("bash", None);
        check("bash -", None);
    }
}
