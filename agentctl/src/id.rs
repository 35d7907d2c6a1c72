// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Ids as people write them. An exec instance is `x123`, in every table, story, JSON document and argument,
//! so that what was printed can be pasted; a bare number is a pid.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// One program image in one process; unique per boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExecId(pub(crate) u64);

/// What a chain of events is told about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trace {
    /// As policies name it.
    User(String),
    Session(String),
    /// For a JWT-SVID also its `jti`.
    Lease(String),
    Decision(String),
    Exec(ExecId),
    /// A socket's cookie.
    Connection(u64),
}

impl FromStr for Trace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_hex = |digits: &str| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_base64 = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if let Some(cookie) = text.strip_prefix("cookie:") {
            let cookie = positive::<u64>(cookie);
            return cookie
                .map(Self::Connection)
                .ok_or_else(|| "a cookie is a number, for example cookie:123".to_owned());
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Exec(id));
        }
        match text.strip_prefix('s') {
            Some(digits) if digits.len() == 16 && is_hex(digits) => Ok(Self::Session(text.to_owned())),
            _ if text.contains(':') => Ok(Self::User(text.to_owned())),
            _ if text.len() == 24 && is_hex(text) => Ok(Self::Decision(text.to_owned())),
            _ if text.len() == 22 && is_base64(text) => Ok(Self::Lease(text.to_owned())),
            _ => Err(
                "not a user (corp:248), session (s0123456789abcdef), lease id, decision id, exec instance (x123) or \
                connection (cookie:123)"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(text) | Self::Session(text) | Self::Lease(text) | Self::Decision(text) => f.write_str(text),
            Self::Exec(id) => id.fmt(f),
            Self::Connection(cookie) => write!(f, "cookie:{cookie}"),
        }
    }
}

/// A process now, or one exact exec instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Process(u32),
    Exec(ExecId),
}

impl Subject {
    /// For request messages that have a field for each.
    pub(crate) fn split(subject: Option<Self>) -> (Option<u32>, Option<u64>) {
        match subject {
            None => (None, None),
            Some(Self::Process(tgid)) => (Some(tgid), None),
            Some(Self::Exec(ExecId(id))) => (None, Some(id)),
        }
    }
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x{}", self.0)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(tgid) => write!(f, "process {tgid}"),
            Self::Exec(id) => write!(f, "exec instance {id}"),
        }
    }
}

/// `x42 (pid 7, python3)`, without what is not known.
pub(crate) fn who(exec_id: u64, tgid: u32, comm: &str) -> String {
    let process = match (tgid, comm) {
        (0, comm) => comm.to_owned(),
        (tgid, "") => format!("pid {tgid}"),
        (tgid, comm) => format!("pid {tgid}, {comm}"),
    };
    match (exec_id, process.is_empty()) {
        (0, true) => "an unknown process".to_owned(),
        (0, false) => process,
        (id, true) => ExecId(id).to_string(),
        (id, false) => format!("{} ({process})", ExecId(id)),
    }
}

impl Serialize for ExecId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for ExecId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix('x')
            .and_then(positive::<u64>)
            .map(Self)
            .ok_or_else(|| "an exec id is an x and a number, for example x123".to_owned())
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('x') {
            return text.parse().map(Self::Exec);
        }
        positive::<u32>(text)
            .map(Self::Process)
            .ok_or_else(|| "expected a pid (a number) or an exec id (an x and a number, for example x123)".to_owned())
    }
}

/// Digits only: `FromStr` for integers takes a leading `+` as well.
fn positive<N: FromStr + PartialOrd + From<u8>>(text: &str) -> Option<N> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| *number > N::from(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_can_be_given_back() {
        for id in [1, 123, u64::MAX] {
            assert_eq!(ExecId(id).to_string().parse(), Ok(ExecId(id)));
            assert_eq!(ExecId(id).to_string().parse(), Ok(Subject::Exec(ExecId(id))));
        }
        assert_eq!("123".parse(), Ok(Subject::Process(123)));
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        for (exec_id, tgid, comm, expected) in [
            (42, 7, "sh", "x42 (pid 7, sh)"),
            (42, 7, "", "x42 (pid 7)"),
            (42, 0, "", "x42"),
            (0, 7, "sh", "pid 7, sh"),
            (0, 0, "", "an unknown process"),
        ] {
            assert_eq!(who(exec_id, tgid, comm), expected);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "x", "0", "x0", "+1", "x+1", "x-1", " 1", "1 ", "0x10", "4294967296", "xx1"] {
            assert!(text.parse::<Subject>().is_err(), "{text:?}");
            assert!(text.parse::<ExecId>().is_err(), "{text:?}");
        }
        assert!("1".parse::<ExecId>().is_err());
    }
}
