//! `cutover run`: takes a run up and answers commands until it is told to stop.

use std::{sync::Arc, time::Duration};

use cutover::{
    config::{Config, checked::LogFormat},
    error::{Exit, Failure},
    run::{
        book::Book,
        command::Request,
        ends,
        goal::Until,
        serve::{Ended, serve},
        socket::{Incoming, Server, local},
    },
};
use cutover_core::model::side::Side;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{args::Goal, output::Printer, progress};
use crate::wiring;

/// How long those who asked may take to read the last line.
const LAST_WORDS: Duration = Duration::from_secs(2);

pub(super) async fn run(
    config: &Config,
    filter: Option<&str>,
    until: Option<Goal>,
    yes: bool,
    printer: Printer,
) -> Result<Exit, Failure> {
    printer.start_logs(filter.unwrap_or(&config.log.filter), config.log.format == LogFormat::Json);
    let until = match until {
        None => Until::Stopped,
        Some(Goal::Converged) => Until::Converged,
        Some(Goal::Switched) => Until::Switched,
        Some(Goal::Finished) => Until::Finished,
    };
    let owner = Book::peek(&config.state_dir)?.map(|standing| standing.owner);
    if until != Until::Stopped && owner != Some(Side::Green) {
        reachable(config, until)?;
    }
    let moves_by_itself = matches!(until, Until::Switched | Until::Finished);
    if moves_by_itself && !yes {
        printer.confirm("Switch to green as soon as it is ready?")?;
    }
    if std::process::id() == 1 {
        tracing::warn!(
            "this is process 1 of its container: when it ends in a pause, the guard that frees the \
             clients ends with it, so see to it that `cutover run` is started again at once"
        );
    }
    // What cannot work is told before anything is created, and a second process by the socket: the
    // lock of the journal would say the same in harder words.
    wiring::ports(config)?;
    let server = Server::bind(&config.state_dir)?;
    let start = wiring::start(config, until)?;
    let (requests, inbox) = mpsc::channel(16);
    let _web = wiring::web(config, Arc::clone(&start.board)).await?;
    let _progress = progress::show(printer, Arc::clone(&start.board));
    let serving = serve(start, inbox);
    let answering = server.serve(requests.clone());
    tokio::pin!(serving, answering);
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut deaf = false;
    let ended = loop {
        tokio::select! {
            ended = &mut serving => break ended,
            // The run takes no more requests; what is under way goes on.
            () = &mut answering, if !deaf => deaf = true,
            _ = terminate.recv() => stop(&requests),
            _ = interrupt.recv() => stop(&requests),
        }
    };
    if ended.is_err() {
        server.drain(LAST_WORDS).await;
    }
    let text = match ended? {
        Ended::Stopped => "stopped; `cutover run` takes it up again",
        Ended::Reached => "done",
        Ended::Removed => "the run is over; nothing of it is left on the servers",
    };
    printer.note(text);
    server.drain(LAST_WORDS).await;
    Ok(Exit::Done)
}

/// Whether a process that waits for its goal could come there.
fn reachable(config: &Config, until: Until) -> Result<(), Failure> {
    let refused = |what: &str, remedy: &str| {
        Err(Failure::new(format!("the goal of `--until` is never reached {what}"))
            .remedy(remedy)
            .exit(Exit::Usage))
    };
    if config.switches.is_empty() && until != Until::Converged {
        return refused("without a `switch`", "name in the configuration what sends clients");
    }
    if !config.verify.continuous {
        return refused(
            "without a comparison of all rows, which `verify.continuous: false` leaves to you",
            "leave out `verify.continuous`, or `--until`",
        );
    }
    Ok(())
}

/// Removes what a run created that no process works on.
pub(super) async fn end(config: &Config, finish: bool, printer: Printer) -> Result<Exit, Failure> {
    // Keeps others away, and hears `cutover resolve`.
    let server = Server::bind(&config.state_dir)?;
    let start = wiring::start(config, Until::Stopped)?;
    printer.note("no `cutover run` is working: removing what the run created");
    let (requests, inbox) = mpsc::channel(16);
    let ending = ends::end(start, finish, inbox);
    let answering = server.serve(requests);
    tokio::pin!(ending, answering);
    let mut deaf = false;
    let ended = loop {
        tokio::select! {
            ended = &mut ending => break ended,
            () = &mut answering, if !deaf => deaf = true,
        }
    };
    server.drain(LAST_WORDS).await;
    let answer = ended?;
    printer.answer(&answer.value, &answer.text);
    Ok(Exit::from(answer.exit))
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|e| Failure::new("signals cannot be listened for").caused_by(&e))
}

/// Asks ourselves to stop, as anybody could over the socket.
fn stop(requests: &mpsc::Sender<Incoming>) {
    let requests = requests.clone();
    // Beside the run, which may have to take other requests first.
    tokio::spawn(async move {
        let (responder, _lines) = local();
        // A run that has ended already needs no word.
        requests.send(Incoming { request: Request::Stop, responder }).await.ok();
    });
}
