//! A limit in bytes per second, shared by all workers.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Lets bytes pass at a rate. Sums up to a second of unused rate.
#[derive(Debug)]
pub struct Limiter {
    bytes_per_second: Option<u64>,
    /// When everything that has passed so far would have passed at the rate.
    paid_until: Mutex<Instant>,
}

impl Limiter {
    /// `None`: no limit.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second: bytes_per_second.filter(|b| *b > 0),
            paid_until: Mutex::new(Instant::now()),
        }
    }

    /// Waits as long as `bytes` take.
    pub async fn pass(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let due = {
            let now = Instant::now();
            let mut paid = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            let from = (*paid).max(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
            *paid = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *paid
        };
        sleep_until(due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_the_rate_and_does_not_wait_without_one() {
        Limiter::new(None).pass(u64::MAX).await;
        let limiter = Limiter::new(Some(100_000));
        let start = Instant::now();
        for _ in 0..10 {
            limiter.pass(2_000).await;
        }
        assert!(start.elapsed() >= Duration::from_millis(190), "20,000 bytes at 100,000 a second");
    }
}
