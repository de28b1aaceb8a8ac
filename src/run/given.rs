//! What was given to a side before its own changes are followed, and whether the server that answers
//! there now has it.
//!
//! While changes are followed, each side holds its own progress, and a server that took over without
//! the last of it is told by that. Definitions and copied rows are facts of our journal: with them it
//! has a place in the log of the side that was given them.

use cutover_core::{
    model::{position::Position, side::Side},
    port::PortError,
};

use super::{error::RunError, fact::Fact, ports::Ports, prepare::Preparation, standing::Standing};

/// The code of a server that lacks what was copied there.
pub(super) const LOST: &str = "CUT0518";

impl Preparation {
    /// Both addresses lead to primaries.
    ///
    /// # Errors
    ///
    /// Transient in the middle of a failover: nobody answers, or a standby that takes no writes yet.
    pub(super) async fn primaries(&self) -> Result<(), RunError> {
        for side in [Side::Blue, Side::Green] {
            self.ports.side(side).source.head().await?;
        }
        Ok(())
    }

    /// Notes what green was given, once it is on its disk.
    pub(super) async fn note_given(&self, fact: Fact) -> Result<(), RunError> {
        let there = self.ports.green.sink.load(&self.run).await?.flush().await?;
        let facts: Vec<Fact> = std::iter::once(fact).chain(given(Side::Green, there)).collect();
        Ok(self.book.note_all(&facts)?)
    }

    /// Both sides still have what they were given.
    ///
    /// # Errors
    ///
    /// `CUT0518` when another server took over and does not.
    pub(super) async fn keep_what_was_given(&self) -> Result<(), RunError> {
        Ok(is_kept(&self.ports, &self.book.standing()).await?)
    }
}

/// Both sides still have what they were given.
///
/// # Errors
///
/// Definite, with [`LOST`], when another server took over and does not.
pub(super) async fn is_kept(ports: &Ports, standing: &Standing) -> Result<(), PortError> {
    for side in [Side::Blue, Side::Green] {
        let Some(there) = standing.given(side) else { continue };
        if ports.side(side).source.contains(there).await? {
            continue;
        }
        let (end, again) = match standing.owner {
            Side::Blue => ("abort", "start a new run"),
            Side::Green => ("finish", "begin again from green if a way back is needed"),
        };
        return Err(PortError::definite(
            LOST,
            format!("looking for what was copied to {side}"),
            format!(
                "the server that is {side} now lacks definitions or rows that were copied there: \
                 its history does not contain {there}"
            ),
            format!(
                "end this run with `cutover {end}`, make the database of {side} anew, and {again}; \
                 a standby that commits wait for (synchronous_standby_names) prevents this"
            ),
        ));
    }
    Ok(())
}

/// The fact that goes with what a side was given, where it keeps a log.
pub(super) fn given(side: Side, there: Option<Position>) -> Option<Fact> {
    there.map(|there| Fact::Given { side, there })
}
