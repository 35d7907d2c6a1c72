// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What can go wrong here, in one line, and what to do about it, in another. All of it is exit code 2.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

use crate::text::escape;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot connect to the {} {path}", .socket.name(), path = .path.display())]
    Connect { socket: Socket, path: PathBuf, source: io::Error },
    #[error("{path} does not speak gRPC", path = .path.display())]
    Protocol { socket: Socket, path: PathBuf, source: tonic::transport::Error },
    #[error("the daemon gave no answer within {timeout:?}")]
    Timeout { timeout: Duration },
    #[error("{}", explain_status(.0))]
    Daemon(Box<Status>),
    #[error("{}", explain_status(.0))]
    Workload(Box<Status>),
    #[error("no session: {}", explain_status(.0))]
    Session(Box<Status>),
    #[error("cannot start {program}")]
    Start { program: String, source: io::Error },
    #[error("the daemon gave a certificate that cannot be read")]
    Certificate,
    #[error("cannot write {path}", path = .path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("bug: the daemon's answer has no {0}")]
    Incomplete(&'static str),
    #[error("the daemon ended the stream before it was complete")]
    CutShort,
    #[error("cannot read {what}")]
    Read { what: String, source: io::Error },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: usize },
    #[error("{what} is not a list of SPIRE's entries")]
    NotEntries { what: String, source: serde_json::Error },
    #[error("{what} is not UTF-8 text")]
    NotText { what: String },
    #[error("standard input is a terminal, which would show the secret")]
    SecretOnTerminal,
    #[error("the secret is empty")]
    EmptySecret,
    #[error("more than {limit} records, too many for one picture")]
    TraceTooLarge { limit: usize },
    #[error("cannot write {path}", path = .path.display())]
    WritePage { path: PathBuf, source: io::Error },
    #[error("this command has no such output")]
    NoSuchOutput,
    #[error("more than {limit} exec instances, too many for a tree")]
    TreeTooLarge { limit: usize },
    #[error("cannot write the output")]
    Write(#[source] io::Error),
    #[error("bug: cannot write this as JSON")]
    Json(#[source] serde_json::Error),
}

/// Which of the daemon's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Socket {
    /// For operators.
    Admin,
    /// For programs that speak SPIFFE.
    Spiffe,
    /// For workloads.
    Agent,
}

impl Socket {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin socket",
            Self::Spiffe => "Workload API",
            Self::Agent => "agent socket",
        }
    }

    /// The flag and the variable that name it.
    fn ways(self) -> (&'static str, &'static str) {
        match self {
            Self::Admin => ("--admin-socket", "AGENT_ADMIN_SOCKET"),
            Self::Spiffe => ("--spiffe-socket", "SPIFFE_ENDPOINT_SOCKET"),
            Self::Agent => ("--agent-socket", "AGENT_SOCKET"),
        }
    }
}

impl Error {
    /// What to do about it.
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Connect { source, path, socket } => match source.kind() {
                io::ErrorKind::NotFound => {
                    let (flag, variable) = socket.ways();
                    return Some(format!(
                        "is agent-daemon running? it prints {variable}=… when ready; give that path with {flag}"
                    ));
                }
                io::ErrorKind::PermissionDenied if *socket == Socket::Spiffe => {
                    "spiffe.socket_mode in the daemon's configuration says who may connect"
                }
                io::ErrorKind::PermissionDenied if *socket == Socket::Agent => {
                    "api.agent_socket_mode in the daemon's configuration says who may connect"
                }
                io::ErrorKind::PermissionDenied => {
                    // sudo does not pass the environment on.
                    let path = path.display();
                    return Some(format!(
                        "the admin socket is for its owner alone: try sudo agentctl --admin-socket {path}"
                    ));
                }
                io::ErrorKind::ConnectionRefused if !is_socket(path) => {
                    let (flag, variable) = socket.ways();
                    let name = socket.name();
                    return Some(format!(
                        "that is no socket: {flag} and {variable} take the path of the daemon's {name}"
                    ));
                }
                io::ErrorKind::ConnectionRefused => {
                    "the socket is there but nothing listens: agent-daemon has ended, start it again"
                }
                io::ErrorKind::TimedOut => {
                    "agent-daemon is overloaded or stuck: look at its log, or give it longer with --timeout"
                }
                _ => {
                    let (flag, variable) = socket.ways();
                    return Some(format!("{flag} and {variable} take a path, or unix: and a path"));
                }
            },
            Self::Protocol { socket, .. } => {
                return Some(format!("this must be the {}: is the path that of another socket?", socket.name()));
            }
            Self::Session(status) => return session_hint(status).map(str::to_owned),
            Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "the session was opened and ends by itself, since nobody is in it"
            }
            Self::Start { .. } => return None,
            Self::Workload(status) => return workload_hint(status).map(str::to_owned),
            Self::NotEntries { .. } => "it has to be what `spire-server entry show -output json` printed",
            Self::Certificate => "is the path that of agent-daemon's Workload API?",
            Self::WriteFile { .. } => "name a folder that you may write, with --write",
            Self::Timeout { .. } => "give it longer with --timeout, or look at the daemon's log",
            Self::Daemon(status) => return status_hint(status).map(str::to_owned),
            Self::CutShort => "what was printed is not all; look at the daemon's log",
            Self::TooLarge { .. } | Self::NotText { .. } => "is it the right file?",
            Self::Read { source, .. } if source.kind() == io::ErrorKind::IsADirectory => "name the files in it",
            Self::SecretOnTerminal => "use --file PATH, or read -rs S && printf %s \"$S\" | agentctl secret set NAME",
            Self::EmptySecret => "pipe it in, or use --file PATH",
            Self::TraceTooLarge { .. } => "ask about a shorter time with --since and --until, or about a session",
            Self::NoSuchOutput => {
                "html is for audit trace, ocsf and otlp are for audit query and audit tail; json is for all"
            }
            Self::WritePage { .. } => "name a file that you may write, with --html",
            Self::TreeTooLarge { .. } => "use --list, or --identified",
            Self::Runtime(_) | Self::Read { .. } | Self::Incomplete(_) | Self::Write(_) | Self::Json(_) => return None,
        };
        Some(hint.to_owned())
    }

    /// One line, and one more for the hint.
    pub(crate) fn render(&self, to: &mut Vec<u8>, paint: bool) {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            line.push_str(": ");
            line.push_str(&plain(cause));
            source = cause.source();
        }
        let (red, cyan, reset) = if paint { ("\x1b[31m", "\x1b[36m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error:{reset} {}\n", escape(&line));
        if let Some(hint) = self.hint() {
            text.push_str(&format!("{cyan}hint:{reset} {}\n", escape(&hint)));
        }
        to.extend_from_slice(text.as_bytes());
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Daemon(Box::new(status))
    }
}

