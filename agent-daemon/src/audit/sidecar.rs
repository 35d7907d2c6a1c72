// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The small files beside the segments: how far the log had come, what retention removed, and whose key signs.

use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Error;
use super::chain::{Hash, Position};
use crate::authority::file::{open_nofollow, replace};
use crate::authority::{Jwk, SigningKey};

pub(super) const HEAD_FILE: &str = "head.json";
pub(super) const RETAINED_FILE: &str = "retained.json";
pub(super) const KEY_FILE: &str = "audit-key.jwk";

const MAX_BYTES: u64 = 4096;

/// The last record that was synced. Written after the sync, so it is never ahead of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) segment: u64,
    pub(super) seq: u64,
    pub(super) hash: String,
}

/// The last segment that retention removed and where the chain stood at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Retained {
    pub(super) segment: u64,
    seq: u64,
    hash: String,
    kid: String,
    signature: String,
}

impl Head {
    pub(super) fn new(segment: u64, position: &Position) -> Self {
        Self { segment, seq: position.last_seq(), hash: position.head.hex() }
    }

    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        read_json(directory, HEAD_FILE)
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        write_json(directory, HEAD_FILE, self)
    }
}

impl Retained {
    pub(super) fn sign(segment: u64, position: &Position, key: &SigningKey) -> Result<Self, Error> {
        let mut retained = Self {
            segment,
            seq: position.last_seq(),
            hash: position.head.hex(),
            kid: key.kid().to_owned(),
            signature: String::new(),
        };
        let signature = key.sign(retained.preimage().as_bytes()).map_err(Error::Sign)?;
        retained.signature = URL_SAFE_NO_PAD.encode(signature);
        Ok(retained)
    }

    /// Reads it and checks its signature.
    pub(super) fn read(directory: &Path, key: &Jwk) -> Result<Option<Self>, Error> {
        let Some(retained) = read_json::<Self>(directory, RETAINED_FILE)? else { return Ok(None) };
        let signature = URL_SAFE_NO_PAD.decode(&retained.signature).unwrap_or_default();
        if retained.kid == key.kid()
            && retained.position().is_some()
            && key.verifies(retained.preimage().as_bytes(), &signature)
        {
            Ok(Some(retained))
        } else {
            Err(damaged(directory, RETAINED_FILE, "its signature does not fit"))
        }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        write_json(directory, RETAINED_FILE, self)
    }

    /// Where the first line still held has to stand.
    pub(super) fn position(&self) -> Option<Position> {
        Some(Position { next_seq: self.seq.checked_add(1)?, head: Hash::from_hex(&self.hash)? })
    }

    fn preimage(&self) -> String {
        format!("agent-audit-retained-v1\n{}\n{}\n{}", self.segment, self.seq, self.hash)
    }
}

/// Writes the public audit key beside the log, or checks that it is the one there.
pub(super) fn keep_key(directory: &Path, key: &SigningKey) -> Result<(), Error> {
    let path = directory.join(KEY_FILE);
    let ours = key.public_jwk();
    let Some(bytes) = read_bytes(&path).map_err(Error::io("read the audit key's public half", &path))? else {
        let bytes = serde_json::to_vec(&ours).map_err(Error::Json)?;
        return replace(&path, &bytes).map_err(Error::io("write the audit key's public half", &path));
    };
    let theirs = Jwk::from_json(&bytes).map_err(|_| damaged(directory, KEY_FILE, "it is not an ES256 public key"))?;
    if theirs == ours {
        return Ok(());
    }
    Err(Error::ForeignKey {
        path: directory.to_owned(),
        found: theirs.kid().to_owned(),
        expected: ours.kid().to_owned(),
    })
}

pub(super) fn damaged(directory: &Path, name: &str, what: &'static str) -> Error {
    Error::Damaged { path: directory.join(name), line: 0, what }
}

fn read_json<T: DeserializeOwned + Serialize>(directory: &Path, name: &str) -> Result<Option<T>, Error> {
    let path = directory.join(name);
    let Some(bytes) = read_bytes(&path).map_err(Error::io("read", &path))? else { return Ok(None) };
    let value: T =
        serde_json::from_slice(&bytes).map_err(|_| damaged(directory, name, "it is not as it was written"))?;
    // Every byte counts, white space included.
    if serde_json::to_vec(&value).map_err(Error::Json)? != bytes {
        return Err(damaged(directory, name, "it is not as it was written"));
    }
    Ok(Some(value))
}

fn write_json(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), Error> {
    let path = directory.join(name);
    let bytes = serde_json::to_vec(value).map_err(Error::Json)?;
    replace(&path, &bytes).map_err(Error::io("write", &path))
}

fn read_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match open_nofollow(path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
