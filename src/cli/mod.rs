//! One file per command; here they are told apart.

mod args;
mod ask;
mod check;
mod exit;
mod guard;
mod init;
mod output;
mod plan;
mod progress;
mod run;
mod status;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use cutover::{
    config::{self, Config, ConfigError, Home},
    error::{Exit, Failure},
    run::command::Request,
};

use args::{Args, Command};
use output::Printer;

/// Parses, performs, and says how it ended.
pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => return exit::usage(&e),
    };
    let printer = Printer::new(args.json, args.color);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            printer.failure(&Failure::new("the runtime cannot start").caused_by(&e));
            return exit::code(Exit::Failed);
        }
    };
    let result = runtime.block_on(perform(&args, printer));
    // A blocked reader of standard input must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(exit) => exit::code(exit),
        Err(failure) => {
            printer.failure(&failure);
            exit::code(failure.exit)
        }
    }
}

/// Reads the configuration.
fn load(args: &Args) -> Result<Config, Failure> {
    config::load(&args.config, &config::process_environment).map_err(ConfigError::failure)
}

/// Reads where the run lives.
fn home(args: &Args) -> Result<Home, Failure> {
    config::home(&args.config, &config::process_environment).map_err(ConfigError::failure)
}

async fn perform(args: &Args, printer: Printer) -> Result<Exit, Failure> {
    let quiet = || printer.start_logs(args.log.as_deref().unwrap_or("warn"), false);
    match &args.command {
        Command::Run { until, yes } => {
            let config = load(args)?;
            run::run(&config, args.log.as_deref(), *until, *yes, printer).await
        }
        Command::Guard { of } => {
            let config = load(args)?;
            guard::guard(&config, of.as_deref(), args.log.as_deref(), printer).await
        }
        Command::Check => {
            quiet();
            check::check(&load(args)?, printer).await
        }
        Command::Plan => {
            quiet();
            plan::plan(&load(args)?, printer)
        }
        Command::Init { blue, green, run } => {
            quiet();
            init::init(&args.config, blue, green, run.as_deref(), printer).await
        }
        Command::Demo { scenario } => {
            quiet();
            let program = std::env::current_exe()
                .map_err(|e| Failure::new("this program cannot find itself").caused_by(&e))?;
            crate::demo::run(scenario, program, &|line| printer.note(line)).await
        }
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "cutover", &mut text);
            printer.data(String::from_utf8_lossy(&text).trim_end());
            Ok(Exit::Done)
        }
        Command::Status { watch } => status::status(args, *watch, printer).await,
        Command::Verify { tables, repair } => {
            let request = Request::Verify { tables: tables.clone(), repair: *repair };
            ask::ask(args, request, printer).await
        }
        Command::Rehearse => ask::ask(args, Request::Rehearse, printer).await,
        Command::Switch => ask::ask(args, Request::Switch, printer).await,
        Command::Rollback => ask::ask(args, Request::Rollback, printer).await,
        Command::Resolve { owner } => {
            ask::ask(args, Request::Resolve { owner: *owner }, printer).await
        }
        Command::Finish { yes } => {
            let question = "Give up the way back and remove what the run created?";
            ask::end(args, Request::Finish, *yes, question, printer).await
        }
        Command::Abort { yes } => {
            let question = "Give up the migration and remove what the run created?";
            ask::end(args, Request::Abort, *yes, question, printer).await
        }
    }
}
