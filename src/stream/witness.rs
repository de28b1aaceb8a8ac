//! What a pipe tells whoever remembers changed rows.

use std::sync::atomic::Ordering;

use cutover_core::model::event::Event;

use super::{batch::Batch, pipe::Worker};

impl Worker {
    /// `foreign`: somebody wrote where nobody may.
    pub(super) fn witness(&self, batch: &Batch, foreign: bool) {
        let (from, witness) = (self.config.from, &self.config.witness);
        for event in &batch.events {
            match event {
                Event::Row { relation, change } => {
                    witness.row(from, relation, change, foreign);
                    if foreign {
                        self.state.foreign_in(&relation.name);
                    }
                }
                Event::Truncate { relations, .. } => {
                    for relation in relations {
                        witness.truncated(from, relation, foreign);
                        if foreign {
                            self.state.foreign_in(&relation.name);
                        }
                    }
                }
                _ => {}
            }
        }
        if foreign && batch.rows > 0 {
            let total = self.state.foreign.fetch_add(batch.rows, Ordering::Relaxed) + batch.rows;
            tracing::error!(
                side = %from, rows = batch.rows, total,
                "CUT0701: somebody wrote to {from}, which does not own the writes"
            );
        }
    }
}
