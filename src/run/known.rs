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
    /// How, and when that was noted.
    pub(super) different: BTreeMap<(usize, RowKey), (How, u64)>,
    /// Pairs with more differences than have names, and how many have none. Only a full pass says
    /// that they are equal again.
    pub(super) many: BTreeMap<usize, u64>,
    /// Counts what is noted, so that a pass can tell what was found while it read.
    pub(super) clock: u64,
    /// When changed rows of a pair were last compared, and when the pass began that said last what
    /// its rows are.
    pub(super) stepped: BTreeMap<usize, u64>,
    pub(super) learned: BTreeMap<usize, u64>,
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

    /// A moment: what is noted from here on is later.
    pub(super) fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// How many rows differ, those without names included.
    pub(super) fn count(&self) -> u64 {
        self.different.len() as u64 + self.many.values().sum::<u64>()
    }

    /// Whether rows of it with names differ.
    pub(super) fn is_named(&self, pair: usize) -> bool {
        let first = |pair| (pair, RowKey(Vec::new()));
        self.different.range(first(pair)..first(pair + 1)).next().is_some()
    }

    /// Pairs with rows that differ.
    pub(super) fn pairs(&self) -> BTreeSet<usize> {
        self.different.keys().map(|(pair, _)| *pair).chain(self.many.keys().copied()).collect()
    }

    /// What a full pass at `position` said of a pair, which began at the moment `since`. What was
    /// noted while it read is newer than what it saw, and stays. Returns keys that it says differ and
    /// that somebody may have found otherwise since: they are to be compared again.
    pub(super) fn learn(
        &mut self,
        pair: usize,
        table: &TableReport,
        position: &Position,
        (since, all): (u64, bool),
    ) -> Vec<RowKey> {
        if self.owed.remove(&pair) || all {
            self.position = Some(position.clone());
        }
        if self.learned.get(&pair).is_some_and(|newer| *newer > since) {
            return Vec::new();
        }
        self.learned.insert(pair, since);
        let first = |pair| (pair, RowKey(Vec::new()));
        let known = self.different.range(first(pair)..first(pair + 1));
        let older = known.filter(|(_, (_, noted))| *noted <= since);
        let older: Vec<(usize, RowKey)> = older.map(|(key, _)| key.clone()).collect();
        older.iter().for_each(|key| _ = self.different.remove(key));
        for d in &table.differences {
            self.different.entry((pair, d.key.clone())).or_insert((d.how, since));
        }
        match table.different.saturating_sub(table.differences.len() as u64) {
            0 => self.many.remove(&pair),
            unnamed => self.many.insert(pair, unnamed),
        };
        self.rows[pair] = table.blue_rows.max(table.green_rows);
        match self.stepped.get(&pair).is_some_and(|stepped| *stepped > since) {
            true => table.differences.iter().map(|d| d.key.clone()).collect(),
            false => Vec::new(),
        }
    }

    /// What a step found.
    pub(super) fn note(&mut self, step: Step) {
        let now = self.now();
        self.forget(&step, now);
        for (pair, d) in step.different {
            self.different.insert((pair, d.key), (d.how, now));
        }
    }

    /// What was just compared is known anew.
    fn forget(&mut self, step: &Step, now: u64) {
        for (pair, keys) in &step.compared {
            self.stepped.insert(*pair, now);
            if self.different.is_empty() {
                continue;
            }
            for key in keys {
                self.different.remove(&(*pair, key.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cutover_core::model::schema::TableName;

    use super::*;
    use crate::verify::{Difference, Verdict};

    fn key(id: &str) -> RowKey {
        RowKey(vec![id.into()])
    }

    fn known() -> Known {
        Known { rows: vec![0; 2], ..Known::default() }
    }

    fn report(different: &[&str], unnamed: u64) -> TableReport {
        let differences = different.iter().map(|id| Difference { key: key(id), how: How::Values });
        let count = different.len() as u64 + unnamed;
        TableReport {
            table: TableName::new("s", "t"),
            blue_rows: 9,
            green_rows: 9,
            different: count,
            differences: differences.collect(),
            verdict: if count > 0 { Verdict::Different } else { Verdict::Equal },
        }
    }

    fn step(compared: &[&str], different: &[&str]) -> Step {
        let differences = different.iter().map(|id| Difference { key: key(id), how: How::Values });
        Step {
            compared: [(1, compared.iter().map(|id| key(id)).collect())].into_iter().collect(),
            different: differences.map(|d| (1, d)).collect(),
            ..Step::default()
        }
    }

    fn at() -> Position {
        Position::Postgres { timeline: 1, lsn: 1 }
    }

    fn names(known: &Known) -> Vec<String> {
        known.different.keys().map(|(_, key)| format!("{key:?}")).collect()
    }

    #[test]
    fn what_is_found_while_a_pass_reads_outlives_it() {
        let mut known = known();
        known.note(step(&["old"], &["old"]));
        let since = known.now();
        // Past the fence, on the other side of what the pass has seen.
        known.note(step(&["new"], &["new"]));
        let again = known.learn(1, &report(&["mended"], 0), &at(), (since, true));
        assert_eq!(names(&known), [format!("{:?}", key("mended")), format!("{:?}", key("new"))]);
        assert_eq!(again, [key("mended")], "somebody may have mended it since");
        // A pass that began before it, and ends behind it, says nothing new.
        known.learn(1, &report(&[], 0), &at(), (since - 1, true));
        assert_eq!(known.count(), 2);
        let since = known.now();
        assert_eq!(known.learn(1, &report(&[], 0), &at(), (since, true)), []);
        assert_eq!(known.count(), 0);
    }

    #[test]
    fn rows_without_names_differ_until_a_pass_says_otherwise() {
        let mut known = known();
        let since = known.now();
        known.learn(1, &report(&["a"], 5), &at(), (since, true));
        assert_eq!(known.count(), 6);
        known.note(step(&["a"], &[]));
        assert_eq!((known.count(), known.is_named(1)), (5, false));
        assert!(known.pairs().contains(&1));
        let since = known.now();
        known.learn(1, &report(&[], 0), &at(), (since, true));
        assert!(known.pairs().is_empty());
    }
}
