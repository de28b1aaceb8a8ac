//! What full passes and comparisons of changed rows have found out about the pairs.

use std::collections::{BTreeMap, BTreeSet};

use cutover_core::model::{digest::RowKey, position::Position};

use crate::verify::{How, TableReport, full::NAMED, recent::Step};

#[derive(Default)]
pub(super) struct Known {
    /// Where both sides stood when the last pair was compared as a whole for the first time.
    pub(super) position: Option<Position>,
    /// Rows of each pair when all of them were compared.
    pub(super) rows: Vec<u64>,
    /// Pairs that were never compared as a whole, or are not what they were.
    pub(super) owed: BTreeSet<usize>,
    /// How, and when that was noted, by pair; none is empty.
    pub(super) different: BTreeMap<usize, BTreeMap<RowKey, (How, u64)>>,
    /// Pairs with more differences than have names, how many have none, and when that was noted. Only
    /// a full pass says that they are equal again.
    pub(super) many: BTreeMap<usize, (u64, u64)>,
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
        let named = self.different.values().map(|keys| keys.len() as u64);
        named.chain(self.many.values().map(|(unnamed, _)| *unnamed)).sum()
    }

    /// Whether rows of it with names differ.
    pub(super) fn is_named(&self, pair: usize) -> bool {
        self.different.contains_key(&pair)
    }

    /// Pairs with rows that differ.
    pub(super) fn pairs(&self) -> BTreeSet<usize> {
        self.different.keys().chain(self.many.keys()).copied().collect()
    }

    /// Those of these pairs with rows that differ, and the keys of such rows; none where not all of
    /// them have names.
    pub(super) fn keys_in(&self, chosen: &[usize]) -> BTreeMap<usize, Option<Vec<RowKey>>> {
        let of = |i: &usize| {
            if self.many.contains_key(i) {
                return Some((*i, None));
            }
            Some((*i, Some(self.different.get(i)?.keys().cloned().collect())))
        };
        chosen.iter().filter_map(of).collect()
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
        let mut keys = self.different.remove(&pair).unwrap_or_default();
        keys.retain(|_, (_, noted)| *noted > since);
        for d in &table.differences {
            keys.entry(d.key.clone()).or_insert((d.how, since));
        }
        if !keys.is_empty() {
            self.different.insert(pair, keys);
        }
        let newer = self.many.remove(&pair).filter(|(_, noted)| *noted > since);
        let unnamed = table.different.saturating_sub(table.differences.len() as u64);
        match newer {
            Some((more, noted)) => _ = self.many.insert(pair, (more.max(unnamed), noted)),
            None if unnamed > 0 => _ = self.many.insert(pair, (unnamed, since)),
            None => {}
        }
        self.rows[pair] = table.blue_rows.max(table.green_rows);
        match self.stepped.get(&pair).is_some_and(|stepped| *stepped > since) {
            true => table.differences.iter().map(|d| d.key.clone()).collect(),
            false => Vec::new(),
        }
    }

    /// What a step found. Where every row that changes differs, most have no name.
    pub(super) fn note(&mut self, step: Step) {
        let now = self.now();
        self.forget(&step, now);
        for (pair, d) in step.different {
            let keys = self.different.entry(pair).or_default();
            if keys.len() < NAMED {
                keys.insert(d.key, (d.how, now));
            } else {
                let (unnamed, noted) = self.many.entry(pair).or_default();
                (*unnamed, *noted) = (*unnamed + 1, now);
            }
        }
    }

    /// What was just compared is known anew.
    fn forget(&mut self, step: &Step, now: u64) {
        for (pair, compared) in &step.compared {
            self.stepped.insert(*pair, now);
            let Some(keys) = self.different.get_mut(pair) else { continue };
            compared.iter().for_each(|key| _ = keys.remove(key));
            if keys.is_empty() {
                self.different.remove(pair);
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
        known.different.values().flatten().map(|(key, _)| format!("{key:?}")).collect()
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
        // A repair replaces the whole of it.
        assert_eq!(known.keys_in(&[0, 1]), [(1, None)].into_iter().collect());
        let since = known.now();
        known.learn(1, &report(&[], 0), &at(), (since, true));
        assert!(known.pairs().is_empty());
    }

    /// A trigger on green changes every row that comes.
    #[test]
    fn rows_that_steps_find_have_names_as_long_as_they_are_few() {
        let mut known = known();
        for n in 0..25 {
            let ids: Vec<String> = (0..1000).map(|id| format!("{n} {id}")).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            known.note(step(&ids, &ids));
            if n == 12 {
                assert!(known.many.is_empty());
            }
        }
        assert_eq!((known.different[&1].len(), known.count()), (NAMED, 25_000));
        assert!(known.is_named(1) && known.many.contains_key(&1));
        let since = known.now();
        known.note(step(&["late"], &["late"]));
        known.learn(1, &report(&[], 0), &at(), (since, true));
        assert_eq!(
            known.pairs().into_iter().collect::<Vec<_>>(),
            [1],
            "it was found while it read"
        );
        let since = known.now();
        known.learn(1, &report(&[], 0), &at(), (since, true));
        assert_eq!((known.count(), known.is_named(1)), (0, false));
        assert!(known.pairs().is_empty());
    }
}
