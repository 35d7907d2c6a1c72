// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon itself: privileges, sockets, files, keys, the audit log, the clock.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use jiff::Timestamp;
use rustix::process::DumpableBehavior;

use super::super::facts::{AdminFacts, KeySource, NeededCapability};
use super::super::failure::with_sources;
use super::{Check, Seen, Subject, fail, pass, warn};
use crate::audit;

/// Both clocks may drift apart by this much before it is worth a word.
const CLOCK_JUMP: Duration = Duration::from_secs(5);
/// 2025-01-01: a clock before this was never set.
const EARLIEST: i64 = 1_735_689_600;
const PRIVATE_MODE: u32 = 0o600;

/// A file as the file system describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    mode: u32,
    uid: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Socket,
    Directory,
    Other,
}

/// Which privileges the daemon holds, against those it needs.
pub(super) fn capabilities(needed: &[NeededCapability]) -> Vec<Check> {
    let kept = Subject {
        id: "daemon.capabilities",
        title: "Privileges that the daemon needs",
        fix: "start the daemon with them (systemd: AmbientCapabilities= and CapabilityBoundingSet=), or as root",
        guarantee: "the daemon can read the facts and records it decides on",
    };
    let dropped = Subject {
        id: "daemon.privileges",
        title: "Privileges that the daemon does not need",
        fix: "run it as the packaged service, which drops them",
        guarantee: "a fault in the daemon gives away no more than the daemon needs",
    };
    match caps::read(None, CapSet::Effective) {
        Ok(held) => {
            let missing: Vec<_> = needed.iter().filter(|needed| !held.contains(&needed.capability)).collect();
            let mut extra: Vec<String> = held
                .iter()
                .filter(|held| needed.iter().all(|needed| needed.capability != **held))
                .map(Capability::to_string)
                .collect();
            extra.sort_unstable();
            vec![kept.seen(missing_ones(needed, &missing)), dropped.seen(extra_ones(&extra))]
        }
        Err(error) => {
            let why = format!("the daemon's capabilities cannot be read: {error}");
            vec![kept.seen(fail(why.clone())), dropped.seen(warn(why))]
        }
    }
}

fn missing_ones(needed: &[NeededCapability], missing: &[&NeededCapability]) -> Seen {
    if missing.is_empty() {
        let names: Vec<String> = needed.iter().map(|needed| needed.capability.to_string()).collect();
        return pass(if names.is_empty() { "none are needed".to_owned() } else { names.join(", ") });
    }
    let words: Vec<String> =
        missing.iter().map(|missing| format!("{} is missing: {}", missing.capability, missing.purpose)).collect();
    fail(words.join("; "))
}

fn extra_ones(extra: &[String]) -> Seen {
    match extra {
        [] => pass("none are held"),
        extra => warn(format!("{} more than needed: {}", extra.len(), extra.join(", "))),
    }
}

/// Whether callers are named by descriptor.
pub(super) fn peers(is_pidfd: bool) -> Check {
    Subject {
        id: "daemon.peer_pidfd",
        title: "Callers are pinned by descriptor (SO_PEERPIDFD)",
        fix: "use Linux 6.5 or later",
        guarantee: "a caller cannot be taken for another that got its process number before it was looked up",
    }
    .seen(match is_pidfd {
        true => pass("this kernel names callers by descriptor"),
        false => warn("this kernel names callers by number; only the start time in the record tells two apart"),
    })
}

/// Whether records can be written.
pub(super) fn audit_writable(status: Result<audit::Status, audit::Error>) -> Check {
    Subject {
        id: "audit.writable",
        title: "The audit log can be written",
        fix: "make room on its file system or mend it; the log goes on by itself, after a failed sync on a restart",
        guarantee: "credentials are released at all: nothing is released without a record",
    }
    .seen(match status {
        Ok(status) if !status.writable => fail(format!("the last write failed; {} failures so far", status.failures)),
        Ok(status) if status.failures > 0 => {
            warn(format!("it can be written now, but {} writes or syncs failed since start", status.failures))
        }
        Ok(status) => pass(format!("{} records, each {}", status.records, status.durability.as_str())),
        Err(error) => fail(with_sources(&error)),
    })
}

/// Whether the chain holds, as far as can be read in this time.
pub(super) fn audit_chain(log: &audit::Log, time: Duration) -> Check {
    let until = Instant::now().checked_add(time);
    let report = log.verify(|_| match until {
        Some(until) if Instant::now() < until => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    });
    Subject {
        id: "audit.chain",
        title: "The audit log's chain holds",
        fix: "agentctl audit verify; keep the directory as evidence",
        guarantee: "nobody has changed or removed records",
    }
    .seen(chain(report))
}

fn chain(report: Result<audit::VerifyReport, audit::Error>) -> Seen {
    match report {
        Ok(report) => match &report.problem {
            Some(problem) => fail(format!("{} line {}: {}", problem.segment, problem.line, problem.what)),
            None if report.cancelled => warn(format!(
                "the first {} records hold; the rest was not looked at, because it would take longer than this",
                report.progress.records
            )),
            None => pass(format!(
                "{} records hold, {} of them after the last signed checkpoint",
                report.progress.records, report.unsigned_tail
            )),
        },
        Err(error) => fail(with_sources(&error)),
    }
}

