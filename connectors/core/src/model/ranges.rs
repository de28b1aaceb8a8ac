//! A table in ranges of its key.

use serde::{Deserialize, Serialize};

/// Ranges of a key of whole numbers, half-open, which together hold every key once: the first and
/// the last one are open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRanges {
    /// The first column of the key.
    pub column: String,
    /// The first key of each range but the first, ascending, none twice.
    pub bounds: Vec<i64>,
}

impl KeyRanges {
    /// How many ranges there are, at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bounds.len() + 1
    }

    /// The number of the range that holds `key`, from 0.
    #[must_use]
    pub fn of(&self, key: i64) -> usize {
        self.bounds.partition_point(|bound| *bound <= key)
    }

    /// The first key of range `number`, and the first one behind it; `None` where it is open.
    #[must_use]
    pub fn limits(&self, number: usize) -> (Option<i64>, Option<i64>) {
        let before = number.checked_sub(1);
        (before.and_then(|at| self.bounds.get(at).copied()), self.bounds.get(number).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_exactly_one_range() {
        for bounds in [vec![], vec![0], vec![i64::MIN, -3, 0, 7, i64::MAX]] {
            let ranges = KeyRanges { column: "id".into(), bounds };
            for key in [i64::MIN, -4, -3, -1, 0, 1, 6, 7, 8, i64::MAX - 1, i64::MAX] {
                let holds = |number: &usize| {
                    let (low, high) = ranges.limits(*number);
                    low.is_none_or(|low| low <= key) && high.is_none_or(|high| key < high)
                };
                let holding: Vec<usize> = (0..ranges.count()).filter(holds).collect();
                assert_eq!(holding, [ranges.of(key)], "{key} in {ranges:?}");
            }
            assert_eq!(ranges.limits(0).0, None);
            assert_eq!(ranges.limits(ranges.count() - 1).1, None);
        }
    }
}
