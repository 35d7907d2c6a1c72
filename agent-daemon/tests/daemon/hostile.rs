// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What somebody who means harm writes on the sockets, and who he is.

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use agent_daemon::api::Limits;
use agent_daemon::testing::Setup;
use agent_proto::v1::AttestRequest;
use agent_proto::v1::agent_service_client::AgentServiceClient;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::counts;
use super::served::{Served, channel_over, shell_on, soon, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 frame with whatever length it claims.
fn frame(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn after_preface(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(0, 4, 0, 0, &[]));
    frames.iter().for_each(|frame| bytes.extend(frame));
    bytes
}

fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let mut noise = Vec::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..65_536 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.push(state.to_le_bytes()[0]);
    }
    vec![
        ("zeros", vec![0; 4096]),
        ("noise", noise.clone()),
        ("noise after the preface", [PREFACE, &noise].concat()),
        ("HTTP/1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("half a preface", PREFACE[..12].to_vec()),
        ("a frame longer than may be", after_preface(&[frame(0x00ff_ffff, 0, 0, 1, &[])])),
        ("data on a stream that is not open", after_preface(&[frame(1, 0, 0, 77, b"x")])),
        ("a stream of an even number", after_preface(&[frame(1, 1, 4, 2, &[0x82])])),
        ("broken header compression", after_preface(&[frame(4, 1, 4, 1, &[0xff, 0xff, 0xff, 0xff])])),
        ("settings that contradict themselves", after_preface(&[frame(5, 4, 0, 0, &[0; 5])])),
        ("a window that overflows", after_preface(&[frame(4, 8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])])),
        ("headers that never end", after_preface(&[frame(1, 1, 0, 1, &[0x82]), frame(1, 0, 0, 1, b"x")])),
        ("a great many resets", {
            let one = [frame(1, 1, 4, 1, &[0x82]), frame(4, 3, 0, 1, &[0, 0, 0, 8])].concat();
            after_preface(&vec![one; 5000])
        }),
        ("a great many pings", after_preface(&vec![frame(8, 6, 0, 0, &[0; 8]); 20_000])),
        ("a great many settings", after_preface(&vec![frame(0, 4, 0, 0, &[]); 20_000])),
    ]
}

#[tokio::test]
async fn hostile_bytes_harm_nobody_but_their_own_connection() {
    let served = Served::new(Setup::default());
    for socket in [&served.agent, &served.admin] {
        for (case, bytes) in hostile() {
            let mut stream = UnixStream::connect(socket).await.unwrap();
            let (mut read, mut write) = stream.split();
            // The daemon may cut the connection in the middle; whoever writes on then is told so.
            let writing = async {
                let _cut = write.write_all(&bytes).await;
                let _cut = write.shutdown().await;
            };
            let reading = async {
                let mut answer = Vec::new();
                let _cut = (&mut read).take(1 << 20).read_to_end(&mut answer).await;
                answer
            };
            let ((), answer) = soon(case, async { tokio::join!(writing, reading) }).await;
            assert!(answer.len() < 1 << 20, "{case}: it does not answer without end");
        }
        let mut agent = served.agent().await;
        agent.release(served.ask()).await.unwrap();
    }
    assert_eq!(counts(&served.t), (2, 2, 0), "nothing else was decided");
}

#[tokio::test]
async fn another_process_that_writes_on_an_inherited_connection_ends_it() {
    let served = Served::new(Setup::default());
    let stream = StdStream::connect(&served.agent).unwrap();
    let inherited = stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let channel = channel_over(UnixStream::from_std(stream).unwrap()).await.unwrap();
    let mut agent = AgentServiceClient::new(channel);
    agent.release(served.ask()).await.unwrap();
    shell_on(inherited, "printf x");
    until("the writer is found out", || !served.t.records_of("caller_refused").is_empty()).await;
    let record = served.t.last("caller_refused");
    assert_eq!((&record["reason"], &record["action"]), (&"originator_mismatch".into(), &"write".into()));
    let status = soon("the channel is dead", agent.release(served.ask())).await.unwrap_err();
    assert_ne!(status.code(), tonic::Code::Ok);
    assert_eq!(counts(&served.t).1, 1, "and nothing more was granted on it");
    served.agent().await.attest(AttestRequest {}).await.unwrap();
}

#[tokio::test]
async fn another_process_that_speaks_first_on_a_connection_is_not_its_opener() {
    let served = Served::new(Setup::default());
    // All of this happens before the daemon accepts: it runs on this very thread.
    let stream = StdStream::connect(&served.agent).unwrap();
    shell_on(stream.try_clone().unwrap(), r"printf 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'");
    until("the writer is found out", || !served.t.records_of("caller_refused").is_empty()).await;
    assert_eq!(served.t.last("caller_refused")["reason"], "originator_mismatch");
    let mut answer = Vec::new();
    let mut stream = UnixStream::from_std({
        stream.set_nonblocking(true).unwrap();
        stream
    })
    .unwrap();
    let _cut = soon("the connection ends", stream.read_to_end(&mut answer)).await;
}

