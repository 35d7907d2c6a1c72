// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How a record becomes a line and how lines are bound together. Core: no IO.
//!
//! A line is `{"seq":…,"prev":…,"time":…,"boot_id":…,"kind":…,…}` in exactly that order. `prev` is SHA-256 over
//! the bytes of the line before, without its newline, as they stand in the file: what is hashed is never
//! serialised a second time.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::Error;
use super::record::{CheckpointRecord, KINDS, Record};
use crate::authority::{Jwk, SigningKey};

/// Longest line that is read back. Written ones are shorter: the record's limit plus [`MAX_HEADER_BYTES`].
pub(super) const MAX_LINE_BYTES: usize = 1024 * 1024;
/// `seq`, `prev`, `time`, `boot_id` and their names.
pub(super) const MAX_HEADER_BYTES: usize = 256;

/// Longest boot id.
const MAX_BOOT_ID_BYTES: usize = 64;
/// Texts and lists of a record that is too large are cut to this.
const SHORT_TEXT_CHARS: usize = 160;
const SHORT_LIST_LENGTH: usize = 16;

/// SHA-256 of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl Hash {
    /// What the very first line follows.
    pub(super) const ZERO: Self = Self([0; 32]);

    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref()) {
            *to = *from;
        }
        Self(hash)
    }

    pub(super) fn hex(&self) -> String {
        // By halves: on the path of every record, formatting each byte would cost more than hashing the line.
        let (halves, _) = self.0.as_chunks::<16>();
        halves.iter().map(|half| format!("{:032x}", u128::from_be_bytes(*half))).collect()
    }

    /// Lower-case hexadecimal only: one hash has one spelling.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut hash = [0; 32];
        for (to, [high, low]) in hash.iter_mut().zip(pairs) {
            *to = (digit(*high)? << 4) | digit(*low)?;
        }
        Some(Self(hash))
    }
}

/// Where the chain stands: the next line has this number and follows this hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) next_seq: u64,
    pub(super) head: Hash,
}

impl Position {
    pub(super) const START: Self = Self { next_seq: 1, head: Hash::ZERO };

    pub(super) fn last_seq(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }

    /// After a line (without its newline).
    pub(super) fn after(&self, line: &[u8]) -> Self {
        self.after_hash(Hash::of(line))
    }

    /// After a line of which the hash is known.
    pub(super) fn after_hash(&self, head: Hash) -> Self {
        Self { next_seq: self.next_seq.saturating_add(1), head }
    }
}

/// The members every line has.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<'a> {
    pub(super) seq: u64,
    #[serde(borrow)]
    pub(super) prev: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) time: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) boot_id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
}

