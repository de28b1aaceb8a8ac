//! Places in a change log.

use serde::{Deserialize, Serialize};

/// A place in a source's change log, always at a transaction boundary.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// PostgreSQL: end of a commit record on one timeline.
    Postgres {
        /// Timeline of the write-ahead log.
        timeline: u32,
        /// Byte position of the end of the commit record.
        lsn: u64,
    },
}

/// Two positions that cannot be ordered: an operator must look, not wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("positions {0} and {1} belong to different histories and cannot be compared")]
pub struct Incomparable(Position, Position);

impl Position {
    /// Whether every change up to `other` is contained in `self`.
    ///
    /// # Errors
    ///
    /// [`Incomparable`] rather than `false` when the two come from different timelines.
    pub fn covers(&self, other: &Self) -> Result<bool, Incomparable> {
        match (self, other) {
            (
                Self::Postgres { timeline: a, lsn: mine },
                Self::Postgres { timeline: b, lsn: theirs },
            ) if a == b => Ok(mine >= theirs),
            _ => Err(Incomparable(self.clone(), other.clone())),
        }
    }

    /// Whether both are the same place of the log, `self` in a later history. Says nothing about
    /// whether that history contains the place.
    #[must_use]
    pub fn renames(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Postgres { timeline: later, lsn: mine },
                Self::Postgres { timeline: earlier, lsn: theirs },
            ) => later > earlier && mine == theirs,
        }
    }

    /// Bytes of log from `earlier` to `self`; 0 when `earlier` is later, `None` when the two
    /// cannot be compared.
    #[must_use]
    pub fn bytes_since(&self, earlier: &Self) -> Option<u64> {
        match (self, earlier) {
            (Self::Postgres { timeline: a, lsn: x }, Self::Postgres { timeline: b, lsn: y })
                if a == b =>
            {
                Some(x.saturating_sub(*y))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Postgres { timeline, lsn } => {
                write!(f, "{:X}/{:X} (timeline {timeline})", lsn >> 32, lsn & 0xffff_ffff)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_timeline_is_not_earlier() {
        let a = Position::Postgres { timeline: 1, lsn: 20 };
        let b = Position::Postgres { timeline: 1, lsn: 10 };
        let c = Position::Postgres { timeline: 2, lsn: 30 };
        assert_eq!(a.covers(&b), Ok(true));
        assert_eq!(b.covers(&a), Ok(false));
        assert!(c.covers(&a).is_err());
        assert_eq!(a.bytes_since(&b), Some(10));
        assert_eq!(a.bytes_since(&c), None);
        let renamed = Position::Postgres { timeline: 2, lsn: 20 };
        assert!(renamed.renames(&a) && !a.renames(&renamed));
        assert!(!c.renames(&a) && !a.renames(&a));
        assert_eq!(a.to_string(), "0/14 (timeline 1)");
    }
}
