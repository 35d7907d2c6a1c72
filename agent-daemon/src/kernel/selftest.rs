// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Proves each hook by using it: a program that loads is not a program that runs. What is not proved here is
//! not claimed anywhere.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent_ebpf::flags;
use aya::maps::{Array, MapData};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Lsm};
use aya::{Btf, Ebpf};

use super::maps::Maps;
use crate::process::{self, ExecInstance, Hook, Records as _, Tuple};

/// What the kernel lets us do, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Tracepoints and cgroup hooks see fork, exec, exit, connect and send.
    Observe,
    /// A cgroup hook can refuse a connection.
    Egress,
    /// BPF LSM programs run.
    Lsm,
}

impl Tier {
    /// Its name in configuration and output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Egress => "egress",
            Self::Lsm => "lsm",
        }
    }
}

/// What came of one self-test.
#[derive(Debug, Clone)]
pub struct Proof {
    /// Stable name: `hook.connect4`.
    pub id: &'static str,
    /// The tier that rests on it.
    pub tier: Tier,
    /// What it is for.
    pub guarantee: &'static str,
    /// What was seen, or why it is not proved.
    pub result: Result<String, String>,
}

/// The argument with which the daemon starts itself as a child that only waits.
pub const CHILD_ARGUMENT: &str = "--self-test-child";

/// Tests the hooks that run all the time. Can be repeated at any time.
pub fn prove(maps: &Maps) -> Vec<Proof> {
    let mut proofs = process_proofs(maps);
    for (id, address, is_tcp, hook, guarantee) in [
        ("hook.connect4", "127.0.0.1:0", true, Hook::Connect4, "binding IPv4 connections"),
        ("hook.connect6", "[::1]:0", true, Hook::Connect6, "binding IPv6 connections"),
        ("hook.sendmsg4", "127.0.0.1:0", false, Hook::Sendmsg4, "binding IPv4 datagrams"),
        ("hook.sendmsg6", "[::1]:0", false, Hook::Sendmsg6, "binding IPv6 datagrams"),
    ] {
        let result = if is_tcp { tcp(maps, address, hook) } else { udp(maps, address, hook) };
        proofs.push(Proof { id, tier: Tier::Observe, guarantee, result });
    }
    proofs
}

/// The same, and the probes that need to load a program for a moment.
pub(super) fn prove_with(maps: &Maps, mut ebpf: Ebpf, btf: &Btf, cgroup_root: &Path) -> Vec<Proof> {
    let mut proofs = prove(maps);
    proofs.push(Proof {
        id: "tier.egress",
        tier: Tier::Egress,
        guarantee: "refusing connections in the kernel",
        result: deny(&mut ebpf, cgroup_root),
    });
    proofs.push(Proof {
        id: "tier.lsm",
        tier: Tier::Lsm,
        guarantee: "refusing images before they are there",
        result: lsm(&mut ebpf, btf),
    });
    proofs
}

