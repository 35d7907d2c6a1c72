// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Kernels of distributions, fetched once and kept by the name of their package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command::{self, say};
use crate::setup::apt::Apt;

/// From the oldest that we support to the newest that there is.
pub(super) const SUITES: [&str; 3] = ["bookworm", "trixie", "trixie-backports"];
const META: &str = "linux-image-cloud-amd64";
/// Not built in, in the order in which they are loaded: dependencies first.
const MODULES: [&str; 6] = ["loop", "inet_diag", "tcp_diag", "udp_diag", "tls", "veth"];

/// An image and the modules for it.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// Uncompressed, in the order in which they are loaded.
    pub(super) modules: Vec<PathBuf>,
}

/// The newest kernel of a suite: as the suite has it now, or as it was kept when the suite cannot be asked.
pub(super) fn fetch(folder: &Path, suite: &str) -> Result<Kernel> {
    let kept = folder.join(suite);
    let name_file = kept.join("package");
    match newest(folder, suite) {
        Ok((name, packages)) => {
            if fs::read_to_string(&name_file).is_ok_and(|known| known == name) {
                return found(&kept);
            }
            say(format_args!("fetching {name} ({suite})"));
            if kept.exists() {
                fs::remove_dir_all(&kept)?;
            }
            fs::create_dir_all(&kept)?;
            for package in apt(folder)?.download(&packages)? {
                unpack(&package, &kept)?;
            }
            let kernel = found(&kept)?;
            // Last: what was interrupted is fetched again.
            fs::write(name_file, name)?;
            Ok(kernel)
        }
        Err(error) if name_file.exists() => {
            say(format_args!("{suite} cannot be asked ({error:#}): taking the kernel that was kept"));
            found(&kept)
        }
        Err(error) => Err(error.context(format!("no kernel of {suite}"))),
    }
}

/// Reads the lists of packages anew, if anybody answers.
pub(super) fn refresh(folder: &Path) {
    if let Err(error) = apt(folder).and_then(|apt| apt.update()) {
        say(format_args!("the lists of packages are not read anew: {error:#}"));
    }
}

fn apt(folder: &Path) -> Result<Apt> {
    Apt::open(&folder.join("apt"), &SUITES)
}

/// The package with the image, and all that belong to it.
fn newest(folder: &Path, suite: &str) -> Result<(String, Vec<String>)> {
    let apt = apt(folder)?;
    let version = version_in(&apt.versions(META)?, suite).with_context(|| format!("{suite} has no {META}"))?;
    let name = dependencies(&apt.show(&format!("{META}={version}"))?, &["linux-image-"]);
    let name = name.into_iter().next().with_context(|| format!("{META} {version} needs no image"))?;
    let mut packages = vec![name.clone()];
    packages.extend(dependencies(&apt.show(&name)?, &["linux-base-", "linux-binary-", "linux-modules-"]));
    Ok((name, packages))
}

/// The first version of a suite in what `apt-cache madison` says.
fn version_in(madison: &str, suite: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        let (_, version, source) = (columns.next()?, columns.next()?, columns.next()?);
        source.split_whitespace().any(|word| word.strip_suffix("/main") == Some(suite)).then(|| version.to_owned())
    })
}

/// Packages of these families in the `Depends` of a record, each with the version of a kernel in its name.
fn dependencies(record: &str, families: &[&str]) -> Vec<String> {
    let line = record.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let names = line.split([',', '|']).filter_map(|one| one.split_whitespace().next());
    let is_one = |name: &&str| {
        families
            .iter()
            .any(|family| name.strip_prefix(family).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
    };
    names.filter(is_one).map(str::to_owned).collect()
}

fn unpack(package: &Path, into: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let wanted = MODULES.iter().map(|name| format!("{name}.ko*")).chain(["vmlinuz*".to_owned()]);
    let mut tar = Command::new("tar");
    tar.args(["-x", "--wildcards", "--no-anchored", "-C"]).arg(into).args(wanted);
    tar.stdin(archive.stdout.take().context("dpkg-deb gives no archive")?);
    // A package that has none of a pattern is no failure: what counts is what is there in the end.
    tar.stderr(Stdio::null()).status().context("cannot run tar")?;
    archive.wait()?;
    Ok(())
}

fn found(folder: &Path) -> Result<Kernel> {
    let files = files(folder)?;
    let named = |name: &str| {
        files
            .iter()
            .find(|file| file.file_name().and_then(|file| file.to_str()).is_some_and(|file| is_named(file, name)))
    };
    let image = named("vmlinuz").context("the package has no image")?.clone();
    let mut modules = Vec::new();
    for name in MODULES {
        let Some(file) = named(name) else { continue };
        if file.extension().is_some_and(|extension| extension == "xz") {
            command::run(Command::new("xz").args(["--decompress", "--force", "--quiet"]).arg(file))?;
        }
        modules.push(file.with_file_name(format!("{name}.ko")));
    }
    ensure!(!modules.is_empty(), "the package has none of the modules {MODULES:?}");
    Ok(Kernel { image, modules })
}

fn is_named(file: &str, name: &str) -> bool {
    file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_suite_and_of_no_other_one() {
        let madison = " linux-image-cloud-amd64 | 7.3.4-1~bpo13+1 | http://m/debian trixie-backports/main amd64 Packages\n\
                       linux-image-cloud-amd64 | 6.12.117-1 | http://m/debian trixie/main amd64 Packages\n";
        for (suite, expected) in
            [("trixie", Some("6.12.117-1")), ("trixie-backports", Some("7.3.4-1~bpo13+1")), ("bookworm", None)]
        {
            assert_eq!(version_in(madison, suite).as_deref(), expected, "{suite}");
        }
    }

    #[test]
    fn what_belongs_to_an_image_is_found_in_its_record() {
        let record = "Package: x\nDepends: kmod, linux-base (>= 4), linux-base-7.3.4+deb13-cloud-amd64 (= 7.3.4-1), \
                      linux-modules-7.3.4+deb13-cloud-amd64 (= 7.3.4-1) | y\nDescription: linux-modules-1 z\n";
        assert_eq!(
            dependencies(record, &["linux-base-", "linux-modules-"]),
            ["linux-base-7.3.4+deb13-cloud-amd64", "linux-modules-7.3.4+deb13-cloud-amd64"]
        );
        assert!(dependencies("", &["linux-base-"]).is_empty());
    }

    #[test]
    fn a_module_is_not_taken_for_one_whose_name_begins_the_same() {
        assert!(is_named("tls.ko.xz", "tls") && is_named("vmlinuz", "vmlinuz") && is_named("vmlinuz-6.1.0", "vmlinuz"));
        assert!(!is_named("tlsx.ko", "tls") && !is_named("tcp_diag.ko", "tcp"));
    }
}
