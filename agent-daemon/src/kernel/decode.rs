// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From the raw records and events to typed ones. Raw integers stop here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use agent_ebpf::{
    Address, CloseEvent, ConnectEvent, ConnectionRecord, EndedExec, EventHeader, ExecEvent, ExecRecord, ExitEvent,
    ImageEvent, class, flags, ground, hook, kind, means, verdict,
};
use zerocopy::FromBytes as _;

use crate::process::{
    Ancestor, BootTime, Classified, Connection, Ended, Event, ExecId, ExecInstance, FileId, Flags, Governed, Ground,
    Hook, Means, Namespaces, ProcessKey, Protocol, RefusedImage, SessionId, Stamp, Verdict,
};

/// The programs note only this state and the end of a connection.
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE: u8 = 7;

/// What is wrong with bytes that claim to come from our programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Whether the programs are done with a record, and it is the one of this process.
pub(super) fn is_at_rest(record: &ExecRecord, tgid: u32) -> bool {
    record.tgid == tgid && record.exec_id != 0 && record.exec_id == record.exec_id_check
}

/// A process that is older than the programs, and that the daemon may not look into, is recorded without its executable
/// for the sake of those below it. It is as good as any other record that lacks a fact.
fn whole(record: &ExecRecord) -> Flags {
    let is_blank = record.exe_inode == 0 && record.flags & flags::KERNEL_THREAD == 0;
    Flags(if is_blank { record.flags | flags::INCOMPLETE } else { record.flags })
}

pub(super) fn instance(record: &ExecRecord) -> Result<ExecInstance, Malformed> {
    let lineage = record.lineage().ok_or(Malformed("too many ancestors"))?;
    let filename = name(record.filename.bytes(), record.filename_len)?;
    let (major, minor) = device(record.exe_dev);
    Ok(ExecInstance {
        id: ExecId(record.exec_id),
        process: ProcessKey { tgid: record.tgid, start_boottime: BootTime(record.start_boottime_ns) },
        parent: non_zero(record.parent_exec_id).map(ExecId),
        parent_tgid: record.parent_tgid,
        began: BootTime(record.ktime_ns),
        session_id: SessionId::new(record.session_id),
        cgroup_id: record.cgroup_id,
        exe: FileId {
            major,
            minor,
            inode: record.exe_inode,
            generation: record.exe_generation,
            ctime_sec: record.exe_ctime_sec,
            ctime_nsec: record.exe_ctime_nsec,
        },
        ancestors: lineage.map(|(id, tgid)| Ancestor { id: ExecId(id), tgid }).collect(),
        depth: record.depth,
        uid: record.uid,
        gid: record.gid,
        euid: record.euid,
        egid: record.egid,
        capabilities: record.cap_effective,
        permitted: record.cap_permitted,
        namespaces: Namespaces { pid: record.pid_ns, mnt: record.mnt_ns, net: record.net_ns, user: record.user_ns },
        governed: (record.tree != 0).then(|| Governed { tree: record.tree, class: classified(record) }),
        flags: whole(record),
        comm: comm(record.comm.bytes()),
        filename: filename.into(),
    })
}

fn classified(record: &ExecRecord) -> Option<Classified> {
    let place = u32::try_from(record.class & class::PLACE).ok()?;
    let [euid, egid] = halves(record.class_ids);
    let stamp = Stamp(record.class >> class::STAMP_SHIFT);
    (record.class != 0).then_some(Classified { place, stamp, ids: (euid, egid) })
}

fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])]
}

pub(super) fn connection(record: &ConnectionRecord) -> Result<Connection, Malformed> {
    let address = |address: Address| IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::from(address))).to_canonical();
    let hook = match record.hook {
        hook::CONNECT4 => Hook::Connect4,
        hook::CONNECT6 => Hook::Connect6,
        hook::SENDMSG4 => Hook::Sendmsg4,
        hook::SENDMSG6 => Hook::Sendmsg6,
        hook::SOCK_CREATE => Hook::SockCreate,
        _ => return Err(Malformed("unknown hook")),
    };
    let ground = match record.ground {
        ground::UNGOVERNED => Ground::Ungoverned,
        ground::DESTINATION => Ground::Destination,
        ground::UNDECLARED => Ground::Undeclared,
        ground::PENDING => Ground::Pending,
        ground::SOCKET => Ground::Socket,
        _ => return Err(Malformed("unknown ground")),
    };
    let verdict = match record.verdict {
        verdict::ALLOW => Verdict::Allow,
        verdict::AUDIT => Verdict::Audit,
        verdict::DENY => Verdict::Deny,
        _ => return Err(Malformed("unknown verdict")),
    };
    let is_complete = record.local_port != 0;
    Ok(Connection {
        cookie: record.cookie,
        exec_id: ExecId(record.exec_id),
        tgid: record.tgid,
        tid: record.tid,
        session_id: SessionId::new(record.session_id),
        tree: (record.tree != 0).then(|| u32::from(record.tree)),
        at: BootTime(record.ktime_ns),
        uid: record.euid,
        gid: record.egid,
        remote: SocketAddr::new(address(record.remote_address), record.remote_port),
        local: is_complete.then(|| SocketAddr::new(address(record.local_address), record.local_port)),
        net_ns: is_complete.then_some(record.net_ns),
        protocol: Protocol(record.protocol),
        hook,
        is_open: Protocol(record.protocol) != Protocol::TCP || record.state == TCP_ESTABLISHED,
        is_closed: Protocol(record.protocol) == Protocol::TCP && record.state == TCP_CLOSE,
        verdict,
        ground,
    })
}

