//! Exit statuses for the shell.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "clap prints usage by itself")]

use std::process::ExitCode;

use cutover::error::Exit;

pub(super) fn code(exit: Exit) -> ExitCode {
    ExitCode::from(u8::from(exit))
}

/// Prints what clap has to say: help and version are answers, anything else is wrong usage.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    error.print().ok();
    code(if error.use_stderr() { Exit::Usage } else { Exit::Done })
}
