//! How a run is ended: when it may be, by the process that works on it or by one that does nothing
//! else, and what is answered.

use cutover_core::model::{run::RunId, side::Side};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    book::Book,
    command::Answer,
    error::RunError,
    moves,
    ports::Ports,
    removal,
    serve::{Ended, Start, TAKEN, go_on, take_lease},
    socket::{Incoming, Responder},
};
use crate::error::{Exit, Failure};

/// Ends a run that no process works on, and says who owns the writes. A move that was under way
/// is finished or taken back first.
///
/// # Errors
///
/// The run is over already, what owns the writes speaks against it, or something could not be
/// removed: then it can be called again.
pub async fn end(
    start: Start,
    finish: bool,
    mut inbox: mpsc::Receiver<Incoming>,
) -> Result<Answer, Failure> {
    let run = &start.preparation.run;
    let book = &start.preparation.book;
    if book.standing().removed {
        return Err(over(run));
    }
    let stopped = || Failure::new("told to stop before anything was removed");
    start.preparation.is_of_this_run()?;
    let _lease = match take_lease(&start, &mut inbox).await {
        Ok(Ok(lease)) => Some(lease),
        Ok(Err(_)) => return Err(stopped()),
        // What keeps blue's log, and its clients out, must not wait for a green that is gone.
        Err(failure) if failure.code.as_deref() != Some(TAKEN) => {
            tracing::warn!("{failure}; blue is freed of what the run created there all the same");
            None
        }
        Err(failure) => return Err(failure),
    };
    if !go_on(&start, &mut inbox).await? {
        return Err(stopped());
    }
    if !book.standing().removed {
        may_end(&start, finish)?;
        let removed = removal::remove(run, &start.preparation.ports, book, finish).await;
        removed.map_err(RunError::into_failure)?;
    }
    Ok(removed_answer(run, book.standing().owner, finish))
}

/// The run is over: nothing can be done for it any more.
#[must_use]
pub fn over(run: &RunId) -> Failure {
    Failure::new(format!("run {run} is over"))
        .code("CUT0506")
        .remedy(
            "to begin a new one, move state_dir away or name another one; keep the old one, which \
             holds the evidence of the moves",
        )
        .exit(Exit::No)
}

/// Whether the run may be ended this way.
///
/// # Errors
///
/// Who owns the writes speaks against it.
pub(super) fn may_end(start: &Start, finish: bool) -> Result<(), Failure> {
    let refused = |what: &str, remedy: &str| {
        Err(Failure::new(what).code("CUT0508").remedy(remedy).exit(Exit::No))
    };
    let owner = start.preparation.book.standing().owner;
    let moved =
        owner == Side::Green || moves::ended(&start.state_dir)?.iter().any(|m| m.ending == "moved");
    if finish && !moved {
        return refused(
            "nothing was switched yet",
            "use `cutover switch` first, or `cutover abort` to give up",
        );
    }
    if !finish && owner == Side::Green {
        return refused(
            "green owns the writes",
            "use `cutover rollback` first, or `cutover finish` to stay on green",
        );
    }
    Ok(())
}

fn removed_answer(run: &RunId, owner: Side, finish: bool) -> Answer {
    let mut text = format!("nothing of run {run} is left on the servers; {owner} owns the writes");
    // A run can be finished after its rollback as well.
    if !finish || owner == Side::Blue {
        text.push_str(
            ". Definitions and rows that were copied to green stay there: make its database anew \
             before another run",
        );
    }
    Answer::new(Exit::Done, json!({ "removed": true, "owner": owner }), text)
}

/// Removes everything and answers.
///
/// # Errors
///
/// What could not be removed; the same was answered.
pub(super) async fn remove(
    run: &RunId,
    ports: &Ports,
    book: &Book,
    finish: bool,
    responder: Option<Responder>,
) -> Result<Ended, Failure> {
    if let Some(r) = &responder {
        r.progress("removing what the run created on both servers");
    }
    let result = removal::remove(run, ports, book, finish).await.map_err(RunError::into_failure);
    match result {
        Ok(()) => {
            if let Some(responder) = responder {
                responder.done(removed_answer(run, book.standing().owner, finish));
            }
            Ok(Ended::Removed)
        }
        Err(failure) => {
            if let Some(responder) = responder {
                responder.done(Answer::failed(failure.clone()));
            }
            Err(failure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_on_green_is_said_wherever_nobody_uses_it() {
        let run = RunId::new("r").expect("a name");
        let says = |owner, finish| removed_answer(&run, owner, finish).text.contains("stay there");
        assert!(says(Side::Blue, false));
        assert!(says(Side::Blue, true), "after a rollback");
        assert!(!says(Side::Green, true));
    }
}
