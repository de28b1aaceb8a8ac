//! Are the two sides equal?
//!
//! - [`full`]: every row at one position, by digests computed in the servers.
//! - [`ledger`]: the keys that changed since.
//! - [`recent`]: compares those keys again, all the time and behind the fence.
//! - [`tail`]: what came since at the ends of tables that only grow.
//! - [`pace`]: how often.
//! - [`reading`]: how far.
//! - [`saved`]: what is proven, for the next process.
//! - [`compare`], pure.
//!
//! Both together are a [`Certificate`]: every row was equal at the position of the full pass, and
//! every row that changed since was compared after its last change. Reports name tables and
//! counts; keys only where the user asked for them; values never.

pub mod compare;
pub mod full;
pub mod ledger;
pub mod pace;
pub mod reading;
pub mod recent;
pub mod saved;
pub mod tail;

use cutover_core::model::{digest::RowKey, position::Position, schema::TableName};
use serde::{Deserialize, Serialize};

/// The answer. "Could not tell" is not "different".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything was compared and is equal.
    Equal,
    /// At least one row differs.
    Different,
    /// The comparison did not finish; nothing is proven.
    Inconclusive,
}

impl Verdict {
    /// The verdict over two parts.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Different, _) | (_, Self::Different) => Self::Different,
            (Self::Inconclusive, _) | (_, Self::Inconclusive) => Self::Inconclusive,
            _ => Self::Equal,
        }
    }
}

/// How one row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// Blue has it, green does not.
    OnlyBlue,
    /// Green has it, blue does not.
    OnlyGreen,
    /// Both have it, with other values.
    Values,
}

/// One row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its key.
    pub key: RowKey,
    /// How.
    pub how: How,
}

/// What was found out about one pair of tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// The table.
    pub table: TableName,
    /// Rows on blue.
    pub blue_rows: u64,
    /// Rows on green.
    pub green_rows: u64,
    /// Rows that differ; at least so many where too many would have to be read to tell.
    pub different: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// The answer.
    pub verdict: Verdict,
}

/// One full pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassReport {
    /// The position both sides were read at.
    pub position: Position,
    /// Per table.
    pub tables: Vec<TableReport>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The answer over all tables.
    pub verdict: Verdict,
}

impl PassReport {
    /// Rows on the side that has more, over all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|t| t.blue_rows.max(t.green_rows)).sum()
    }

    /// Takes what another pass, later, found of those tables that stand at `places` here, in their
    /// order.
    pub fn replace(&mut self, places: &[usize], later: Self) {
        for (place, table) in places.iter().zip(later.tables) {
            self.tables[*place] = table;
        }
        self.took_ms += later.took_ms;
        self.verdict = self.tables.iter().fold(Verdict::Equal, |v, t| v.and(t.verdict));
    }

    /// Rows that differ.
    #[must_use]
    pub fn different(&self) -> u64 {
        self.tables.iter().map(|t| t.different).sum()
    }
}

/// Proof that green equals blue at the position of a move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Position of the full pass; `None` when none has finished.
    pub full_pass: Option<Position>,
    /// Rows compared by it.
    pub rows: u64,
    /// Tables compared by it.
    pub tables: u64,
    /// Changed rows that were compared again since.
    pub changed_rows: u64,
    /// Of those, behind the fence.
    pub behind_fence: u64,
    /// Tables without a key whose later changes were applied strictly, but not compared again: more
    /// than rows that came at their ends.
    pub unproven: Vec<TableName>,
    /// Tables with rows that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub different: Vec<TableName>,
    /// The answer.
    pub verdict: Verdict,
}