fn process_proofs(maps: &Maps) -> Vec<Proof> {
    let proof = |id, guarantee, result| Proof { id, tier: Tier::Observe, guarantee, result };
    let exec = "the identity of program images";
    let exit = "ending credentials with their process";
    let before = maps.now();
    let mut child = match Command::new("/proc/self/exe").arg(CHILD_ARGUMENT).stdin(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            let why = format!("cannot start a child: {error}");
            return vec![proof("hook.exec", exec, Err(why.clone())), proof("hook.exit", exit, Err(why))];
        }
    };
    let tgid = child.id();
    let own = std::process::id();
    let began = match settled(maps, tgid) {
        Ok(Some(instance)) if instance.flags.has(flags::FORK) => Err("the exec was not recorded".to_owned()),
        Ok(Some(instance)) if instance.flags.has(flags::INCOMPLETE) => {
            Err("the record is incomplete: a fact could not be read on this kernel".to_owned())
        }
        // What is joined by time, and who connected when, would be wrong.
        Ok(Some(_)) if !is_time_shared() => Err("the daemon is in a time namespace of its own".to_owned()),
        Ok(Some(instance)) if instance.began < before || instance.began > maps.now() => {
            Err("the daemon's boot clock is not the kernel's".to_owned())
        }
        Ok(Some(instance)) if instance.ancestors.first().is_some_and(|parent| parent.tgid == own) => {
            Ok(format!("a child was recorded as {} under its parent", instance.id))
        }
        Ok(Some(_)) => Err("the child was recorded without its parent".to_owned()),
        Ok(None) => Err("the child has no record".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    drop(child.stdin.take());
    let ended = match child.wait() {
        Ok(_) => match maps.process(tgid) {
            Ok(None) => Ok("the record was gone when the child was".to_owned()),
            Ok(Some(_)) => Err("the record outlived the child".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(format!("cannot wait for the child: {error}")),
    };
    vec![proof("hook.exec", exec, began), proof("hook.exit", exit, ended)]
}

/// Whether our clock is that of the first time namespace (`PROC_TIME_INIT_INO`); kernels without them have one clock.
fn is_time_shared() -> bool {
    match std::fs::read_link("/proc/self/ns/time") {
        Ok(namespace) => namespace.as_os_str() == "time:[4026531834]",
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// `vfork` lets the parent go on when the child has its new memory, a moment before its exec is complete.
fn settled(maps: &Maps, tgid: u32) -> Result<Option<ExecInstance>, process::Error> {
    for _ in 0..1000 {
        match maps.process(tgid) {
            Ok(Some(instance)) if instance.flags.has(flags::FORK) => std::thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
    maps.process(tgid)
}

fn tcp(maps: &Maps, address: &str, hook: Hook) -> Result<String, String> {
    let (listener, remote) = listen(address)?;
    let stream = TcpStream::connect(remote).map_err(|error| format!("cannot connect to {remote}: {error}"))?;
    let cookie = cookie(&stream)?;
    let connection = recorded(maps, cookie, hook, remote)?;
    let local = stream.local_addr().map_err(|error| error.to_string())?;
    if connection.local != Some(local) {
        return Err("the connection was recorded, but its local address was not".to_owned());
    }
    let tuple = Tuple { local, remote, net_ns: connection.net_ns.unwrap_or_default() };
    if maps.cookie(&tuple).map_err(|error| error.to_string())? != Some(cookie) {
        return Err("the connection cannot be found by its addresses".to_owned());
    }
    drop(stream);
    drop(listener);
    is_forgotten(maps, cookie)?;
    Ok("a connection was recorded, named by its addresses, and forgotten when closed".to_owned())
}

fn udp(maps: &Maps, address: &str, hook: Hook) -> Result<String, String> {
    let receiver = UdpSocket::bind(address).map_err(|error| unavailable(address, &error))?;
    let remote = receiver.local_addr().map_err(|error| error.to_string())?;
    let socket = UdpSocket::bind(address).map_err(|error| unavailable(address, &error))?;
    socket.send_to(b"self-test", remote).map_err(|error| format!("cannot send to {remote}: {error}"))?;
    let cookie = cookie(&socket)?;
    recorded(maps, cookie, hook, remote)?;
    drop(socket);
    is_forgotten(maps, cookie)?;
    Ok("a datagram's socket was recorded, and forgotten when closed".to_owned())
}

fn recorded(maps: &Maps, cookie: u64, hook: Hook, remote: SocketAddr) -> Result<process::Connection, String> {
    let connection = maps.connection(cookie).map_err(|error| error.to_string())?;
    let connection = connection.ok_or("the hook did not fire: no record")?;
    if connection.hook != hook || connection.remote != remote || connection.tgid != std::process::id() {
        return Err(format!("the record is not of this connection: {connection:?}"));
    }
    Ok(connection)
}

fn is_forgotten(maps: &Maps, cookie: u64) -> Result<(), String> {
    match maps.connection(cookie) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err("the record outlived its socket".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn cookie(socket: impl AsFd) -> Result<u64, String> {
    rustix::net::sockopt::socket_cookie(socket).map_err(|error| format!("cannot read a socket cookie: {error}"))
}

fn listen(address: &str) -> Result<(TcpListener, SocketAddr), String> {
    let listener = TcpListener::bind(address).map_err(|error| unavailable(address, &error))?;
    let remote = listener.local_addr().map_err(|error| error.to_string())?;
    Ok((listener, remote))
}

fn unavailable(address: &str, error: &io::Error) -> String {
    format!("cannot be tried here: {address} cannot be bound ({error})")
}

/// Refuses this process one port and looks whether the refusal reaches `connect`.
fn deny(ebpf: &mut Ebpf, cgroup_root: &Path) -> Result<String, String> {
    let (_listener, remote) = listen("127.0.0.1:0")?;
    let map = ebpf.map_mut("PROBE").ok_or("the object has no map PROBE")?;
    let mut probe: Array<&mut MapData, u32> = map.try_into().map_err(|error: aya::maps::MapError| error.to_string())?;
    for (index, value) in [(0, std::process::id()), (1, u32::from(remote.port()))] {
        probe.set(index, value, 0).map_err(|error| error.to_string())?;
    }
    let program = ebpf.program_mut("probe_deny4").ok_or("the object has no program probe_deny4")?;
    let program: &mut CgroupSockAddr =
        program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())?;
    program.load().map_err(|error| chain(&error))?;
    let cgroup = File::open(cgroup_root).map_err(|error| error.to_string())?;
    // The link is detached when the object is dropped, and already when it is unloaded here.
    program.attach(cgroup, CgroupAttachMode::Single).map_err(|error| chain(&error))?;
    let refused = TcpStream::connect(remote);
    program.unload().map_err(|error| chain(&error))?;
    match (refused, TcpStream::connect(remote)) {
        (Err(error), Ok(_)) if error.kind() == ErrorKind::PermissionDenied => {
            Ok("a refused connection got EPERM, and the next one went through".to_owned())
        }
        (Ok(_), _) => Err("the hook refused a connection and the kernel let it through".to_owned()),
        (Err(error), Ok(_)) => Err(format!("a refused connection failed with {error} instead of EPERM")),
        (_, Err(error)) => Err(format!("connections fail without our refusal too: {error}")),
    }
}

/// Refuses this process's children their images and looks whether the refusal reaches `execve`. That a program loads and is
/// attached says nothing: where `bpf` is not among the active LSMs it is never run.
fn lsm(ebpf: &mut Ebpf, btf: &Btf) -> Result<String, String> {
    let map = ebpf.map_mut("PROBE").ok_or("the object has no map PROBE")?;
    let mut probe: Array<&mut MapData, u32> = map.try_into().map_err(|error: aya::maps::MapError| error.to_string())?;
    probe.set(0, std::process::id(), 0).map_err(|error| error.to_string())?;
    let program = ebpf.program_mut("probe_lsm").ok_or("the object has no program probe_lsm")?;
    let program: &mut Lsm = program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())?;
    program
        .load("bprm_creds_from_file", btf)
        .map_err(|error| format!("this kernel refuses LSM programs: {}", chain(&error)))?;
    let attached = program.attach().map_err(|error| chain(&error));
    let refused = attached.is_ok().then(start_and_end);
    program.unload().map_err(|error| chain(&error))?;
    attached.map_err(|error| format!("LSM programs load but cannot be attached: {error}"))?;
    match (refused, start_and_end()) {
        (Some(Err(error)), Ok(())) if error.raw_os_error() == Some(libc::EPERM) => {
            Ok("an image was refused with EPERM before it was there, and the next one began".to_owned())
        }
        (Some(Err(error)), Ok(())) => Err(format!("a refused image failed with {error} instead of EPERM")),
        (_, Err(error)) => Err(format!("images fail without our refusal too: {error}")),
        (_, Ok(())) => Err("LSM programs load and are attached, but the kernel does not run them".to_owned()),
    }
}

/// Ourselves, as a child that only waits.
fn start_and_end() -> io::Result<()> {
    let mut child = Command::new("/proc/self/exe").arg(CHILD_ARGUMENT).stdin(Stdio::piped()).spawn()?;
    drop(child.stdin.take());
    child.wait().map(drop)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    // Verifier logs run to pages; the first line says what matters.
    text.lines().next().unwrap_or_default().trim().trim_end_matches(". Verifier output:").to_owned()
}
