//! Before a stream stops, all that is before the cause is stored.
//!
//! None of it may come again when somebody has removed the cause: a table whose rows were passed
//! (they were copied, for example) may be gone by then, and nobody would know where they belong.
//! A batch fails as a whole, and what was passed is stored only now and then. So the stream is
//! opened once more, and taken transaction by transaction up to the cause.

use cutover_core::port::{PortError, Result};

use super::{open::Open, pipe::Worker};

impl Worker {
    /// What becomes of an error: with something before it that is not stored, a reason to open the
    /// stream again.
    pub(super) fn steps_back(&mut self, error: PortError, owes: bool) -> PortError {
        if !owes || error.is_transient() || self.singly_until.is_some() {
            return error;
        }
        // Whatever was handed out is before it.
        self.singly_until = self.state.view().received;
        if self.singly_until.is_none() {
            return error;
        }
        let doing = format!("storing what is before a stop on {}", self.config.from);
        PortError::transient(doing, error)
    }

    /// Stores each transaction before the next is taken, as long as that is asked for.
    pub(super) async fn store_each(&mut self, open: &mut Open) -> Result<()> {
        let Some(until) = &self.singly_until else { return Ok(()) };
        // A server that took over has other names for its places: the cause may be tried once more.
        let over = open.seen.as_ref().is_some_and(|seen| seen.covers(until) != Ok(false));
        self.settle(open).await?;
        if over {
            // The cause is gone.
            self.singly_until = None;
            open.batcher.singly(false);
        }
        Ok(())
    }
}
