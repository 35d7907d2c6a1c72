// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Users and groups at the time of asking: `unix:uid`, `unix:gid`, `unix:user`, `unix:group`,
//! `unix:supplementary_gid`, with SPIRE's meanings.

use std::fs;
use std::io;

use super::evidence::fact;
use super::proc::ProcessDir;
use crate::identity::{Fact, Provenance};

/// Longer name databases are not searched.
const DATABASE_LIMIT: u64 = 1024 * 1024;
/// The kernel allows 65,536; more than this is no evidence.
const GROUPS_LIMIT: usize = 256;

/// Ids from `/proc/PID/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) real_uid: u32,
    pub(super) uid: u32,
    pub(super) real_gid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

pub(super) fn ids(process: &ProcessDir) -> io::Result<Ids> {
    // The name in the first line may hold any bytes.
    let bytes = process.bytes("status")?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed status"))
}

pub(super) fn parse(status: &str) -> Option<Ids> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    let (uids, gids) = (numbers("Uid")?, numbers("Gid")?);
    Some(Ids {
        real_uid: *uids.first()?,
        uid: *uids.get(1)?,
        real_gid: *gids.first()?,
        gid: *gids.get(1)?,
        groups: numbers("Groups")?,
    })
}

pub(super) fn facts(ids: &Ids) -> Vec<Fact> {
    let kernel = |kind, value: u32| fact(kind, value, Provenance::Kernel);
    // A number is the kernel's word; what it is called is the word of this host's name database.
    let name = |kind, database, id| name(database, id).and_then(|name| fact(kind, name, Provenance::Kernel));
    [
        kernel("unix:uid", ids.uid),
        kernel("unix:gid", ids.gid),
        name("unix:user", "/etc/passwd", ids.uid),
        name("unix:group", "/etc/group", ids.gid),
    ]
    .into_iter()
    .chain(ids.groups.iter().take(GROUPS_LIMIT).map(|gid| kernel("unix:supplementary_gid", *gid)))
    .flatten()
    .collect()
}

pub(super) fn user_name(uid: u32) -> Option<String> {
    name("/etc/passwd", uid)
}

/// The name of an id in a file of the form `name:password:id:…`.
fn name(database: &str, id: u32) -> Option<String> {
    if fs::metadata(database).ok()?.len() > DATABASE_LIMIT {
        return None;
    }
    let text = fs::read_to_string(database).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_ids_are_the_second_ones() {
        let ids = parse("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n").unwrap();
        assert_eq!(ids, Ids { real_uid: 1, uid: 2, real_gid: 5, gid: 6, groups: vec![9, 10] });
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        // The kernel escapes line ends in names; whatever comes first wins here all the same.
        assert_eq!(parse("Name:\tUid:\t0\t0\nGid:\t1\t1\t1\t1\nGroups:\t\n"), None);
    }
}