/// A whole call of `Release` for `reports`, as anybody can write it beforehand.
fn written_release() -> Vec<u8> {
    let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // POST, http, then names out of the static table with literal values (RFC 7541 appendix A).
    let mut headers = vec![0x83, 0x86, 0x04];
    headers.extend(literal("/agent.v1.AgentService/Release"));
    headers.push(0x01);
    headers.extend(literal("daemon"));
    headers.extend([0x0f, 0x10]);
    headers.extend(literal("application/grpc"));
    headers.push(0x00);
    headers.extend(literal("te"));
    headers.extend(literal("trailers"));
    let message = [&[0x0a][..], &literal("reports")].concat();
    let data = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    after_preface(&[
        frame(0, 4, 1, 0, &[]),
        frame(length(&headers), 1, 4, 1, &headers),
        frame(length(&data), 0, 1, 1, &data),
        // Answers to pings that were not sent yet, should they be easy to guess.
        frame(8, 6, 1, 0, &[0; 8]),
        frame(8, 6, 1, 0, b"\x3b\x7c\xdb\x7a\x0b\x87\x16\xb4"),
    ])
}

/// Everything the daemon sends, with its pings answered or not; until it says how the call ended.
async fn answer(stream: &mut UnixStream, is_there: bool) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        if is_there && (header[3], header[4]) == (6, 0) {
            stream.write_all(&frame(8, 6, 1, 0, &payload)).await.unwrap();
        }
        all.extend(payload);
        // Headers that end the stream: the trailers.
        if header[3] == 1 && header[4] & 1 != 0 {
            return all;
        }
    }
}

fn holds_token(bytes: &[u8]) -> bool {
    // Every token of ours begins with the same letters: `{"alg"` or `{"typ"`.
    bytes.windows(4).any(|window| window == b"eyJh" || window == b"eyJ0")
}

#[tokio::test]
async fn what_was_written_before_exec_is_not_answered_to_the_image_after_it() {
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let served = Served::new(Setup { catalog, ..Setup::default() });
    // An impostor connects, writes its request, keeps a copy of the socket elsewhere, and becomes the agent. All
    // before the daemon accepts, which therefore pins the agent.
    served.t.kernel.exec(served.t.tgid, |_| {});
    nothing_waits().await;
    let stream = StdStream::connect(&served.agent).unwrap();
    (&stream).write_all(&written_release()).unwrap();
    served.t.kernel.exec(served.t.tgid, |_| {});
    stream.set_nonblocking(true).unwrap();
    let mut stream = UnixStream::from_std(stream).unwrap();
    let told = soon("it is refused", answer(&mut stream, false)).await;
    assert!(!holds_token(&told));
    assert_eq!(counts(&served.t), (0, 0, 0));
    let record = served.t.last("caller_refused");
    assert_eq!((&record["reason"], &record["action"]), (&"originator_mismatch".into(), &"presence".into()));
}

/// The daemon sees that nobody waits to be accepted.
async fn nothing_waits() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn an_image_that_was_there_when_nothing_waited_is_known_to_have_connected() {
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let served = Served::new(Setup { catalog, ..Setup::default() });
    served.t.kernel.exec(served.t.tgid, |_| {});
    nothing_waits().await;
    // An earlier connection that is open, or over, changes nothing.
    let _other = UnixStream::connect(&served.agent).await.unwrap();
    nothing_waits().await;
    let mut stream = UnixStream::connect(&served.agent).await.unwrap();
    stream.write_all(&written_release()).await.unwrap();
    let told = soon("it is answered", answer(&mut stream, false)).await;
    assert!(holds_token(&told));
    assert_eq!(counts(&served.t), (1, 1, 0));
}

#[tokio::test]
async fn an_image_that_began_since_has_to_show_that_it_connected() {
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let served = Served::new(Setup { catalog, ..Setup::default() });
    nothing_waits().await;
    served.t.kernel.exec(served.t.tgid, |_| {});
    let mut stream = UnixStream::from_std({
        let stream = StdStream::connect(&served.agent).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    })
    .unwrap();
    stream.write_all(&written_release()).await.unwrap();
    let told = soon("it is refused", answer(&mut stream, false)).await;
    assert!(!holds_token(&told));
    assert_eq!(counts(&served.t), (0, 0, 0));
}