/// A record as JSON, within the limit; done outside the log's lock.
///
/// A record that is too large gets its texts and lists shortened and says so: the outcome, ids and hashes of a
/// decision stay whole, and a caller with absurd paths cannot keep itself out of the log.
pub(super) fn encode(record: &Record, limit: usize) -> Result<Vec<u8>, Error> {
    let body = serde_json::to_vec(record).map_err(Error::Json)?;
    if body.len() <= limit {
        return Ok(body);
    }
    // `kind` has to stay first, and a JSON map does not keep the order.
    let mut value: Value = serde_json::from_slice(&body).map_err(Error::Json)?;
    let mut take = |name| value.as_object_mut().and_then(|fields| fields.remove(name));
    let kind = take("kind").unwrap_or(Value::Null);
    // Leases are taken up again from the log by this one; it comes from our configuration and is bounded there.
    let spiffe_id = take("spiffe_id");
    shorten(&mut value);
    if let (Some(fields), Some(spiffe_id)) = (value.as_object_mut(), spiffe_id) {
        fields.insert("spiffe_id".to_owned(), spiffe_id);
    }
    let rest = serde_json::to_string(&value).map_err(Error::Json)?;
    let mut body = format!(r#"{{"kind":{kind},"shortened":true"#);
    match rest.strip_prefix('{') {
        Some("}") | None => body.push('}'),
        Some(rest) => {
            body.push(',');
            body.push_str(rest);
        }
    }
    if body.len() <= limit { Ok(body.into_bytes()) } else { Err(Error::TooLarge { limit, actual: body.len() }) }
}

/// Writes a whole line with its newline into a buffer.
pub(super) fn write_line(line: &mut Vec<u8>, position: &Position, time: Timestamp, boot_id: &str, body: &[u8]) {
    line.clear();
    let header = format!(
        r#"{{"seq":{},"prev":"{}","time":"{}","boot_id":"{boot_id}","#,
        position.next_seq,
        position.head.hex(),
        time_text(time)
    );
    line.extend_from_slice(header.as_bytes());
    line.extend_from_slice(body.strip_prefix(b"{").unwrap_or(body));
    line.push(b'\n');
}

/// RFC 3339 with microseconds, of fixed width.
pub(super) fn time_text(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// A boot id is written without escaping, so only what needs none is one.
pub(super) fn is_boot_id(boot_id: &str) -> bool {
    (1..=MAX_BOOT_ID_BYTES).contains(&boot_id.len())
        && boot_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Reads a line (without its newline) and checks that it stands where the chain stands.
pub(super) fn follow<'a>(position: &Position, line: &'a [u8]) -> Result<Envelope<'a>, &'static str> {
    let envelope: Envelope<'_> = serde_json::from_slice(line).map_err(|_| "the line is not an audit record")?;
    if !KINDS.contains(&envelope.kind.as_ref()) {
        return Err("the record is of an unknown kind");
    }
    if envelope.seq != position.next_seq {
        return Err("the sequence number does not follow: lines were removed, inserted or moved");
    }
    if Hash::from_hex(&envelope.prev) != Some(position.head) {
        return Err("the line does not follow from the one before it: one of them was changed");
    }
    if envelope.time.parse::<Timestamp>().is_err() {
        return Err("the time is not RFC 3339");
    }
    if !is_boot_id(&envelope.boot_id) {
        return Err("the boot id is malformed");
    }
    Ok(envelope)
}

/// The number of a line, for readers that join a query with what follows it.
pub fn seq_of(line: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Numbered {
        seq: u64,
    }
    serde_json::from_str::<Numbered>(line).ok().map(|numbered| numbered.seq)
}

/// What a checkpoint signs: its own number, the hash of everything before it, and what else its line holds.
pub(super) fn checkpoint_preimage(seq: u64, prev: &str, time: &str, boot_id: &str) -> String {
    format!("agent-audit-checkpoint-v1\n{seq}\n{prev}\n{time}\n{boot_id}")
}

/// The checkpoint that stands at this position.
pub(super) fn sign_checkpoint(
    position: &Position,
    time: Timestamp,
    boot_id: &str,
    key: &SigningKey,
) -> Result<CheckpointRecord, Error> {
    let preimage = checkpoint_preimage(position.next_seq, &position.head.hex(), &time_text(time), boot_id);
    let signature = key.sign(preimage.as_bytes()).map_err(Error::Sign)?;
    Ok(CheckpointRecord { kid: key.kid().to_owned(), signature: URL_SAFE_NO_PAD.encode(signature) })
}

/// Checks a checkpoint's signature, and that its line holds nothing the signature does not cover.
pub(super) fn check_checkpoint(line: &[u8], envelope: &Envelope<'_>, key: &Jwk) -> Result<(), &'static str> {
    let checkpoint: CheckpointRecord =
        serde_json::from_slice(line).map_err(|_| "the checkpoint lacks its key id or signature")?;
    if checkpoint.kid != key.kid() {
        return Err("the checkpoint is signed by another key");
    }
    let preimage = checkpoint_preimage(envelope.seq, &envelope.prev, &envelope.time, &envelope.boot_id);
    let signature =
        URL_SAFE_NO_PAD.decode(&checkpoint.signature).map_err(|_| "the checkpoint's signature is not base64url")?;
    if !key.verifies(preimage.as_bytes(), &signature) {
        return Err("the checkpoint's signature does not fit");
    }
    let canonical = format!(
        r#"{{"seq":{},"prev":"{}","time":"{}","boot_id":"{}","kind":"checkpoint","kid":"{}","signature":"{}"}}"#,
        envelope.seq, envelope.prev, envelope.time, envelope.boot_id, checkpoint.kid, checkpoint.signature
    );
    if canonical.as_bytes() == line { Ok(()) } else { Err("the checkpoint holds more than its signature covers") }
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => {
            let length = text.chars().count();
            if length > SHORT_TEXT_CHARS {
                let half = SHORT_TEXT_CHARS / 2;
                let start: String = text.chars().take(half).collect();
                let end: String = text.chars().skip(length - half).collect();
                *text = format!("{start}…[{} left out]…{end}", length - 2 * half);
            }
        }
        Value::Array(values) => {
            values.truncate(SHORT_LIST_LENGTH);
            values.iter_mut().for_each(shorten);
        }
        Value::Object(fields) => fields.values_mut().for_each(shorten),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{DecisionRecord, ExecFacts, LineageEntry, StopRecord, text};
    use super::*;

    fn line(position: &Position, record: &Record) -> Vec<u8> {
        let mut line = Vec::new();
        write_line(&mut line, position, Timestamp::UNIX_EPOCH, "boot-1", &encode(record, 4096).unwrap());
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    #[test]
    fn a_line_has_its_members_in_order_and_control_characters_escaped() {
        let record = Record::Stop(StopRecord { cause: text(b"SIG\n\x1b[31m\xff\"") });
        assert_eq!(
            String::from_utf8(line(&Position::START, &record)).unwrap(),
            format!(
                r#"{{"seq":1,"prev":"{}","time":"1970-01-01T00:00:00.000000Z","boot_id":"boot-1","kind":"stop","cause":"SIG\n\u001b[31m�\""}}"#,
                "0".repeat(64)
            )
        );
    }

    #[test]
    fn only_the_line_that_was_written_there_follows() {
        let first = line(&Position::START, &Record::Stop(StopRecord::default()));
        let position = Position::START.after(&first);
        let second = line(&position, &Record::Stop(StopRecord::default()));
        assert!(follow(&Position::START, &first).is_ok());
        assert!(follow(&position, &second).is_ok());
        assert!(follow(&position, &first).is_err(), "repeated");
        assert!(follow(&Position::START, &second).is_err(), "moved");
        let changed = String::from_utf8(first.clone()).unwrap().replace("stop", "stoq");
        assert!(follow(&Position::START, changed.as_bytes()).is_err(), "unknown kind");
        assert!(follow(&Position { head: Hash::of(b"other"), ..position }, &second).is_err(), "changed before");
    }

    #[test]
    fn an_oversized_record_is_shortened_and_says_so() {
        let decision = DecisionRecord {
            decision_id: "d1".to_owned(),
            exec: ExecFacts { exec_id: u64::MAX, path: "\u{1}".repeat(4096), ..ExecFacts::default() },
            lineage: vec![LineageEntry { exec_id: 1, path: Some("é".repeat(4096)), ..LineageEntry::default() }; 64],
            ..DecisionRecord::default()
        };
        let record = Record::Decision(Box::new(decision));
        let body = encode(&record, 16 * 1024).unwrap();
        assert!(body.starts_with(br#"{"kind":"decision","shortened":true,"#));
        let value: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["exec"]["exec_id"], u64::MAX);
        assert_eq!(value["outcome"], "deny");
        assert!(value["exec"]["path"].as_str().unwrap().contains("3936 left out"));
        assert!(matches!(encode(&record, 100), Err(Error::TooLarge { limit: 100, .. })));
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let hash = Hash::of(b"");
        assert_eq!(hash.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Hash::from_hex(&hash.hex()), Some(hash));
        for wrong in [hash.hex().to_uppercase(), hash.hex()[1..].to_owned(), format!("{}0", hash.hex())] {
            assert_eq!(Hash::from_hex(&wrong), None, "{wrong}");
        }
    }
}
