// SPDX-License-Identifier: Apache-2.0 OR MIT

use loona_hpack::{Decoder, Encoder};

use super::*;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn fields(authority: &str, path: &str) -> Fields {
    [(":method", "POST"), (":authority", authority), (":path", path), ("workload.spiffe.io", "true")]
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .to_vec()
}

fn encoded(encoder: &mut Encoder<'static>, fields: &Fields) -> Vec<u8> {
    encoder.encode(fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))
}

fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &[])].concat()
}

/// What comes out when the bytes come in so many at a time.
fn through(bytes: &[u8], at_once: usize) -> io::Result<Vec<u8>> {
    let mut renamer = Renamer::new();
    let mut out = Vec::new();
    for part in bytes.chunks(at_once) {
        renamer.push(part)?;
        let length = renamer.waiting().len();
        out.extend_from_slice(renamer.waiting());
        renamer.took(length);
    }
    Ok(out)
}

/// The headers and the other frames of what came out.
fn read(mut out: &[u8]) -> (Vec<Fields>, Vec<Vec<u8>>) {
    let mut decoder = Decoder::new();
    let (mut blocks, mut others, mut block) = (Vec::new(), Vec::new(), Vec::new());
    out = &out[PREFACE..];
    while let Some((header, rest)) = out.split_at_checked(HEADER) {
        let (payload, rest) = rest.split_at(length(header));
        match header[3] {
            HEADERS | CONTINUATION => {
                let first = if header[3] == HEADERS { header[4] } else { 0 };
                block.extend_from_slice(fragment(payload, first).unwrap());
                if header[4] & END_HEADERS != 0 {
                    blocks.push(decoder.decode(&std::mem::take(&mut block)).unwrap());
                }
            }
            _ => others.push([header, payload].concat()),
        }
        out = rest;
    }
    (blocks, others)
}

const ESCAPED: &str = "%2Frun%2Fagent-daemon%2Fspiffe.sock";

#[test]
fn a_name_that_the_server_would_refuse_is_replaced_in_every_request_and_nothing_else_is_changed() {
    let mut encoder = Encoder::new();
    let first = encoded(&mut encoder, &fields(ESCAPED, "/a"));
    let second = encoded(&mut encoder, &fields(ESCAPED, "/b"));
    let data = frame(0, 1, 1, b"body");
    let bytes = [
        preface(),
        frame(HEADERS, END_HEADERS, 1, &first),
        data.clone(),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &second),
    ]
    .concat();
    for at_once in [1, 7, 64, bytes.len()] {
        let (blocks, others) = read(&through(&bytes, at_once).unwrap());
        assert_eq!(blocks, [fields("a", "/a"), fields("a", "/b")], "{at_once}");
        assert_eq!(others, [frame(4, 0, 0, &[]), data.clone()], "{at_once}");
    }
}

#[test]
fn a_name_that_the_server_takes_leaves_every_byte_as_it_was() {
    for authority in ["localhost", "host:80", "[::1]:50051", "a.b"] {
        let mut encoder = Encoder::new();
        let block = encoded(&mut encoder, &fields(authority, "/a"));
        let bytes = [preface(), frame(HEADERS, END_HEADERS, 1, &block), frame(9, 4, 1, b"whatever it is")].concat();
        for at_once in [1, 5, bytes.len()] {
            assert_eq!(through(&bytes, at_once).unwrap(), bytes, "{authority}");
        }
        let mut renamer = Renamer::new();
        renamer.push(&bytes).unwrap();
        assert!(!renamer.is_off(), "there is something to read");
        renamer.took(bytes.len());
        assert!(renamer.is_off());
    }
}

/// A literal field with its name and value, each coded or not.
fn literal(name: (bool, &[u8]), value: (bool, &[u8])) -> Vec<u8> {
    let text = |(is_coded, text): (bool, &[u8])| {
        let length = u8::try_from(text.len()).unwrap() | if is_coded { 0x80 } else { 0 };
        [&[length], text].concat()
    };
    [&[0x40][..], &text(name), &text(value)].concat()
}

#[test]
fn a_name_is_found_however_it_is_written_and_what_was_remembered_of_it_stays_in_its_place() {
    let escaped = ESCAPED.as_bytes();
    let coded_name: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
    // "unix:%2ftmp"
    let coded_value: &[u8] = &[0xb6, 0xa3, 0x79, 0xb8, 0xa8, 0xa5, 0x4d, 0x35, 0xff];
    for (case, name) in [
        ("by its index", [&[0x41, 35], escaped].concat()),
        ("not to be remembered", [&[0x01, 35], escaped].concat()),
        ("never to be remembered", [&[0x11, 35], escaped].concat()),
        ("by its name", literal((false, b":authority"), (false, escaped))),
        ("by its name, coded", literal((true, coded_name), (false, escaped))),
        ("coded", literal((false, b":authority"), (true, coded_value))),
        ("all coded", literal((true, coded_name), (true, coded_value))),
        ("empty", literal((false, b":authority"), (false, b""))),
        ("empty, by its index alone", vec![0x81]),
    ] {
        let x = literal((false, b"x"), (false, b"1"));
        // The size of the table, a field that is remembered, the name, another field, and the first one again.
        let is_remembered = !matches!(name.first(), Some(0x01 | 0x11 | 0x81));
        let again = 0x80 | if is_remembered { 64 } else { 63 };
        let block = [&[0x3f, 0xe1, 0x1f][..], &x, &name, &literal((false, b"y"), (false, b"2")), &[again]].concat();
        let mut later = vec![0x83, again];
        if is_remembered {
            later.push(0x80 | 63);
        }
        let frames = [frame(HEADERS, END_HEADERS, 1, &block), frame(HEADERS, END_HEADERS, 3, &later)];
        let (blocks, _) = read(&through(&[preface(), frames.concat()].concat(), 1000).unwrap());
        let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        assert_eq!(blocks[0], [field("x", "1"), field(":authority", "a"), field("y", "2"), field("x", "1")], "{case}");
        let mut expected = vec![field(":method", "POST"), field("x", "1")];
        if is_remembered {
            expected.push(field(":authority", "a"));
        }
        assert_eq!(blocks[1], expected, "{case}");
    }
}

