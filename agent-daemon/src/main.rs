// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The daemon's command line: says what is wrong in words and exit codes, and leaves the rest to the library.

use std::io::{self, Write as _};
use std::process::ExitCode;

use agent_daemon::app::{self, Error};
use agent_daemon::arguments::{self, Action, Arguments, EXIT_KERNEL, EXIT_USAGE};
use agent_daemon::diagnostic::Diagnostic;
use agent_daemon::{config, kernel, telemetry};

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(code) => return ExitCode::from(code),
    };
    match arguments.action() {
        Action::Run => run(&arguments),
        Action::CheckConfig => check_config(&arguments),
        Action::PrintDefaultConfig => print(&config::print_default()),
        Action::Unload => unload(&arguments),
        Action::SelfTestChild => {
            // Whoever started us closes our input when it has seen enough.
            let ended = io::copy(&mut io::stdin().lock(), &mut io::sink());
            ExitCode::from(u8::from(ended.is_err()))
        }
    }
}

fn run(arguments: &Arguments) -> ExitCode {
    if let Err(error) = telemetry::init(arguments.log_format) {
        complain(&error);
        return ExitCode::from(EXIT_USAGE);
    }
    let config = match config::load(&arguments.config, arguments::credentials_directory().as_deref()) {
        Ok(config) => config,
        Err(diagnostics) => return refuse(&diagnostics),
    };
    for warning in &config.warnings {
        tracing::warn!(%warning, "a setting is weaker than its default");
    }
    tracing::info!(?config, "starting");
    match app::prepare(config).and_then(app::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Config(diagnostics)) => refuse(&diagnostics),
        Err(error @ (Error::Kernel(_) | Error::Tier { .. })) => {
            complain(&error);
            say(&format!("hint: {}", what_to_do(&error)));
            ExitCode::from(EXIT_KERNEL)
        }
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn check_config(arguments: &Arguments) -> ExitCode {
    match config::check(&arguments.config, arguments::credentials_directory().as_deref()) {
        Ok(checked) => {
            for warning in checked.warnings() {
                say(&warning.to_string());
            }
            print(&format!("{checked}\n"))
        }
        Err(diagnostics) => refuse(&diagnostics),
    }
}

fn unload(arguments: &Arguments) -> ExitCode {
    let config = match config::load(&arguments.config, arguments::credentials_directory().as_deref()) {
        Ok(config) => config,
        Err(diagnostics) => return refuse(&diagnostics),
    };
    match kernel::unload(&config.kernel.pin_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn refuse(diagnostics: &[Diagnostic]) -> ExitCode {
    for diagnostic in diagnostics {
        say(&diagnostic.to_string());
    }
    say("nothing was started: mend the errors above");
    ExitCode::from(EXIT_USAGE)
}

/// About a kernel half that does not start. `agentctl` is no help here: it asks a daemon that runs.
fn what_to_do(error: &Error) -> &'static str {
    if !rustix::process::geteuid().is_root() {
        return "start it as root: it has to load programs into the kernel, and gives its rights up afterwards";
    }
    match error {
        Error::Tier { tier: "egress", .. } => "`kernel.accept_tier = \"observe\"` accepts to start without it",
        Error::Tier { .. } => {
            "if an earlier daemon left its programs in the kernel, `agent-daemon --unload` takes them down, and the \
             next start sets them up anew; docs/hook-coverage.md says what each hook needs"
        }
        _ => "docs/hook-coverage.md says what it needs of a kernel",
    }
}

/// The whole chain of an error, once.
fn complain(error: &dyn std::error::Error) {
    let mut text = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    say(&text);
}

fn say(text: &str) {
    // Where nothing can be printed there is nobody to tell.
    drop(writeln!(io::stderr(), "{text}"));
}

fn print(text: &str) -> ExitCode {
    let written = io::stdout().lock().write_all(text.as_bytes());
    ExitCode::from(u8::from(written.is_err()))
}
