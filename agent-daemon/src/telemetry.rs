// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon's own log: lines on standard error, and the names of their fields. Decisions are not here but in the
//! audit log; secrets are in neither.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// Names of fields in log lines: `tracing::warn!({ field::ERROR } = …)`.
pub mod field {
    /// An error with its whole chain.
    pub const ERROR: &str = "error";
    /// [`crate::process::ExecId`].
    pub const EXEC_ID: &str = "exec_id";
    /// Thread group id; for display only.
    pub const TGID: &str = "tgid";
    /// Effective user of a caller.
    pub const UID: &str = "uid";
    /// A SPIFFE ID.
    pub const SPIFFE_ID: &str = "spiffe_id";
    /// Names a decision in the audit log.
    pub const DECISION_ID: &str = "decision_id";
    /// `allow` or `deny`.
    pub const DECISION: &str = "decision";
    /// A destination's name.
    pub const DESTINATION: &str = "destination";
    /// A binding's name.
    pub const BINDING: &str = "binding";
    /// A lease's id.
    pub const LEASE_ID: &str = "lease_id";
    /// A socket's cookie.
    pub const COOKIE: &str = "cookie";
    /// One call, in all of its lines.
    pub const REQUEST_ID: &str = "request_id";
    /// The version of the policies.
    pub const GENERATION: &str = "generation";
    /// A task of the supervisor.
    pub const TASK: &str = "task";
    /// A file or socket.
    pub const PATH: &str = "path";
    /// Records that the kernel could not hand over.
    pub const DROPPED: &str = "dropped";
    /// Records that could not be read.
    pub const REJECTED: &str = "rejected";
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people; in colours on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `RUST_LOG` is not a filter.
    #[error("the log filter in RUST_LOG cannot be read")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is one already.
    #[error("bug: the log is set up twice")]
    Twice(#[source] TryInitError),
}

/// Without `RUST_LOG`. Of HTTP/2 only errors: it warns of what any caller can send as often as it likes, and of the
/// answers to pings that `api` sends beneath it.
const DEFAULT: &str = "info,h2=error";

/// Sets the log up for the whole process. `RUST_LOG` filters it; without it, everything from `info` on is written.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(format: Format) -> Result<(), Error> {
    let filter = filter(std::env::var_os(EnvFilter::DEFAULT_ENV).as_deref())?;
    subscriber(format, filter, io::stderr().is_terminal(), io::stderr).try_init().map_err(Error::Twice)
}

fn filter(given: Option<&OsStr>) -> Result<EnvFilter, Error> {
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(EnvFilter::new(DEFAULT)) };
    let text = given.to_str().ok_or_else(|| Error::Filter("it is not UTF-8".into()))?;
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    builder.parse(text).map_err(|error| Error::Filter(error.into()))
}

fn subscriber<W>(
    format: Format,
    filter: EnvFilter,
    is_terminal: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync + 'static>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(is_terminal);
    match (format, is_terminal) {
        (Format::Json, _) | (Format::Auto, false) => Box::new(builder.json().flatten_event(true).finish()),
        (Format::Text, _) | (Format::Auto, true) => Box::new(builder.finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, is_terminal: bool) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let filter = EnvFilter::new("info");
        tracing::subscriber::with_default(subscriber(format, filter, is_terminal, move || writer.clone()), || {
            tracing::debug!("left out");
            tracing::info!({ field::SPIFFE_ID } = "a\u{1b}[31mb\nc", "said");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_at_the_top() {
        for format in [Format::Json, Format::Auto] {
            let log = logged(format, false);
            assert_eq!(log.lines().count(), 1, "{log}");
            let line: serde_json::Value = serde_json::from_str(&log).unwrap();
            assert_eq!(line["message"], "said");
            assert_eq!(line[field::SPIFFE_ID], "a\u{1b}[31mb\nc");
        }
    }

    #[test]
    fn text_has_colours_on_a_terminal_only() {
        for (format, is_terminal, expected) in
            [(Format::Text, false, false), (Format::Text, true, true), (Format::Auto, true, true)]
        {
            let log = logged(format, is_terminal);
            assert!(log.contains("said") && !log.contains("left out"), "{log}");
            assert_eq!(log.contains("\u{1b}["), expected, "{log:?}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        for (given, expected) in
            [(None, true), (Some(""), true), (Some("agent_daemon=debug,warn"), true), (Some("a=loud"), false)]
        {
            assert_eq!(filter(given.map(OsStr::new)).is_ok(), expected, "{given:?}");
        }
    }

    #[test]
    fn a_caller_cannot_colour_or_break_a_line() {
        let log = logged(Format::Text, false);
        assert!(!log.contains('\u{1b}'), "{log:?}");
        assert_eq!(log.lines().count(), 1, "{log:?}");
    }
}