#[test]
fn a_name_that_is_told_by_the_place_of_an_earlier_one_is_found() {
    let escaped = ESCAPED.as_bytes();
    let x = literal((false, b"x"), (false, b"1"));
    // The earlier one is 62, and 63 after one more field; the later one takes 62 itself.
    let first = [&literal((false, b":authority"), (false, escaped))[..], &x].concat();
    let second = [&[0x7f, 0x00, 35][..], escaped, &x].concat();
    let third = [&[0x0f, 0x30, 35][..], escaped].concat();
    let not_it = [&[0x0f, 0x2f, 35][..], escaped].concat();
    let frames = [&first, &second, &third, &not_it].map(|block| frame(HEADERS, END_HEADERS, 1, block)).concat();
    let (blocks, _) = read(&through(&[preface(), frames].concat(), 1000).unwrap());
    let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let named = field(":authority", "a");
    assert_eq!(blocks[0], [named.clone(), field("x", "1")]);
    assert_eq!(blocks[1], [named.clone(), field("x", "1")]);
    assert_eq!(blocks[2], [named]);
    assert_eq!(blocks[3], [field("x", ESCAPED)]);
}

#[test]
fn the_usual_name_is_known_when_it_is_coded() {
    let block = literal((false, b":authority"), (true, &[0xa0, 0xe4, 0x1d, 0x13, 0x9d, 0x09]));
    assert_eq!(Decoder::new().decode(&block).unwrap(), [(b":authority".to_vec(), b"localhost".to_vec())]);
    let bytes = [preface(), frame(HEADERS, END_HEADERS, 1, &block)].concat();
    assert_eq!(through(&bytes, 100).unwrap(), bytes);
}

#[test]
fn a_block_in_many_frames_with_padding_and_priority_is_one_block() {
    let mut encoder = Encoder::new();
    let block = encoded(&mut encoder, &fields(ESCAPED, "/a"));
    let (head, tail) = block.split_at(5);
    let padded = [&[3, 0, 0, 0, 0, 16], head, &[0, 0, 0]].concat();
    let bytes = [
        preface(),
        frame(HEADERS, PADDED | PRIORITY | END_STREAM, 1, &padded),
        frame(CONTINUATION, 0, 1, &tail[..2]),
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, END_HEADERS, 1, &tail[2..]),
    ]
    .concat();
    let (blocks, _) = read(&through(&bytes, 3).unwrap());
    assert_eq!(blocks, [fields("a", "/a")]);
}

#[test]
fn what_is_no_block_of_headers_or_grows_beyond_bounds_ends_the_connection() {
    let mut encoder = Encoder::new();
    let good = encoded(&mut encoder, &fields(ESCAPED, "/a"));
    let endless: Vec<u8> = std::iter::once(frame(HEADERS, 0, 1, &good))
        .chain((0..100).map(|_| frame(CONTINUATION, 0, 1, &[0; 1000])))
        .flatten()
        .collect();
    for (case, frames) in [
        ("a number without an end", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ("cut short", frame(HEADERS, END_HEADERS, 1, &[0x41, 0x10, b'a'])),
        ("more padding than payload", frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0])),
        ("no room for the priority", frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4])),
        ("nothing padded", frame(HEADERS, END_HEADERS | PADDED, 1, &[])),
        ("a frame in between", [frame(HEADERS, 0, 1, &good), frame(0, 0, 1, b"x")].concat()),
        ("of another stream", [frame(HEADERS, 0, 1, &good), frame(CONTINUATION, END_HEADERS, 3, b"")].concat()),
        ("two names", frame(HEADERS, END_HEADERS, 1, &[0x41, 1, b'a', 0x41, 1, b'b'])),
        ("a frame too large", frame(HEADERS, END_HEADERS, 1, &vec![0; MAX_FRAME + 1])),
        ("no end", endless),
    ] {
        assert!(through(&[preface(), frames].concat(), 1000).is_err(), "{case}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_keep_more_than_a_block(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000),
        at_once in 1..300_usize,
    ) {
        let bytes = [preface(), bytes].concat();
        let mut renamer = Renamer::new();
        for part in bytes.chunks(at_once) {
            if renamer.push(part).is_err() {
                break;
            }
            assert!(renamer.raw.len() <= MAX_BLOCK + HEADER);
            let length = renamer.waiting().len();
            renamer.took(length);
        }
    }
    #[test]
    fn whatever_a_real_encoder_writes_over_many_requests_comes_out_with_another_name_alone(
        requests in proptest::collection::vec(
            proptest::collection::vec(("[a-z]{1,12}", "[ -~]{0,200}"), 0..8),
            1..40,
        ),
        at_once in 1..300_usize,
    ) {
        let mut encoder = Encoder::new();
        let mut bytes = preface();
        let mut expected = Vec::new();
        for (number, further) in requests.iter().enumerate() {
            let mut fields = fields(ESCAPED, &format!("/{number}"));
            fields.extend(further.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes())));
            let stream = u32::try_from(number * 2 + 1).unwrap();
            bytes.extend(frame(HEADERS, END_HEADERS, stream, &encoded(&mut encoder, &fields)));
            fields[1].1 = b"a".to_vec();
            expected.push(fields);
        }
        let (blocks, _) = read(&through(&bytes, at_once).unwrap());
        assert_eq!(blocks, expected);
    }
}
