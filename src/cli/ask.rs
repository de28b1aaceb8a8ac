//! Commands that the running process carries out.

use cutover::{
    error::{Exit, Failure},
    run::{book::Book, command::Request, socket},
};

use super::{args::Args, output::Printer, run};

/// Asks and prints the answer.
pub(super) async fn ask(args: &Args, request: Request, printer: Printer) -> Result<Exit, Failure> {
    let home = super::home(args)?;
    // A move or a comparison says nothing for as long as it takes.
    let answer = socket::ask(&home.state_dir, &request, None, |text| printer.note(text)).await?;
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
    if !yes {
        printer.confirm(question)?;
    }
    ask(args, request, printer).await
}

/// Ends the run: by the process that works on it, or by ourselves when there is none. One that
/// cannot be prepared any more must not need a process to be given up.
pub(super) async fn end(
    args: &Args,
    request: Request,
    yes: bool,
    question: &str,
    printer: Printer,
) -> Result<Exit, Failure> {
    let finish = request == Request::Finish;
    let nobody = match confirmed(args, request, yes, question, printer).await {
        Err(failure) if failure.code.as_deref() == Some("CUT0007") => failure,
        other => return other,
    };
    let config = super::load(args)?;
    if Book::peek(&config.state_dir)?.is_none_or(|s| s.addresses.is_none()) {
        return Err(nobody);
    }
    run::end(&config, finish, printer).await
}
