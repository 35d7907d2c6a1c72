// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The command line. The only place that reads the environment.

mod approvals;
mod audit;
mod run;
mod spiffe;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::approvals::{AnswerArgs, ApprovalsArgs, ApprovalsCommand};
pub(crate) use self::audit::{AuditCommand, AuditFilter, AuditOutcome, TraceArgs};
pub(crate) use self::run::{RunArgs, SessionsArgs};
pub(crate) use self::spiffe::{BundleCommand, BundleFormat, FetchCommand, SpiffeCommand};

use crate::id::{ExecId, Subject};
use crate::time;

const DEFAULT_ADMIN_SOCKET: &str = "/run/agent-daemon/admin.sock";

/// Shows and explains what agent-daemon knows and decides on this node.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version, max_term_width = 110, disable_help_subcommand = true)]
#[command(after_help = "\
Ids: an exec instance is written x123, everywhere; a bare number is a pid.
Exit codes: 0 allow or ok, 1 deny or finding, 2 error.")]
pub(crate) struct Cli {
    /// The daemon's admin socket [env: AGENT_ADMIN_SOCKET] [default: /run/agent-daemon/admin.sock]
    #[arg(long, global = true, value_name = "PATH", value_parser = socket_path, help_heading = "Global options")]
    admin_socket: Option<PathBuf>,

    /// For people, or for programs (schemas: docs/cli.md)
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub(crate) output: Format,

    /// When to use colours; `auto`: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Global options")]
    pub(crate) color: Color,

    /// How long to wait for each answer of the daemon, for example 500ms, 30s, 2m
    #[arg(long, global = true, default_value = "30s", value_parser = time::parse_duration, value_name = "DURATION", help_heading = "Global options")]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    /// One page that is whole in itself; of `audit trace` only
    Html,
    /// Events of the Open Cybersecurity Schema Framework, one a line; of `audit query` and `audit tail` only
    Ocsf,
    /// Log records of OpenTelemetry in its JSON file format; of `audit query` and `audit tail` only
    Otlp,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Is the daemon well, what has it loaded, how full is it; exit 1 unless it is serving
    Status,
    /// Live exec instances: a tree with identity and why; one of them with all its facts
    Ps(PsArgs),
    /// Connections seen by the kernel and who opened them
    Connections(ConnectionsArgs),
    /// Credentials released and still alive
    Leases(LeasesArgs),
    /// Delegated sessions: on whose behalf, for what, until when; --end ends one
    Sessions(SessionsArgs),
    /// Requests that wait for a person's word: list, allow and deny them
    Approvals(ApprovalsArgs),
    /// Start a program in a session: it and all that it starts act on behalf of a user
    Run(RunArgs),
    /// The newest decisions
    Decisions(DecisionsArgs),
    /// What would be decided for a process and a destination now, and why; exit 1 on deny
    Explain(ExplainArgs),
    /// Check, list and test policies
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// End leases; exit 1 when none matched
    Revoke(RevokeArgs),
    /// Read entries, destinations, bindings and policies anew, whole or not at all; exit 1 when refused
    Reload,
    /// Test every assumption the daemon rests on; exit 1 when one fails
    Doctor,
    /// Kernel events, decisions and lease changes as they happen
    Watch(WatchArgs),
    /// Static secrets, sealed by the daemon
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Speak SPIFFE as a program of this process's identity: fetch, watch and validate SVIDs
    #[command(subcommand)]
    Spiffe(SpiffeCommand),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Only this process (PID) or exec instance (x123), with all its facts
    #[arg(value_name = "PID|EXEC-ID")]
    pub(crate) subject: Option<Subject>,
    /// Only those with an identity
    #[arg(long)]
    pub(crate) identified: bool,
    /// Kernel threads too
    #[arg(long)]
    pub(crate) all: bool,
    /// As a tree by lineage (the default)
    #[arg(long, conflicts_with = "list")]
    pub(crate) tree: bool,
    /// One after the other, as the daemon sends them
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    /// Only those opened by this process (PID) or exec instance (x123)
    #[arg(value_name = "PID|EXEC-ID")]
    pub(crate) subject: Option<Subject>,
    /// Only this socket (SO_COOKIE)
    #[arg(long)]
    pub(crate) cookie: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct LeasesArgs {
    /// Only those of this process (PID) or exec instance (x123)
    #[arg(value_name = "PID|EXEC-ID")]
    pub(crate) subject: Option<Subject>,
    /// Ended ones too, as far as the daemon still holds them
    #[arg(long)]
    pub(crate) ended: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DecisionsArgs {
    /// How many, at most 1000
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Only denials
    #[arg(long)]
    pub(crate) denied: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A process (PID) or an exec instance (x123)
    #[arg(value_name = "PID|EXEC-ID")]
    pub(crate) subject: Subject,
    /// A destination declared in the daemon's configuration
    #[arg(long, short, value_name = "NAME")]
    pub(crate) destination: String,
    /// As if it named this socket (SO_COOKIE)
    #[arg(long)]
    pub(crate) cookie: Option<u64>,
    /// Which of several bindings
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) binding: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check policy files strictly; without files, those the configuration names, as they are on disk now
    Validate {
        /// Cedar policies
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the policies now loaded, with their text
    Explain,
    /// Draft permits from what audit mode let through; exit 1 when there is nothing to draft
    Suggest(SuggestArgs),
    /// Run a table of cases through the daemon's own evaluator; exit 1 when one fails
    Test {
        /// The cases, TOML
        #[arg(value_name = "CASES")]
        cases: PathBuf,
        /// Policies to test instead of the loaded ones
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SuggestArgs {
    /// From this moment on: RFC 3339, a date, or how long ago (15m, 2h, 1d)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<time::Moment>,
    /// Up to this moment
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<time::Moment>,
    /// Only what this identity did
    #[arg(long, value_name = "SPIFFE-ID")]
    pub(crate) identity: Option<String>,
    /// From what was denied for want of a permit, too
    #[arg(long)]
    pub(crate) denied: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(false))]
pub(crate) struct RevokeArgs {
    /// One lease
    // Its 64 letters have a hyphen among them, which may come first.
    #[arg(long, group = "what", value_name = "LEASE-ID", allow_hyphen_values = true)]
    pub(crate) lease: Option<String>,
    /// All leases of an exec instance, for example x123
    #[arg(long, group = "what", value_name = "EXEC-ID")]
    pub(crate) exec: Option<ExecId>,
    /// All leases of a process
    #[arg(long, group = "what", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// All leases of an identity
    #[arg(long, group = "what", value_name = "SPIFFE-ID")]
    pub(crate) identity: Option<String>,
    /// All leases for a destination
    #[arg(long, group = "what", value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// Kept in the audit record
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Exec, exit and connect (with no kind given: all kinds)
    #[arg(long)]
    pub(crate) kernel: bool,
    /// Decisions, with why
    #[arg(long)]
    pub(crate) decisions: bool,
    /// Leases released and ended
    #[arg(long)]
    pub(crate) leases: bool,
    /// End after N events
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Seal a secret, read from standard input or a file and never from the command line
    Set {
        /// As credential sources name it
        name: String,
        /// Read it from here instead of standard input
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// Keep a newline at the end, which is dropped otherwise
        #[arg(long)]
        exact: bool,
    },
    /// Names and versions; never the secrets
    List,
    /// Forget a secret; exit 1 when there is none of that name
    Remove {
        /// As it was set
        name: String,
    },
}

fn from_environment(name: &str) -> Option<PathBuf> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(strip_scheme(&value))
}

impl Cli {
    /// Flag, then environment, then the packaged default.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.admin_socket
            .clone()
            .or_else(|| from_environment("AGENT_ADMIN_SOCKET"))
            .unwrap_or_else(|| PathBuf::from(DEFAULT_ADMIN_SOCKET))
    }
}

impl Color {
    /// Whether colours may be written to this stream.
    pub(crate) fn allows(self, stream: &impl IsTerminal) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
                stream.is_terminal() && !unwanted && !dumb
            }
        }
    }
}

fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    Ok(strip_scheme(text))
}

/// `unix:/path` is what the daemon prints and gRPC understands; `unix:///path` is the same.
fn strip_scheme(text: &str) -> PathBuf {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    PathBuf::from(path.strip_prefix("//").filter(|rest| rest.starts_with('/')).unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("agentctl").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn good_command_lines_are_accepted() {
        for line in [
            "status",
            "ps",
            "ps 12 --identified",
            "ps x12 --output json",
            "--output json ps --list --all",
            "connections x9 --cookie 18446744073709551615",
            "leases --ended",
            "decisions -n 1000 --denied",
            "explain 12 --destination reports",
            "explain x12 -d reports --cookie 7 --binding b",
            "policy validate",
            "policy validate a.cedar b.cedar",
            "policy explain",
            "policy test cases.toml a.cedar",
            "audit tail -f -n 5",
            "audit query --since 15m --until 2026-01-01 --exec x5 --pid 4 --kind decision --outcome deny --raw",
            "audit verify",
            "revoke --lease l --reason because",
            "revoke --lease -nZfuKRPqnLsOKQbPW9dSg",
            "audit query --lease -nZfuKRPqnLsOKQbPW9dSg",
            "revoke --exec x1",
            "reload",
            "doctor --timeout 2m",
            "watch --kernel --decisions --leases -n 3",
            "secret set name --file path",
            "secret list",
            "secret remove name",
            "spiffe fetch x509 --write /tmp/svids",
            "spiffe fetch jwt --audience a --audience b --spiffe-id spiffe://example.org/a",
            "spiffe watch -n 2 --spiffe-socket unix:///run/s",
            "spiffe validate --audience a --file token",
            "spiffe import entries.json",
            "spiffe import -",
            "spiffe bundle show",
            "spiffe bundle show --trust-domain partner.example --format pem",
            "spiffe bundle set --trust-domain partner.example -",
            "spiffe bundle remove partner.example",
            "completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn bad_command_lines_are_usage_errors() {
        for line in [
            "",
            "ps 0",
            "ps x0",
            "ps exec:12",
            "ps X12",
            "ps 12x",
            "ps -1",
            "ps x18446744073709551616",
            "ps --tree --list",
            "explain 12",
            "explain --destination d",
            "decisions -n 1001",
            "decisions -n 0",
            "revoke",
            "revoke --lease l --pid 3",
            "revoke --exec 12",
            "audit query --outcome maybe",
            "audit query --since yesterday",
            "secret set name the-secret-itself",
            "secret set",
            "spiffe bundle set file",
            "spiffe bundle show --format pem",
            "status --timeout 0s",
            "status --timeout soon",
            "status --color sometimes",
            "status --admin-socket=",
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("accepted: {line}"));
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_socket_is_a_path_with_or_without_its_scheme() {
        for (given, expected) in [
            ("/run/a.sock", "/run/a.sock"),
            ("unix:/run/a.sock", "/run/a.sock"),
            ("unix:///run/a.sock", "/run/a.sock"),
            ("unix:a.sock", "a.sock"),
            ("a.sock", "a.sock"),
        ] {
            assert_eq!(strip_scheme(given), PathBuf::from(expected), "{given}");
        }
    }
}
