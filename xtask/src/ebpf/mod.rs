// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The kernel programs → `agent-ebpf/prebuilt/agent-ebpf.o`, committed so that `cargo build` works with plain
//! stable Rust, beside a note of what it was built from.
//!
//! The bytes depend on the sources, the compiler and bpf-linker, and on nothing else: not on where the
//! checkout, cargo's home or the standard library's sources are.

mod strip;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{self, say};
use crate::digest;
use crate::setup::{self, BPF_LINKER, Compiler};
use crate::workspace::{self, Workspace};

const TARGET: &str = "bpfel-unknown-none";
const NAME: &str = "agent-ebpf";
/// BTF for the maps, and the third instruction set: atomics that return the old value, in every kernel since
/// 5.12 (the oldest that we support is 6.1).
const CODE_FLAGS: &str = "-Cdebuginfo=2\u{1f}-Ctarget-cpu=v3\u{1f}-Clink-arg=--btf";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail unless the committed object is, byte for byte, what the sources give
    #[arg(long)]
    pub(crate) check: bool,
}

/// What stands beside the object.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    abi: i64,
    sources: String,
    object: String,
    rustc: String,
    bpf_linker: String,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::run(workspace, setup::Scope::Full)?;
    let compiler = Compiler::in_use()?;
    let committed = Committed::of(workspace.root());
    if options.check {
        // Another compiler gives other bytes; say so before a build that can only confuse.
        let note = committed.note()?;
        ensure!(
            note.rustc == compiler.release && note.bpf_linker == BPF_LINKER.version,
            "the committed object was built by rustc {} and bpf-linker {}, here are rustc {} and bpf-linker {}: check it \
             with that toolchain (`cargo +{} xtask ebpf --check`) or rebuild it with `cargo xtask ebpf`",
            note.rustc,
            note.bpf_linker,
            compiler.release,
            BPF_LINKER.version,
            note.rustc
        );
    }
    let object = build(workspace, &compiler)?;
    let built = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let built = strip::strip(&built)?;
    let note = Note {
        abi: abi_version(workspace.root())?,
        sources: source_digest(workspace.root())?,
        object: digest::of_bytes(&built),
        rustc: compiler.release,
        bpf_linker: BPF_LINKER.version.into(),
    };
    if options.check { committed.check(&built, &note) } else { committed.write(&built, &note) }
}

/// Builds and gives the object's path.
fn build(workspace: &Workspace, compiler: &Compiler) -> Result<PathBuf> {
    let programs = workspace.root().join("agent-ebpf/programs");
    ensure!(programs.join("Cargo.toml").is_file(), "there are no kernel programs at {}", programs.display());
    let library = setup::library(workspace, compiler)?.context("the standard library's sources went away")?;
    let target = workspace.target().join("ebpf");
    let mut cargo = Command::new(workspace::cargo());
    cargo
        .current_dir(&programs)
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", TARGET])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &library)
        .env("PATH", command::path_with(&workspace.tools().join("bin"))?)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(workspace.root(), &library)?);
    // Whatever the caller set for ordinary builds must not reach the object.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PROFILE_") || text.starts_with("CARGO_TARGET_BPF") || text == "CARGO_BUILD_RUSTFLAGS"
        {
            cargo.env_remove(&name);
        }
    }
    cargo.env_remove("RUSTFLAGS").env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
    say("ebpf: building the kernel programs (about 20 s the first time)");
    command::run(&mut cargo).context("building the kernel programs")?;
    Ok(target.join(TARGET).join("release").join(NAME))
}

/// With BTF, and without a trace of this machine's folders.
fn flags(root: &Path, library: &Path) -> Result<OsString> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir().context("neither CARGO_HOME nor HOME is known")?.join(".cargo"),
    };
    let mut flags = OsString::from(CODE_FLAGS);
    for (from, to) in [(cargo_home.as_path(), "/cargo"), (root, "/agent"), (library, "/rust/library")] {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    Ok(flags)
}

/// Everything that the object is built from.
fn source_digest(root: &Path) -> Result<String> {
    let crate_root = root.join("agent-ebpf");
    let mut files = digest::files_below(&crate_root.join("src"), &[])?;
    files.extend(digest::files_below(&crate_root.join("programs"), &["target"])?);
    files.push(crate_root.join("Cargo.toml"));
    digest::of_files(root, &files)
}

/// `ABI_VERSION` of the library that both halves share.
fn abi_version(root: &Path) -> Result<i64> {
    let path = root.join("agent-ebpf/src/lib.rs");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let value = text.split("const ABI_VERSION: u32 =").nth(1).and_then(|rest| rest.split(';').next());
    value.and_then(|value| value.trim().parse().ok()).with_context(|| format!("no ABI_VERSION in {}", path.display()))
}

/// The object and its note in the tree.
struct Committed {
    object: PathBuf,
    note: PathBuf,
}

