//! Counters that the command line, the page and the logs share.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use cutover_core::model::schema::TableName;
use serde::{Deserialize, Serialize};

/// How far one table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableState {
    /// Its turn has not come.
    Waiting,
    /// Rows are being copied.
    Copying,
    /// All rows are committed.
    Done,
}

/// One table of the copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProgress {
    /// Its name on green.
    pub table: String,
    /// How far it is.
    pub state: TableState,
    /// Rows committed by this process.
    pub rows: u64,
    /// Rows as the planner estimates them.
    pub estimated_rows: u64,
    /// Bytes read by this process, in the form they travel in.
    pub bytes: u64,
    /// Size on blue's disk.
    pub size: u64,
    /// What is there of an earlier attempt; `None` of a copy that began anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

/// Ranges of a table that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// How many.
    pub ranges: u64,
    /// Of how many.
    pub of: u64,
    /// Rows in them.
    pub rows: u64,
}

/// All tables together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CopySum {
    /// Tables.
    pub tables: u64,
    /// Those whose rows are all there.
    pub done: u64,
    /// Rows committed by this process.
    pub rows: u64,
    /// Bytes read by this process.
    pub bytes: u64,
}

/// Tables that a look names.
const NAMED: usize = 200;

/// A look at the copy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// What is being done, in words.
    pub doing: String,
    /// Sums over all tables.
    pub all: CopySum,
    /// Tables by name; of more than 200 those under way, then those that wait, the largest first.
    pub tables: Vec<TableProgress>,
    /// Bytes read per second since the copy began.
    pub bytes_per_second: f64,
    /// Rows committed per second since the copy began.
    pub rows_per_second: f64,
    /// Seconds to go, by estimated rows; `None` when nobody can tell.
    pub eta_seconds: Option<f64>,
}

/// Shared counters of a run.
#[derive(Debug, Default)]
pub struct Progress {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    doing: String,
    tables: BTreeMap<TableName, TableProgress>,
    began: Option<Instant>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is being done now.
    pub fn say(&self, doing: &str) {
        tracing::info!("{doing}");
        doing.clone_into(&mut self.lock().doing);
    }

    /// Announces a table.
    pub fn expect(&self, table: &TableName, estimated_rows: u64, size: u64) {
        self.lock().tables.insert(
            table.clone(),
            TableProgress {
                table: table.to_string(),
                state: TableState::Waiting,
                rows: 0,
                estimated_rows,
                bytes: 0,
                size,
                kept: None,
            },
        );
    }

    fn change(&self, table: &TableName, change: impl FnOnce(&mut TableProgress)) {
        let mut inner = self.lock();
        inner.began.get_or_insert_with(Instant::now);
        if let Some(t) = inner.tables.get_mut(table) {
            change(t);
        }
    }

    /// Bytes of a table were read.
    pub fn bytes(&self, table: &TableName, bytes: u64) {
        self.change(table, |t| {
            t.state = TableState::Copying;
            t.bytes += bytes;
        });
    }

    /// The copy of a table goes on with so many of its ranges, and rows in them, there already.
    pub fn kept(&self, table: &TableName, ranges: u64, of: u64, rows: u64) {
        if let Some(t) = self.lock().tables.get_mut(table) {
            t.kept = Some(Kept { ranges, of, rows });
        }
    }

    /// Rows of a table were committed.
    pub fn rows(&self, table: &TableName, rows: u64) {
        self.change(table, |t| t.rows += rows);
    }

    /// All rows of a table are committed.
    pub fn done(&self, table: &TableName) {
        self.change(table, |t| t.state = TableState::Done);
    }

    /// A look at it.
    #[must_use]
    pub fn view(&self) -> CopyProgress {
        let inner = self.lock();
        let seconds = inner.began.map_or(0.0, |at| at.elapsed().as_secs_f64());
        let per_second = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let (mut all, mut left) = (CopySum::default(), 0);
        for t in inner.tables.values() {
            all.tables += 1;
            all.rows += t.rows;
            all.bytes += t.bytes;
            if t.state == TableState::Done {
                all.done += 1;
            } else {
                let kept = t.kept.map_or(0, |kept| kept.rows);
                left += t.estimated_rows.saturating_sub(t.rows + kept);
            }
        }
        let rows_per_second = per_second(all.rows);
        CopyProgress {
            doing: inner.doing.clone(),
            all,
            tables: named(inner.tables.values()),
            bytes_per_second: per_second(all.bytes),
            rows_per_second,
            eta_seconds: (rows_per_second > 0.0).then(|| left as f64 / rows_per_second),
        }
    }
}

/// The tables to name, in the order of `tables`.
fn named<'a>(tables: impl Iterator<Item = &'a TableProgress>) -> Vec<TableProgress> {
    let mut some: Vec<(usize, &TableProgress)> = tables.enumerate().collect();
    if some.len() > NAMED {
        some.sort_by_key(|(_, t)| {
            let turn = match t.state {
                TableState::Copying => 0,
                TableState::Waiting => 1,
                TableState::Done => 2,
            };
            (turn, std::cmp::Reverse(t.size))
        });
        some.truncate(NAMED);
        some.sort_by_key(|(i, _)| *i);
    }
    some.into_iter().map(|(_, t)| t.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_tables_those_that_matter_are_named_and_all_are_counted() {
        let progress = Progress::default();
        let name = |i: u64| TableName::new("s", format!("t{i:05}"));
        for i in 0..10_000 {
            progress.expect(&name(i), 1, i);
            if i != 5 {
                progress.done(&name(i));
            }
        }
        progress.bytes(&name(5), 7);
        let view = progress.view();
        assert_eq!(view.all, CopySum { tables: 10_000, done: 9_999, rows: 0, bytes: 7 });
        assert_eq!((view.tables.len(), &*view.tables[0].table), (NAMED, "s.t00005"));
        assert_eq!(view.tables[1].table, "s.t09801");
    }

    #[test]
    fn counts_per_table_and_estimates_the_rest() {
        let progress = Progress::default();
        let (a, b) = (TableName::new("s", "a"), TableName::new("s", "b"));
        progress.expect(&a, 10, 100);
        progress.expect(&b, 10, 100);
        assert_eq!(progress.view().eta_seconds, None, "nobody can tell yet");
        progress.bytes(&a, 50);
        progress.rows(&a, 10);
        progress.done(&a);
        let view = progress.view();
        assert_eq!(
            (view.tables[0].state, view.tables[1].state),
            (TableState::Done, TableState::Waiting)
        );
        assert!(view.eta_seconds.is_some_and(|s| s > 0.0));
    }
}
