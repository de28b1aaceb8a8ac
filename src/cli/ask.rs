//! Commands that the running process carries out.

use std::time::Duration;

use cutover::{
    config,
    error::{Exit, Failure},
    run::{command::Request, socket},
};

use super::{args::Args, output::Printer};

/// How long the running process may be silent when it is only asked for its status.
const STATUS_WITHIN: Duration = Duration::from_secs(10);
/// How often a watched status is asked for.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Asks and prints the answer.
pub(super) async fn ask(args: &Args, request: Request, printer: Printer) -> Result<Exit, Failure> {
    let home = config::home(&args.config, &config::process_environment)
        .map_err(|e| super::told(e, printer))?;
    let within = (request == Request::Status).then_some(STATUS_WITHIN);
    let answer = socket::ask(&home.state_dir, &request, within, |text| printer.note(text)).await?;
    if let Some(failure) = answer.failure {
        return Err(failure);
    }
    printer.answer(&answer.value, &answer.text);
    Ok(Exit::from(answer.exit))
}

/// Asks the person first.
pub(super) async fn confirmed(
    args: &Args,
    request: Request,
    yes: bool,
    question: &str,
    printer: Printer,
) -> Result<Exit, Failure> {
    if !yes && !printer.confirm(question) {
        return Err(Failure::new("not confirmed; nothing was done")
            .remedy("answer y, or say --yes")
            .exit(Exit::No));
    }
    ask(args, request, printer).await
}

/// The status, once or again and again.
pub(super) async fn status(args: &Args, watch: bool, printer: Printer) -> Result<Exit, Failure> {
    loop {
        let exit = ask(args, Request::Status, printer).await?;
        if !watch {
            return Ok(exit);
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}