impl Committed {
    fn of(root: &Path) -> Self {
        let folder = root.join("agent-ebpf/prebuilt");
        Self { object: folder.join("agent-ebpf.o"), note: folder.join("agent-ebpf.toml") }
    }

    fn note(&self) -> Result<Note> {
        let text = fs::read_to_string(&self.note)
            .with_context(|| format!("cannot read {}: run `cargo xtask ebpf`", self.note.display()))?;
        let table: toml::Table = text.parse().with_context(|| format!("{} is not TOML", self.note.display()))?;
        let text = |key: &str| {
            let value = table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
            value.with_context(|| format!("{} has no `{key}`", self.note.display()))
        };
        let abi = table.get("abi").and_then(toml::Value::as_integer);
        Ok(Note {
            abi: abi.with_context(|| format!("{} has no `abi`", self.note.display()))?,
            sources: text("sources")?,
            object: text("object")?,
            rustc: text("rustc")?,
            bpf_linker: text("bpf-linker")?,
        })
    }

    fn object(&self) -> Result<Vec<u8>> {
        fs::read(&self.object).with_context(|| format!("cannot read {}", self.object.display()))
    }

    /// That the tree has these bytes and this note.
    fn check(&self, built: &[u8], expected: &Note) -> Result<()> {
        let (found, bytes) = (self.note()?, self.object()?);
        if found.sources != expected.sources {
            bail!(
                "the kernel sources changed since the object was built: run `cargo xtask ebpf` and commit both files"
            );
        }
        if bytes != built {
            let at = bytes.iter().zip(built).take_while(|(left, right)| left == right).count();
            bail!(
                "the committed object is not what the sources give: {} and {} bytes, different from byte {at} on: run \
                 `cargo xtask ebpf` and commit both files",
                bytes.len(),
                built.len()
            );
        }
        ensure!(found == *expected, "the note beside the object is wrong: {found:?}, expected {expected:?}");
        say(format_args!("ebpf: the committed object is what the sources give ({})", expected.object));
        Ok(())
    }

    fn write(&self, built: &[u8], note: &Note) -> Result<()> {
        if self.note().is_ok_and(|found| found == *note) && self.object().is_ok_and(|bytes| bytes == built) {
            say(format_args!("ebpf: the object was up to date ({})", note.object));
            return Ok(());
        }
        let folder = self.object.parent().context("bug: the object has no folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(&self.object, built).with_context(|| format!("cannot write {}", self.object.display()))?;
        let text = format!(
            "# Written by `cargo xtask ebpf`; `cargo xtask ebpf --check` proves it.\nabi = {}\nsources = \"{}\"\n\
             object = \"{}\"\nrustc = \"{}\"\nbpf-linker = \"{}\"\n",
            note.abi, note.sources, note.object, note.rustc, note.bpf_linker
        );
        fs::write(&self.note, text).with_context(|| format!("cannot write {}", self.note.display()))?;
        say(format_args!("ebpf: wrote {} bytes, {}", built.len(), note.object));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_of_the_sources_in_the_tree() {
        let root = Workspace::source_root().unwrap();
        let committed = Committed::of(&root);
        let note = committed.note().unwrap();
        assert_eq!(note.sources, source_digest(&root).unwrap(), "run `cargo xtask ebpf` and commit what it wrote");
        assert_eq!(
            note.object,
            digest::of_bytes(&committed.object().unwrap()),
            "the object is not the one of the note"
        );
        assert_eq!(note.abi, abi_version(&root).unwrap());
    }

    fn note(sources: &str, object: &[u8]) -> Note {
        let object = digest::of_bytes(object);
        Note { abi: 1, sources: sources.into(), object, rustc: "1.95.0".into(), bpf_linker: "0.10.3".into() }
    }

    #[test]
    fn what_was_written_passes_the_check_and_any_other_byte_fails_it() {
        let root = tempfile::tempdir().unwrap();
        let committed = Committed::of(root.path());
        assert!(committed.check(b"object", &note("a", b"object")).is_err(), "nothing is committed");
        committed.write(b"object", &note("a", b"object")).unwrap();
        committed.check(b"object", &note("a", b"object")).unwrap();
        let failure = |built: &[u8], note: &Note| committed.check(built, note).unwrap_err().to_string();
        assert!(failure(b"objecd", &note("a", b"objecd")).contains("different from byte 5"));
        assert!(failure(b"object", &note("b", b"object")).contains("sources changed"));
        let other_abi = Note { abi: 2, ..note("a", b"object") };
        assert!(failure(b"object", &other_abi).contains("note beside the object is wrong"));
    }

    #[test]
    fn a_folder_with_a_space_does_not_break_the_flags() {
        let flags = flags(Path::new("/a b/c"), Path::new("/lib")).unwrap();
        let flags = flags.to_str().unwrap();
        assert!(flags.split('\u{1f}').any(|flag| flag == "--remap-path-prefix=/a b/c=/agent"), "{flags}");
    }
}
