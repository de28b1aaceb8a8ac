//! Exit statuses for the shell.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "clap prints usage by itself")]

use std::process::ExitCode;

use cutover::error::{Exit, Failure};

use super::{args::Color, output::Printer};

pub(super) fn code(exit: Exit) -> ExitCode {
    ExitCode::from(u8::from(exit))
}

/// Prints what clap has to say: help and version are answers, anything else is wrong usage.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    error.print().ok();
    if !error.use_stderr() {
        return code(Exit::Done);
    }
    // What was understood until then is lost with the rest.
    let json = std::env::args_os().any(|argument| argument == "--json");
    Printer::new(json, Color::Never).failure_data(&failure(error));
    code(Exit::Usage)
}

/// The first line of what clap says, for programs.
fn failure(error: &clap::Error) -> Failure {
    let said = error.to_string();
    let first = said.lines().next().unwrap_or_default();
    Failure::new(first.trim_start_matches("error: ")).remedy("cutover --help").exit(Exit::Usage)
}
