//! One measurement of the lag, and the recent ones together.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// How far behind one direction was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When: seconds since the process began, monotonic.
    pub at: f64,
    /// Bytes of log between what is applied and where the origin's log ends; `None`: not known.
    pub bytes: Option<u64>,
    /// Age of the oldest commit that is not applied yet, in seconds; 0 when all are applied;
    /// `None`: not known.
    pub seconds: Option<f64>,
    /// Transactions received and not yet applied; `None`: not known.
    pub in_hand: Option<u64>,
}

impl Sample {
    /// A moment at which nothing could be measured.
    #[must_use]
    pub fn unknown(at: f64) -> Self {
        Self { at, bytes: None, seconds: None, in_hand: None }
    }

    /// Names of the numbers that are not known.
    #[must_use]
    pub fn unknowns(&self) -> Vec<&'static str> {
        [
            ("bytes", self.bytes.is_none()),
            ("seconds", self.seconds.is_none()),
            ("transactions in hand", self.in_hand.is_none()),
        ]
        .into_iter()
        .filter_map(|(name, missing)| missing.then_some(name))
        .collect()
    }
}

/// The samples of the last while, oldest first.
#[derive(Debug, Clone)]
pub struct Samples {
    keep_seconds: f64,
    list: VecDeque<Sample>,
}

impl Samples {
    /// Keeps samples for `keep_seconds`.
    #[must_use]
    pub fn new(keep_seconds: f64) -> Self {
        Self { keep_seconds, list: VecDeque::new() }
    }

    /// Adds the newest one and forgets the old ones. One that is not newer than the newest is
    /// left out.
    pub fn push(&mut self, sample: Sample) {
        if self.list.back().is_some_and(|last| last.at >= sample.at) {
            return;
        }
        self.list.push_back(sample);
        while self.list.front().is_some_and(|first| first.at < sample.at - self.keep_seconds) {
            self.list.pop_front();
        }
    }

    /// The newest one.
    #[must_use]
    pub fn latest(&self) -> Option<&Sample> {
        self.list.back()
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Sample> {
        self.list.iter().copied().collect()
    }

    /// Forgets everything: the direction has changed.
    pub fn clear(&mut self) {
        self.list.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_samples_go_and_time_does_not_run_back() {
        let mut samples = Samples::new(10.0);
        for at in [0.0, 5.0, 4.0, 12.0] {
            samples.push(Sample::unknown(at));
        }
        assert_eq!(samples.all().iter().map(|s| s.at).collect::<Vec<_>>(), [5.0, 12.0]);
    }

    #[test]
    fn unknown_numbers_are_named() {
        let mut sample = Sample::unknown(0.0);
        sample.bytes = Some(0);
        assert_eq!(sample.unknowns(), ["seconds", "transactions in hand"]);
    }
}
