//! What a pipe tells whoever remembers changed rows.

use std::sync::atomic::Ordering;

use cutover_core::model::event::{Event, Relation, TransactionId};

use super::{batch::Batch, pipe::Worker};

impl Worker {
    /// `foreign`: somebody wrote where nobody may.
    pub(super) fn witness(&mut self, batch: &Batch, foreign: bool) {
        let (from, witness) = (self.config.from, &self.config.witness);
        let mut reading = self.reading;
        let foreign_in = |transaction: Option<TransactionId>, relation: &Relation| {
            if let Some(transaction) = transaction {
                witness.foreign(from, transaction, relation);
            }
            self.state.foreign_in(&relation.name);
        };
        for event in &batch.events {
            match event {
                Event::Begin { transaction, .. } => reading = Some(*transaction),
                Event::Row { relation, change } => {
                    if foreign {
                        foreign_in(reading, relation);
                    }
                    witness.row(from, relation, change, foreign);
                }
                Event::Truncate { relations, .. } => {
                    for relation in relations {
                        if foreign {
                            foreign_in(reading, relation);
                        }
                        witness.truncated(from, relation, foreign);
                    }
                }
                _ => {}
            }
        }
        self.reading = reading;
        if foreign && batch.rows > 0 {
            let total = self.state.foreign.fetch_add(batch.rows, Ordering::Relaxed) + batch.rows;
            tracing::error!(
                side = %from, rows = batch.rows, total,
                "CUT0701: somebody wrote to {from}, which does not own the writes"
            );
        }
    }
}
