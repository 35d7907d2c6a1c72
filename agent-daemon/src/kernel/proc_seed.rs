// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Records for processes that are older than the programs, read from `/proc` and marked so.
//!
//! The programs are attached first: whatever they record wins over the seed. What they cannot know of a
//! seeded process (its `#!` script, dead ancestors, the exact start) stays unknown.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use agent_ebpf::{ExecRecord, flags, limits};
use zerocopy::FromZeros as _;

use super::Error;
use super::load::SEED_IDS;
use super::maps::Maps;

/// A process that forks while the list is read may leave a child behind: read again until nothing is new.
const PASSES: usize = 4;
const PF_KTHREAD: u64 = 0x0020_0000;
const NANOSECONDS: u64 = 1_000_000_000;

struct Known {
    exec_id: u64,
    record: ExecRecord,
}

/// `start` is where the programs' counter of exec ids began.
pub(super) fn seed(maps: &Maps, cgroup_root: &Path, start: u64) -> Result<usize, Error> {
    let mut ids = seed_ids(start);
    let mut known: HashMap<u32, Known> = HashMap::new();
    let mut seeded = 0;
    for _ in 0..PASSES {
        let mut found: Vec<Stat> =
            tgids()?.into_iter().filter(|tgid| !known.contains_key(tgid)).filter_map(stat).collect();
        // Parents before children.
        found.sort_by_key(|stat| (stat.start_ticks, stat.tgid));
        let before = seeded;
        for stat in found {
            if matches!(maps.raw(stat.tgid), Ok(Some(_))) {
                continue;
            }
            let Some(mut record) = read(&stat, cgroup_root) else { continue };
            // More processes than ids: the rest has no record and gets nothing, which is the safe side.
            let Some(next_id) = ids.next() else { break };
            record.exec_id = next_id;
            record.exec_id_check = next_id;
            if let Some(parent) = known.get(&stat.parent) {
                inherit(&mut record, stat.parent, parent);
            }
            let is_new = maps.seed(stat.tgid, record).map_err(|source| Error::Io {
                operation: "seed",
                path: "PROCESSES".into(),
                source: std::io::Error::other(source),
            })?;
            // It may have ended while we looked, and then nobody would ever remove it.
            if is_new && self::stat(stat.tgid).is_none_or(|now| now.start_ticks != stat.start_ticks) {
                maps.unseed(stat.tgid);
            } else if is_new {
                seeded += 1;
            }
            known.insert(stat.tgid, Known { exec_id: next_id, record });
        }
        if seeded == before {
            break;
        }
    }
    Ok(seeded)
}

/// Ids that no program hands out: those just below the start of its counter.
fn seed_ids(start: u64) -> std::ops::Range<u64> {
    start.saturating_sub(SEED_IDS)..start
}

fn inherit(record: &mut ExecRecord, parent_tgid: u32, parent: &Known) {
    record.parent_exec_id = parent.exec_id;
    let above = &parent.record;
    record.ancestors = above.ancestors;
    record.ancestor_tgids = above.ancestor_tgids;
    record.ancestors_len = above.ancestors_len;
    record.ancestors_next = above.ancestors_next;
    record.depth = above.depth;
    record.flags |= above.flags & flags::LINEAGE_TRUNCATED;
    record.push_ancestor(parent.exec_id, parent_tgid);
}

