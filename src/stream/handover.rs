//! From copied rows to live changes, per table, without a gap and without an overlap.
//!
//! A table was copied under a snapshot. A streamed transaction that the snapshot contains must be
//! skipped for that table, any other must be applied. Exact: no watermark writes, no comparison of
//! rows. For the snapshot that was exported with the slot nothing is ever skipped; for a table
//! that was copied again after a crash, under a later snapshot, this is what joins the two.

use std::collections::HashMap;

use cutover_core::model::{
    event::{Event, TransactionId},
    position::Position,
    schema::TableName,
};

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

/// The snapshots of all tables that were copied, until the stream has passed the copy.
#[derive(Debug, Default, Clone)]
pub struct Handover {
    tables: HashMap<TableName, Visibility>,
    /// From here on no transaction can be contained in any snapshot.
    until: Option<Position>,
    current: Option<TransactionId>,
}

impl Handover {
    /// `until` is a position taken after the last snapshot.
    #[must_use]
    pub fn new(tables: HashMap<TableName, Visibility>, until: Option<Position>) -> Self {
        Self { tables, until, current: None }
    }

    /// From here on no transaction can be contained in any snapshot.
    #[must_use]
    pub fn until(&self) -> Option<&Position> {
        self.until.as_ref()
    }

    /// The same place under the name it has in the source's history now.
    pub fn rebase(&mut self, until: Position) {
        self.until = Some(until);
    }

    /// Whether nothing is skipped any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.tables.is_empty()
    }

    /// Whether the event must be applied. Has to see every event in order.
    pub fn keep(&mut self, event: &Event) -> bool {
        if self.tables.is_empty() {
            return true;
        }
        match event {
            Event::Begin { transaction, .. } => {
                self.current = Some(*transaction);
                true
            }
            Event::Row { relation, .. } => !self.copied(&relation.name),
            Event::Truncate { relations, .. } => !relations.iter().all(|r| self.copied(&r.name)),
            Event::Commit { position } | Event::Idle { position } => {
                if let Some(until) = &self.until
                    && position.covers(until) == Ok(true)
                {
                    self.tables.clear();
                }
                true
            }
            Event::Definition { .. }
            | Event::Message { .. }
            | Event::Large { .. }
            | Event::InProgress { .. }
            | Event::RolledBack { .. } => true,
        }
    }

    fn copied(&self, table: &TableName) -> bool {
        match (self.current, self.tables.get(table)) {
            (Some(id), Some(snapshot)) => snapshot.contains(id),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
