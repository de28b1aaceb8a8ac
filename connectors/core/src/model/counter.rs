//! Sequences and auto-increment counters.

use serde::{Deserialize, Serialize};

use super::schema::TableName;

/// The state of one counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Schema and name of the sequence, or of the table for auto-increment.
    pub name: TableName,
    /// Last value handed out, or the start value when none was.
    pub last_value: i64,
    /// Whether `last_value` has been handed out already.
    pub is_called: bool,
    /// Step; negative for a descending counter. Never 0.
    pub increment: i64,
    /// Whether it starts again at its bound.
    pub cycle: bool,
}

impl Counter {
    /// Whether `self` is at or past `other` in the direction of the counter, so that setting it
    /// back to `other` would hand out values twice.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let ahead = if self.increment >= 0 {
            self.last_value > other.last_value
        } else {
            self.last_value < other.last_value
        };
        ahead || (self.last_value == other.last_value && (self.is_called || !other.is_called))
    }

    /// The value it hands out next, but for its bounds.
    #[must_use]
    pub fn next(&self) -> i64 {
        if self.is_called {
            self.last_value.saturating_add(self.increment)
        } else {
            self.last_value
        }
    }
}
