//! How fast a stream applies when there is enough to do. Pure.

use std::time::Duration;

/// Over a shorter span one transaction that was applied while it ran looks like gigabytes a second.
const SPAN: Duration = Duration::from_millis(200);
/// What is left of an older speed when a backlog shows another one.
const FADES: f64 = 0.5;

/// Bytes of log per second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Speed(Option<f64>);

impl Speed {
    /// Whether so long a span says anything.
    #[must_use]
    pub fn is_long(passed: Duration) -> bool {
        passed >= SPAN
    }

    /// `bytes` were applied in `passed`, and a backlog was there all the time or not. Without one the
    /// stream could do at least that; with one that is what it does, and what was faster before
    /// fades.
    #[must_use]
    pub fn after(self, bytes: u64, passed: Duration, backlog: bool) -> Self {
        if !Self::is_long(passed) {
            return self;
        }
        let now = bytes as f64 / passed.as_secs_f64();
        let before = self.0.unwrap_or(0.0) * if backlog { FADES } else { 1.0 };
        Self(Some(now.max(before)).filter(|speed| *speed > 0.0))
    }

    /// `None`: not known.
    #[must_use]
    pub fn bytes_per_second(self) -> Option<f64> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_is_not_what_a_backlog_takes() {
        let half = Duration::from_millis(500);
        let mut speed = Speed::default();
        assert_eq!(speed.after(0, half, true).bytes_per_second(), None);
        speed = speed.after(1 << 30, Duration::from_millis(3), false);
        assert_eq!(speed.bytes_per_second(), None, "too short to say");
        speed = speed.after(5_000_000, half, false);
        speed = speed.after(1_000, half, false);
        assert_eq!(speed.bytes_per_second(), Some(1e7), "it could do that");
        // A large transaction, applied while it ran.
        speed = speed.after(1 << 30, half, false);
        for _ in 0..8 {
            speed = speed.after(5_000_000, half, true);
        }
        assert_eq!(speed.bytes_per_second(), Some(1e7));
        // It stands still for a moment.
        assert_eq!(speed.after(0, half, true).bytes_per_second(), Some(5e6));
    }
}
