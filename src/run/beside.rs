//! What is defined beside tables: remembered when both sides are alike, which is at the beginning
//! and whenever clients are sent to the other one.

use std::time::Duration;

use cutover_core::model::{selection::Selection, side::Side};

use super::{book::Book, fact::Fact, ports::Ports};
use crate::journal::JournalError;

/// How long a side may take to say it: a server that hangs holds up nothing for its sake.
const WITHIN: Duration = Duration::from_secs(30);

/// Remembers what is not known yet: of green, which has it all by now; and of blue where an earlier
/// version began the run.
pub(super) async fn remember(
    ports: &Ports,
    selection: &Selection,
    book: &Book,
) -> Result<(), JournalError> {
    let standing = book.standing();
    let sides = [Side::Blue, Side::Green].into_iter().zip(&standing.beside);
    let unknown: Vec<Side> =
        sides.filter_map(|(side, known)| known.is_none().then_some(side)).collect();
    let facts = facts(ports, selection, &unknown).await;
    if facts.is_empty() { Ok(()) } else { book.note_all(&facts) }
}

/// What to remember of these sides: all of them or, when one gives no answer, nothing. Whatever else
/// is asked there says why, and a move compares with what was known before.
pub(super) async fn facts(ports: &Ports, selection: &Selection, sides: &[Side]) -> Vec<Fact> {
    let look = |of: Side| async move {
        match tokio::time::timeout(WITHIN, ports.side(of).primary.beside(selection)).await {
            Ok(Ok(objects)) => Some(Fact::Beside { of, objects }),
            Ok(Err(error)) => {
                tracing::info!(%error, "what {of} has beside tables is not known");
                None
            }
            Err(_) => {
                tracing::info!("what {of} has beside tables is not known in time");
                None
            }
        }
    };
    let looks = futures_util::future::join_all(sides.iter().map(|side| look(*side))).await;
    looks.into_iter().collect::<Option<_>>().unwrap_or_default()
}