#[tokio::test]
async fn the_same_request_of_somebody_who_is_there_is_answered() {
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let served = Served::new(Setup { catalog, ..Setup::default() });
    let mut stream = UnixStream::connect(&served.agent).await.unwrap();
    stream.write_all(&written_release()).await.unwrap();
    let told = soon("it is answered", answer(&mut stream, true)).await;
    assert!(holds_token(&told));
    assert_eq!(counts(&served.t), (1, 1, 0));
}

#[tokio::test]
async fn another_process_cannot_be_there_for_the_one_that_is_pinned() {
    let catalog = Setup::catalog("enforce", "optional", "jwt");
    let served = Served::new(Setup { catalog, ..Setup::default() });
    let stream = StdStream::connect(&served.agent).unwrap();
    (&stream).write_all(&written_release()).unwrap();
    let copy = stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut stream = UnixStream::from_std(stream).unwrap();
    // The child knows the bytes of the ping, for it reads them; but the kernel says that it is the child.
    let mut ping = None;
    while ping.is_none() {
        let mut header = [0; 9];
        soon("a frame", stream.read_exact(&mut header)).await.unwrap();
        let mut payload = vec![0; usize::from(header[2])];
        soon("its payload", stream.read_exact(&mut payload)).await.unwrap();
        ping = ((header[3], header[4]) == (6, 0)).then_some(payload);
    }
    let bytes = frame(8, 6, 1, 0, &ping.unwrap());
    let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    copy.set_nonblocking(false).unwrap();
    shell_on(copy, &format!("printf '{octal}'"));
    until("the writer is found out", || !served.t.records_of("caller_refused").is_empty()).await;
    assert_eq!(served.t.records_of("caller_refused")[0]["reason"], "originator_mismatch");
    let mut rest = Vec::new();
    let _cut = soon("the connection ends", stream.read_to_end(&mut rest)).await;
    assert!(!holds_token(&rest));
    assert_eq!(counts(&served.t), (0, 0, 0));
}

#[tokio::test]
async fn descriptors_that_are_sent_along_are_not_taken() {
    let served = Served::new(Setup::default());
    let stream = StdStream::connect(&served.agent).unwrap();
    let (mut read, write) = std::io::pipe().unwrap();
    let sent = [write.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&sent)));
    sendmsg(&stream, &[IoSlice::new(PREFACE)], &mut control, SendFlags::empty()).unwrap();
    (&stream).write_all(&frame(0, 4, 0, 0, &[])).unwrap();
    // The daemon answers with its settings, so it has read the message.
    stream.set_nonblocking(true).unwrap();
    let mut stream = UnixStream::from_std(stream).unwrap();
    soon("the daemon answers", stream.read_exact(&mut [0; 9])).await.unwrap();
    drop(write);
    let ended = tokio::task::spawn_blocking(move || read.read(&mut [0; 1]).unwrap());
    assert_eq!(soon("nobody holds the pipe's other end", ended).await.unwrap(), 0);
    drop(stream);
}

#[tokio::test]
async fn connections_that_say_nothing_hold_up_neither_others_nor_the_end() {
    let served = Served::new(Setup::default());
    let silent: Vec<StdStream> = (0..20).map(|_| StdStream::connect(&served.agent).unwrap()).collect();
    let half = StdStream::connect(&served.agent).unwrap();
    (&half).write_all(&PREFACE[..5]).unwrap();
    let closed = StdStream::connect(&served.agent).unwrap();
    closed.shutdown(Shutdown::Write).unwrap();
    let silent_admin = StdStream::connect(&served.admin).unwrap();
    served.agent().await.release(served.ask()).await.unwrap();
    served.stop().await;
    drop((silent, half, closed, silent_admin));
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_goodbye_does_not_hold_up_the_end() {
    let served = Served::new(Setup::default());
    for socket in [&served.agent, &served.admin] {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(&after_preface(&[])).await.unwrap();
        soon("the daemon answers", stream.read_exact(&mut [0; 9])).await.unwrap();
        std::mem::forget(stream.into_std().unwrap());
    }
    served.stop().await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_gives_its_place_back() {
    let limits = Limits { connections: 2, connections_of_one: 2 };
    let served = Served::with(Setup::default(), |config| config.limits = limits);
    let silent: Vec<StdStream> = (0..2).map(|_| StdStream::connect(&served.agent).unwrap()).collect();
    for stream in &silent {
        (&*stream).write_all(&PREFACE[..20]).unwrap();
    }
    until("both are in", || served.connections() == 2).await;
    until("both are out", || served.connections() == 0).await;
    served.agent().await.attest(AttestRequest {}).await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn a_flood_of_connections_is_survived() {
    let served = Served::new(Setup::default());
    for _ in 0..500 {
        drop(StdStream::connect(&served.agent).unwrap());
    }
    served.until_admitted().await;
    served.stop().await;
}