/// Sockets and the state directory.
pub(super) fn files(facts: &AdminFacts) -> Vec<Check> {
    let own = rustix::process::geteuid().as_raw();
    let parent = |path: &Path| look(path.parent().unwrap_or(Path::new("/")));
    vec![
        Subject {
            id: "socket.agent",
            title: "The agents' socket",
            fix: "restart the daemon; put the socket into a directory that only the daemon can write",
            guarantee: "agents reach this daemon and not somebody who took its place",
        }
        .seen(socket(&look(&facts.agent_socket), &parent(&facts.agent_socket), facts.agent_socket_mode, own)),
        Subject {
            id: "socket.admin",
            title: "The admin socket",
            fix: "restart the daemon; put the socket into a directory that only the daemon can write",
            guarantee: "only the daemon's own user and root administer it",
        }
        .seen(socket(&look(&facts.admin_socket), &parent(&facts.admin_socket), PRIVATE_MODE, own)),
        Subject {
            id: "state.private",
            title: "The state directory is private",
            fix: "chmod 0700 and chown it to the daemon's user; replace keys that others could read",
            guarantee: "nobody else reads keys or changes what the daemon keeps",
        }
        .seen(private(&look(&facts.state_dir), own)),
    ]
}

fn look(path: &Path) -> io::Result<Node> {
    let metadata = fs::symlink_metadata(path)?;
    let file_type = metadata.file_type();
    let kind = match () {
        () if file_type.is_socket() => Kind::Socket,
        () if file_type.is_dir() => Kind::Directory,
        () => Kind::Other,
    };
    Ok(Node { mode: metadata.mode() & 0o7777, uid: metadata.uid(), kind })
}

fn socket(socket: &io::Result<Node>, parent: &io::Result<Node>, mode: u32, own: u32) -> Seen {
    let (socket, parent) = match (socket, parent) {
        (Ok(socket), Ok(parent)) => (socket, parent),
        (Err(error), _) => return fail(format!("it cannot be looked at: {error}")),
        (_, Err(error)) => return fail(format!("its directory cannot be looked at: {error}")),
    };
    if socket.kind != Kind::Socket {
        return fail("something else stands in its place");
    }
    if socket.uid != own {
        return fail(format!("it belongs to uid {}, the daemon runs as {own}", socket.uid));
    }
    if socket.mode & 0o777 != mode {
        return fail(format!("its mode is {:04o}, it should be {mode:04o}", socket.mode & 0o777));
    }
    // Whoever can write the directory can put another socket there; the sticky bit keeps others' files.
    let is_open = parent.mode & 0o022 != 0 && parent.mode & 0o1000 == 0;
    if is_open || (parent.uid != own && parent.uid != 0) {
        return fail(format!("others can replace it: its directory has mode {:04o}, uid {}", parent.mode, parent.uid));
    }
    pass(format!("mode {mode:04o}, uid {own}"))
}

fn private(directory: &io::Result<Node>, own: u32) -> Seen {
    match directory {
        Ok(node) if node.kind != Kind::Directory => fail("it is not a directory"),
        Ok(node) if node.uid != own => fail(format!("it belongs to uid {}, the daemon runs as {own}", node.uid)),
        Ok(node) if node.mode & 0o077 != 0 => fail(format!("its mode is {:04o}: others can look into it", node.mode)),
        Ok(node) => pass(format!("mode {:04o}, uid {own}", node.mode)),
        Err(error) => fail(format!("it cannot be looked at: {error}")),
    }
}

/// Where the sealing key lies.
pub(super) fn key_source(source: &KeySource) -> Check {
    Subject {
        id: "keys.source",
        title: "The sealing key is kept apart",
        fix: "hand it over as a systemd credential (LoadCredentialEncrypted=)",
        guarantee: "a copy of the disk gives away no secret and no signing key",
    }
    .seen(match source {
        KeySource::SystemdCredential => pass("it comes as a systemd credential"),
        KeySource::File(path) => warn(format!("it lies in a plain file, {}", path.display())),
    })
}

/// Whether a crash writes secrets to disk.
pub(super) fn core_dumps() -> Check {
    Subject {
        id: "daemon.core_dumps",
        title: "The daemon leaves no core dump",
        fix: "run a version that turns dumping off at start (prctl PR_SET_DUMPABLE), or LimitCORE=0",
        guarantee: "no secret reaches the disk in a crash, and no process of the daemon's user can trace it",
    }
    .seen(dumpable(rustix::process::dumpable_behavior()))
}

fn dumpable(behavior: rustix::io::Result<DumpableBehavior>) -> Seen {
    match behavior {
        Ok(DumpableBehavior::NotDumpable) => pass("dumping is off"),
        Ok(DumpableBehavior::DumpableReadableOnlyByRoot) => warn("a crash leaves a dump that only root can read"),
        Ok(_) => fail("a crash leaves a dump with everything in memory"),
        Err(error) => fail(format!("whether it would cannot be asked: {error}")),
    }
}

/// Whether the time of day is set and goes on evenly: leases end by it.
pub(super) fn clock(began: Timestamp, now: Timestamp, passed: Duration) -> Check {
    Subject {
        id: "host.clock",
        title: "The clock",
        fix: "let a time service set it and keep it (chrony, systemd-timesyncd), then restart the daemon",
        guarantee: "tokens and leases end when they say, and records bear the right time",
    }
    .seen(evenness(began, now, passed))
}

fn evenness(began: Timestamp, now: Timestamp, passed: Duration) -> Seen {
    if now.as_second() < EARLIEST {
        return fail(format!("it says {now}: it was never set"));
    }
    let Ok(passed) = jiff::SignedDuration::try_from(passed) else { return fail("the daemon's uptime is not a time") };
    let jump = now.duration_since(began).saturating_sub(passed);
    if jump.unsigned_abs() > CLOCK_JUMP {
        let way = if jump.is_negative() { "back" } else { "ahead" };
        return warn(format!("it was put {way} by {} s since the daemon started", jump.unsigned_abs().as_secs()));
    }
    pass(format!("it says {now} and goes on evenly"))
}

#[cfg(test)]
mod tests;
