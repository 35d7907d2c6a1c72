// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `inet_sock_set_state(sk, oldstate, newstate)`: called by `tcp_set_state` and its kin, often in softirq
//! context, so the current task means nothing here. Completes a connection with its local address when the
//! handshake is done (at `SYN_SENT` the local port is not chosen yet) and takes the 4-tuple away when the
//! connection is closed. Since 4.16; exists for TCP, SCTP, DCCP and MPTCP.

use agent_ebpf::{Address, Counter, TupleKey};
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::BtfTracePointContext;

use crate::connection::remove_tuple;
use crate::maps::{CONNECTIONS, TUPLES, count};
use crate::read::{field, number, pointer};

const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_CLOSE: i32 = 7;
const AF_INET: u16 = 2;

#[inline(always)]
pub(crate) fn changed(ctx: &BtfTracePointContext) {
    let old: i32 = ctx.arg(1);
    let new: i32 = ctx.arg(2);
    let opened = new == TCP_ESTABLISHED && old == TCP_SYN_SENT;
    if !opened && new != TCP_CLOSE {
        return;
    }
    let sock: *const u8 = ctx.arg(0);
    // SAFETY: the first argument is a socket, as the helper asks for in tracing programs (5.12).
    let cookie = unsafe { bpf_get_socket_cookie(sock.cast_mut().cast()) };
    let Some(connection) = CONNECTIONS.get_ptr_mut(cookie) else { return };
    // SAFETY: elements are not freed under RCU's read lock; the socket is locked by whoever changes its state.
    let connection = unsafe { &mut *connection };
    connection.state = new as u8;
    if new == TCP_CLOSE {
        remove_tuple(connection);
        return;
    }
    let Ok((net_ns, local_address, remote_address, local_port, remote_port)) = tuple(sock) else {
        count(Counter::StateReadFailed);
        return;
    };
    connection.net_ns = net_ns;
    connection.local_address = local_address;
    connection.local_port = local_port;
    let key = TupleKey {
        local_address,
        remote_address,
        net_ns,
        local_port,
        remote_port,
        protocol: connection.protocol as u32,
        padding: 0,
    };
    if TUPLES.insert(key, cookie, 0).is_err() {
        count(Counter::TuplesFull);
    }
}

#[inline(always)]
#[expect(clippy::type_complexity, reason = "five values, read once and used at once")]
fn tuple(sock: *const u8) -> Result<(u32, Address, Address, u16, u16), i64> {
    let net_ns = number!(pointer!(sock, sock_net)?, net_inum, u32)?;
    let local_port = number!(sock, sock_num, u16)?;
    let remote_port = u16::from_be(field!(sock, sock_dport, u16));
    let (local, remote) = if field!(sock, sock_family, u16) == AF_INET {
        (Address::mapped(field!(sock, sock_rcv_saddr, u32)), Address::mapped(field!(sock, sock_daddr, u32)))
    } else {
        let address = |words: [u32; 4]| Address::of_words(words[0], words[1], words[2], words[3]);
        (address(field!(sock, sock_v6_rcv_saddr, [u32; 4])), address(field!(sock, sock_v6_daddr, [u32; 4])))
    };
    Ok((net_ns, local, remote, local_port, remote_port))
}
