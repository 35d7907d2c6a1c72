// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `cgroup:path`: the cgroup v2 group, as the daemon's cgroup namespace names it. A fact, not a subject: a
//! group is not a lineage.

use std::io;

use super::proc::ProcessDir;

pub(super) fn path(process: &ProcessDir) -> io::Result<Option<String>> {
    Ok(parse(&process.text("cgroup")?))
}

fn parse(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_unified_hierarchy_counts() {
        for (text, expected) in [
            ("12:cpu:/a\n0::/system.slice/x.service\n", Some("/system.slice/x.service")),
            ("0::/\n", Some("/")),
            ("1:name=systemd:/user\n", None),
        ] {
            assert_eq!(parse(text).as_deref(), expected);
        }
    }
}
