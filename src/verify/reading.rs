//! How far the full comparisons are that are under way.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

/// One full comparison; it is under way until this is dropped.
#[derive(Debug)]
pub struct Reading {
    began: Instant,
    read: AtomicU64,
    of: AtomicU64,
}

impl Reading {
    /// So many bytes will be read on both sides together, by their size on disk.
    pub fn expect(&self, bytes: u64) {
        self.of.store(bytes, Ordering::Relaxed);
    }

    /// So many more of them were read.
    pub fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The comparisons under way.
#[derive(Debug, Default)]
pub struct Readings(Mutex<Vec<Weak<Reading>>>);

impl Readings {
    /// One begins.
    #[must_use]
    pub fn begin(&self) -> Arc<Reading> {
        let reading =
            Reading { began: Instant::now(), read: AtomicU64::default(), of: AtomicU64::default() };
        let reading = Arc::new(reading);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|reading| reading.strong_count() > 0);
        all.push(Arc::downgrade(&reading));
        reading
    }

    /// A look at the one that began last, once it is known how much there is to read.
    #[must_use]
    pub fn view(&self) -> Option<ReadingView> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = all.iter().rev().find_map(Weak::upgrade)?;
        let of = last.of.load(Ordering::Relaxed);
        let read = last.read.load(Ordering::Relaxed).min(of);
        (of > 0).then(|| ReadingView::new(read, of, last.began.elapsed().as_secs_f64()))
    }
}

/// A look at a full comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadingView {
    /// Bytes that were read, on both sides together, by their size on disk.
    pub bytes: u64,
    /// Bytes that there are to read.
    pub of: u64,
    /// Seconds to go at the speed so far; `None` when nobody can tell yet.
    pub eta_seconds: Option<u64>,
}

impl ReadingView {
    fn new(bytes: u64, of: u64, seconds: f64) -> Self {
        let eta = seconds / bytes as f64 * (of - bytes) as f64;
        Self { bytes, of, eta_seconds: (bytes > 0).then_some(eta.ceil() as u64) }
    }

    /// What part was read, in percent.
    #[must_use]
    pub fn percent(&self) -> u64 {
        self.bytes * 100 / self.of.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_seen_until_it_ends() {
        let readings = Readings::default();
        let first = readings.begin();
        assert_eq!(readings.view(), None, "nobody knows yet how much there is");
        first.expect(200);
        assert_eq!(readings.view().map(|v| (v.bytes, v.of, v.eta_seconds)), Some((0, 200, None)));
        let second = readings.begin();
        second.expect(50);
        second.read(25);
        assert_eq!(readings.view().map(|v| (v.bytes, v.of)), Some((25, 50)));
        drop(second);
        first.read(300);
        assert_eq!(readings.view().map(|v| (v.bytes, v.eta_seconds)), Some((200, Some(0))));
        drop(first);
        assert_eq!(readings.view(), None);
    }

    #[test]
    fn what_is_left_takes_as_long_in_proportion() {
        let view = ReadingView::new(1 << 30, 4 << 30, 60.0);
        assert_eq!((view.percent(), view.eta_seconds), (25, Some(180)));
    }
}
