// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One package from Debian by a private apt configuration: nothing of the system's own state is touched, and
//! nothing is installed. The mirror and its keys are those that the machine uses already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;

/// Where a compiler newer than the stable distribution's may be.
const SUITES: [&str; 4] = ["bookworm-backports", "trixie", "trixie-backports", "sid"];
/// The keys of all suites, on every Debian.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SETTINGS: &str = "apt.conf";

/// Downloads the package `rust-src` of this release into `fresh` and unpacks it into `fresh/root`.
pub(super) fn unpack_rust_src(release: &str, fresh: &Path) -> Result<()> {
    let apt = Apt::open(fresh, &SUITES)?;
    // A suite that is gone fails the update but not the others; what counts is whether the package is found.
    let update = apt.update();
    let Some(version) = version_of(release, &apt.versions("rust-src")?) else {
        return update.and(Err(anyhow::anyhow!("no suite has rust-src {release} at present")));
    };
    for package in apt.download(&[format!("rust-src={version}")])? {
        command::run(Command::new("dpkg").arg("-x").arg(package).arg(fresh.join("root")))?;
    }
    Ok(())
}

/// An apt of our own, with all that it keeps in one folder.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Of these suites of the machine's own mirror.
    pub(crate) fn open(folder: &Path, suites: &[&str]) -> Result<Self> {
        ensure!(command::on_path("apt-get").is_some(), "there is no apt here");
        let mirror = system_mirror().context("the apt sources of this machine name no Debian mirror")?;
        for inner in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(inner))?;
        }
        let folder = folder.canonicalize()?;
        let source = |suite: &&str| format!("deb [signed-by={}] {} {suite} main\n", mirror.signed_by, mirror.uri);
        fs::write(folder.join("sources.list"), suites.iter().map(source).collect::<String>())?;
        fs::write(folder.join(SETTINGS), settings(&folder))?;
        Ok(Self { folder })
    }

    /// Reads the lists of packages anew.
    pub(crate) fn update(&self) -> Result<()> {
        command::run(self.command("apt-get").args(["--quiet", "--quiet", "update"]))
    }

    /// What `apt-cache madison` says: a line a version, with its suite.
    pub(crate) fn versions(&self, package: &str) -> Result<String> {
        command::capture(self.command("apt-cache").args(["madison", package]))
    }

    /// The record of a package.
    pub(crate) fn show(&self, package: &str) -> Result<String> {
        command::capture(self.command("apt-cache").args(["show", package]))
    }

    /// Downloads packages and gives their files.
    pub(crate) fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let into = self.folder.join("packages");
        if into.exists() {
            fs::remove_dir_all(&into)?;
        }
        fs::create_dir(&into)?;
        let mut download = self.command("apt-get");
        download.current_dir(&into).args(["--quiet", "--quiet", "download"]).args(packages);
        command::run(&mut download)?;
        let files: Vec<PathBuf> = fs::read_dir(&into)?.filter_map(Result::ok).map(|entry| entry.path()).collect();
        ensure!(files.len() == packages.len(), "apt downloaded {} of {} packages", files.len(), packages.len());
        Ok(files)
    }

    /// With our settings after the system's own, which they overrule.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder).arg("-c").arg(self.folder.join(SETTINGS));
        command
    }
}

fn settings(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Dir::Etc::sourcelist \"{folder}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::State::Lists \"{folder}/lists\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         // The unprivileged download user cannot enter our folder.\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::Retries \"1\";\n\
         Acquire::http::Timeout \"20\";\n\
         Acquire::https::Timeout \"20\";\n"
    )
}

/// The package version of a release in the output of `apt-cache madison`.
fn version_of(release: &str, madison: &str) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let mut fitting =
        versions.filter(|version| version.strip_prefix(release).is_some_and(|rest| rest.starts_with(['+', '-', '~'])));
    fitting.next().map(str::to_owned)
}

#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    uri: String,
    signed_by: String,
}

fn system_mirror() -> Option<Mirror> {
    let mut files = vec!["/etc/apt/sources.list".into()];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    files.extend(parts.filter_map(Result::ok).map(|entry| entry.path()));
    files.sort();
    files.iter().filter_map(|file| fs::read_to_string(file).ok()).find_map(|text| mirror(&text))
}

/// The first Debian mirror of an apt source file, in either of its two formats.
fn mirror(text: &str) -> Option<Mirror> {
    text.split("\n\n").find_map(paragraph).or_else(|| text.lines().find_map(one_line))
}

fn paragraph(text: &str) -> Option<Mirror> {
    let field = |name: &str| {
        let value = |line: &'_ str| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        text.lines().filter(|line| !line.starts_with('#')).find_map(value)
    };
    let uris = field("URIs")?;
    let uri = uris.split_whitespace().find(|uri| is_debian(uri))?;
    Some(Mirror { uri: uri.to_owned(), signed_by: keyring(field("Signed-By").as_deref()) })
}

fn one_line(line: &str) -> Option<Mirror> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let uri = rest.split_whitespace().next().filter(|uri| is_debian(uri))?;
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    Some(Mirror { uri: uri.to_owned(), signed_by: keyring(signed_by) })
}

/// The main archive, not the security one, and not another distribution's. Cloud images name a list of mirrors.
fn is_debian(uri: &str) -> bool {
    let uri = uri.trim_end_matches('/');
    uri.ends_with("/debian") || uri.ends_with("/debian.list")
}

/// Keys may stand in the file itself instead of a path; the distribution's keyring is the same.
fn keyring(signed_by: Option<&str>) -> String {
    signed_by.filter(|path| path.starts_with('/')).unwrap_or(KEYRING).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_formats_and_never_another_distributions() {
        let own = "/usr/share/keyrings/own.gpg";
        for (text, expected) in [
            (
                "Types: deb\n# http://old\nURIs: http://mirror/debian\nSuites: bookworm\nSigned-By: /usr/share/keyrings/own.gpg\n",
                Some(("http://mirror/debian", own)),
            ),
            (
                "URIs: http://mirror/debian-security\n\nURIs: http://mirror/debian/\n",
                Some(("http://mirror/debian/", KEYRING)),
            ),
            (
                "URIs: mirror+file:///etc/apt/mirrors/debian.list\nSigned-By:\n key\n",
                Some(("mirror+file:///etc/apt/mirrors/debian.list", KEYRING)),
            ),
            (
                "# deb http://old/debian x main\ndeb [arch=amd64 signed-by=/usr/share/keyrings/own.gpg] http://mirror/debian trixie main\n",
                Some(("http://mirror/debian", own)),
            ),
            ("deb http://mirror/debian trixie main", Some(("http://mirror/debian", KEYRING))),
            ("deb http://mirror/ubuntu noble main", None),
            ("URIs: https://vendor/apt\nSigned-By: /x.gpg\n", None),
            ("", None),
        ] {
            let expected = expected.map(|(uri, keys)| Mirror { uri: uri.into(), signed_by: keys.into() });
            assert_eq!(mirror(text), expected, "{text}");
        }
    }

    #[test]
    fn only_the_exact_release_is_taken_from_the_list_of_versions() {
        let madison =
            "rust-src | 1.96.0+dfsg1-1 | sid\nrust-src | 1.95.0+dfsg1-1~bpo13+1 | x\nrust-src | 1.63.0+dfsg1-2 | y\n";
        for (release, expected) in
            [("1.95.0", Some("1.95.0+dfsg1-1~bpo13+1")), ("1.9", None), ("1.95", None), ("1.95.1", None)]
        {
            assert_eq!(version_of(release, madison).as_deref(), expected, "{release}");
        }
    }
}
