// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::task::Waker;

use super::*;

/// Takes at most so many bytes a write.
struct Narrow {
    width: usize,
    written: Vec<u8>,
}

impl AsyncWrite for Narrow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len().min(self.width);
        self.written.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn the_ping_stands_right_after_the_settings_however_they_are_written() {
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 16]);
    let more = frame(8, 0, 0, &[0, 0, 0, 1]);
    for (width, chunk) in [(1, 1), (1, 100), (4, 7), (100, 9), (100, 100), (3, 16)] {
        let mut presence = Presence::new().unwrap();
        let mut io = Narrow { width, written: Vec::new() };
        let mut cx = Context::from_waker(Waker::noop());
        let all = [settings.clone(), more.clone()].concat();
        for mut part in all.chunks(chunk) {
            while !part.is_empty() {
                let Poll::Ready(Ok(written)) = presence.poll_write(Pin::new(&mut io), &mut cx, part) else { panic!() };
                part = &part[written..];
            }
        }
        assert!(presence.poll_send(Pin::new(&mut io), &mut cx).is_ready());
        let expected = [settings.clone(), ping(presence.payload).to_vec(), more.clone()].concat();
        assert_eq!(io.written, expected, "width {width} chunk {chunk}");
        assert!(presence.is_sent());
    }
}

#[test]
fn a_flush_sends_the_ping_when_nothing_follows_the_settings() {
    let mut presence = Presence::new().unwrap();
    let mut io = Narrow { width: 100, written: Vec::new() };
    let mut cx = Context::from_waker(Waker::noop());
    let settings = frame(4, 0, 0, &[]);
    assert!(presence.poll_write(Pin::new(&mut io), &mut cx, &settings).is_ready());
    assert!(presence.poll_send(Pin::new(&mut io), &mut cx).is_ready());
    assert_eq!(io.written.len(), settings.len() + HEADER + PAYLOAD);
}

/// Whether these bytes of a client prove it, in chunks of every size.
fn proves(of: impl Fn(&Presence) -> Vec<u8>) -> bool {
    let outcomes: Vec<bool> = [1, 2, 3, 7, 9, 17, 64, 100_000]
        .into_iter()
        .map(|chunk| {
            let mut presence = Presence::new().unwrap();
            let bytes = of(&presence);
            bytes.chunks(chunk).for_each(|part| presence.received(part));
            *presence.proved().borrow()
        })
        .collect();
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "chunks make no difference: {outcomes:?}");
    outcomes[0]
}

#[test]
fn only_the_answer_to_the_very_ping_is_proof() {
    const START: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let start = || [START, &frame(4, 0, 0, &[0; 6]), &frame(4, 1, 0, &[])].concat();
    let after = |bytes: Vec<u8>| [start(), bytes].concat();
    let request = frame(0, 0, 1, &[7; 5000]);
    assert!(proves(|presence| after(frame(PING, ACK, 0, &presence.payload))));
    assert!(proves(|presence| [after(request.clone()), frame(PING, ACK, 0, &presence.payload)].concat()));
    assert!(proves(|presence| {
        [after(frame(PING, ACK, 0, &[1; 8])), frame(PING, ACK, 0, &presence.payload), request.clone()].concat()
    }));
    for (case, is_proof) in [
        ("nothing", proves(|_| start())),
        ("another answer", proves(|_| after(frame(PING, ACK, 0, &[1; 8])))),
        ("a ping of its own", proves(|presence| after(frame(PING, 0, 0, &presence.payload)))),
        ("on a stream", proves(|presence| after(frame(PING, ACK, 1, &presence.payload)))),
        ("in another frame", proves(|presence| after(frame(0, ACK, 0, &presence.payload)))),
        ("inside data", proves(|presence| after(frame(0, 0, 1, &frame(PING, ACK, 0, &presence.payload))))),
        ("too short", proves(|presence| after(frame(PING, ACK, 0, &presence.payload[..7])))),
        ("too long", proves(|presence| after(frame(PING, ACK, 0, &[&presence.payload[..], &[0]].concat())))),
        ("before the preface is over", proves(|presence| frame(PING, ACK, 0, &presence.payload))),
    ] {
        assert!(!is_proof, "{case}");
    }
}

#[test]
fn the_bytes_are_others_each_time() {
    assert_ne!(Presence::new().unwrap().payload, Presence::new().unwrap().payload);
}
