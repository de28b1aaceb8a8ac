//! Taking everything away that a run created, on both servers, also after a crash.

use cutover_core::{
    model::{run::RunId, side::Side},
    port::Result,
};

use super::{book::Book, error::RunError, fact::Fact, kept::Kept, ports::Ports};

/// Removes what the run created. `finish`: after a switch, when green stays the owner (or after a
/// rollback, when blue does); otherwise before any switch. The rows on the side that does not own
/// the writes stay where they are; its fence goes last.
///
/// # Errors
///
/// The first failure; call it again.
pub(super) async fn remove(
    run: &RunId,
    ports: &Ports,
    book: &Book,
    finish: bool,
) -> std::result::Result<(), RunError> {
    if book.standing().removing.is_none() {
        book.note(Fact::Removing { finish })?;
    }
    for side in [Side::Blue, Side::Green] {
        remove_from(run, ports, side).await?;
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
