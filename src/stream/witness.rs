//! What a pipe tells whoever remembers changed rows.

use std::sync::{Arc, atomic::Ordering};

use cutover_core::model::event::{Event, Relation};

use super::{batch::Batch, pipe::Worker};

impl Worker {
    /// `foreign`: somebody wrote where nobody may.
    pub(super) fn witness(&mut self, batch: &Batch, foreign: bool) {
        let (from, witness) = (self.config.from, &self.config.witness);
        let mut reading = self.reading;
        // Those of one transaction.
        let mut strange: Vec<&Arc<Relation>> = Vec::new();
        let mut rows = 0;
        for event in &batch.events {
            match event {
                Event::Begin { transaction, .. } => reading = Some(*transaction),
                Event::Row { relation, change } => {
                    if foreign {
                        strange.push(relation);
                        reading.iter().for_each(|t| witness.foreign(from, *t, relation));
                    }
                    witness.row(from, relation, change, foreign);
                }
                Event::Truncate { relations, .. } => {
                    for relation in relations {
                        if foreign {
                            strange.push(relation);
                            reading.iter().for_each(|t| witness.foreign(from, *t, relation));
                        }
                        witness.truncated(from, relation, foreign);
                    }
                }
                // The alarm was raised when it came the first time.
                Event::Commit { position }
                    if self.told.as_ref().is_some_and(|told| told.covers(position) == Ok(true)) =>
                {
                    strange.clear();
                }
                Event::Commit { .. } => rows += self.count_foreign(&mut strange),
                _ => {}
            }
        }
        rows += self.count_foreign(&mut strange);
        self.reading = reading;
        if rows > 0 {
            let total = self.state.foreign.fetch_add(rows, Ordering::Relaxed) + rows;
            tracing::error!(
                side = %from, rows, total,
                "CUT0701: somebody wrote to {from}, which does not own the writes"
            );
        }
    }

    fn count_foreign(&self, strange: &mut Vec<&Arc<Relation>>) -> u64 {
        strange.drain(..).map(|relation| self.state.foreign_in(&relation.name)).count() as u64
    }
}
