//! What others wrote where nobody may: counted per table, until a comparison finds it harmless.

use std::collections::BTreeMap;

use cutover_core::model::{schema::TableName, side::Side};

use super::{live::Live, status::Alarm};
use crate::transform::Pair;

/// Rows per table of blue and of green.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Foreign([BTreeMap<TableName, u64>; 2]);

impl Foreign {
    fn of(&self, side: Side) -> &BTreeMap<TableName, u64> {
        &self.0[side.index()]
    }

    /// Tables with more rows of a side than are `known`, and all of those rows.
    fn beyond(&self, known: &Self, side: Side) -> (Vec<&TableName>, u64) {
        let known = known.of(side);
        let more = self.of(side).iter().filter_map(|(table, rows)| {
            let rows = rows.saturating_sub(known.get(table).copied().unwrap_or(0));
            (rows > 0).then_some((table, rows))
        });
        more.fold((Vec::new(), 0), |(mut tables, all), (table, rows)| {
            tables.push(table);
            (tables, all + rows)
        })
    }

    /// Knows what was `before` a comparison in which these pairs were equal; all of it for `None`.
    fn accept(&mut self, before: &Self, equal: Option<&[&Pair]>) {
        for (side, tables) in [(Side::Blue, &before.0[0]), (Side::Green, &before.0[1])] {
            let held = |table: &TableName| {
                let of = |pair: &&Pair| {
                    let all = if side == Side::Blue { &pair.blue } else { &pair.green };
                    all.iter().any(|t| t.name == *table)
                };
                equal.is_none_or(|pairs| pairs.iter().any(of))
            };
            let harmless = tables.iter().filter(|(table, _)| held(table));
            self.0[side.index()].extend(harmless.map(|(table, rows)| (table.clone(), *rows)));
        }
    }
}

impl Live {
    /// Rows that others wrote so far on blue and on green, where nobody may.
    pub(super) fn foreign(&self) -> Foreign {
        Foreign([Side::Blue, Side::Green].map(|side| self.pipes.from(side).view().foreign_tables))
    }

    /// These pairs were compared and are equal: what others wrote to them before does no harm any
    /// more.
    pub(super) fn foreign_is_harmless(&self, before: &Foreign, chosen: &[usize]) {
        let pairs: Vec<&Pair> = chosen.iter().map(|i| &self.proof.pairs[*i]).collect();
        let all = chosen.len() == self.proof.pairs();
        self.state().foreign_known.accept(before, (!all).then_some(&pairs));
    }

    pub(super) fn foreign_alarm(&self, side: Side) -> Option<Alarm> {
        let (now, known) = (self.foreign(), self.state().foreign_known.clone());
        let (tables, rows) = now.beyond(&known, side);
        let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
        (rows > 0).then(|| Alarm {
            code: "CUT0701".into(),
            what: format!(
                "{rows} row(s) of {} were written on {side} by somebody else while {} owned the \
                 writes",
                names.join(", "),
                side.other()
            ),
            remedy:
                "find out who writes there; `cutover verify` shows what differs (with --table, \
                     these tables alone), and `--repair` makes it equal to the owner"
                    .into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::ledger::tests::pair;

    fn name(n: &str) -> TableName {
        TableName::new("s", n)
    }

    fn green(rows: &[(&str, u64)]) -> Foreign {
        let rows = rows.iter().map(|(table, rows)| (name(table), *rows)).collect();
        Foreign([BTreeMap::new(), rows])
    }

    #[test]
    fn only_what_was_equal_is_harmless() {
        let (a, b) = (pair(name("a")), pair(name("b")));
        let before = green(&[("a", 2), ("b", 1), ("c", 5)]);
        let left = |known: &Foreign, now: &Foreign| {
            let (tables, rows) = now.beyond(known, Side::Green);
            (tables.iter().map(|t| t.name.clone()).collect::<String>(), rows)
        };
        let mut known = Foreign::default();
        assert_eq!(left(&known, &before), ("abc".into(), 8));
        known.accept(&before, Some(&[&a]));
        assert_eq!(left(&known, &before), ("bc".into(), 6));
        // What comes behind a comparison is not part of it.
        let now = green(&[("a", 3), ("b", 1), ("c", 5)]);
        assert_eq!(left(&known, &now), ("abc".into(), 7));
        known.accept(&before, Some(&[&a, &b]));
        assert_eq!(left(&known, &now), ("ac".into(), 6));
        known.accept(&now, None);
        assert_eq!(left(&known, &now), (String::new(), 0));
        assert_eq!(now.beyond(&known, Side::Blue), (vec![], 0));
    }
}