fn tgids() -> Result<Vec<u32>, Error> {
    let path = Path::new("/proc");
    let entries =
        fs::read_dir(path).map_err(|source| Error::Io { operation: "list", path: path.to_owned(), source })?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

struct Stat {
    tgid: u32,
    parent: u32,
    start_ticks: u64,
    task_flags: u64,
    comm: String,
}

/// `/proc/PID/stat`, whose second field may contain anything: the rest is read after the last parenthesis.
fn stat(tgid: u32) -> Option<Stat> {
    let text = String::from_utf8_lossy(&small_file(&format!("/proc/{tgid}/stat"))?).into_owned();
    let (head, rest) = text.rsplit_once(") ")?;
    let (_, comm) = head.split_once(" (")?;
    let mut fields = rest.split(' ');
    // What has ended already is never told to end again: a record of it would stay for ever.
    if matches!(fields.next()?, "Z" | "X" | "x") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let task_flags = fields.nth(4)?.parse().ok()?;
    let start_ticks = fields.nth(12)?.parse().ok()?;
    Some(Stat { tgid, parent, start_ticks, task_flags, comm: comm.to_owned() })
}

/// Everything of a record that `/proc` knows; none when the process is gone.
fn read(stat: &Stat, cgroup_root: &Path) -> Option<ExecRecord> {
    let proc = format!("/proc/{}", stat.tgid);
    let status = String::from_utf8(small_file(&format!("{proc}/status"))?).ok()?;
    let ids = |name: &str| -> Option<(u32, u32)> {
        let mut values = field(&status, name)?.split_whitespace();
        Some((values.next()?.parse().ok()?, values.next()?.parse().ok()?))
    };
    let mut record = ExecRecord::new_zeroed();
    (record.uid, record.euid) = ids("Uid")?;
    (record.gid, record.egid) = ids("Gid")?;
    record.cap_effective = u64::from_str_radix(field(&status, "CapEff")?.trim(), 16).ok()?;
    record.cap_permitted = u64::from_str_radix(field(&status, "CapPrm")?.trim(), 16).ok()?;
    record.tgid = stat.tgid;
    record.parent_tgid = stat.parent;
    let ticks = rustix::param::clock_ticks_per_second();
    record.start_boottime_ns = stat.start_ticks.saturating_mul(NANOSECONDS / ticks.max(1));
    record.ktime_ns = record.start_boottime_ns;
    // Whether it has children already is not asked: its end is told.
    record.flags = flags::SEEDED | flags::REFERRED;
    if field(&status, "TracerPid").is_some_and(|value| value.trim() != "0") {
        record.flags |= flags::TRACED;
    }
    if field(&status, "NoNewPrivs").is_some_and(|value| value.trim() == "1") {
        record.flags |= flags::NO_NEW_PRIVS;
    }
    for (at, byte) in record.comm.bytes_mut().iter_mut().zip(stat.comm.bytes()) {
        *at = byte;
    }
    let namespace = |name: &str| -> Option<u32> {
        let link = fs::read_link(format!("{proc}/ns/{name}")).ok()?;
        link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
    };
    // Those of a process that may not be looked at stay zero, which is no namespace of ours.
    record.pid_ns = namespace("pid").unwrap_or_default();
    record.mnt_ns = namespace("mnt").unwrap_or_default();
    record.net_ns = namespace("net").unwrap_or_default();
    record.user_ns = namespace("user").unwrap_or_default();
    // `/proc` does not tell in whose namespace the file system was mounted, so the worse is taken.
    if record.user_ns != limits::INITIAL_USER_NAMESPACE {
        record.flags |= flags::USER_MOUNTED;
    }
    record.cgroup_id = cgroup_id(&proc, cgroup_root).unwrap_or_default();
    if stat.task_flags & PF_KTHREAD != 0 {
        record.flags |= flags::KERNEL_THREAD;
    } else {
        // An executable that may not be looked at (the first process of some machines) leaves the image unknown:
        // nothing about it can match, but what it starts has a lineage.
        let _unknown = image(&proc, &mut record);
    }
    Some(record)
}

fn image(proc: &str, record: &mut ExecRecord) -> Option<()> {
    let exe = format!("{proc}/exe");
    let metadata = fs::metadata(&exe).ok()?;
    record.exe_dev = rustix::fs::major(metadata.st_dev()) << 20 | rustix::fs::minor(metadata.st_dev());
    record.exe_inode = metadata.st_ino();
    record.exe_ctime_sec = metadata.st_ctime();
    record.exe_ctime_nsec = u32::try_from(metadata.st_ctime_nsec()).ok()?;
    if metadata.st_nlink() == 0 {
        record.flags |= flags::DELETED;
    }
    let path = fs::read_link(&exe).ok()?;
    let bytes = path.as_os_str().as_bytes();
    if bytes.starts_with(b"/memfd:") {
        record.flags |= flags::MEMFD;
    }
    let mut length = 0;
    for (at, byte) in record.filename.bytes_mut().iter_mut().zip(bytes) {
        *at = *byte;
        length += 1;
    }
    record.filename_len = length;
    if bytes.len() > limits::FILENAME {
        record.flags |= flags::FILENAME_TRUNCATED;
    }
    Some(())
}

fn cgroup_id(proc: &str, root: &Path) -> Option<u64> {
    let text = String::from_utf8(small_file(&format!("{proc}/cgroup"))?).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(fs::metadata(root.join(path)).ok()?.st_ino())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// A whole file of a page or so. With room from the start there are two reads; without, the library feels its way.
fn small_file(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    fs::File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seeded_id_is_one_that_the_programs_hand_out() {
        let start = 5_000_000_000;
        let ids = seed_ids(start);
        assert_eq!(u64::try_from(ids.clone().count()).unwrap(), SEED_IDS);
        assert!(ids.into_iter().all(|id| id < start && id > 0));
    }
}
