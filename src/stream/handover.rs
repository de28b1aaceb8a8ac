//! From copied rows to live changes, per table, without a gap and without an overlap.
//!
//! A table was copied under a snapshot. A streamed transaction that the snapshot contains must be
//! skipped for that table, any other must be applied. Exact: no watermark writes, no comparison of
//! rows. For the snapshot that was exported with the slot nothing is ever skipped; for a table
//! that was copied again after a crash, under a later snapshot, this is what joins the two.
//!
//! A large table may hold ranges of its key that were copied under several snapshots. There each row
//! of a transaction is skipped or applied as the range of its key says (`parts`).

use std::collections::HashMap;

use cutover_core::model::{
    event::{Event, Relation, TransactionId},
    position::Position,
    schema::TableName,
};

pub use super::parts::{Parts, Unsure};
use super::parts::{Row, Seen};

/// Which transactions a snapshot contains: PostgreSQL's `xmin:xmax:xip,xip,...` form
/// (documentation, "Transaction ID and Snapshot Information Functions").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visibility {
    /// Every transaction before this one has ended.
    low: u64,
    /// No transaction from this one on had begun.
    high: u64,
    /// In progress when the snapshot was taken.
    running: Vec<u64>,
}

/// A snapshot text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot of the form xmin:xmax:xip_list")]
pub struct BadSnapshot(String);

impl Visibility {
    /// Reads the text form.
    ///
    /// # Errors
    ///
    /// [`BadSnapshot`].
    pub fn parse(text: &str) -> Result<Self, BadSnapshot> {
        let bad = || BadSnapshot(text.to_owned());
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|p| p.parse::<u64>().ok()).ok_or_else(bad);
        let (low, high) = (number()?, number()?);
        let list = parts.next().ok_or_else(bad)?;
        let running = list
            .split(',')
            .filter(|p| !p.is_empty())
            .map(|p| p.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        Ok(Self { low, high, running })
    }

    /// Contains every transaction.
    fn everything() -> Self {
        Self { low: u64::MAX, high: 0, running: Vec::new() }
    }

    /// Whether the snapshot contains what transaction `id` did, given that it committed.
    ///
    /// The stream carries 32 bits of the 64-bit identifier; the missing bits are those that put it
    /// nearest to the snapshot, which is right within 2^31 transactions.
    #[must_use]
    pub fn contains(&self, id: TransactionId) -> bool {
        let distance = i64::from(id.wrapping_sub(self.high as u32).cast_signed());
        let full = self.high.saturating_add_signed(distance);
        full < self.low || (full < self.high && !self.running.contains(&full))
    }
}

/// What the copy of a table contains.
#[derive(Debug, Clone)]
pub enum Copied {
    /// What one snapshot does.
    AsOne(Visibility),
    /// Ranges of its key, each what its snapshot does.
    InParts(Parts),
}

/// What of a stretch of the stream is left out, per table.
#[derive(Debug, Clone)]
struct Stretch {
    tables: HashMap<TableName, Copied>,
    /// The same by the source's own numbers: rows that are older than another name of their table
    /// come under the name that it had.
    numbers: HashMap<u32, Copied>,
    /// From here on nothing is left out.
    until: Option<Position>,
}

/// The snapshots of all tables that were copied, until the stream has passed the copy.
#[derive(Debug, Default, Clone)]
pub struct Handover {
    stretches: Vec<Stretch>,
    current: Option<TransactionId>,
}

impl Handover {
    /// By names and by numbers of the source; `until` is a position taken after the last snapshot.
    #[must_use]
    pub fn new(
        tables: HashMap<TableName, Copied>,
        numbers: HashMap<u32, Copied>,
        until: Option<Position>,
    ) -> Self {
        Self::default().and(Stretch { tables, numbers, until })
    }

    /// Leaves out as well what a copy into these tables wrote on the side that the stream reads,
    /// up to a position taken behind it.
    #[must_use]
    pub fn without(self, tables: impl IntoIterator<Item = TableName>, until: Position) -> Self {
        let all = || Copied::AsOne(Visibility::everything());
        let all = tables.into_iter().map(|table| (table, all())).collect();
        self.and(Stretch { tables: all, numbers: HashMap::new(), until: Some(until) })
    }

    fn and(mut self, stretch: Stretch) -> Self {
        if !stretch.tables.is_empty() {
            self.stretches.push(stretch);
        }
        self
    }

