// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::id::{ExecId, Trace};
use crate::time::Moment;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// The newest records
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        lines: u32,
        /// Then go on with new ones
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        filter: AuditFilter,
    },
    /// Every record that fits all filters given
    Query {
        /// Only the newest N that fit
        #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        last: Option<u32>,
        /// Then go on with new ones
        #[arg(short, long)]
        follow: bool,
        #[command(flatten)]
        filter: AuditFilter,
    },
    /// Who did what for whom, as a tree: user, session, programs, decisions, connections, credentials; exit 1 when nothing is
    /// found
    Trace(TraceArgs),
    /// Check the whole chain and its signed checkpoints; exit 1 when broken
    Verify,
}

#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// A user (corp:248, uid:1000), session (s and 16 digits), credential (lease id, jti), decision, exec instance (x123) or
    /// connection (cookie:123)
    #[arg(value_name = "SUBJECT", allow_hyphen_values = true)]
    pub(crate) subject: Trace,
    /// From this moment on: RFC 3339, a date, or how long ago (15m, 2h, 1d)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Moment>,
    /// Up to this moment
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<Moment>,
    /// Write one page for a browser, whole in itself, into this file; `-`: standard output
    #[arg(long, value_name = "PATH")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditFilter {
    /// From this moment on: RFC 3339, a date, or how long ago (15m, 2h, 1d)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Moment>,
    /// Up to this moment
    #[arg(long, value_name = "WHEN")]
    pub(crate) until: Option<Moment>,
    /// SPIFFE ID
    #[arg(long, value_name = "SPIFFE-ID")]
    pub(crate) identity: Option<String>,
    /// Declared destination
    #[arg(long, value_name = "NAME")]
    pub(crate) destination: Option<String>,
    /// Everything about one lease
    // Its 64 letters have a hyphen among them, which may come first.
    #[arg(long, value_name = "LEASE-ID", allow_hyphen_values = true)]
    pub(crate) lease: Option<String>,
    /// One decision: the id that a refused caller was given
    #[arg(long, value_name = "DECISION-ID")]
    pub(crate) decision: Option<String>,
    /// Exec instance, for example x123
    #[arg(long, value_name = "EXEC-ID")]
    pub(crate) exec: Option<ExecId>,
    /// Process; a pid is used again, an exec id never
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// For example decision, lease_ended, reload, caller_refused, revoke, secret
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// How it was decided
    #[arg(long, value_enum)]
    pub(crate) outcome: Option<AuditOutcome>,
    /// Any member of the record, for example session.agent=coder or connection.remote_port=443 (repeatable)
    #[arg(long = "where", value_name = "PATH=VALUE", value_parser = member)]
    pub(crate) members: Vec<(String, String)>,
    /// The log's own lines, byte for byte
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditOutcome {
    Allow,
    Deny,
}

fn member(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.is_empty() => Ok((path.to_owned(), value.to_owned())),
        _ => Err("a member is written path=value, for example session.agent=coder".to_owned()),
    }
}
