// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the daemon is told when it is started. Arguments say what to do; how is said by the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::config;
use crate::telemetry::Format;

/// Exit code after wrong usage and for a configuration that is refused (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;
/// Exit code when this kernel is not suitable (`EX_UNAVAILABLE`).
pub const EXIT_KERNEL: u8 = 69;

/// Attests processes through the kernel and releases short-lived credentials to them.
#[derive(Debug, Clone, Parser)]
#[command(name = "agent-daemon", version)]
pub struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "PATH", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Check the configuration, entries, destinations and policies, say what was found, and exit
    #[arg(long, group = "instead")]
    check_config: bool,
    /// Print every key of the configuration with its default, and exit
    #[arg(long, group = "instead")]
    print_default_config: bool,
    /// Take the programs and maps out of the kernel, and exit; what they knew is lost
    #[arg(long, group = "instead")]
    unload: bool,
    /// How log lines look; auto: text on a terminal, else JSON
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Auto)]
    pub log_format: Format,
    /// Only wait to be looked at, as a child in a self-test
    #[arg(long, hide = true, group = "instead")]
    self_test_child: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run the daemon.
    Run,
    /// [`config::check`].
    CheckConfig,
    /// [`config::print_default`].
    PrintDefaultConfig,
    /// [`crate::kernel::unload`].
    Unload,
    /// Be the child of a self-test ([`crate::kernel::CHILD_ARGUMENT`]).
    SelfTestChild,
}

/// The arguments, or the exit code after help, the version or an error was printed.
///
/// # Errors
/// With the code to exit with: 0 after help and version, [`EXIT_USAGE`] after an error.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, u8> {
    Arguments::try_parse_from(arguments).map_err(|error| {
        // Where nothing can be printed there is nobody to tell.
        drop(error.print());
        if error.use_stderr() { EXIT_USAGE } else { 0 }
    })
}

impl Arguments {
    /// What to do.
    pub fn action(&self) -> Action {
        [
            (self.check_config, Action::CheckConfig),
            (self.print_default_config, Action::PrintDefaultConfig),
            (self.unload, Action::Unload),
            (self.self_test_child, Action::SelfTestChild),
        ]
        .into_iter()
        .find_map(|(is_asked, action)| is_asked.then_some(action))
        .unwrap_or(Action::Run)
    }
}

/// The folder with the credentials that systemd gives to this unit (`systemd.exec(5)`), for [`config::load`].
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("agent-daemon").chain(arguments.iter().copied()))
    }

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn each_flag_asks_for_one_action() {
        for (arguments, expected) in [
            (&[][..], Action::Run),
            (&["--config", "x.toml", "--log-format=json"], Action::Run),
            (&["--check-config"], Action::CheckConfig),
            (&["--print-default-config"], Action::PrintDefaultConfig),
            (&["--unload"], Action::Unload),
            (&[crate::kernel::CHILD_ARGUMENT], Action::SelfTestChild),
        ] {
            assert_eq!(parsed(arguments).unwrap().action(), expected, "{arguments:?}");
        }
        assert_eq!(parsed(&[]).unwrap().config, PathBuf::from("/etc/agent-daemon/config.toml"));
    }

    #[test]
    fn wrong_usage_is_refused_with_its_own_code() {
        for arguments in [
            &["--check-config", "--unload"][..],
            &["--log-format", "xml"],
            &["--trust-domain", "example.org"],
            &["start"],
        ] {
            let all = std::iter::once("agent-daemon").chain(arguments.iter().copied()).map(OsString::from);
            assert_eq!(parse(all).unwrap_err(), EXIT_USAGE, "{arguments:?}");
        }
        assert_eq!(parse(["agent-daemon", "--version"].map(OsString::from)).unwrap_err(), 0);
    }
}
