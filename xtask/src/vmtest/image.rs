// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a guest boots into: busybox, our programs with the libraries that they need, and a script that runs the tests.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use crate::command;
use crate::setup::machine::BUSYBOX;

/// The first process of a guest. What it says on the second serial port is all that counts.
const INIT: &str = include_str!("init.sh");
const PROGRAMS: &str = "t/bin";
const FILES: [(&str, &str); 4] = [
    ("etc/passwd", "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/nsswitch.conf", "hosts: files\n"),
];

/// Makes the part that is the same for all kernels, afresh: an archive.
pub(super) fn base(folder: &Path, programs: &[PathBuf], test: &Path) -> Result<PathBuf> {
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for name in ["bin", "proc", "sys", "dev", "tmp", "run", "var/lib", "root", "etc", "modules", "t/bin/deps"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))?;
    let applets = command::capture(Command::new(BUSYBOX).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for (name, text) in FILES {
        fs::write(root.join(name), text)?;
    }
    let mut copied = Vec::new();
    for program in programs {
        let name = program.file_name().context("a program has no name")?;
        copied.push((program.as_path(), root.join(PROGRAMS).join(name)));
    }
    copied.push((test, root.join(PROGRAMS).join("deps/test")));
    for (from, to) in &copied {
        strip(from, to)?;
        for library in libraries(from)? {
            let place = root.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(place.parent().context("a library has no folder")?)?;
            fs::copy(&library, place)?;
        }
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let archive = folder.join("base.cpio");
    pack(&root, &archive)?;
    Ok(archive)
}

/// An archive for one kernel: archives may stand one after another.
pub(super) fn with_modules(folder: &Path, base: &Path, name: &str, kernel: &Kernel) -> Result<PathBuf> {
    let root = folder.join(format!("modules-{name}"));
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(root.join("modules"))?;
    for (number, module) in kernel.modules.iter().enumerate() {
        let file = module.file_name().and_then(|name| name.to_str()).context("a module has no name")?;
        fs::copy(module, root.join(format!("modules/{number:02}-{file}")))?;
    }
    let more = folder.join(format!("{name}.cpio"));
    pack(&root, &more)?;
    let image = folder.join(format!("{name}.img"));
    let mut whole = fs::File::create(&image)?;
    for part in [base, &more] {
        std::io::copy(&mut fs::File::open(part)?, &mut whole)?;
    }
    Ok(image)
}

/// Without what only debuggers read, which is most of it.
fn strip(from: &Path, to: &Path) -> Result<()> {
    command::capture(Command::new("objcopy").arg("--strip-debug").arg(from).arg(to)).map(drop)
}

fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let listed = command::capture(Command::new("ldd").arg(program))?;
    Ok(listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn pack(root: &Path, archive: &Path) -> Result<()> {
    let listed = command::capture(Command::new("find").arg(".").current_dir(root))?;
    let mut cpio = Command::new("cpio")
        .args(["--create", "--format=newc", "--owner=0:0", "--quiet"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?)
        .spawn()
        .context("cannot run cpio")?;
    cpio.stdin.take().context("cpio takes no names")?.write_all(listed.as_bytes())?;
    ensure!(cpio.wait()?.success(), "cpio failed");
    Ok(())
}
