// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The sources of the standard library of exactly the compiler in use, from wherever this machine can get them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{Compiler, apt};
use crate::command::{self, say};
use crate::digest::files_below;
use crate::workspace::Workspace;

/// Names a `library` folder to use.
const LIBRARY_VARIABLE: &str = "XTASK_RUST_SRC";
/// Names a folder with `rust-src-<version>-library.tar.xz`.
const ARCHIVES_VARIABLE: &str = "XTASK_TOOLCHAIN_DIR";

/// Puts a `library` folder into the fresh folder given, or finds one elsewhere, and says where it is.
type Way = fn(&Workspace, &Compiler, &Path) -> Result<PathBuf>;

/// The `library` folder, if it is here already.
pub(crate) fn library(workspace: &Workspace, compiler: &Compiler) -> Result<Option<PathBuf>> {
    let toolchain = in_toolchain(compiler);
    if is_library(&toolchain) {
        return Ok(Some(toolchain));
    }
    if let Some(given) = env::var_os(LIBRARY_VARIABLE) {
        let given = PathBuf::from(given);
        verify(&given, compiler).with_context(|| format!("{LIBRARY_VARIABLE} is {}", given.display()))?;
        return Ok(Some(given.canonicalize()?));
    }
    let cached = cache(workspace, compiler).join("library");
    Ok(is_library(&cached).then_some(cached))
}

/// The `library` folder, fetched if need be.
pub(super) fn ensure(workspace: &Workspace, compiler: &Compiler) -> Result<PathBuf> {
    if let Some(library) = library(workspace, compiler)? {
        return Ok(library);
    }
    say(format_args!("setup: looking for the standard library's sources of Rust {}", compiler.release));
    let ways: [(&str, Way); 3] = [("Debian package", from_package), ("archive", from_archive), ("rustup", from_rustup)];
    let mut refused = String::new();
    for (name, way) in ways {
        match attempt(workspace, compiler, way) {
            Ok(library) => {
                say(format_args!("setup: found them ({name})"));
                return Ok(library);
            }
            Err(error) => {
                say(format_args!("setup: {name}: {error:#}"));
                refused.push_str(&format!("\n  {name}: {error:#}"));
            }
        }
    }
    bail!(
        "no sources of the standard library of Rust {version}; the kernel programs cannot be rebuilt here.\n\
         Give their `library` folder in {LIBRARY_VARIABLE}, or a folder with rust-src-{version}-library.tar.xz in \
         {ARCHIVES_VARIABLE}, or run `rustup component add rust-src`. Tried:{refused}",
        version = compiler.release
    )
}

/// One way: into a fresh folder, checked, and only then moved to where it is looked for.
fn attempt(workspace: &Workspace, compiler: &Compiler, way: Way) -> Result<PathBuf> {
    fs::create_dir_all(workspace.tools()).context("cannot create target/tools")?;
    let fresh = tempfile::Builder::new().prefix("rust-src-").tempdir_in(workspace.tools())?;
    let found = way(workspace, compiler, fresh.path())?;
    verify(&found, compiler)?;
    if !found.starts_with(fresh.path()) {
        return Ok(found);
    }
    let cache = cache(workspace, compiler);
    if cache.exists() {
        fs::remove_dir_all(&cache).with_context(|| format!("cannot remove {}", cache.display()))?;
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let library = cache.join("library");
    fs::rename(&found, &library).with_context(|| format!("cannot move the sources to {}", library.display()))?;
    Ok(library)
}

fn from_package(_: &Workspace, compiler: &Compiler, fresh: &Path) -> Result<PathBuf> {
    apt::unpack_rust_src(&compiler.release, fresh)?;
    let sources = fresh.join("root/usr/src");
    let entries = fs::read_dir(&sources).context("the package has no /usr/src")?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("library"))
        .find(|library| is_library(library))
        .context("the package has no library folder")
}

fn from_archive(workspace: &Workspace, compiler: &Compiler, fresh: &Path) -> Result<PathBuf> {
    let name = format!("rust-src-{}-library.tar.xz", compiler.release);
    let folders =
        [env::var_os(ARCHIVES_VARIABLE).map(PathBuf::from), Some(workspace.root().join("../shared/toolchain"))];
    let archive = folders.into_iter().flatten().map(|folder| folder.join(&name)).find(|archive| archive.is_file());
    let archive = archive.with_context(|| format!("no {name}"))?;
    command::run(Command::new("tar").args(["--no-same-owner", "-xJf"]).arg(archive).arg("-C").arg(fresh))?;
    Ok(fresh.join("library"))
}

