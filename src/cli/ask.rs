//! Commands that the running process carries out.

use std::time::Duration;

use cutover::{
    config::Home,
    error::{Exit, Failure},
    run::{
        book::Book,
        command::{Answer, Request},
        ends,
        socket::{self, SocketError},
    },
};

use super::{args::Args, output::Printer, run};

/// Asks and prints the answer.
pub(super) async fn ask(args: &Args, request: Request, printer: Printer) -> Result<Exit, Failure> {
    // A move or a comparison says nothing for as long as it takes.
    let answer = answer(&super::home(args)?, &request, None, printer).await?;
    printer.answer(&answer.value, &answer.text);
    Ok(Exit::from(answer.exit))
}

/// What the running process answers.
pub(super) async fn answer(
    home: &Home,
    request: &Request,
    within: Option<Duration>,
    printer: Printer,
) -> Result<Answer, Failure> {
    match socket::ask(&home.state_dir, request, within, |text| printer.note(text)).await {
        Ok(Answer { failure: Some(failure), .. }) => Err(*failure),
        Ok(answer) => Ok(answer),
        Err(error @ SocketError::Nobody { .. }) => Err(nobody(home, error)),
        Err(error) => Err(error.into()),
    }
}

/// Why no process answers. Where the run is over, another one would not, either.
fn nobody(home: &Home, error: SocketError) -> Failure {
    match Book::peek(&home.state_dir) {
        Ok(Some(standing)) if standing.removed => ends::over(&home.run),
        Ok(_) => error.into(),
        Err(unread) => Failure { also: vec![unread.into()], ..error.into() },
    }
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
