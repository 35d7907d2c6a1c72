// SPDX-License-Identifier: Apache-2.0 OR MIT

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Policy says what needs a word (@approval above a permit), and the request waits for it.
Without a word in time it is refused ([approvals] wait in the configuration)."
)]
pub(crate) struct ApprovalsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ApprovalsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApprovalsCommand {
    /// Those that wait, the oldest first (the default)
    List,
    /// Allow one; exit 1 when it does not wait any more
    Allow(AnswerArgs),
    /// Refuse one; exit 1 when it does not wait any more
    Deny(AnswerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AnswerArgs {
    /// Which, as the list names it
    #[arg(value_name = "APPROVAL-ID")]
    pub(crate) approval: String,
    /// Answer the same for the rest of the session: this identity, destination and binding
    #[arg(long)]
    pub(crate) session: bool,
    /// Why, for the audit record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}
