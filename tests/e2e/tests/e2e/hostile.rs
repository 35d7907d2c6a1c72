// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Bytes that mean harm, on every socket. The daemon stays up, stays small, and serves those who behave.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Setup, World, with_daemon};

use crate::calls::{release_loose, released};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// More than any of this may cost.
const GROWTH_KIB: u64 = 64 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A preface, empty settings, and then this.
fn after_preface(rest: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let start = [PREFACE.to_vec(), frame(4, 0, 0, &[])];
    start.into_iter().chain(rest).collect::<Vec<_>>().concat()
}

/// Bytes without order, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(step).collect()
}

fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    // Indexed fields of the static table: a request as short as it can be.
    let request = [0x83, 0x86, 0x84, 0x41, 0x01, b'a'];
    let odd = |count: u32| (0..count).map(|number| number * 2 + 1);
    vec![
        ("nothing", vec![]),
        ("noise", noise(64 * 1024)),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a preface and no more", PREFACE.to_vec()),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], noise(512).as_slice()].concat()),
        ("a frame of 16 MiB", after_preface([[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1].to_vec(), noise(32 * 1024)])),
        ("settings that are none", after_preface([frame(4, 0, 0, &noise(24)[..18])])),
        ("a window beyond its end", after_preface(vec![frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]); 3])),
        ("streams of the server's", after_preface([frame(1, 4, 2, &request)])),
        (
            "headers without end",
            after_preface(
                [frame(1, 0, 1, &request)].into_iter().chain((0..256).map(|_| frame(9, 0, 1, &vec![0x10; 4096]))),
            ),
        ),
        (
            // One byte more and more of the table (RFC 7541, 5.1 and 7.3).
            "headers that grow when unpacked",
            after_preface({
                let mut block = vec![0x40, 0x01, b'a', 0x7f, 0x81, 0x1e];
                block.extend(std::iter::repeat_n(b'x', 4000));
                block.extend(std::iter::repeat_n(0xbe, 12_000));
                [frame(1, 4, 1, &block)]
            }),
        ),
        ("a flood of pings", after_preface(vec![frame(6, 0, 0, &[7; 8]); 20_000])),
        ("a flood of settings", after_preface(vec![frame(4, 0, 0, &[]); 20_000])),
        (
            "streams that are reset at once",
            after_preface(odd(5_000).flat_map(|id| [frame(1, 4, id, &request), frame(3, 0, id, &[0, 0, 0, 8])])),
        ),
        ("streams that are never finished", after_preface(odd(5_000).map(|id| frame(1, 4, id, &request)))),
        ("data for nobody", after_preface(vec![frame(0, 0, 1, &noise(16 * 1024)); 64])),
    ]
}

/// Sends all that is taken, and reads what comes back, both within a moment.
fn send(socket: &str, bytes: &[u8]) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(Duration::from_millis(300)))?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    // Refused half-way is as good.
    drop(stream.write_all(bytes));
    drop(stream.read(&mut [0; 4096]));
    Ok(stream)
}

fn still_serves(world: &mut World, what: &str) -> Result<()> {
    ensure!(world.daemon.is_running(), "{what} ended the daemon");
    let mut agent = world.agent_with_channel()?;
    let got = released(&mut agent, &release_loose())?;
    ensure!(world.authority.is_active(&got.token)?, "{what}: not active");
    Ok(())
}

#[test]
fn hostile_bytes_on_the_grpc_sockets_do_no_harm() -> Result<()> {
    with_daemon(Setup::default(), |world| {
        still_serves(world, "nothing")?;
        let before = world.daemon.resident_kib()?;
        for socket in ["agent.sock", "admin.sock"] {
            let socket = world.text(&format!("sockets/{socket}"));
            let mut open = Vec::new();
            for (what, bytes) in inputs() {
                // Some at once, and left open.
                for _ in 0..3 {
                    open.push(send(&socket, &bytes)?);
                }
                ensure!(world.daemon.is_running(), "{what} ended the daemon");
            }
            still_serves(world, "all of it")?;
            assert_eq!(world.ctl(&["status"])?.code, 0, "the operator is not served");
            let grown = world.daemon.resident_kib()?.saturating_sub(before);
            ensure!(grown < GROWTH_KIB, "the daemon grew by {grown} KiB");
            drop(open);
        }
        let log = world.daemon.log()?;
        ensure!(!log.contains("panicked"), "a panic");
        ensure!(log.len() < 1 << 20, "hostile bytes filled the log: {} bytes", log.len());
        Ok(())
    })
}

#[test]
fn hostile_bytes_for_verifiers_do_no_harm() -> Result<()> {
    let setup = Setup::default().set("authority.max_connections", 64);
    with_daemon(setup, |world| {
        still_serves(world, "nothing")?;
        let before = world.daemon.resident_kib()?;
        let socket = world.text("sockets/authority.sock");
        let long = |length: usize| "x".repeat(length);
        let form = "POST /introspect HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n";
        let inputs = [
            noise(64 * 1024),
            PREFACE.to_vec(),
            format!("GET /{} HTTP/1.1\r\n\r\n", long(1 << 20)).into_bytes(),
            format!("GET /jwks.json HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", long(1 << 20)).into_bytes(),
            format!("GET /jwks.json HTTP/1.1\r\n{}", "a: b\r\n".repeat(100_000)).into_bytes(),
            format!("{form}Content-Length: 1048576\r\n\r\ntoken={}", long(1 << 20)).into_bytes(),
            format!("{form}Content-Length: 99999999999999999999\r\n\r\n").into_bytes(),
            format!("{form}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n").into_bytes(),
            format!("{form}Content-Length: 5\r\nContent-Length: 6\r\n\r\ntoken=").into_bytes(),
            // Slow ones: a request that never ends.
            format!("{form}Content-Length: 100\r\n\r\ntoken=").into_bytes(),
            b"GET /jwks.json HT".to_vec(),
        ];
        let mut open = Vec::new();
        for bytes in &inputs {
            open.push(send(&socket, bytes)?);
            ensure!(world.daemon.is_running(), "the daemon ended");
        }
        // Tokens that are none.
        let largest = long(16 * 1024 - 6);
        for token in ["a.b.c", "..", "eyJhbGciOiJub25lIn0.e30.", largest.as_str()] {
            ensure!(!world.authority.is_active(token)?, "{token:?} is active");
        }
        still_serves(world, "all of it")?;
        let grown = world.daemon.resident_kib()?.saturating_sub(before);
        ensure!(grown < GROWTH_KIB, "the daemon grew by {grown} KiB");
        Ok(())
    })
}

#[test]
fn only_those_who_run_the_node_get_into_the_admin_socket() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    with_daemon(Setup::default(), |world| {
        let socket = world.path("sockets/admin.sock");
        assert_eq!(std::fs::metadata(&socket)?.permissions().mode() & 0o777, 0o600);
        let mut agent = world.agent()?;
        let open = serde_json::json!({"do": "channel", "as": "admin", "to": socket});
        assert_eq!(agent.tell(&open)?["errno"], libc::EACCES);
        // Not even when the file lets them in.
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
        agent.act(&open)?;
        let read = agent.act(&serde_json::json!({"do": "read", "socket": "admin"}))?;
        assert_eq!((&read["ended"], &read["length"]), (&true.into(), &0.into()), "{read}");
        Ok(())
    })
}
