//! Taking everything away that a run created, on both servers, also after a crash.

use cutover_core::{
    model::{run::RunId, side::Side},
    port::Result,
};

use super::{book::Book, error::RunError, fact::Fact, kept::Kept, ports::Ports};
use crate::error::Explain as _;

/// Removes what the run created. `finish`: after a switch, when green stays the owner (or after a
/// rollback, when blue does); otherwise before any switch. The rows on the side that does not own
/// the writes stay where they are.
///
/// # Errors
///
/// The first failure, after both sides were tried; call it again.
pub(super) async fn remove(
    run: &RunId,
    ports: &Ports,
    book: &Book,
    finish: bool,
) -> std::result::Result<(), RunError> {
    if book.standing().removing.is_none() {
        book.note(Fact::Removing { finish })?;
    }
    // First where clients are. A side that is gone keeps nothing on the other.
    let owner = book.standing().owner;
    let mut failed = None;
    for side in [owner, owner.other()] {
        match remove_from(run, ports, side).await {
            Ok(()) => tracing::info!("nothing of run {run} is left on {side}"),
            Err(error) => {
                tracing::warn!(
                    "{}; what the run created there is left on {side}",
                    error.headline()
                );
                failed.get_or_insert(error);
            }
        }
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    Kept::forget(&book.folder());
    book.note(Fact::Removed)?;
    Ok(())
}

async fn remove_from(run: &RunId, ports: &Ports, side: Side) -> Result<()> {
    let database = ports.side(side);
    database.source.release(run).await?;
    database.sink.release(run).await?;
    database.primary.remove_fence(run).await
}