    /// The positions from which on nothing is left out; they get the names that they have in the
    /// source's history now.
    pub fn untils(&mut self) -> impl Iterator<Item = &mut Position> {
        self.stretches.iter_mut().filter_map(|s| s.until.as_mut())
    }

    /// Everything up to here is passed, also when it was before the stream was opened.
    pub fn pass(&mut self, position: &Position) {
        self.stretches.retain(|stretch| {
            !stretch.until.as_ref().is_some_and(|u| position.covers(u) == Ok(true))
        });
    }

    /// Whether nothing is skipped any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stretches.is_empty()
    }

    /// Whether the event must be applied. Has to see every event in order. Of a statement that
    /// emptied several tables those are left that were not copied since, and of a row that went from
    /// one part of a table to another what concerns the part that does not contain it.
    ///
    /// # Errors
    ///
    /// It cannot be said of a table in parts: it has to be copied as a whole.
    pub fn keep(&mut self, event: &mut Event) -> Result<bool, Unsure> {
        if self.stretches.is_empty() {
            return Ok(true);
        }
        match event {
            Event::Begin { transaction, .. } => {
                self.current = Some(*transaction);
                Ok(true)
            }
            Event::Row { relation, change } => match self.in_parts(relation) {
                None => Ok(!self.copied(relation)),
                Some((parts, id)) => match parts.row(id, relation, change)? {
                    Row::Left => Ok(false),
                    Row::Kept => Ok(true),
                    Row::Becomes(another) => {
                        *change = another;
                        Ok(true)
                    }
                },
            },
            Event::Truncate { relations, others, .. } => {
                if let Some((parts, _)) = relations.iter().find_map(|r| self.in_parts(r)) {
                    return Err(parts.unsure());
                }
                let all = relations.len();
                relations.retain(|r| !self.copied(r));
                *others |= relations.len() < all;
                Ok(!relations.is_empty())
            }
            Event::Commit { position } | Event::Idle { position } => {
                self.pass(position);
                Ok(true)
            }
            Event::Definition { .. }
            | Event::Message { .. }
            | Event::Large { .. }
            | Event::InProgress { .. }
            | Event::RolledBack { .. } => Ok(true),
        }
    }

    /// Whether all of the table's copy contains the current transaction.
    fn copied(&self, relation: &Relation) -> bool {
        let Some(id) = self.current else { return false };
        self.of(relation).any(|copied| match copied {
            Copied::AsOne(snapshot) => snapshot.contains(id),
            Copied::InParts(parts) => parts.seen(id) == Seen::Everywhere,
        })
    }

    /// The parts of a table that differ in whether they contain the current transaction.
    fn in_parts<'a>(&'a self, relation: &'a Relation) -> Option<(&'a Parts, TransactionId)> {
        let id = self.current?;
        if self.copied(relation) {
            return None;
        }
        self.of(relation).find_map(|copied| match copied {
            Copied::InParts(parts) if parts.seen(id) == Seen::Partly => Some((parts, id)),
            _ => None,
        })
    }

    fn of<'a>(&'a self, relation: &'a Relation) -> impl Iterator<Item = &'a Copied> {
        self.stretches.iter().flat_map(|stretch| {
            [stretch.tables.get(&relation.name), stretch.numbers.get(&relation.id)]
                .into_iter()
                .flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn relation(id: u32, n: &str) -> Relation {
        let (name, columns) = (TableName::new("s", n), Vec::new());
        Relation { id, name, columns, full_identity: false }
    }

    fn as_one(snapshot: &str) -> Copied {
        Copied::AsOne(Visibility::parse(snapshot).unwrap())
    }

    #[test]
    fn contains_what_had_committed() {
        let s = Visibility::parse("100:105:101,103").unwrap();
        for (id, want) in
            [(99, true), (100, true), (101, false), (102, true), (103, false), (104, true)]
        {
            assert_eq!(s.contains(id), want, "{id}");
        }
        assert!(!s.contains(105));
        assert!(!s.contains(5000));
    }

    #[test]
    fn each_stretch_has_its_own_end() {
        let at = |lsn| Position::Postgres { timeline: 1, lsn };
        let name = |n: &str| TableName::new("s", n);
        let copied = HashMap::from([(name("a"), as_one("9:9:"))]);
        let mut handover = Handover::new(copied, HashMap::new(), Some(at(50)))
            .without([name("b")], at(20))
            .without([], at(70));
        handover.keep(&mut Event::Begin { transaction: 5, committed_at: 0 }).unwrap();
        assert!(handover.copied(&relation(1, "a")) && handover.copied(&relation(1, "b")));
        assert!(!handover.copied(&relation(1, "c")));
        handover.keep(&mut Event::Commit { position: at(20) }).unwrap();
        handover.keep(&mut Event::Begin { transaction: 8, committed_at: 0 }).unwrap();
        assert!(handover.copied(&relation(1, "a")) && !handover.copied(&relation(1, "b")));
        handover.keep(&mut Event::Begin { transaction: 9, committed_at: 0 }).unwrap();
        assert!(!handover.copied(&relation(1, "a")));
        handover.untils().for_each(|until| *until = at(60));
        handover.keep(&mut Event::Idle { position: at(55) }).unwrap();
        assert!(!handover.is_over());
        handover.keep(&mut Event::Idle { position: at(60) }).unwrap();
        assert!(handover.is_over());
    }

    #[test]
    fn what_was_copied_behind_it_is_not_emptied_with_others() {
        let emptied = |names: &[&str]| Event::Truncate {
            relations: names.iter().map(|n| Arc::new(relation(1, n))).collect(),
            others: false,
            cascade: false,
            restart_identity: false,
        };
        let copied = HashMap::from([(TableName::new("s", "b"), as_one("9:9:"))]);
        let mut handover = Handover::new(copied, HashMap::new(), None);
        let mut left = |transaction, names: &[&str]| {
            handover.keep(&mut Event::Begin { transaction, committed_at: 0 }).unwrap();
            let mut event = emptied(names);
            let kept = handover.keep(&mut event).unwrap();
            let Event::Truncate { relations, others, .. } = event else { unreachable!() };
            let names: Vec<_> = relations.iter().map(|r| r.name.name.clone()).collect();
            assert_eq!(kept, !names.is_empty());
            (names.concat(), others)
        };
        assert_eq!(left(5, &["a", "b", "c"]), ("ac".into(), true));
        assert_eq!(left(5, &["a", "c"]), ("ac".into(), false));
        assert_eq!(left(5, &["b"]).0, "");
        assert_eq!(left(9, &["a", "b"]), ("ab".into(), false), "behind the copy");
    }

    #[test]
    fn a_table_that_had_another_name_is_the_same_table() {
        let copied = HashMap::from([(TableName::new("s", "new"), as_one("9:9:"))]);
        let mut handover = Handover::new(copied, HashMap::from([(7, as_one("9:9:"))]), None);
        handover.keep(&mut Event::Begin { transaction: 5, committed_at: 0 }).unwrap();
        assert!(handover.copied(&relation(7, "old")) && handover.copied(&relation(7, "new")));
        assert!(!handover.copied(&relation(8, "old")));
        handover.keep(&mut Event::Begin { transaction: 9, committed_at: 0 }).unwrap();
        assert!(!handover.copied(&relation(7, "old")), "not in the copy");
    }

    /// A stream that is opened again behind a copy begins with a transaction, not with a position.
    #[test]
    fn what_was_passed_before_a_new_connection_is_over() {
        let at = |lsn| Position::Postgres { timeline: 1, lsn };
        let name = TableName::new("s", "b");
        let mut handover = Handover::default().without([name.clone()], at(20));
        handover.pass(&at(19));
        handover.keep(&mut Event::Begin { transaction: 8, committed_at: 0 }).unwrap();
        assert!(handover.copied(&relation(1, "b")));
        handover.pass(&at(20));
        assert!(!handover.copied(&relation(1, "b")) && handover.is_over());
    }

    #[test]
    fn epochs_and_wraparound() {
        // Snapshot just after the 32-bit counter wrapped for the first time.
        let s = Visibility::parse("4294967306:4294967310:4294967307").unwrap();
        assert!(s.contains(u32::MAX), "before the wrap");
        assert!(!s.contains(11));
        assert!(s.contains(12));
        assert!(!s.contains(14));
    }

    #[test]
    fn refuses_what_is_no_snapshot() {
        for bad in ["", "1", "1:2", "a:b:", "1:2:x"] {
            assert!(Visibility::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Visibility::parse("10:10:").is_ok());
    }
}