fn from_rustup(_: &Workspace, compiler: &Compiler, _: &Path) -> Result<PathBuf> {
    let rustup = command::on_path("rustup").context("there is no rustup")?;
    let toolchain = compiler.sysroot.file_name().context("the compiler has no sysroot")?;
    command::run(Command::new(rustup).args(["component", "add", "rust-src", "--toolchain"]).arg(toolchain))?;
    Ok(in_toolchain(compiler))
}

fn in_toolchain(compiler: &Compiler) -> PathBuf {
    compiler.sysroot.join("lib/rustlib/src/rust/library")
}

fn cache(workspace: &Workspace, compiler: &Compiler) -> PathBuf {
    workspace.tools().join("rust-src").join(&compiler.release)
}

/// What `-Z build-std` needs of it.
fn is_library(folder: &Path) -> bool {
    ["Cargo.lock", "core/Cargo.toml", "core/src/lib.rs"].iter().all(|file| folder.join(file).is_file())
}

/// That it is a standard library, and that of this compiler. The sources carry no version of their own, but
/// what became stable last names the release in which it did.
fn verify(library: &Path, compiler: &Compiler) -> Result<()> {
    ensure!(is_library(library), "{} is not a `library` folder of the Rust sources", library.display());
    let mut newest = (0, 0);
    for file in files_below(&library.join("core/src"), &[])? {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        newest = newest.max(newest_stable(&String::from_utf8_lossy(&content)));
    }
    let (major, minor) = newest;
    let expected = minor_release(&compiler.release)
        .with_context(|| format!("Rust {} is not a release; a stable one is needed", compiler.release))?;
    ensure!(newest == expected, "{} is of Rust {major}.{minor}, not {}", library.display(), compiler.release);
    Ok(())
}

/// The newest release that a `#[stable(since = "…")]` of this text names.
fn newest_stable(text: &str) -> (u32, u32) {
    let attributes = text.match_indices("stable(").filter_map(|(at, _)| {
        let inner = text.get(at..)?.split(')').next()?;
        let since = inner.split("since").nth(1)?.split('"').nth(1)?;
        minor_release(since)
    });
    attributes.max().unwrap_or_default()
}

fn minor_release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let release = (numbers.next()??, numbers.next()??);
    numbers.next()??;
    Some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like the library of a release.
    fn library_of(newest: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("core/src")).unwrap();
        fs::write(folder.path().join("Cargo.lock"), "").unwrap();
        fs::write(folder.path().join("core/Cargo.toml"), "").unwrap();
        let text = format!(
            "#[stable(feature = \"rust1\", since = \"1.0.0\")]\n#[rustc_const_stable(feature = \"x\", since = \"{newest}\")]\n\
             #[deprecated(since = \"1.99.0\")]\n#[unstable(feature = \"y\", issue = \"none\")]\n"
        );
        fs::write(folder.path().join("core/src/lib.rs"), text).unwrap();
        folder
    }

    fn compiler(release: &str) -> Compiler {
        Compiler { release: release.into(), sysroot: "/nonexistent".into() }
    }

    #[test]
    fn only_sources_of_the_compilers_own_release_are_taken() {
        for (newest, release, accepted) in [
            ("1.95.0", "1.95.0", true),
            ("1.95.0", "1.95.1", true),
            ("1.94.0", "1.95.0", false),
            ("1.96.0", "1.95.0", false),
            ("1.95.0", "1.95.0-nightly", false),
        ] {
            let folder = library_of(newest);
            assert_eq!(verify(folder.path(), &compiler(release)).is_ok(), accepted, "{newest} for {release}");
        }
    }

    #[test]
    fn half_a_library_is_refused() {
        let folder = library_of("1.95.0");
        fs::remove_file(folder.path().join("Cargo.lock")).unwrap();
        assert!(verify(folder.path(), &compiler("1.95.0")).is_err());
    }

    #[test]
    fn an_archive_of_another_release_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(root.path());
        fn wrong(_: &Workspace, _: &Compiler, fresh: &Path) -> Result<PathBuf> {
            fs::rename(library_of("1.94.0").keep(), fresh.join("library"))?;
            Ok(fresh.join("library"))
        }
        assert!(attempt(&workspace, &compiler("1.95.0"), wrong).is_err());
        assert_eq!(library(&workspace, &compiler("1.95.0")).unwrap(), None);
        assert!(files_below(&workspace.tools(), &[]).unwrap().is_empty());
    }
}
