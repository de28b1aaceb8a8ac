//! When to let bytes gather before the next read.
//!
//! Reading each row as it arrives costs a wake-up per row on both sides: half the throughput and
//! most of the processor time. Under load a short wait after a short read gathers many rows; an
//! idle stream never waits, because the end of a move goes through it.

use std::time::{Duration, Instant};

/// A read of at least this size means that there is more already.
const LONG: usize = 32 * 1024;

/// Messages per second from which gathering pays.
const LOAD: f64 = 20_000.0;

/// The rate is measured over windows of this length.
const WINDOW: Duration = Duration::from_millis(10);

/// How long bytes gather.
const PAUSE: Duration = Duration::from_millis(1);

/// Measures the load.
pub(super) struct Pace {
    since: Instant,
    messages: usize,
    loaded: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, loaded: false }
    }

    /// After a read of `bytes` with `messages`: how long to wait before the next one.
    pub(super) fn after(
        &mut self,
        bytes: usize,
        messages: usize,
        now: Instant,
    ) -> Option<Duration> {
        self.messages += messages;
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            self.loaded = self.messages as f64 / passed.as_secs_f64() >= LOAD;
            self.since = now;
            self.messages = 0;
        }
        (self.loaded && bytes < LONG).then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loaded_stream_waits() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        // 300 small transactions a second.
        for i in 1..100 {
            assert_eq!(pace.after(500, 5, at(i * 3)), None);
        }
        // 200,000 rows a second.
        let mut waits = 0;
        for i in 300..400 {
            waits += usize::from(pace.after(10_000, 200, at(i)).is_some());
        }
        assert!(waits > 80, "{waits}");
        assert_eq!(pace.after(LONG, 2_000, at(401)), None, "there is more already");
        // The load ends; the next event comes alone.
        assert_eq!(pace.after(100, 1, at(500)), None);
    }
}
