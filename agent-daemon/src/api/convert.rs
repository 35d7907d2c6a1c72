// SPDX-License-Identifier: Apache-2.0 OR MIT

//! From the daemon's words to the API's: facts about exec instances, connections and leases.

use agent_ebpf::flags;
use agent_proto::v1;
use jiff::Timestamp;

use crate::attest::{Attested, LineageEntry};
use crate::credential::Lease;
use crate::identity::{Fact, Provenance};
use crate::process::{self, Ancestor, ExecInstance};

/// A moment.
pub fn timestamp(moment: Timestamp) -> prost_types::Timestamp {
    let (mut seconds, mut nanos) = (moment.as_second(), moment.subsec_nanosecond());
    // Before 1970 ours counts back, the API's nanoseconds always count forward.
    if nanos < 0 {
        seconds = seconds.saturating_sub(1);
        nanos = nanos.saturating_add(1_000_000_000);
    }
    prost_types::Timestamp { seconds, nanos }
}

/// A moment that somebody sent; none when it is not one.
pub fn moment(timestamp: &prost_types::Timestamp) -> Option<Timestamp> {
    let nanos = (0..1_000_000_000).contains(&timestamp.nanos).then_some(timestamp.nanos)?;
    Timestamp::new(timestamp.seconds, nanos).ok()
}

/// Everything known about an exec instance.
pub fn exec_instance(attested: &Attested) -> v1::ExecInstance {
    v1::ExecInstance {
        spiffe_ids: attested.entries.iter().map(|entry| entry.spiffe_id.to_string()).collect(),
        selectors: attested.facts.iter().map(selector).collect(),
        lineage: attested.lineage.entries.iter().map(ancestor).collect(),
        ..recorded(&attested.evidence.instance)
    }
}

/// What the kernel's record alone says: no identity, and a lineage of bare ids.
pub fn recorded(instance: &ExecInstance) -> v1::ExecInstance {
    let bare = |ancestor: &Ancestor| v1::Ancestor {
        exec_id: ancestor.id.0,
        tgid: ancestor.tgid,
        alive: false,
        path: String::new(),
        spiffe_id: String::new(),
        comm: String::new(),
    };
    v1::ExecInstance {
        exec_id: instance.id.0,
        tgid: instance.process.tgid,
        start_boottime_ns: instance.process.start_boottime.0,
        spiffe_ids: Vec::new(),
        selectors: Vec::new(),
        lineage: instance.ancestors.iter().map(bare).collect(),
        lineage_truncated: instance.flags.has(flags::LINEAGE_TRUNCATED),
        seeded: instance.flags.has(flags::SEEDED),
        comm: instance.comm.to_string(),
    }
}

/// One exec instance above another.
pub fn ancestor(entry: &LineageEntry) -> v1::Ancestor {
    let is_known = entry.path.is_some() || entry.comm.is_some();
    v1::Ancestor {
        exec_id: entry.id.0,
        tgid: if is_known || entry.is_alive { entry.tgid } else { 0 },
        alive: entry.is_alive,
        path: entry.path.clone().unwrap_or_default(),
        spiffe_id: entry.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        comm: entry.comm.clone().unwrap_or_default(),
    }
}

/// One fact.
pub fn selector(fact: &Fact) -> v1::Selector {
    let provenance = match fact.provenance {
        Provenance::Kernel => v1::Provenance::Kernel,
        Provenance::Measured => v1::Provenance::Measured,
        Provenance::Orchestrator => v1::Provenance::Orchestrator,
        Provenance::Claimed => v1::Provenance::Claimed,
    };
    v1::Selector { value: fact.selector.to_string(), provenance: provenance.into() }
}

/// One connection.
pub fn connection(connection: &process::Connection) -> v1::Connection {
    v1::Connection {
        cookie: connection.cookie,
        exec_id: connection.exec_id.0,
        tgid: connection.tgid,
        protocol: connection.protocol.to_string(),
        remote_address: connection.remote.ip().to_string(),
        remote_port: connection.remote.port().into(),
        local_address: connection.local.map(|local| local.ip().to_string()).unwrap_or_default(),
        local_port: connection.local.map(|local| local.port().into()).unwrap_or_default(),
        ktime_ns: connection.at.0,
        uid: connection.uid,
        gid: connection.gid,
        hook: connection.hook.as_str().to_owned(),
    }
}

/// One lease; never its credential.
pub fn lease(lease: &Lease) -> v1::Lease {
    v1::Lease {
        lease_id: lease.id.to_string(),
        exec_id: lease.exec_id.0,
        destination: lease.destination.to_string(),
        binding: lease.binding.to_string(),
        issued_at: Some(timestamp(lease.issued_at)),
        expires_at: Some(timestamp(lease.expires_at)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::process::{BootTime, Connection, ExecId, Hook, Protocol};

    #[test]
    fn moments_survive_the_way_there_and_back() {
        for text in ["1970-01-01T00:00:00Z", "2025-06-01T12:00:00.000000001Z", "1969-12-31T23:59:59.25Z"] {
            let there: Timestamp = text.parse().unwrap();
            let sent = timestamp(there);
            assert!((0..1_000_000_000).contains(&sent.nanos), "{text}: {sent:?}");
            assert_eq!(moment(&sent), Some(there), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for (seconds, nanos) in [(0, -1), (0, 1_000_000_000), (i64::MAX, 0), (i64::MIN, 0)] {
            assert_eq!(moment(&prost_types::Timestamp { seconds, nanos }), None, "{seconds}.{nanos}");
        }
    }

    #[test]
    fn a_connection_without_a_local_address_says_so_by_empty_fields() {
        let mut seen = Connection {
            cookie: 7,
            exec_id: ExecId(8),
            tgid: 9,
            tid: 7,
            session_id: None,
            tree: None,
            at: BootTime(10),
            uid: 11,
            gid: 12,
            remote: "[2001:db8::1]:443".parse::<SocketAddr>().unwrap(),
            local: None,
            net_ns: None,
            protocol: Protocol::TCP,
            hook: Hook::Connect6,
            is_open: true,
            is_closed: false,
            verdict: process::Verdict::Allow,
            ground: process::Ground::Ungoverned,
        };
        let sent = connection(&seen);
        assert_eq!((sent.local_address.as_str(), sent.local_port), ("", 0));
        assert_eq!((sent.remote_address.as_str(), sent.remote_port), ("2001:db8::1", 443));
        assert_eq!((sent.protocol.as_str(), sent.hook.as_str()), ("tcp", "connect6"));
        seen.local = Some("[2001:db8::2]:50000".parse().unwrap());
        let sent = connection(&seen);
        assert_eq!((sent.local_address.as_str(), sent.local_port), ("2001:db8::2", 50000));
    }

    #[test]
    fn an_ancestor_of_which_only_the_id_is_left_has_no_process_number() {
        let gone = LineageEntry { id: ExecId(3), tgid: 44, is_alive: false, path: None, comm: None, spiffe_id: None };
        let sent = ancestor(&gone);
        assert_eq!((sent.exec_id, sent.tgid, sent.alive), (3, 0, false));
        let known = LineageEntry { comm: Some("sh".into()), ..gone };
        assert_eq!(ancestor(&known).tgid, 44);
    }
}
