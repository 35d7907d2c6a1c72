// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reads what operators wrote. Every amount is bounded, and a file that anybody may change is refused: it would let
//! any user of this machine decide.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::{Config, SourcePaths};
use crate::diagnostic::{Diagnostic, Severity, SourceFile};
use crate::snapshot::Sources;

/// Files of one kind.
pub const MAX_FILES: usize = 1024;
/// Bytes of one file.
pub const MAX_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of all files of one kind.
pub const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;
/// The systemd credential with the sealing key: `LoadCredential=kek:…` or `LoadCredentialEncrypted=kek:…`.
pub const SYSTEMD_KEY_NAME: &str = "kek";

const OTHERS_MAY_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Reads and parses the configuration file. `credentials_directory` is what systemd put into the environment
/// variable of that name.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path, credentials_directory: Option<&Path>) -> Result<Config, Vec<Diagnostic>> {
    let file = read_file(path).map_err(|finding| vec![finding])?;
    // Only the folder is resolved, not the file: as a link into a versioned folder (Kubernetes) the file would move
    // with every version, and what stands beside it would be looked for in an old one.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = parent.canonicalize().map_err(|error| vec![finding(parent, format!("cannot be resolved: {error}"))])?;
    let systemd_key = credentials_directory.map(|directory| directory.join(SYSTEMD_KEY_NAME));
    let systemd_key = match &systemd_key {
        None => None,
        Some(key) => match key.symlink_metadata() {
            Ok(_) => Some(key.as_path()),
            // The unit has other credentials only.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(vec![finding(key, format!("cannot be examined: {error}"))]),
        },
    };
    Config::parse(&file, &base, systemd_key)
}

impl SourcePaths {
    /// Reads everything that a reload reads.
    ///
    /// # Errors
    /// Every file that cannot be read.
    pub fn read(&self) -> Result<Sources, Vec<Diagnostic>> {
        let mut report = Vec::new();
        let mut read = |paths: &[PathBuf], extension| {
            read_sources(paths, extension).unwrap_or_else(|findings| {
                report.extend(findings);
                Vec::new()
            })
        };
        let sources = Sources {
            entries: read(&self.entries, "toml"),
            catalog: read(&self.destinations, "toml"),
            policies: read(&self.policies, "cedar"),
        };
        if report.is_empty() { Ok(sources) } else { Err(report) }
    }
}

/// Reads files, and of folders the files with this extension in the order of their names; folders in them and
/// hidden files are left out.
///
/// # Errors
/// Everything that is missing, too large, too much or cannot be read.
pub fn read_sources(paths: &[PathBuf], extension: &str) -> Result<Vec<SourceFile>, Vec<Diagnostic>> {
    let mut report = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for path in paths {
        match listed(path, extension) {
            Ok(found) => files.extend(found),
            Err(finding) => report.push(finding),
        }
        if files.len() > MAX_FILES {
            report.push(finding(path, format!("more than {MAX_FILES} files of this kind")));
            return Err(report);
        }
    }
    let mut sources = Vec::with_capacity(files.len());
    let mut bytes: usize = 0;
    for path in &files {
        match read_file(path) {
            Ok(file) => {
                bytes = bytes.saturating_add(file.text.len());
                sources.push(file);
            }
            Err(finding) => report.push(finding),
        }
        if bytes > MAX_TOTAL_BYTES {
            report.push(finding(path, format!("the files of this kind have more than {MAX_TOTAL_BYTES} bytes")));
            return Err(report);
        }
    }
    if report.is_empty() { Ok(sources) } else { Err(report) }
}

/// The file itself, or the files of a folder.
fn listed(path: &Path, extension: &str) -> Result<Vec<PathBuf>, Diagnostic> {
    let cannot = |error: io::Error| finding(path, format!("cannot be read: {error}"));
    let metadata = path.metadata().map_err(cannot)?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 && metadata.mode() & STICKY == 0 {
        return Err(finding(path, "every user can put files into this folder").with_help("chmod o-w"));
    }
    let mut files = Vec::new();
    for entry in path.read_dir().map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        let is_hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let fits = file.extension().is_some_and(|found| found == extension);
        if is_hidden || !fits || file.is_dir() {
            continue;
        }
        files.push(file);
        if files.len() > MAX_FILES {
            return Err(finding(path, format!("more than {MAX_FILES} files with the extension {extension}")));
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn read_file(path: &Path) -> Result<SourceFile, Diagnostic> {
    let cannot = |error: io::Error| finding(path, format!("cannot be read: {error}"));
    // Without waiting for somebody at the other end, should it be a pipe.
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(finding(path, "is not a file"));
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 {
        return Err(finding(path, "every user can change this file").with_help("chmod o-w"));
    }
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(finding(path, format!("has more than {MAX_FILE_BYTES} bytes")));
    }
    let name = path.display().to_string();
    match String::from_utf8(bytes) {
        Ok(text) => Ok(SourceFile { name, text }),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            Err(Diagnostic::error_at(&SourceFile { name, text }, at, "is not UTF-8"))
        }
    }
}

/// About a file or folder as a whole.
fn finding(path: &Path, message: impl Display) -> Diagnostic {
    Diagnostic {
        file: path.display().to_string(),
        line: 0,
        column: 0,
        severity: Severity::Error,
        message: message.to_string(),
        help: None,
    }
}