/// Decodes one ring buffer entry, which may be longer than its event but not shorter.
pub(super) fn event(bytes: &[u8]) -> Result<Event, Malformed> {
    let (header, _) = EventHeader::read_from_prefix(bytes).map_err(|_| Malformed("shorter than a header"))?;
    match header.kind {
        kind::EXEC => {
            let (event, _) = ExecEvent::ref_from_prefix(bytes).map_err(|_| Malformed("short exec event"))?;
            let ended = if event.ended.exec_id == 0 { None } else { Some(Box::new(ended(header.tgid, &event.ended)?)) };
            Ok(Event::Exec { ended, tgid: header.tgid, exec_id: ExecId(event.exec_id) })
        }
        kind::EXIT => {
            let (event, _) = ExitEvent::ref_from_prefix(bytes).map_err(|_| Malformed("short exit event"))?;
            Ok(Event::Exit { ended: Box::new(ended(header.tgid, &event.ended)?) })
        }
        kind::CONNECT => {
            let (event, _) = ConnectEvent::ref_from_prefix(bytes).map_err(|_| Malformed("short connect event"))?;
            Ok(Event::Connect(Box::new(connection(&event.connection)?)))
        }
        kind::CLOSE => {
            let (event, _) = CloseEvent::ref_from_prefix(bytes).map_err(|_| Malformed("short close event"))?;
            Ok(Event::Close { cookie: event.cookie, exec_id: ExecId(event.exec_id) })
        }
        kind::IMAGE => {
            let (event, _) = ImageEvent::ref_from_prefix(bytes).map_err(|_| Malformed("short image event"))?;
            Ok(Event::Image(Box::new(image(event)?)))
        }
        _ => Err(Malformed("unknown kind")),
    }
}

fn image(told: &ImageEvent) -> Result<RefusedImage, Malformed> {
    Ok(RefusedImage {
        exec_id: ExecId(told.exec_id),
        tgid: told.header.tgid,
        session_id: SessionId::new(told.session_id),
        uid: told.euid,
        gid: told.egid,
        tree: told.tree,
        device: device(told.dev),
        inode: told.inode,
        filename: String::from_utf8_lossy(name(told.filename.bytes(), told.filename_len)?).into(),
        means: match told.means {
            means::NONE => Means::None,
            means::HOOK => Means::Hook,
            means::SIGNAL => Means::Signal,
            means::FAILED => Means::Failed,
            _ => return Err(Malformed("unknown means")),
        },
    })
}

/// The kernel's own form of a device number (`MINORBITS` is 20).
pub(super) fn device(word: u32) -> (u32, u32) {
    (word >> 20, word & 0xf_ffff)
}

fn ended(tgid: u32, told: &EndedExec) -> Result<Ended, Malformed> {
    Ok(Ended {
        id: ExecId(told.exec_id),
        tgid,
        comm: comm(told.comm.bytes()),
        filename: String::from_utf8_lossy(name(told.filename.bytes(), told.filename_len)?).into(),
        began: BootTime(told.ktime_ns),
        spiffe_id: None,
    })
}

fn name(bytes: &[u8], length: impl TryInto<usize>) -> Result<&[u8], Malformed> {
    length.try_into().ok().and_then(|length| bytes.get(..length)).ok_or(Malformed("file name too long"))
}

fn non_zero(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

fn comm(bytes: &[u8]) -> Box<str> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    #[test]
    fn v4_mapped_addresses_become_ipv4() {
        let mut record = ConnectionRecord::new_zeroed();
        record.hook = hook::CONNECT6;
        record.remote_address = std::net::Ipv4Addr::new(127, 0, 0, 1).to_ipv6_mapped().octets().into();
        record.remote_port = 443;
        let connection = connection(&record).unwrap();
        assert_eq!(connection.remote, "127.0.0.1:443".parse().unwrap());
        assert_eq!(connection.local, None);
    }

    #[test]
    fn a_record_is_at_rest_only_when_whole_and_of_its_process() {
        let mut record = ExecRecord::new_zeroed();
        record.tgid = 7;
        record.exec_id = 3;
        for (tgid, check, expected) in [(7, 3, true), (7, 0, false), (7, 4, false), (8, 3, false)] {
            record.exec_id_check = check;
            assert_eq!(is_at_rest(&record, tgid), expected, "tgid {tgid} check {check}");
        }
    }

    #[test]
    fn lengths_beyond_the_arrays_are_refused() {
        let mut record = ExecRecord::new_zeroed();
        record.ancestors_len = 17;
        assert_eq!(instance(&record).unwrap_err(), Malformed("too many ancestors"));
        record.ancestors_len = 0;
        record.filename_len = 257;
        assert_eq!(instance(&record).unwrap_err(), Malformed("file name too long"));
    }

    #[test]
    fn a_record_without_an_executable_is_incomplete_unless_it_is_of_the_kernel() {
        let mut record = ExecRecord::new_zeroed();
        record.flags = flags::SEEDED;
        for (inode, more, expected) in [(0, 0, true), (1, 0, false), (0, flags::KERNEL_THREAD, false)] {
            record.exe_inode = inode;
            record.flags = flags::SEEDED | more;
            let found = instance(&record).unwrap().flags.has(flags::INCOMPLETE);
            assert_eq!(found, expected, "inode {inode}, flags {more}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800), kind in 0u32..7) {
            drop(event(&bytes));
            // Aligned, with a kind that is likely to be known.
            let mut words = vec![0u64; 100];
            let length = bytes.len().min(800);
            words.as_mut_bytes()[..length].copy_from_slice(&bytes[..length]);
            words.as_mut_bytes()[8..12].copy_from_slice(&kind.to_ne_bytes());
            drop(event(&words.as_bytes()[..length]));
        }
    }
}
