//! When to let bytes gather before the next read.
//!
//! Reading each row as it arrives costs a wake-up per row on both sides: half the throughput and
//! most of the processor time. Under load a short rest after a short read gathers many rows; an
//! idle stream never rests, because the end of a move goes through it.

use std::time::{Duration, Instant};

/// A read of at least this size means that there is more already; of what is old a smaller one
/// does, because the system may keep no more than a little for us.
const LONG: [usize; 2] = [32 * 1024, 8 * 1024];

/// Messages per second from which resting pays.
const BUSY: f64 = 2_000.0;

/// Messages per second which only a backlog brings: then the consumer gets more at once, too.
const BACKLOG: f64 = 20_000.0;

/// Transactions that the server sends so long after their commit are a backlog as well, however
/// slowly they come.
const OLD: Duration = Duration::from_millis(50);

/// The rate is measured over windows of this length.
const WINDOW: Duration = Duration::from_millis(10);

/// How long bytes gather when the stream is busy: a millisecond for so many messages per second, up
/// to four. The more comes, the more a batch of its own for every few messages costs the sink;
const MILLISECOND_PER: f64 = 2_500.0;
const LONGEST: f64 = 4.0;

/// and how long when it has a backlog, and when much comes of it: then nobody waits for the next
/// row, and the server works the better the longer it sends into a full buffer.
const REST: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(16)];

/// How much comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    Calm,
    Busy,
    Backlog,
}

/// Measures the load.
pub(super) struct Pace {
    since: Instant,
    messages: usize,
    /// Messages per second in the last window.
    rate: f64,
    old: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, messages: 0, rate: 0.0, old: false }
    }

    /// A transaction begins that was sent so long after its commit.
    pub(super) fn begins(&mut self, age: Duration) {
        self.old = age >= OLD;
    }

    /// After a read of `bytes` with `messages`: how long to rest before the next one.
    pub(super) fn after(
        &mut self,
        bytes: usize,
        messages: usize,
        now: Instant,
    ) -> Option<Duration> {
        self.messages += messages;
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            self.rate = self.messages as f64 / passed.as_secs_f64();
            self.since = now;
            self.messages = 0;
        }
        match self.load() {
            _ if bytes >= LONG[usize::from(self.old)] => None,
            Load::Calm => None,
            Load::Busy => {
                let milliseconds = (self.rate / MILLISECOND_PER).min(LONGEST);
                Some(Duration::from_secs_f64(milliseconds / 1000.0))
            }
            Load::Backlog => Some(REST[usize::from(self.floods())]),
        }
    }

    /// Much comes, and it is old. One of the two alone may end with the next message, which may be
    /// what a move waits for.
    fn floods(&self) -> bool {
        self.old && self.rate >= BACKLOG
    }

    /// How much came lately.
    pub(super) fn load(&self) -> Load {
        match self.rate {
            rate if self.old || rate >= BACKLOG => Load::Backlog,
            rate if rate >= BUSY => Load::Busy,
            _ => Load::Calm,
        }
    }
}

/// How long after its commit a transaction was sent, when `frame` (with its header) begins one.
/// Both times are the server's.
pub(super) fn age(frame: &[u8]) -> Option<Duration> {
    let time = |at: usize| Some(i64::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    match frame.get(25) {
        Some(b'B') => {
            let age = time(17)?.saturating_sub(time(34)?);
            Some(Duration::from_micros(u64::try_from(age).unwrap_or(0)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_transaction() {
        let mut frame = vec![b'w'];
        for field in [1_i64, 2, 5_000_000] {
            frame.extend(field.to_be_bytes());
        }
        frame.push(b'B');
        frame.extend(7_i64.to_be_bytes());
        frame.extend(4_000_000_i64.to_be_bytes());
        assert_eq!(age(&frame), Some(Duration::from_secs(1)));
        assert_eq!(age(&frame[..30]), None);
        frame[25] = b'I';
        assert_eq!(age(&frame), None);
    }

    #[test]
    fn only_a_loaded_stream_rests() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        // 300 small transactions a second.
        for i in 1..100 {
            assert_eq!(pace.after(500, 5, at(i * 3)), None);
        }
        // 200,000 rows a second.
        let mut rests = 0;
        for i in 300..400 {
            rests += usize::from(pace.after(10_000, 200, at(i)).is_some());
        }
        assert!(rests > 80, "{rests}");
        assert_eq!(pace.load(), Load::Backlog);
        assert_eq!(pace.after(LONG[0], 2_000, at(401)), None, "there is more already");
        // 5,000 rows a second.
        for i in 410..450 {
            let rest = pace.after(500, 5, at(i));
            if i >= 430 {
                let micros = rest.map_or(0, |r| r.as_micros());
                assert!((1_700..2_300).contains(&micros), "{micros}");
            }
        }
        // The load ends; the next event comes alone.
        assert_eq!(pace.after(100, 1, at(500)), None);
        assert_eq!(pace.load(), Load::Calm);
        // A server that is short of time sends slowly what is old: the next one may be a marker.
        pace.begins(Duration::from_secs(1));
        assert_eq!(pace.after(100, 1, at(600)), Some(REST[0]));
        assert_eq!(pace.after(LONG[1], 1, at(600)), None, "one large row after the other");
        // It sends much of it.
        assert_eq!(pace.after(100, 1_000, at(620)), Some(REST[1]));
        assert_eq!(pace.after(100, 1, at(700)), Some(REST[0]));
        pace.begins(Duration::from_millis(1));
        assert_eq!(pace.after(100, 1, at(800)), None);
    }
}
