// SPDX-License-Identifier: Apache-2.0 OR MIT

//! SHA-256 over bytes and over sets of files.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ring::digest::{Context as Sha256, SHA256, digest};

/// `sha256:<hex>` of these bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    text(digest(&SHA256, bytes).as_ref())
}

/// `sha256:<hex>` over names and contents of these files, in the order of their names. Lengths go in too, so
/// that bytes cannot move between a name and a content unseen.
pub(crate) fn of_files(root: &Path, files: &[PathBuf]) -> Result<String> {
    let mut named = Vec::with_capacity(files.len());
    for file in files {
        let name = file.strip_prefix(root).with_context(|| format!("{} is not below the root", file.display()))?;
        named.push((name.to_string_lossy().into_owned(), file));
    }
    named.sort();
    let mut sum = Sha256::new(&SHA256);
    for (name, file) in named {
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        for part in [name.as_bytes(), &content] {
            sum.update(&u64::try_from(part.len())?.to_le_bytes());
            sum.update(part);
        }
    }
    Ok(text(sum.finish().as_ref()))
}

/// All files below a folder, except in folders with one of these names.
pub(crate) fn files_below(folder: &Path, skipped: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
            let kind = entry.file_type().with_context(|| format!("cannot inspect {}", entry.path().display()))?;
            if kind.is_dir() {
                if !skipped.iter().any(|name| entry.file_name() == *name) {
                    folders.push(entry.path());
                }
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn text(sum: &[u8]) -> String {
    sum.iter().fold(String::from("sha256:"), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_sha256() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(of_bytes(b""), empty);
    }

    #[test]
    fn a_changed_a_renamed_and_a_moved_byte_all_change_the_sum() {
        let sum = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, content) in files {
                fs::write(folder.path().join(name), content).unwrap();
            }
            of_files(folder.path(), &files_below(folder.path(), &[]).unwrap()).unwrap()
        };
        let base = sum(&[("a", "xy"), ("b", "z")]);
        assert_eq!(base, sum(&[("b", "z"), ("a", "xy")]), "order of creation must not count");
        for other in [&[("a", "xx"), ("b", "z")], &[("a", "xy"), ("c", "z")], &[("a", "x"), ("b", "yz")]] {
            assert_ne!(base, sum(other), "{other:?}");
        }
    }

    #[test]
    fn skipped_folders_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("deep/target/x")).unwrap();
        fs::write(folder.path().join("deep/target/x/file"), "").unwrap();
        fs::write(folder.path().join("deep/file"), "").unwrap();
        assert_eq!(files_below(folder.path(), &["target"]).unwrap(), [folder.path().join("deep/file")]);
    }
}
