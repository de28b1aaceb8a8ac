//! What full passes and comparisons of changed rows have found out about the pairs.

use std::collections::{BTreeMap, BTreeSet};

use cutover_core::model::{digest::RowKey, position::Position};

use crate::verify::{How, TableReport, recent::Step};

#[derive(Default)]
pub(super) struct Known {
    /// Where both sides stood when the last pair was compared as a whole for the first time.
    pub(super) position: Option<Position>,
    /// Rows of each pair when all of them were compared.
    pub(super) rows: Vec<u64>,
    /// Pairs that were never compared as a whole, or are not what they were.
    pub(super) owed: BTreeSet<usize>,
    pub(super) different: BTreeMap<(usize, RowKey), How>,
    /// Pairs with more differences than have names.
    pub(super) many: BTreeSet<usize>,
    /// Changed rows compared per second, as of the last large step.
    pub(super) rate: Option<f64>,
    /// How large pairs were when they were looked at, in bytes.
    pub(super) sizes: BTreeMap<usize, u64>,
    /// The files of every pair, blue's and green's, as they were seen last.
    pub(super) files: Vec<Option<[Vec<u64>; 2]>>,
    /// What both sides said of all of their files before these were asked for.
    pub(super) file_marks: [Option<String>; 2],
}

impl Known {
    /// Where the last pair was compared, once all of them were.
    pub(super) fn full(&self) -> Option<&Position> {
        self.position.as_ref().filter(|_| self.owed.is_empty())
    }

    /// Rows that were compared as a whole.
    pub(super) fn rows(&self) -> u64 {
        self.full().map_or(0, |_| self.rows.iter().sum())
    }

    /// What a full pass at `position` said of a pair.
    pub(super) fn learn(
        &mut self,
        pair: usize,
        table: &TableReport,
        position: &Position,
        all: bool,
    ) {
        let first = |pair| (pair, RowKey(Vec::new()));
        let known = self.different.range(first(pair)..first(pair + 1));
        let known: Vec<(usize, RowKey)> = known.map(|(key, _)| key.clone()).collect();
        known.iter().for_each(|key| _ = self.different.remove(key));
        for d in &table.differences {
            self.different.insert((pair, d.key.clone()), d.how);
        }
        if table.different > table.differences.len() as u64 {
            self.many.insert(pair);
        } else {
            self.many.remove(&pair);
        }
        self.rows[pair] = table.blue_rows.max(table.green_rows);
        if self.owed.remove(&pair) || all {
            self.position = Some(position.clone());
        }
    }

    /// What was just compared is known anew.
    pub(super) fn forget(&mut self, step: &Step) {
        if self.different.is_empty() {
            return;
        }
        for (pair, keys) in &step.compared {
            for key in keys {
                self.different.remove(&(*pair, key.clone()));
            }
        }
    }
}
