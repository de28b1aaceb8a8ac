//! The journal of moves is gone although the run has made moves: what the run's own journal still
//! knows is written down again, and what it does not know an operator says. Nothing is guessed.

use std::{path::Path, time::Duration};

use cutover_core::model::side::Side;
use tokio::sync::mpsc;

use super::{fact, interrupted, moves, prepare::now_ms, serve::Start, socket::Incoming};
use crate::{
    cutover::{fact::Fact, machine::State},
    error::Failure,
};

/// How long writers on the side that lost the writes are waited for.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// It was taken away under a process that lives: a new one would say that blue owns the writes.
pub(super) fn gone(state_dir: &Path) -> Failure {
    let path = state_dir.join(moves::FILE);
    Failure::new(format!("{} is gone, although the run has made moves", path.display()))
        .code("CUT0511")
        .remedy(
            "put it back; or stop and start `cutover run`, which begins a new one with the owner of \
             the writes that the run's own journal knows",
        )
}

/// Begins a new journal of moves with the owner of the writes as its first fact.
///
/// # Errors
///
/// A journal or a fence failed, or the process is told to stop while an operator must decide.
pub(super) async fn begin_again(
    start: &Start,
    inbox: &mut mpsc::Receiver<Incoming>,
) -> Result<(), Failure> {
    let book = &start.preparation.book;
    let standing = book.standing();
    if standing.moves == 0 {
        return Ok(());
    }
    let owner = match standing.open_move {
        None => standing.owner,
        Some((number, from, _)) => {
            let why = format!(
                "{} is gone, and move {number} from {from} had not ended",
                start.state_dir.join(moves::FILE).display()
            );
            let owner = interrupted::decide(start, &why, &State::default(), inbox).await?;
            agree(start, owner).await?;
            owner
        }
    };
    tracing::warn!("the journal of moves is gone; a new one begins with {owner} as owner");
    moves::begin(&start.state_dir, &Fact::Resolved { owner, at_ms: now_ms() })?;
    if standing.open_move.is_some() {
        book.note(fact::Fact::MoveEnded { id: standing.moves, owner, at_ms: now_ms() })?;
    }
    Ok(())
}

/// The databases agree with the operator's word: never both open, whatever the move had done.
async fn agree(start: &Start, owner: Side) -> Result<(), Failure> {
    let run = &start.preparation.run;
    let ports = &start.preparation.ports;
    ports.side(owner.other()).primary.close_to_clients(run, CLOSE_WITHIN).await?;
    ports.side(owner).primary.open_to_clients(run).await?;
    Ok(())
}