fn is_socket(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    // Of one that is gone meanwhile nothing is known, so nothing is claimed.
    std::fs::metadata(path).map_or(true, |metadata| metadata.file_type().is_socket())
}

/// The operating system's words in our spelling: lower case, without the error number.
fn plain(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    if error.downcast_ref::<io::Error>().is_none() {
        return text;
    }
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}

/// True when the status was made on this side: the connection broke and the daemon said nothing.
fn is_local(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn explain_status(status: &Status) -> String {
    if is_local(status) {
        return "the connection to the daemon broke".to_owned();
    }
    let kind = match status.code() {
        Code::InvalidArgument => "the daemon refused the request",
        Code::NotFound => "not found",
        Code::PermissionDenied => "the daemon does not allow this",
        Code::Unauthenticated => "the daemon does not know who is asking",
        Code::ResourceExhausted => "the daemon is at a limit",
        Code::FailedPrecondition => "the daemon cannot do this now",
        Code::Unavailable => "the daemon cannot answer now",
        Code::Unimplemented => "this daemon does not know the command",
        Code::Internal | Code::Unknown | Code::DataLoss => "the daemon failed",
        Code::DeadlineExceeded => "the daemon took too long",
        Code::Ok | Code::Cancelled | Code::AlreadyExists | Code::Aborted | Code::OutOfRange => {
            "the daemon ended the request"
        }
    };
    match status.message() {
        "" => kind.to_owned(),
        message => format!("{kind}: {message}"),
    }
}

/// Whoever asks as a workload is told little; an operator finds the rest.
fn workload_hint(status: &Status) -> Option<&'static str> {
    match status.code() {
        Code::PermissionDenied => Some(
            "this process has no identity, or no binding or policy gives it that: see `agentctl decisions --denied` and `agentctl explain`",
        ),
        Code::Unimplemented => Some("is the path that of another socket?"),
        _ => None,
    }
}

/// Whoever asks as a workload is told little; an operator finds the rest.
fn session_hint(status: &Status) -> Option<&'static str> {
    match status.code() {
        Code::PermissionDenied => Some(
            "agentctl has no identity here, no policy permits it to act for this user (action actFor), or the token is not good: an operator sees why with `agentctl decisions --denied`",
        ),
        Code::Unauthenticated => Some("agentctl has to be started after the daemon's kernel programs were attached"),
        Code::Unimplemented => Some("is the path that of another socket?"),
        _ => None,
    }
}

fn status_hint(status: &Status) -> Option<&'static str> {
    if is_local(status) {
        return Some("it ended or was restarted (look at its log), or the path is not that of the admin socket");
    }
    match status.code() {
        Code::NotFound => Some("list what there is with `agentctl ps`, `agentctl leases` or `agentctl decisions`"),
        Code::PermissionDenied | Code::Unauthenticated => {
            Some("the admin socket is for those who run the node: try sudo")
        }
        Code::Unimplemented => Some(
            "is the path that of the agents' socket? if not, the daemon is of another version than `agentctl --version`",
        ),
        Code::Internal | Code::Unknown | Code::DataLoss => {
            Some("this is a bug or a broken disk: look at the daemon's log")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(error: &Error) -> String {
        let mut text = Vec::new();
        error.render(&mut text, false);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_refusal_to_connect_says_what_to_do() {
        for (code, expected) in [
            (
                libc_errno("ENOENT"),
                "error: cannot connect to the admin socket /s: no such file or directory\nhint: is agent-daemon running?",
            ),
            (
                libc_errno("EACCES"),
                "error: cannot connect to the admin socket /s: permission denied\nhint: the admin socket is for its owner alone: try sudo",
            ),
            (
                libc_errno("ECONNREFUSED"),
                "error: cannot connect to the admin socket /s: connection refused\nhint: the socket is there",
            ),
        ] {
            let error =
                Error::Connect { socket: Socket::Admin, path: "/s".into(), source: io::Error::from_raw_os_error(code) };
            assert!(rendered(&error).starts_with(expected), "{}", rendered(&error));
        }
    }

    fn libc_errno(name: &str) -> i32 {
        match name {
            "ENOENT" => 2,
            "EACCES" => 13,
            _ => 111,
        }
    }

    #[test]
    fn the_daemons_words_are_kept_but_cannot_drive_the_terminal() {
        let text = rendered(&Status::not_found("no process \x1b[2J7").into());
        assert!(text.starts_with("error: not found: no process \\u{1b}[2J7\nhint: "), "{text}");
    }

    #[test]
    fn a_message_is_one_line_and_a_hint() {
        let text = rendered(&Status::invalid_argument("two\nlines").into());
        assert_eq!(text, "error: the daemon refused the request: two\\u{a}lines\n");
    }
}
